"""The journal: what it keeps, in which order, and what becomes of it when the disk is full or has damaged it."""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import resource
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from api.records import EngineIdentity, Idempotency, Result, Submission, Task, TaskErrorCode, TaskStatus
from api.storage.database import FILE_NAME, SCHEMA
from api.storage.errors import JournalError, JournalWriteError
from api.storage.journal import Journal
from api.storage.repair import Damage
from engines.base import Emotion, FaceBox, Stage, SynthesisParams
from tests.process import ROOT
from tests.records import NOW, completed, failed, full, pending, processing

LOGGER = "api.journal"


@contextmanager
def journal(directory: Path) -> Iterator[Journal]:
    with closing(Journal(directory)) as opened:
        yield opened


def written(directory: Path) -> tuple[list[Task], dict[str, float]]:
    """What the next service finds."""
    with journal(directory) as opened:
        assert opened.damage is None
        return opened.load()


def on_disk(directory: Path) -> dict[str, str]:
    """The records of a journal that is open, as another program sees them."""
    copy = directory / "copy"
    copy.mkdir(exist_ok=True)
    for path in directory.glob(f"{FILE_NAME}*"):
        (copy / path.name).write_bytes(path.read_bytes())
    with closing(sqlite3.connect(copy / FILE_NAME)) as connection:
        return dict(connection.execute("SELECT id, record FROM tasks"))


def fill_disk(opened: Journal) -> None:
    """Let SQLite find no room for another page."""
    opened._database._connection.execute("PRAGMA max_page_count = 1")  # no less than the file has already


def empty_disk(opened: Journal) -> None:
    opened._database._connection.execute("PRAGMA max_page_count = 1000000")


