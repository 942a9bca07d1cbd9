"""The contract that clients rely on: paths, fields, statuses, headers."""

from __future__ import annotations

import json
import re
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.http.conftest import Client, check_error, png
from tests.process import START
from tests.scripted_engine import ScriptedEngine
from tests.server import make_settings, running, wait_for

UTC = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")


def test_from_start_to_download(shared: Client) -> None:
    accepted = shared.start(seed=11)
    body = accepted.json()
    assert accepted.status_code == 202
    assert set(body) == {"task_id", "status", "message", "status_url", "download_url", "queue_position", "warnings"}
    assert body["status"] == "PENDING"
    assert accepted.headers["location"] == body["status_url"] == f"/api/v1/synthesis/{body['task_id']}/status"
    status = shared.finish(accepted)
    assert status["status"] == "COMPLETED"
    assert status["progress"] == 1.0
    assert status["engine"] == "preview"
    assert status["error_code"] is status["eta_seconds"] is status["queue_position"] is None
    assert all(UTC.fullmatch(status[name]) for name in ("created_at", "updated_at", "started_at", "completed_at"))
    assert status["created_at"] <= status["started_at"] <= status["completed_at"] < status["expires_at"]
    video = shared.http.get(body["download_url"])
    assert video.status_code == 200
    assert video.headers["content-type"] == "video/mp4"
    assert video.headers["content-disposition"] == 'attachment; filename="result.mp4"'
    assert b"seed=11" in video.content


def test_fields_the_engine_cannot_honour_are_named(shared: Client) -> None:
    assert shared.start(inference_steps=10).json()["warnings"] == ["inference_steps has no effect here."]
    assert shared.start().json()["warnings"] == []


def test_warnings_about_the_portrait(shared: Client) -> None:
    accepted = shared.start(image=png(100, 64))
    assert accepted.json()["warnings"] == ["Two faces."]
    assert shared.finish(accepted)["warnings"] == ["Two faces."]


@pytest.fixture
def video_url(shared: Client) -> str:
    accepted = shared.start(seed=77)
    shared.finish(accepted)
    return str(accepted.json()["download_url"])


