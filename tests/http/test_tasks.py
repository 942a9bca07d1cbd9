"""Tasks in their user's hands: list, cancel, delete, retry, manifest."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from api.server import create_app
from api.service import Service
from api.storage.files import FileStore
from engines.base import NoFaceError
from tests.http.conftest import Client, assert_no_secrets, check_error, png
from tests.scripted_engine import ScriptedEngine
from tests.server import make_settings, running, wait_for

TASKS = "/api/v1/synthesis"


@pytest.fixture
def client(tmp_path: Path, wav: bytes) -> Iterator[Client]:
    """A service of its own, with one worker."""
    engine = ScriptedEngine()
    with running(make_settings(tmp_path, tasks={"max_workers": 1}), engine) as run:
        yield Client(run, engine, wav)
        engine.go_on()


def started(client: Client, **fields: Any) -> str:
    answer = client.start(**fields)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["task_id"])


def status(client: Client, task_id: str) -> dict[str, Any]:
    return dict(client.http.get(f"{TASKS}/{task_id}/status").json())


def ended(client: Client, task_id: str) -> dict[str, Any]:
    wait_for(lambda: status(client, task_id)["status"] in ("COMPLETED", "FAILED"))
    return status(client, task_id)


def page(client: Client, **query: Any) -> dict[str, Any]:
    answer = client.http.get(TASKS, params=query)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def files(client: Client) -> tuple[int, int]:
    """How many uploads and videos there are."""
    service = client.run.service
    return len(list(service.uploads.directory.iterdir())), len(list(service.outputs.directory.iterdir()))


def test_all_tasks_in_pages_the_newest_first(client: Client) -> None:
    ids = [started(client, seed=seed) for seed in range(7)]
    for task_id in ids:
        ended(client, task_id)
    newest = ids[::-1]
    first = page(client, limit=3)
    assert [task["task_id"] for task in first["data"]] == newest[:3]
    assert (first["has_more"], first["first_id"], first["last_id"]) == (True, newest[0], newest[2])
    assert first["data"][0] == status(client, newest[0])
    second = page(client, limit=3, after=first["last_id"])
    third = page(client, limit=3, after=second["last_id"])
    assert [task["task_id"] for task in (*second["data"], *third["data"])] == newest[3:]
    assert (second["has_more"], third["has_more"]) == (True, False)
    assert page(client, after=ids[0]) == {"data": [], "has_more": False, "first_id": None, "last_id": None}
    assert [task["task_id"] for task in page(client, limit="", status="", after="")["data"]] == newest


def test_tasks_of_one_status(client: Client) -> None:
    client.engine.failures.append(NoFaceError("No face."))
    failed, completed = started(client, seed=1), started(client, seed=2)
    ended(client, completed)
    client.engine.hold()
    runs, waits = started(client, seed=3), started(client, seed=4)
    client.engine.wait_begun()
    wait_for(lambda: status(client, runs)["status"] == "PROCESSING")
    found = {name: page(client, status=name)["data"] for name in ("FAILED", "COMPLETED", "PROCESSING", "PENDING")}
    assert [[task["task_id"] for task in tasks] for tasks in found.values()] == [[failed], [completed], [runs], [waits]]
    assert found["PENDING"][0]["queue_position"] == 1


@pytest.mark.parametrize(
    ("query", "field"), [("limit=0", "limit"), ("limit=101", "limit"), ("limit=x", "limit"), ("status=DONE", "status"),
                         ("colour=red", "colour"), ("limit=1&limit=2", "limit")],
)  # fmt: skip
def test_a_list_that_cannot_be(shared: Client, query: str, field: str) -> None:
    body = check_error(shared.http.get(f"{TASKS}?{query}"), 422, "validation_error")
    assert [error["field"] for error in body["errors"]] == [field]
    assert field in body["detail"]


def test_a_list_after_a_task_that_is_not_there(shared: Client) -> None:
    check_error(shared.http.get(TASKS, params={"after": "0" * 32}), 404, "task_not_found")


def test_a_waiting_task_is_cancelled_at_once(client: Client) -> None:
    client.engine.hold()
    runs, waits, behind = (started(client, seed=seed) for seed in range(3))
    client.engine.wait_begun()
    answer = client.http.post(f"{TASKS}/{waits}/cancel")
    assert answer.status_code == 200
    body = answer.json()
    assert (body["task_id"], body["status"], body["error_code"]) == (waits, "FAILED", "cancelled")
    assert body == status(client, waits)
    assert status(client, behind)["queue_position"] == 1
    check_error(client.http.get(f"{TASKS}/{waits}/download"), 409, "cancelled")
    client.engine.go_on()
    assert ended(client, runs)["status"] == ended(client, behind)["status"] == "COMPLETED"
    assert {job.params.seed for job in client.engine.jobs} == {0, 2}


def test_a_running_task_is_cancelled_at_its_next_step(client: Client) -> None:
    client.engine.hold()
    runs, equal = started(client), started(client)
    client.engine.wait_begun()
    answer = client.http.post(f"{TASKS}/{runs}/cancel").json()
    assert answer["status"] == "FAILED" or answer["message"] == "Cancelling."
    assert ended(client, runs)["error_code"] == "cancelled"
    client.engine.wait_begun()  # whoever waited for its video makes it
    client.engine.go_on()
    assert ended(client, equal)["status"] == "COMPLETED"
    assert files(client) == (2, 1)


def test_a_task_that_has_ended_is_not_cancelled_any_more(client: Client) -> None:
    task_id = started(client)
    before = ended(client, task_id)
    answer = client.http.post(f"{TASKS}/{task_id}/cancel")
    assert (answer.status_code, answer.json()) == (200, before)
    assert client.http.get(f"{TASKS}/{task_id}/download").status_code == 200


def test_a_deleted_task_is_gone_with_its_files(client: Client) -> None:
    first, equal = started(client), started(client)
    ended(client, equal)
    assert files(client) == (2, 1)
    answer = client.http.delete(f"{TASKS}/{first}")
    assert (answer.status_code, answer.content) == (204, b"")
    assert "content-type" not in answer.headers
    assert client.http.get(f"{TASKS}/{equal}/download").status_code == 200  # the files of another
    assert client.http.delete(f"{TASKS}/{equal}").status_code == 204
    assert files(client) == (0, 0)
    for method, address in (("GET", "/status"), ("GET", "/download"), ("GET", "/manifest"), ("GET", "/events"),
                            ("POST", "/cancel"), ("POST", "/retry"), ("DELETE", "")):  # fmt: skip
        check_error(client.http.request(method, f"{TASKS}/{first}{address}"), 404, "task_not_found")
    assert page(client)["data"] == []


def test_a_task_is_deleted_while_it_waits_and_while_it_runs(client: Client) -> None:
    client.engine.hold()
    runs, waits = started(client, seed=1), started(client, seed=2)
    client.engine.wait_begun()
    for task_id in (runs, waits):
        assert client.http.delete(f"{TASKS}/{task_id}").status_code == 204
        check_error(client.http.get(f"{TASKS}/{task_id}/status"), 404, "task_not_found")
    wait_for(lambda: files(client) == (0, 0))
    assert client.http.get("/api/health").json()["queue"]["running"] == 0
    client.engine.go_on()
    assert ended(client, started(client, seed=1))["status"] == "COMPLETED"


def test_a_download_that_has_begun_comes_to_its_end(client: Client, tmp_path: Path) -> None:
    task_id = started(client)
    ended(client, task_id)
    service = client.run.service
    result = service.task_manager.get(task_id).task.result
    assert result is not None
    large = b"video" * (8 << 20)  # more than the sockets hold
    service.outputs.path(result.name).write_bytes(large)
    with client.http.stream("GET", f"{TASKS}/{task_id}/download") as answer:
        chunks = answer.iter_bytes()
        received = bytearray(next(chunks))
        assert client.http.delete(f"{TASKS}/{task_id}").status_code == 204
        for chunk in chunks:
            received += chunk
    assert received == large
    wait_for(lambda: files(client) == (0, 0))


def test_a_video_that_goes_just_before_it_is_sent_is_gone(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    task_id = started(client)
    ended(client, task_id)
    hold = FileStore.hold

    def late(store: FileStore, name: str) -> None:
        client.run.service.task_manager.delete(task_id)
        hold(store, name)

    with monkeypatch.context() as patch:
        patch.setattr(FileStore, "hold", late)
        check_error(client.http.get(f"{TASKS}/{task_id}/download"), 410, "task_expired")
    assert files(client) == (0, 0)


def test_a_failed_task_is_tried_again(client: Client) -> None:
    client.engine.failures.append(NoFaceError("No face."))
    failed = started(client, seed=5, image=png(80, 64), inference_steps=10)
    before = ended(client, failed)
    assert before["status"] == "FAILED"
    answer = client.http.post(f"{TASKS}/{failed}/retry")
    assert answer.status_code == 202
    body = answer.json()
    assert answer.headers["location"] == body["status_url"]
    assert (body["status"], body["warnings"]) == ("PENDING", before["warnings"])
    assert len(body["warnings"]) == 2
    # In the log, the new task is of this request, not of the first one.
    task = client.run.service.task_manager.get(body["task_id"]).task
    assert task.submission.request_id == answer.headers["x-request-id"]
    again = ended(client, body["task_id"])
    assert (again["status"], again["parameters"]) == ("COMPLETED", before["parameters"])
    assert status(client, failed) == before
    assert client.engine.jobs[0].image == client.engine.jobs[1].image
    check_error(client.http.post(f"{TASKS}/{body['task_id']}/retry"), 409, "not_failed")


def test_a_task_without_its_files_cannot_be_tried_again(client: Client) -> None:
    client.engine.failures.append(NoFaceError("No face."))
    failed = started(client)
    ended(client, failed)
    next(client.run.service.uploads.directory.iterdir()).unlink()
    check_error(client.http.post(f"{TASKS}/{failed}/retry"), 410, "task_expired")
    assert page(client)["data"] == [status(client, failed)]


def test_the_manifest_tells_all_it_takes(client: Client) -> None:
    client.engine.hold()
    image = png()
    task_id = started(client, image=image, seed=7, duration=0.5)
    client.engine.wait_begun()
    wait_for(lambda: status(client, task_id)["status"] == "PROCESSING")
    assert client.http.get(f"{TASKS}/{task_id}/manifest").json()["output"] is None
    client.engine.go_on()
    body = ended(client, task_id)
    manifest = client.http.get(f"{TASKS}/{task_id}/manifest").json()
    video = client.http.get(f"{TASKS}/{task_id}/download")
    assert manifest["inputs"] == {
        "image": {"sha256": hashlib.sha256(image).hexdigest()},
        "audio": {"sha256": hashlib.sha256(client.wav).hexdigest()},
    }
    assert manifest["parameters"] == body["parameters"]
    assert manifest["parameters"]["seed"] == 7
    assert manifest["speech_seconds"] == 0.5
    assert manifest["engine"] == {"name": "preview", "version": "scripted", "checkpoint": client.engine.checkpoint}
    assert manifest["output"] == {"sha256": hashlib.sha256(video.content).hexdigest(), "bytes": len(video.content)}
    assert video.headers["etag"] == f'"{manifest["output"]["sha256"]}"'
    assert (manifest["task_id"], manifest["status"], manifest["attempt"]) == (task_id, "COMPLETED", 1)
    timings = manifest["timings"]
    assert [timings[name] for name in ("created_at", "started_at", "completed_at")] == [
        body[name] for name in ("created_at", "started_at", "completed_at")
    ]
    assert timings["waited_seconds"] >= 0 < timings["worked_seconds"]
    # The same again, from the manifest alone and the two files.
    fields = {name: value for name, value in manifest["parameters"].items() if value is not None}
    client.http.delete(f"{TASKS}/{task_id}")
    again = started(client, image=image, **fields)
    ended(client, again)
    assert client.http.get(f"{TASKS}/{again}/manifest").json()["output"] == manifest["output"]


def test_all_of_it_after_a_restart(tmp_path: Path, wav: bytes) -> None:
    settings = make_settings(tmp_path, tasks={"max_workers": 1, "shutdown_grace": 0})
    engine = ScriptedEngine()
    engine.failures += [NoFaceError("No face.")]
    with running(settings, engine) as run:
        client = Client(run, engine, wav)
        failed, done, deleted = started(client, seed=1), started(client, seed=2), started(client, seed=3)
        ended(client, deleted)
        client.http.delete(f"{TASKS}/{deleted}")
        engine.hold()
        interrupted, waits = started(client, seed=4), started(client, seed=5)
        engine.wait_begun()
        before = {task_id: status(client, task_id) for task_id in (failed, done)}
        manifest = client.http.get(f"{TASKS}/{done}/manifest").json()
    engine.go_on()
    engine.loading.clear()
    with running(settings, engine, wait_loaded=False) as run:
        client = Client(run, engine, wav)
        assert {task_id: status(client, task_id) for task_id in (failed, done)} == before
        assert client.http.get(f"{TASKS}/{done}/manifest").json() == manifest
        assert client.http.get(f"{TASKS}/{done}/download").headers["etag"] == f'"{manifest["output"]["sha256"]}"'
        check_error(client.http.get(f"{TASKS}/{deleted}/status"), 404, "task_not_found")
        assert status(client, waits)["message"] == "Queued, position 2."
        assert status(client, interrupted)["message"] == "Queued to run again, position 1."
        engine.loading.set()
        assert [ended(client, task_id)["attempt"] for task_id in (interrupted, waits)] == [2, 1]
        assert [task["task_id"] for task in page(client)["data"]] == [waits, interrupted, done, failed]
        assert client.http.post(f"{TASKS}/{failed}/retry").status_code == 202


def test_a_damaged_journal_is_told(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "tasks.sqlite3").write_bytes(b"garbage" * 1000)
    with running(make_settings(tmp_path), ScriptedEngine()) as run:
        health = run.client.get("/api/health").json()
    assert health["status"] == "healthy"
    assert "journal" in health["reason"]
    kept = [path for path in (tmp_path / "data").iterdir() if path.name.startswith("tasks.sqlite3.damaged")]
    assert kept[0].name in health["reason"]
    assert kept[0].read_bytes() == b"garbage" * 1000


def test_a_journal_that_cannot_be_written_is_told_and_takes_no_new_tasks(client: Client) -> None:
    connection = client.run.service.journal._database._connection
    client.engine.hold()
    runs, waits = started(client, seed=1), started(client, seed=2)
    connection.execute("PRAGMA query_only = ON")
    refusal = check_error(client.start(seed=3), 503, "journal_failed")
    assert refusal["error"] == "The task journal cannot be written; new tasks are rejected."
    assert client.http.post(f"{TASKS}/{waits}/cancel").json()["error_code"] == "cancelled"
    check_error(client.http.post(f"{TASKS}/{waits}/retry"), 503, "journal_failed")
    client.engine.go_on()
    assert ended(client, runs)["status"] == "COMPLETED"
    health = client.http.get("/api/health").json()
    assert (health["status"], health["state"]) == ("unhealthy", "ready")
    assert "cannot be written (attempt to write a readonly database)" in health["reason"]
    assert_no_secrets(health["reason"])
    connection.execute("PRAGMA query_only = OFF")
    client.run.service.task_manager.sweep()
    health = client.http.get("/api/health").json()
    assert (health["status"], health["reason"]) == ("healthy", None)
    assert client.start(seed=3).status_code == 202


def test_services_in_one_process_share_nothing(tmp_path: Path) -> None:
    apps = [create_app(make_settings(tmp_path / name), ScriptedEngine()) for name in ("one", "two")]
    services: list[Service] = [app.state.service for app in apps]
    assert services[0].task_manager is not services[1].task_manager
    for service in services:
        service.close()


def test_ids_of_tasks_are_no_paths(shared: Client) -> None:
    for task_id in ("..%2f..%2fetc", "a%00b", "x" * 3000):
        answers: list[httpx.Response] = [
            shared.http.delete(f"{TASKS}/{task_id}"), shared.http.post(f"{TASKS}/{task_id}/cancel"),
        ]  # fmt: skip
        assert {answer.status_code for answer in answers} == {404}