@contextmanager
def broken_disk() -> Iterator[None]:
    """Let every write of this process to a file fail."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def write(directory: Path, tasks: Iterable[Task]) -> None:
    """A file with these, made in one transaction."""
    with journal(directory):
        pass
    records = TypeAdapter(Task)
    with closing(sqlite3.connect(directory / FILE_NAME)) as connection, connection:
        rows = ((task.id, records.dump_json(task).decode()) for task in tasks)
        connection.executemany("INSERT INTO tasks VALUES (?, ?)", rows)


def large(number: int) -> Task:
    """A task that needs pages of its own."""
    return pending(number, message="x" * 10_000)


# -- what is kept ------------------------------------------------------------------------------------------------------


def test_what_is_written_is_read_again_in_the_order_of_acceptance(tmp_path: Path) -> None:
    tasks = [full(9), pending(3), processing(30), completed(1), failed(200)]
    with journal(tmp_path) as opened:
        assert opened.load() == ([], {})
        for task in tasks:
            opened.add(task)
    assert written(tmp_path) == ([completed(1), pending(3), full(9), processing(30), failed(200)], {})


def test_the_last_state_of_a_task_counts(tmp_path: Path) -> None:
    with journal(tmp_path) as opened:
        opened.add(pending(1))
        opened.add(pending(2))
        opened.save(processing(1))
        opened.save(completed(1))
    assert written(tmp_path)[0] == [completed(1), pending(2)]


def test_a_removed_task_is_gone_and_remembered_only_where_that_was_asked(tmp_path: Path) -> None:
    with journal(tmp_path) as opened:
        for number in (1, 2, 3):
            opened.add(completed(number))
        opened.remove(completed(1).id)
        opened.expire([(completed(2).id, NOW + 5)])
        opened.expire([(completed(2).id, NOW + 50)])
        opened.remove("unknown")
    assert written(tmp_path) == ([completed(3)], {completed(2).id: NOW + 50})


def test_many_tasks_are_removed_in_one_transaction(tmp_path: Path) -> None:
    with journal(tmp_path) as opened:
        for number in range(1, 5):
            opened.add(completed(number))
        commits: list[str] = []
        opened._database._connection.set_trace_callback(lambda said: commits.append(said) if said == "COMMIT" else None)
        opened.expire((completed(number).id, NOW + number) for number in (1, 2, 3))
        assert len(commits) == 1
        opened.expire([])
        assert len(commits) == 1
    assert written(tmp_path) == ([completed(4)], {completed(number).id: NOW + number for number in (1, 2, 3)})


def test_flush_forgets_those_whose_time_is_over(tmp_path: Path) -> None:
    with journal(tmp_path) as opened:
        for number in (1, 2, 3):
            opened.expire([(str(number), NOW + number)])
        opened.flush(NOW + 2)
    assert written(tmp_path)[1] == {"3": NOW + 3}


def test_load_gives_everything_once(tmp_path: Path) -> None:
    with journal(tmp_path) as opened:
        opened.add(pending())
        opened.expire([("gone", NOW)])
    with journal(tmp_path) as opened:
        assert opened.load() == ([pending()], {"gone": NOW})
        assert opened.load() == ([], {})


def test_every_change_is_on_the_disk_when_the_call_returns(tmp_path: Path) -> None:
    with journal(tmp_path) as opened:
        opened.add(pending())
        assert list(on_disk(tmp_path)) == [pending().id]
        opened.save(completed())
        assert '"COMPLETED"' in on_disk(tmp_path)[completed().id]
        opened.remove(completed().id)
        assert on_disk(tmp_path) == {}


def test_a_commit_waits_for_the_disk_and_shares_no_memory(tmp_path: Path) -> None:
    for _ in range(2):  # a file that is there already is opened in another way
        with journal(tmp_path) as opened:
            opened.save(pending())
            asked = ("synchronous", "journal_mode", "locking_mode")
            found = [opened._database._connection.execute(f"PRAGMA {name}").fetchone()[0] for name in asked]
            assert found == [2, "wal", "exclusive"]  # 2: FULL
            assert sorted(path.name for path in tmp_path.iterdir()) == [FILE_NAME, f"{FILE_NAME}-wal"]


def test_a_journal_knows_since_when_it_is_kept(tmp_path: Path) -> None:
    before = time.time()
    with journal(tmp_path / "a" / "b") as opened:
        begun = opened.created_at
        assert before <= begun <= time.time()
        assert opened.directory == tmp_path / "a" / "b"
    with journal(tmp_path / "a" / "b") as opened:
        assert opened.created_at == begun
    (tmp_path / "a" / "b" / FILE_NAME).write_bytes(b"")
    with journal(tmp_path / "a" / "b") as opened:
        assert opened.created_at > begun


def test_ten_thousand_records(tmp_path: Path) -> None:
    write(tmp_path, [completed(number) for number in range(10_000, 0, -1)])
    started = time.perf_counter()
    tasks, _ = written(tmp_path)
    took = time.perf_counter() - started
    assert [task.position for task in tasks] == list(range(1, 10_001))
    assert took < 10  # a third of a second on a quiet machine


# -- the format --------------------------------------------------------------------------------------------------------

# Written by a service of this schema: never to be changed, since there are journals that have it.
TABLES_1 = """
CREATE TABLE tasks (id TEXT PRIMARY KEY, record TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE gone (id TEXT PRIMARY KEY, until REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE begun (at REAL NOT NULL);
INSERT INTO begun VALUES (1700000000.5);
INSERT INTO gone VALUES ('0123', 1700000001.5);
PRAGMA user_version = 1;
"""
RECORD_1 = """{
"id":"5f0c1a7e94d24e0f8a3b6c2d1e0f9a8b","position":12,"key":"c1","submission":{"image":"a1","audio":"b1","seconds":4.5,
"size":[640,800],"face":{"left":1.25,"top":2.5,"right":30.125,"bottom":40.0625,"roll":-0.1},"params":{"emotion":"fear",
"ref_scale":3.5,"emo_scale":6.25,"crop":true,"inference_steps":25,"duration":4.5,"fps":24,"seed":4294967295,
"dynamic_scale":1.1,"min_resolution":768,"expand_ratio":0.6},"given":["emotion","seed"],"warnings":["Two faces."],
"request_id":"8c1e","idempotency":{"key":"order 4711","print":"e1"}},"maker":{"name":"preview","version":"3",
"checkpoint":"d1"},"warnings":["Two faces.","schön: 很好"],"estimate_seconds":10.5,"created_at":1700000000.25,
"updated_at":1700000009.75,"accepted_position":7,"status":"COMPLETED","stage":"encoding","progress":1.0,
"message":"The video is ready.","attempt":2,"cancelled":true,"deleted":true,"remaining_seconds":0.25,
"started_at":1700000001.5,"completed_at":1700000009.75,"expires_at":1700086409.75,"error_code":"cancelled",
"result":{"name":"5f0c-2.mp4","sha256":"f1","size":1005}}"""
TASK_1 = Task(
    id="5f0c1a7e94d24e0f8a3b6c2d1e0f9a8b",
    position=12,
    key="c1",
    submission=Submission(
        image="a1",
        audio="b1",
        seconds=4.5,
        size=(640, 800),
        face=FaceBox(left=1.25, top=2.5, right=30.125, bottom=40.0625, roll=-0.1),
        params=SynthesisParams(
            emotion=Emotion.FEAR,
            ref_scale=3.5,
            emo_scale=6.25,
            crop=True,
            inference_steps=25,
            duration=4.5,
            fps=24,
            seed=2**32 - 1,
            dynamic_scale=1.1,
            min_resolution=768,
            expand_ratio=0.6,
        ),
        given=("emotion", "seed"),
        warnings=("Two faces.",),
        request_id="8c1e",
        idempotency=Idempotency(key="order 4711", print="e1"),
    ),
    maker=EngineIdentity(name="preview", version="3", checkpoint="d1"),
    warnings=("Two faces.", "schön: 很好"),
    estimate_seconds=10.5,
    created_at=1700000000.25,
    updated_at=1700000009.75,
    accepted_position=7,
    status=TaskStatus.COMPLETED,
    stage=Stage.ENCODING,
    progress=1.0,
    message="The video is ready.",
    attempt=2,
    cancelled=True,
    deleted=True,
    remaining_seconds=0.25,
    started_at=1700000001.5,
    completed_at=1700000009.75,
    expires_at=1700086409.75,
    error_code=TaskErrorCode.CANCELLED,
    result=Result(name="5f0c-2.mp4", sha256="f1", size=1005),
)


def schema_1(directory: Path) -> None:
    with closing(sqlite3.connect(directory / FILE_NAME)) as connection, connection:
        connection.executescript(TABLES_1)
        connection.execute("INSERT INTO tasks VALUES (?, ?)", (TASK_1.id, RECORD_1))


def test_a_journal_of_schema_1_is_read(tmp_path: Path) -> None:
    schema_1(tmp_path)
    with journal(tmp_path) as opened:
        assert opened.damage is None
        assert opened.created_at == 1700000000.5
        assert opened.load() == ([TASK_1], {"0123": 1700000001.5})


def test_a_service_of_before_passes_over_a_field_that_it_does_not_know(tmp_path: Path) -> None:
    schema_1(tmp_path)
    change(tmp_path, "UPDATE tasks SET record = '{\"new\": 1,' || substr(record, 2)")
    assert written(tmp_path)[0] == [TASK_1]


@pytest.mark.parametrize("number", [float("inf"), float("-inf"), float("nan")])
def test_numbers_that_are_none_cost_no_task(tmp_path: Path, number: float) -> None:
    with journal(tmp_path) as opened:
        opened.add(pending(estimate_seconds=number))
        assert "estimate_seconds" in json.loads(on_disk(tmp_path)[pending().id], parse_constant=pytest.fail)
    (task,) = written(tmp_path)[0]
    assert repr(task.estimate_seconds) == repr(number)  # nan is not equal to itself


# -- one at a time -----------------------------------------------------------------------------------------------------


def test_a_second_journal_in_the_directory_is_refused(tmp_path: Path) -> None:
    with journal(tmp_path) as opened:
        with pytest.raises(OSError, match="in use by another instance") as refused:
            Journal(tmp_path)
        assert refused.value.filename == str(tmp_path)
        opened.add(pending())
    assert written(tmp_path)[0] == [pending()]


def test_another_process_has_the_directory_to_itself_until_its_end(tmp_path: Path) -> None:
    program = (
        "import sys, pathlib, api.storage.lock as lock; "
        "held = lock.DirectoryLock(pathlib.Path(sys.argv[1])); print(); input()"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"\n"
        with pytest.raises(OSError, match="in use by another instance"):
            Journal(tmp_path)
        other.kill()
    assert written(tmp_path) == ([], {})


# -- what is wrong with the file ---------------------------------------------------------------------------------------


def change(directory: Path, *statements: str) -> None:
    with closing(sqlite3.connect(directory / FILE_NAME)) as connection, connection:
        for statement in statements:
            connection.execute(statement)


def test_a_file_of_a_newer_service_is_refused_with_a_sentence_and_left_alone(tmp_path: Path) -> None:
    write(tmp_path, [pending()])
    change(tmp_path, f"PRAGMA user_version = {SCHEMA + 1}")
    before = (tmp_path / FILE_NAME).read_bytes()
    with pytest.raises(JournalError) as refused:
        Journal(tmp_path)
    assert str(refused.value) == (
        "tasks.sqlite3 was written by a newer version of the service (its schema is 2, this version supports 1). "
        "Start that version, or choose another directory."
    )
    assert (tmp_path / FILE_NAME).read_bytes() == before
    change(tmp_path, f"PRAGMA user_version = {SCHEMA}")  # and the directory is free for that service
    assert written(tmp_path)[0] == [pending()]


def asides(directory: Path) -> list[Path]:
    return sorted(directory.glob(f"{FILE_NAME}.damaged-*"))


def no_database(path: Path) -> None:
    path.write_bytes(b"This is a letter." * 1000)


def a_foreign_database(path: Path) -> None:
    path.unlink()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA user_version = {SCHEMA}")


def a_cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-4096])


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (no_database, "file is not a database"),
        (a_foreign_database, "no such table: tasks"),
        (a_cut, "database disk image is malformed"),
    ],
)
def test_a_damaged_file_is_set_aside_and_said(
    tmp_path: Path, damage: Callable[[Path], None], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, [pending()])
    damage(tmp_path / FILE_NAME)
    bad = (tmp_path / FILE_NAME).read_bytes()
    begun = time.time()
    with journal(tmp_path) as opened:
        (aside,) = asides(tmp_path)
        assert re.fullmatch(r"tasks\.sqlite3\.damaged-\d{8}T\d{6}\.\d{6}Z", aside.name)
        assert opened.damage == Damage(aside.name, 0)
        assert opened.created_at > begun
        assert opened.load() == ([], {})
        opened.add(pending(2))
    assert aside.read_bytes() == bad
    message = f"The task journal was damaged ({reason}). Recovered tasks: 0; backup: {aside.name}"
    assert caplog.record_tuples == [(LOGGER, logging.ERROR, message)]
    assert written(tmp_path)[0] == [pending(2)]


def test_what_can_be_read_of_a_damaged_file_is_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One page is overwritten, about in the middle: what is before it and what is behind it."""
    write(tmp_path, [pending(number) for number in range(200)])
    with journal(tmp_path) as opened:
        opened.expire([("gone", NOW)])
    path = tmp_path / FILE_NAME
    pages = path.read_bytes()
    place = pages.index(pending(100).id.encode()) // 4096 * 4096
    path.write_bytes(pages[:place] + b"\x07" * 4096 + pages[place + 4096 :])
    with journal(tmp_path) as opened:
        assert opened.damage is not None
        tasks, gone = opened.load()
    assert gone == {"gone": NOW}
    assert re.match(r".+ \(\*\*\* in database main \*\*\* Page \d+: .{,150}\)\. ", caplog.messages[0])
    assert opened.damage.recovered == len(tasks)
    positions = {task.position for task in tasks}
    assert len(positions) == len(tasks) >= 190
    assert {0, 1, 198, 199} < positions
    assert 100 not in positions
    assert written(tmp_path) == (tasks, gone)  # and it is whole again


def test_what_is_left_of_a_file_that_was_cut_off_is_kept(tmp_path: Path) -> None:
    write(tmp_path, [pending(number) for number in range(200)])
    pages = (tmp_path / FILE_NAME).read_bytes()
    (tmp_path / FILE_NAME).write_bytes(pages[: len(pages) // 2])
    with journal(tmp_path) as opened:
        assert opened.damage is not None
        tasks, _ = opened.load()
    assert 80 < len(tasks) < 120
    assert written(tmp_path)[0] == tasks


def test_a_file_that_does_not_say_since_when_it_is_kept_is_damaged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, [pending()])
    change(tmp_path, "DELETE FROM begun")
    with journal(tmp_path) as opened:
        assert opened.load()[0] == [pending()]
    assert "(the creation time is missing)" in caplog.messages[0]


@pytest.mark.parametrize(
    "record", ["'{}'", "'{'", "replace(record, 'PENDING', 'DREAMING')", "CAST(x'ff' || record AS TEXT)"]
)
def test_a_record_that_makes_no_sense_costs_no_other(tmp_path: Path, record: str) -> None:
    write(tmp_path, [pending(number) for number in (1, 2, 3)])
    change(tmp_path, f"UPDATE tasks SET record = {record} WHERE id = '{pending(2).id}'")
    with journal(tmp_path) as opened:
        assert opened.damage is not None
        assert opened.load()[0] == [pending(1), pending(3)]
    assert len(asides(tmp_path)) == 1


def test_what_a_killed_service_left_in_the_log_is_saved_from_a_damaged_file(tmp_path: Path) -> None:
    write(tmp_path, [pending(1)])
    killed = tmp_path / "killed"
    killed.mkdir()
    with journal(tmp_path) as opened:
        opened.add(pending(2))
        for name in (FILE_NAME, f"{FILE_NAME}-wal"):
            (killed / name).write_bytes((tmp_path / name).read_bytes())
    no_database(killed / FILE_NAME)
    with journal(killed) as opened:
        assert opened.damage is not None
        assert opened.load()[0] == [pending(2)]
    assert written(killed)[0] == [pending(2)]


def test_a_log_that_belongs_to_a_damaged_file_goes_with_it(tmp_path: Path) -> None:
    write(tmp_path, [pending(number) for number in range(30)])
    killed = tmp_path / "killed"
    killed.mkdir()
    with journal(tmp_path) as opened:
        opened.save(pending(1, attempt=1))  # changes one page, so that the rest of the file is not in the log
        for name in (FILE_NAME, f"{FILE_NAME}-wal"):
            (killed / name).write_bytes((tmp_path / name).read_bytes())
    no_database(killed / FILE_NAME)
    log = (killed / f"{FILE_NAME}-wal").read_bytes()
    with journal(killed) as opened:
        aside = asides(killed)[0]
        assert aside.with_name(f"{aside.name}-wal").read_bytes() == log
        assert opened.load()[0] == []
    assert written(killed)[0] == []


def test_the_name_of_a_file_that_is_set_aside_has_the_time_in_utc(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, [])
    no_database(tmp_path / FILE_NAME)
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "Asia/Tokyo")
        time.tzset()
        with journal(tmp_path):
            pass
    time.tzset()
    (aside,) = asides(tmp_path)
    named = datetime.strptime(aside.name.rpartition("-")[2], "%Y%m%dT%H%M%S.%f%z")
    assert abs(datetime.now(UTC) - named) < timedelta(hours=1)


def test_what_an_unfinished_replacement_left_is_removed(tmp_path: Path) -> None:
    write(tmp_path, [pending()])
    for suffix in (".new", ".new-journal", ".new-wal"):
        (tmp_path / f"{FILE_NAME}{suffix}").write_bytes(b"half a journal")
    assert written(tmp_path)[0] == [pending()]
    assert [path.name for path in tmp_path.iterdir()] == [FILE_NAME]


def test_a_damaged_file_stays_in_its_place_when_no_other_can_be_written(tmp_path: Path) -> None:
    write(tmp_path, [pending(number) for number in (1, 2, 3)])
    change(tmp_path, f"UPDATE tasks SET record = '{{}}' WHERE id = '{pending(2).id}'")
    for _ in range(2):
        with broken_disk(), pytest.raises(OSError, match=os.strerror(errno.EFBIG)):
            Journal(tmp_path)
    with journal(tmp_path) as opened:
        assert opened.damage is not None
        assert opened.load()[0] == [pending(1), pending(3)]
    assert len({path.name.removesuffix("-wal") for path in asides(tmp_path)}) == 1
    assert not list(tmp_path.glob("*.new*"))


def test_another_damage_is_set_aside_too(tmp_path: Path) -> None:
    write(tmp_path, [pending(1), pending(2)])
    for number in (1, 2):
        change(tmp_path, f"UPDATE tasks SET record = '{{}}' WHERE id = '{pending(number).id}'")
        with journal(tmp_path) as opened:
            assert opened.damage is not None
        assert len(asides(tmp_path)) == number
    assert written(tmp_path)[0] == []


def test_what_the_system_refuses_is_no_damage(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).mkdir()
    with pytest.raises(OSError, match="the journal cannot be read or written") as refused:
        Journal(tmp_path)
    assert refused.value.strerror == "the journal cannot be read or written (unable to open database file)"
    assert (refused.value.errno, refused.value.filename) == (errno.EIO, str(tmp_path / FILE_NAME))
    assert [path.name for path in tmp_path.iterdir()] == [FILE_NAME]
    (tmp_path / FILE_NAME).rmdir()  # and the directory is free again
    assert written(tmp_path) == ([], {})


# -- a full disk -------------------------------------------------------------------------------------------------------


def test_a_task_that_finds_no_room_is_not_accepted(tmp_path: Path) -> None:
    with journal(tmp_path) as opened:
        opened.add(pending(1))
        fill_disk(opened)
        with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)) as refused:
            opened.add(large(2))
        assert (refused.value.errno, refused.value.filename) == (errno.ENOSPC, str(tmp_path / FILE_NAME))
        empty_disk(opened)
        opened.add(pending(3))
    assert written(tmp_path)[0] == [pending(1), pending(3)]


