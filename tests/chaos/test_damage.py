"""A journal that is somebody else's, of a later version, or broken: said, and nothing thrown away."""

from __future__ import annotations

import random
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from api.records import Task
from api.storage.database import FILE_NAME
from api.storage.journal import Journal
from api.storage.repair import Damage
from tests.chaos.ledger import LIST, Ledger, Request
from tests.chaos.points import REPLACING
from tests.chaos.server import Server, serving
from tests.process import answers
from tests.records import completed
from tests.scripted_engine import ScriptedEngine
from tests.server import Running, make_settings, running, wait_for

TASKS = 30  # their records take several pages


def served(directory: Path) -> Any:
    return running(make_settings(directory), ScriptedEngine(steps=1))


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ledger]:
    """A service that has ended, with all its tasks completed."""
    directory, ledger = tmp_path_factory.mktemp("ended"), Ledger()
    with served(directory) as run:
        ledger.use(run.client)
        for number in range(TASKS):
            ledger.start(portrait=number % 7)
        for request in ledger.requests:
            assert ledger.finish(request)["status"] == "COMPLETED"
            ledger.download(request)
    return directory, ledger


@pytest.fixture
def ledger(tmp_path: Path, ended: tuple[Path, Ledger]) -> Ledger:
    """What its clients know, and its files in the test's own directory."""
    shutil.copytree(ended[0], tmp_path, dirs_exist_ok=True)
    return Ledger(ended[1].requests)


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def garbage(path: Path, ledger: Ledger) -> None:
    path.write_bytes(random.Random(1).randbytes(path.stat().st_size))


def cut_off(path: Path, ledger: Ledger) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 4096 // 2 * 4096)


def one_bad_page(path: Path, ledger: Ledger) -> None:
    content = path.read_bytes()
    page = content.rfind(b'"position":') // 4096  # the last that has records
    path.write_bytes(content[: page * 4096] + b"\xff" * 4096 + content[(page + 1) * 4096 :])


def one_bad_record(path: Path, ledger: Ledger) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE tasks SET record = substr(record, 1, 99) WHERE id = ?", (ledger.requests[3].id,))