def test_ranges_head_and_conditions(shared: Client, video_url: str) -> None:
    get = shared.http.get
    whole = get(video_url)
    etag = whole.headers["etag"]
    assert etag.startswith('"')  # a strong one
    part = get(video_url, headers={"Range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, whole.content[10:20])
    assert part.headers["content-range"] == f"bytes 10-19/{len(whole.content)}"
    last = get(video_url, headers={"Range": "bytes=-5", "If-Range": etag})
    assert (last.status_code, last.content) == (206, whole.content[-5:])
    changed = get(video_url, headers={"Range": "bytes=-5", "If-Range": '"other"'})
    assert (changed.status_code, changed.content) == (200, whole.content)
    head = shared.http.head(video_url)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == str(len(whole.content))
    assert get(video_url, headers={"If-None-Match": etag}).status_code == 304
    assert get(video_url, headers={"If-None-Match": "*"}).status_code == 304
    for ignored in ("items=0-5", "bytes=abc", "bytes", "bytes=5"):  # as RFC 9110 wants it
        assert get(video_url, headers={"Range": ignored}).status_code == 200
    several = get(video_url, headers={"Range": "bytes=0-1,10-11"})
    assert several.headers["content-type"].startswith("multipart/byteranges")
    beyond = get(video_url, headers={"Range": "bytes=99999999-"})
    check_error(beyond, 416, "range_not_satisfiable")
    assert beyond.headers["content-range"] == f"bytes */{len(whole.content)}"


def test_download_before_the_end_and_after_a_failure(shared: Client) -> None:
    shared.engine.hold()
    shared.engine.failures.append(RuntimeError("broken"))
    accepted = shared.start(seed=101)
    check_error(shared.http.get(accepted.json()["download_url"]), 409, "not_finished")
    shared.engine.go_on()
    status = shared.finish(accepted)
    assert (status["status"], status["error_code"]) == ("FAILED", "internal")
    body = check_error(shared.http.get(accepted.json()["download_url"]), 409, "internal")
    assert "log" in body["detail"]


def test_a_video_that_somebody_removed(shared: Client) -> None:
    accepted = shared.start(seed=103)
    shared.finish(accepted)
    for path in shared.run.service.outputs.directory.iterdir():
        path.unlink()
    check_error(shared.http.get(accepted.json()["download_url"]), 410, "task_expired")
    assert shared.finish(shared.start(seed=103))["status"] == "COMPLETED"  # and it is made anew


def test_unknown_addresses_methods_and_tasks(shared: Client) -> None:
    http = shared.http
    check_error(http.get("/nothing/here"), 404, "not_found")
    check_error(http.get("/api/health/"), 404, "not_found")
    for method, url in (("POST", "/api/health"), ("PUT", START), ("PATCH", "/docs")):
        refused = http.request(method, url)
        check_error(refused, 405, "method_not_allowed")
        assert refused.headers["allow"]
    for task_id in ("0" * 32, "..", "%2e%2e%2fetc", "x" * 5000, "你好"):
        for part in ("status", "download"):
            refused = http.get(f"/api/v1/synthesis/{task_id}/{part}")
            assert refused.json()["code"] in ("task_not_found", "not_found")
            assert refused.status_code == 404


def test_an_expired_task(tmp_path: Path, wav: bytes) -> None:
    settings = make_settings(tmp_path, tasks={"retention_hours": 1e-6})
    with running(settings, ScriptedEngine()) as run:
        client = Client(run, ScriptedEngine(), wav)
        accepted = client.start()
        assert accepted.status_code == 202
        wait_for(lambda: run.client.get(accepted.json()["download_url"]).status_code not in (200, 409))
        check_error(run.client.get(accepted.json()["download_url"]), 410, "task_expired")


def test_request_ids_go_in_and_out(shared: Client) -> None:
    def request_id(headers: dict[str, str]) -> str:
        return str(shared.http.get("/api/health", headers=headers).headers["x-request-id"])

    assert request_id({"X-Request-ID": "mine-1.2_3"}) == "mine-1.2_3"
    assert request_id({}) != request_id({})
    for unusable in ("a b", "x" * 101, "<script>"):
        assert re.fullmatch(r"[0-9a-f]{32}", request_id({"X-Request-ID": unusable}))


def test_every_task_and_request_is_in_the_log(shared: Client, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("DEBUG", logger="api"):
        accepted = shared.start(seed=55)
        task_id = shared.finish(accepted)["task_id"]
        shared.http.get("/nothing%0A/here")
        # The line is written after the answer.
        wait_for(lambda: any(" 404 " in record.getMessage() for record in caplog.records))
    lines = [record.getMessage() for record in caplog.records if record.levelname != "DEBUG"]
    own = [line.split()[2] for line in lines if line.startswith(f"Task {task_id}")]
    assert own == ["accepted:", "started", "completed"]
    ids = accepted.headers["x-request-id"]
    assert sum(ids in line and f"POST {START} 202" in line for line in lines) == 1
    assert any(line.startswith(f"Task {task_id} accepted") and line.endswith(f"[{ids}]") for line in lines)
    assert any(r"/nothing\n/here 404" in line for line in lines)
    assert not any("/status" in line for line in lines)  # polls are at DEBUG
    assert any("/status" in record.getMessage() for record in caplog.records)


def test_health_and_probes(shared: Client) -> None:
    body = shared.http.get("/api/health").json()
    assert body["status"] == "healthy"
    assert (body["state"], body["engine"], body["model_loaded"]) == ("ready", "preview", False)
    assert body["gpu_available"] == (body["device"] is not None)
    assert body["queue"] == {"running": 0, "waiting": 0, "max_workers": 2, "max_queue": 100}
    assert body["disk_free_bytes"] > 0
    assert [shared.http.head(f"/api/health{path}").status_code for path in ("", "/live", "/ready")] == [200] * 3
    assert shared.http.get("/api/health/live").json() == {"status": "ok", "state": "ready"}
    assert shared.http.get("/api/health/ready").json() == {"status": "ok", "state": "ready"}


def test_an_engine_that_cannot_start(tmp_path: Path, wav: bytes) -> None:
    engine = ScriptedEngine(load_error="The weights are missing.")
    with running(make_settings(tmp_path), engine) as run:
        health = run.client.get("/api/health")
        assert health.status_code == 200
        assert health.json()["status"] == "unhealthy"
        assert (health.json()["state"], health.json()["reason"]) == ("setup_failed", "The weights are missing.")
        assert run.client.get("/api/health/live").status_code == 200
        check_error(run.client.get("/api/health/ready"), 503, "setup_failed")
        body = check_error(Client(run, engine, wav).start(), 503, "setup_failed")
        assert body["error"] == "The weights are missing."


def test_jobs_wait_for_an_engine_that_is_being_loaded(tmp_path: Path, wav: bytes) -> None:
    engine = ScriptedEngine()
    engine.loading.clear()
    with running(make_settings(tmp_path), engine, wait_loaded=False) as run, ThreadPoolExecutor(1) as pool:
        assert run.client.get("/api/health").json()["state"] == "starting"
        check_error(run.client.get("/api/health/ready"), 503, "starting")
        answer = pool.submit(Client(run, engine, wav).start)
        wait_for(lambda: len(list((tmp_path / "uploads").glob("*.part"))) == 2)  # all of it has been received
        assert not answer.done()
        engine.loading.set()
        assert answer.result(30).status_code == 202
    assert engine.closed


def test_an_engine_that_takes_too_long_to_load(tmp_path: Path, wav: bytes) -> None:
    engine = ScriptedEngine()
    engine.loading.clear()
    with running(make_settings(tmp_path), engine, wait_loaded=False) as run:
        run.service.engine_wait_seconds = 0.05
        check_error(Client(run, engine, wav).start(), 503, "starting")
        engine.loading.set()


def test_health_is_answered_whatever_happened_to_the_disk(shared: Client) -> None:
    outputs = shared.run.service.outputs.directory
    moved = outputs.rename(outputs.with_name("moved"))
    health = shared.http.get("/api/health")
    moved.rename(outputs)
    assert (health.status_code, health.json()["disk_free_bytes"]) == (200, None)


def raw(client: Client, request: bytes) -> bytes:
    """What the server answers to bytes that no library would send."""
    address = (client.http.base_url.host, client.http.base_url.port or 0)
    with socket.create_connection(address, timeout=10) as connection:
        connection.sendall(request)
        answer = b""
        while chunk := connection.recv(65536):
            answer += chunk
    return answer


@pytest.mark.parametrize(
    ("request_bytes", "status", "code"),
    [
        (b"nonsense\r\n\r\n", 400, "bad_request"),
        (b"GET / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400, "bad_request"),
        (b"GET / HTTP/1.1\r\nA: " + b"b" * 100_000, 431, "headers_too_large"),
        (b"GET /" + b"b" * 100_000, 431, "headers_too_large"),
    ],
)
def test_what_is_no_http_has_the_same_shape(shared: Client, request_bytes: bytes, status: int, code: str) -> None:
    head, _, body = raw(shared, request_bytes).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    answer = json.loads(body)
    assert (set(answer), answer["code"]) == ({"error", "detail", "code", "request_id"}, code)
    assert answer["request_id"].encode() in head


def test_an_upgrade_is_no_way_in(shared: Client) -> None:
    answer = shared.http.get("/api/health/live", headers={"Connection": "upgrade", "Upgrade": "websocket"})
    assert answer.status_code == 200


@pytest.mark.parametrize(
    ("origins", "credentials", "allowed"),
    [(["*"], False, "*"), (["https://page.example"], True, "https://page.example"), ([], False, None)],
)
def test_cors(tmp_path: Path, origins: list[str], credentials: bool, allowed: str | None) -> None:
    security = {"cors_origins": origins, "cors_credentials": credentials}
    with running(make_settings(tmp_path, security=security), ScriptedEngine()) as run:
        headers = {"Origin": "https://page.example", "Access-Control-Request-Method": "POST"}
        failed = run.client.post(START, headers=headers)
        assert failed.status_code == 415
        assert failed.headers.get("access-control-allow-origin") == allowed  # a page can read errors too
        preflight = run.client.options(START, headers=headers)
        assert preflight.headers.get("access-control-allow-credentials") == ("true" if credentials else None)
        if allowed is None:
            check_error(preflight, 400, "bad_request")
        else:
            assert preflight.status_code == 200