def test_a_refused_change_leaves_nothing_behind(tmp_path: Path) -> None:
    """Of several statements, the last is refused: the first ones are not kept, and the next change can begin."""
    with journal(tmp_path) as opened:
        opened.add(pending(1))
        opened._database._connection.set_authorizer(
            lambda action, table, *_: (
                sqlite3.SQLITE_DENY if (action, table) == (sqlite3.SQLITE_INSERT, "gone") else sqlite3.SQLITE_OK
            )
        )
        opened.expire([(pending(1).id, NOW)])
        assert list(on_disk(tmp_path)) == [pending(1).id]
        opened._database._connection.set_authorizer(None)
        opened.flush(NOW - 1)
    assert written(tmp_path) == ([], {pending(1).id: NOW})


@pytest.mark.parametrize("change", ["add", "save", "remove", "flush"])
def test_what_the_disk_refused_is_written_with_the_next_change(
    tmp_path: Path, change: str, caplog: pytest.LogCaptureFixture
) -> None:
    with journal(tmp_path) as opened:
        opened.add(pending(1))
        fill_disk(opened)
        opened.save(large(1))
        opened.save(large(2))
        assert on_disk(tmp_path).keys() == {pending(1).id}
        empty_disk(opened)
        {
            "add": lambda: opened.add(pending(3)),
            "save": lambda: opened.save(pending(3)),
            "remove": lambda: opened.remove(pending(3).id),
            "flush": lambda: opened.flush(NOW),
        }[change]()
        assert on_disk(tmp_path).keys() >= {pending(1).id, pending(2).id}
    assert [(name, level) for name, level, _ in caplog.record_tuples] == [(LOGGER, logging.ERROR)]  # said once
    assert caplog.messages == ["Cannot write the journal; retrying with the next change"]
    more = [pending(3)] if change in ("add", "save") else []
    assert written(tmp_path)[0] == [large(1), large(2), *more]