@pytest.mark.parametrize(
    ("damage", "least", "most"),
    [
        (garbage, 0, 0),
        (cut_off, 0, TASKS - 1),
        (one_bad_page, TASKS // 2, TASKS - 1),
        (one_bad_record, TASKS - 1, TASKS - 1),
    ],
)
def test_a_damaged_journal_is_set_aside_and_said_and_the_rest_of_it_used(
    tmp_path: Path,
    ledger: Ledger,
    caplog: pytest.LogCaptureFixture,
    damage: Callable[[Path, Ledger], None],
    least: int,
    most: int,
) -> None:
    damage(tmp_path / "data" / FILE_NAME, ledger)
    damaged = (tmp_path / "data" / FILE_NAME).read_bytes()
    uploads, outputs = names(tmp_path / "uploads"), names(tmp_path / "outputs")
    with served(tmp_path) as run:
        ledger.use(run.client)
        kept = [request for request in ledger.requests if is_there(run, request)]
        assert least <= len(kept) <= most
        for request in kept:
            ledger.download(request)
        aside = next(name for name in names(tmp_path / "data") if ".damaged-" in name)
        assert (tmp_path / "data" / aside).read_bytes() == damaged
        reason = run.client.get("/api/health").json()["reason"]
        for text in (reason, caplog.text):
            assert aside in text
            assert f"Recovered tasks: {len(kept)}" in text
        run.service.task_manager.sweep()
        assert ledger.finish(ledger.start())["status"] == "COMPLETED"  # and it goes on
        assert uploads <= names(tmp_path / "uploads"), "a lost task's upload is gone"
        assert outputs <= names(tmp_path / "outputs"), "a lost task's video is gone"
    with served(tmp_path) as run:
        assert sum(is_there(run, request) for request in ledger.requests) == len(kept) + 1
        assert run.client.get("/api/health").json()["reason"] is None
        assert uploads <= names(tmp_path / "uploads"), "a lost task's upload has not outlived the second start"
        assert outputs <= names(tmp_path / "outputs"), "a lost task's video has not outlived the second start"


def one_more_record(data: Path) -> list[Task]:
    """One that makes no sense, and costs no other."""
    with closing(sqlite3.connect(data / FILE_NAME)) as connection, connection:
        connection.execute("INSERT INTO tasks VALUES ('', '{}')")
    return [completed(number) for number in range(TASKS)]


def nothing_left(data: Path) -> list[Task]:
    """The log of a killed service is there, with one changed page, but no file that it belongs to."""
    with closing(Journal(data)) as journal:
        journal.save(completed(1, attempt=2))
        log = (data / f"{FILE_NAME}-wal").read_bytes()
    (data / FILE_NAME).write_bytes(b"garbage" * 1000)
    (data / f"{FILE_NAME}-wal").write_bytes(log)
    return []


@pytest.mark.parametrize("damage", [one_more_record, nothing_left])
@pytest.mark.parametrize("point", REPLACING)
def test_a_service_that_is_killed_while_it_replaces_a_damaged_journal_loses_nothing(
    tmp_path: Path, point: str, damage: Callable[[Path], list[Task]]
) -> None:
    data = tmp_path / "data"
    with closing(Journal(data)) as journal:
        for number in range(TASKS):
            journal.save(completed(number))
    tasks = damage(data)
    before = {name: (data / name).read_bytes() for name in names(data)}
    in_place = point == list(REPLACING)[-1]
    for _ in range(1 if in_place else 2):
        with closing(Server(tmp_path, point=point)) as server:
            assert server.wait_killed() == point
    with closing(Journal(data)) as journal:
        assert journal.load()[0] == tasks
        assert (journal.damage is None) == in_place
        found = journal.damage
    aside = next(path.name for path in data.glob(f"{FILE_NAME}.damaged-*Z"))
    if found is None:
        assert f"Recovered tasks: {len(tasks)}; backup: {aside}" in (tmp_path / "api.log").read_text()
    else:
        assert found == Damage(aside, len(tasks))
    kept = {name.replace(FILE_NAME, aside): content for name, content in before.items()}
    assert {path.name: path.read_bytes() for path in data.iterdir() if path.name != FILE_NAME} == kept


def is_there(run: Running, request: Request) -> bool:
    answer = run.client.get(request.status_url)
    assert answer.status_code in (200, 404), answer.text
    return answer.status_code == 200


def start_again(directory: Path, data: Path) -> tuple[int | None, str]:
    """The exit code of another service, None where it goes on; and what it said."""
    server = Server(directory, FILES__DATA_DIR=data)
    try:
        wait_for(lambda: not server.process.is_alive() or answers(server.client))
        return server.process.exitcode, (directory / "terminal.log").read_text()
    finally:
        server.close()


def test_two_services_do_not_share_a_journal(tmp_path: Path) -> None:
    ledger = Ledger()
    with serving(tmp_path / "one") as server:
        ledger.use(server.client)
        code, said = start_again(tmp_path / "two", tmp_path / "one" / "data")
        assert code == 2
        assert f"files.data_dir: {tmp_path / 'one' / 'data'}: in use by another instance of the service." in said
        assert "Traceback" not in said
        assert ledger.finish(ledger.start())["status"] == "COMPLETED"


def test_a_journal_of_a_later_version_stops_the_start_and_stays_as_it_is(tmp_path: Path, ledger: Ledger) -> None:
    path = tmp_path / "data" / FILE_NAME
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 99")
    before = path.read_bytes()
    uploads = names(tmp_path / "uploads")
    code, said = start_again(tmp_path, tmp_path / "data")
    assert code == 2
    assert "files.data_dir:" in said
    assert "newer version of the service (its schema is 99, this version supports 1)" in said
    assert "Traceback" not in said
    assert (path.read_bytes(), names(tmp_path / "data")) == (before, {FILE_NAME})
    assert names(tmp_path / "uploads") == uploads


def gone(path: Path) -> None:
    path.unlink()


def emptied(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("lose", [gone, emptied])
def test_a_lost_journal_costs_no_file_of_its_tasks(
    tmp_path: Path, ledger: Ledger, lose: Callable[[Path], None]
) -> None:
    """It may only be elsewhere: a disk that was not mounted, another setting."""
    lose(tmp_path / "data" / FILE_NAME)
    uploads, outputs = names(tmp_path / "uploads"), names(tmp_path / "outputs")
    for _ in range(2):
        with served(tmp_path) as run:
            assert run.client.get(LIST).json()["data"] == []
            run.service.task_manager.sweep()
        assert (names(tmp_path / "uploads"), names(tmp_path / "outputs")) == (uploads, outputs)
