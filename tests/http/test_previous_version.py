"""The service runs on the journal and the files that a killed process of the previous version left."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from media import video
from tests.process import START, server
from tests.server import wait_for

PREVIOUS = Path(__file__).parent / "previous_version"
RECORDED: dict[str, dict[str, Any]] = json.loads((PREVIOUS / "recorded.json").read_text())
FINISHED, CANCELLED, KILLED, WAITING, EXPIRED = (
    RECORDED[kind] for kind in ("finished", "cancelled", "killed", "waiting", "expired")
)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("previous")
    for name in ("uploads", "outputs", "data"):
        shutil.copytree(PREVIOUS / name, directory / name)
    return directory


@pytest.fixture(scope="module", params=["first_start", "second_start"])
def client(directory: Path) -> Iterator[httpx.Client]:
    """A client of a service whose tasks have all ended; after the tests it stops cleanly, to be started once more."""
    with server(directory, TASKS__MAX_WORKERS=1) as (process, client):
        wait_for(lambda: all_ended(client), 120)
        yield client
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


def task_id(task: dict[str, Any]) -> str:
    return str(task["accepted"]["task_id"])


def status(client: httpx.Client, task: dict[str, Any]) -> dict[str, Any]:
    return dict(client.get(task["accepted"]["status_url"]).raise_for_status().json())


def all_ended(client: httpx.Client) -> bool:
    health = client.get("/api/health").json()
    assert health["state"] in ("starting", "ready"), health
    return all(status(client, task)["status"] in ("COMPLETED", "FAILED") for task in (KILLED, WAITING))


@pytest.mark.parametrize("task", [FINISHED, CANCELLED], ids=["finished", "cancelled"])
def test_ended_task_from_previous_version_is_as_recorded(client: httpx.Client, task: dict[str, Any]) -> None:
    body = status(client, task)
    assert body == body | task["status"]  # fields may be added


def test_finished_video_from_previous_version_is_served(client: httpx.Client) -> None:
    (path,) = (PREVIOUS / "outputs").glob("*.mp4")
    content = path.read_bytes()
    answer = client.get(FINISHED["accepted"]["download_url"])
    assert answer.status_code == 200
    assert answer.content == content
    assert answer.headers["etag"] == f'"{hashlib.sha256(content).hexdigest()}"'


def test_manifest_from_previous_version_is_as_recorded(client: httpx.Client) -> None:
    manifest = client.get(f"/api/v1/synthesis/{task_id(FINISHED)}/manifest").raise_for_status().json()
    running_version = {"service_version": client.get("/api/health").json()["version"]}
    assert manifest == manifest | FINISHED["manifest"] | running_version


def test_idempotency_key_from_previous_version_is_replayed(client: httpx.Client) -> None:
    inputs = FINISHED["manifest"]["inputs"]
    files = {name: (PREVIOUS / "uploads" / inputs[name]["sha256"]).read_bytes() for name in ("image", "audio")}
    headers = {"Idempotency-Key": FINISHED["key"]}
    answer = client.post(START, data=FINISHED["fields"], files=files, headers=headers)
    assert (answer.status_code, answer.json()["task_id"]) == (202, task_id(FINISHED))
    assert answer.headers["idempotent-replayed"] == "true"


def test_expired_task_from_previous_version_returns_410(client: httpx.Client) -> None:
    answer = client.get(EXPIRED["accepted"]["status_url"])
    assert (answer.status_code, answer.json()["code"]) == (410, "task_expired")


@pytest.mark.parametrize(("task", "attempt"), [(KILLED, 2), (WAITING, 1)], ids=["killed", "waiting"])
def test_unfinished_task_from_previous_version_completes(
    client: httpx.Client, tmp_path: Path, task: dict[str, Any], attempt: int
) -> None:
    body, before = status(client, task), task["status"]
    assert (body["status"], body["attempt"]) == ("COMPLETED", attempt), body
    unchanged = ("task_id", "created_at", "parameters")
    assert [body[name] for name in unchanged] == [before[name] for name in unchanged]
    path = tmp_path / "result.mp4"
    path.write_bytes(client.get(task["accepted"]["download_url"]).raise_for_status().content)
    info = video.probe(path)
    assert (info.width, info.fps, info.frames) == (256, 25, 38)


def test_tasks_from_previous_version_run_in_order(client: httpx.Client) -> None:
    killed, waiting = status(client, KILLED), status(client, WAITING)
    assert datetime.fromisoformat(killed["completed_at"]) <= datetime.fromisoformat(waiting["started_at"])


def test_tasks_from_previous_version_are_listed(client: httpx.Client) -> None:
    listed = client.get("/api/v1/synthesis").raise_for_status().json()["data"]
    assert [body["task_id"] for body in listed] == list(map(task_id, (WAITING, KILLED, CANCELLED, FINISHED)))


def test_journal_from_previous_version_is_not_damaged(client: httpx.Client, directory: Path) -> None:
    assert not list((directory / "data").glob("*.damaged-*"))
    assert "damaged" not in (client.get("/api/health").json()["reason"] or "")


def test_partial_file_from_previous_version_is_deleted(client: httpx.Client, directory: Path) -> None:
    assert list((PREVIOUS / "outputs").glob("*.part"))
    assert not list((directory / "outputs").glob("*.part"))