def test_late_changes_keep_their_order(tmp_path: Path) -> None:
    with journal(tmp_path) as opened:
        opened.add(pending(1))
        opened.add(pending(2))
        fill_disk(opened)
        opened.save(replace(large(1), attempt=1))
        opened.save(replace(large(1), attempt=2))
        opened.expire([(pending(1).id, NOW)])
        opened.save(replace(large(2), attempt=1))
        with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
            opened.add(pending(3))  # as small as it is, it waits for those before it
        empty_disk(opened)
        opened.save(replace(pending(2), attempt=5))
    assert written(tmp_path) == ([replace(pending(2), attempt=5)], {pending(1).id: NOW})


def test_what_is_late_is_written_when_the_journal_is_closed_if_there_is_room(tmp_path: Path) -> None:
    for room in (False, True):
        opened = Journal(tmp_path)
        fill_disk(opened)
        opened.save(large(1))
        if room:
            empty_disk(opened)
        opened.close()
        assert written(tmp_path)[0] == ([large(1)] if room else [])


def test_of_late_changes_of_one_task_the_newest_counts(tmp_path: Path) -> None:
    with journal(tmp_path) as opened:
        fill_disk(opened)
        opened.save(large(1))
        opened.remove(pending(1).id)
        opened.save(replace(large(1), attempt=2))
        empty_disk(opened)
    assert written(tmp_path)[0] == [replace(large(1), attempt=2)]


