"""The contract that clients rely on: paths, fields, statuses, headers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.http.conftest import START, Client, check_error, png
from tests.scripted_engine import ScriptedEngine
from tests.server import make_settings, running

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


def test_the_status_shows_the_real_parameters(shared: Client) -> None:
    sent: dict[str, Any] = {
        "emotion": "sad", "ref_scale": 1.5, "emo_scale": 0, "crop": "true", "inference_steps": 8, "duration": 0.5,
        "fps": 60, "seed": 0, "dynamic_scale": 3, "min_resolution": 256, "expand_ratio": 2,
    }  # fmt: skip
    status = shared.finish(shared.start(**sent))
    assert status["parameters"] == sent | {"crop": True}
    assert shared.engine.jobs[-1].params.seed == 0
    assert shared.engine.jobs[-1].seconds == 0.5


def test_the_defaults_are_those_of_the_settings(tmp_path: Path, wav: bytes) -> None:
    synthesis = {
        "default_ref_scale": 1, "default_emo_scale": 2, "inference_steps": 9, "fps": 10, "seed": 3,
        "min_resolution": 320, "expand_ratio": 0.7,
    }  # fmt: skip
    with running(make_settings(tmp_path, synthesis=synthesis), ScriptedEngine()) as run:
        client = Client(run, ScriptedEngine(), wav)
        parameters = client.finish(client.start())["parameters"]
        form = run.client.get("/openapi.json").json()["components"]["schemas"]["StartForm"]["properties"]
    for name, value in synthesis.items():
        assert parameters[name.removeprefix("default_")] == value
        assert form[name.removeprefix("default_")]["default"] == value


def test_an_empty_optional_field_counts_as_left_out(shared: Client) -> None:
    parameters = shared.finish(shared.start(duration="", seed="", crop=""))["parameters"]
    assert (parameters["duration"], parameters["seed"], parameters["crop"]) == (None, 72589, False)


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
    beyond = get(video_url, headers={"Range": "bytes=99999999-"})
    check_error(beyond, 416, "range_not_satisfiable")
    assert beyond.headers["content-range"] == f"bytes */{len(whole.content)}"


def test_download_before_the_end_and_after_a_failure(shared: Client) -> None:
    shared.engine.hold()
    accepted = shared.start(seed=101)
    check_error(shared.http.get(accepted.json()["download_url"]), 409, "not_finished")
    shared.engine.failures.append(RuntimeError("broken"))
    shared.engine.go_on()
    shared.finish(accepted)
    # The engine may have begun before the failure was scripted; the next one then fails.
    failed = accepted if not shared.engine.failures else shared.start(seed=102)
    assert shared.finish(failed)["status"] == "FAILED"
    body = check_error(shared.http.get(failed.json()["download_url"]), 409, "internal")
    assert "log" in body["detail"]


def test_unknown_addresses_methods_and_tasks(shared: Client) -> None:
    http = shared.http
    check_error(http.get("/nothing/here"), 404, "not_found")
    check_error(http.get("/api/health/"), 404, "not_found")
    for method, url in (("POST", "/api/health"), ("DELETE", START), ("PATCH", "/docs")):
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
        while (answer := run.client.get(accepted.json()["download_url"])).status_code in (200, 409):
            pass
        check_error(answer, 410, "task_expired")


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
    lines = [record.getMessage() for record in caplog.records if record.levelname != "DEBUG"]
    own = [line.split()[2] for line in lines if line.startswith(f"Task {task_id}")]
    assert own == ["accepted:", "started", "completed"]
    ids = accepted.headers["x-request-id"]
    assert sum(ids in line and f"POST {START} 202" in line for line in lines) == 1
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
        assert run.client.get("/api/health/ready").status_code == 503
        body = check_error(Client(run, engine, wav).start(), 503, "setup_failed")
        assert body["error"] == "The weights are missing."


def test_jobs_wait_for_an_engine_that_is_being_loaded(tmp_path: Path, wav: bytes) -> None:
    engine = ScriptedEngine()
    engine.loading.clear()
    with running(make_settings(tmp_path), engine, wait_loaded=False) as run:
        assert run.client.get("/api/health").json()["state"] == "starting"
        assert run.client.get("/api/health/ready").status_code == 503

        def release() -> Iterator[bytes]:
            """The last of the body goes out with the engine still being loaded."""
            yield body[:-10]
            yield body[-10:]
            engine.loading.set()

        request = httpx.Request(
            "POST", run.url + START, data={"emotion": "happy"}, files={"image": png(), "audio": wav}
        )
        body = request.read()
        headers = {"content-type": request.headers["content-type"]}
        accepted = run.client.post(START, content=release(), headers=headers)
        assert accepted.status_code == 202
    assert engine.closed


def test_cors(tmp_path: Path) -> None:
    def preflight(origins: list[str], credentials: bool = False) -> httpx.Response:
        security = {"cors_origins": origins, "cors_credentials": credentials}
        with running(make_settings(tmp_path, security=security), ScriptedEngine()) as run:
            headers = {"Origin": "https://page.example", "Access-Control-Request-Method": "POST"}
            failed = run.client.post(START, headers=headers)
            assert failed.status_code == 415  # errors are readable for a page too
            assert failed.headers.get("access-control-allow-origin") == allowed
            return run.client.options(START, headers=headers)

    allowed: str | None = "*"
    assert "access-control-allow-credentials" not in preflight(["*"]).headers
    allowed = "https://page.example"
    assert preflight([allowed], credentials=True).headers["access-control-allow-credentials"] == "true"
    allowed = None
    check_error(preflight([]), 400, "bad_request")