def test_a_flush_that_has_nothing_to_do_writes_nothing(tmp_path: Path) -> None:
    with journal(tmp_path) as opened:
        opened.add(pending(1))
        before = (tmp_path / f"{FILE_NAME}-wal").read_bytes()
        opened.flush(NOW)
        assert (tmp_path / f"{FILE_NAME}-wal").read_bytes() == before


def test_what_was_late_is_written_once(tmp_path: Path) -> None:
    with journal(tmp_path) as opened:
        fill_disk(opened)
        opened.save(large(1))
        empty_disk(opened)
        opened.flush(NOW)
        opened.remove(pending(1).id)
        opened.flush(NOW)
    assert written(tmp_path)[0] == []


# -- a broken disk -----------------------------------------------------------------------------------------------------


def test_a_journal_that_cannot_be_written_says_so_until_it_can(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with journal(tmp_path) as opened:
        opened.add(pending(1))
        assert opened.failing is None
        with broken_disk():
            with pytest.raises(JournalWriteError, match="disk I/O error") as refused:
                opened.add(pending(2))
            opened.save(processing(1))
            opened.flush(NOW)
            failing = opened.failing
        assert (refused.value.errno, refused.value.filename) == (errno.EIO, str(tmp_path / FILE_NAME))
        assert failing == "disk I/O error"
        opened.flush(NOW)
        assert opened.failing is None
        opened.flush(NOW)
    assert caplog.record_tuples == [
        (LOGGER, logging.ERROR, "Cannot write the journal; retrying with the next change"),
        (LOGGER, logging.INFO, "The journal can be written again"),
    ]
    assert written(tmp_path)[0] == [processing(1)]


def test_a_journal_that_refused_a_new_task_is_tried_in_earnest(tmp_path: Path) -> None:
    """Nothing is late, and nobody has to be forgotten: even so the disk is asked."""
    with journal(tmp_path) as opened:
        with broken_disk():
            with pytest.raises(JournalWriteError):
                opened.add(pending(1))
            opened.flush(NOW)
            assert opened.failing is not None
        opened.flush(NOW)
        assert opened.failing is None


def test_a_full_disk_is_said_as_well(tmp_path: Path) -> None:
    with journal(tmp_path) as opened:
        fill_disk(opened)
        opened.save(large(1))
        assert opened.failing is not None
        assert opened.failing == "database or disk is full"
        empty_disk(opened)
        opened.save(pending(2))
        assert opened.failing is None


def test_of_what_is_late_only_the_newest_is_kept(tmp_path: Path) -> None:
    with journal(tmp_path) as opened:
        with broken_disk():
            for number in range(50):
                opened.save(processing(1, attempt=number))
                opened.save(processing(2, attempt=number))
                opened.expire([(completed(3).id, NOW + number)])
                opened.flush(NOW)
            opened.remove(processing(2).id)
        statements: list[str] = []
        opened._database._connection.set_trace_callback(statements.append)
        opened.flush(NOW)
    verbs = [statement.split()[0] for statement in statements]
    assert verbs == ["BEGIN", "INSERT", "DELETE", "DELETE", "INSERT", "DELETE", "PRAGMA", "COMMIT"]
    assert written(tmp_path) == ([processing(1, attempt=49)], {completed(3).id: NOW + 49})


def test_what_is_late_can_be_written_without_another_change(tmp_path: Path) -> None:
    with journal(tmp_path) as opened:
        with broken_disk():
            opened.save(pending(1))
            opened.flush_pending()
        assert on_disk(tmp_path) == {}
        opened.flush_pending()
        assert on_disk(tmp_path).keys() == {pending(1).id}
    opened.flush_pending()  # of a journal that is closed nothing is late
    assert opened.failing is None


def test_a_journal_that_is_closed_takes_nothing_more(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As when a worker ends that the service did not wait for."""
    opened = Journal(tmp_path)
    opened.close()
    opened.save(pending(1))
    assert caplog.messages == ["Cannot write the journal; retrying with the next change"]
    with pytest.raises(OSError, match="the journal cannot be read or written") as refused:
        opened.add(pending(2))
    assert refused.value.errno == errno.EIO
    assert written(tmp_path) == ([], {})


def test_changes_from_many_threads_are_all_kept(tmp_path: Path) -> None:
    with journal(tmp_path) as opened, ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda number: opened.add(pending(number)), range(100)))
    assert [task.position for task in written(tmp_path)[0]] == list(range(100))


def test_upkeep_that_the_disk_refused_is_not_kept(tmp_path: Path) -> None:
    with journal(tmp_path) as opened:
        with broken_disk():
            opened.save(pending(1))
            opened.flush(NOW)
        statements: list[str] = []
        opened._database._connection.set_trace_callback(statements.append)
        opened.save(pending(2))
    verbs = [statement.split()[0] for statement in statements]
    assert verbs == ["BEGIN", "INSERT", "INSERT", "COMMIT"]
