"""Requests that are refused for what they would take: at submission, with numbers, leaving nothing behind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.http.conftest import Client, check_error
from tests.scripted_engine import ScriptedEngine
from tests.server import make_settings, running


@pytest.fixture
def client(tmp_path: Path, wav: bytes) -> Iterator[Client]:
    engine = ScriptedEngine()
    with running(make_settings(tmp_path, tasks={"timeout_seconds": 60}), engine) as run:
        yield Client(run, engine, wav)


def nothing_is_left(client: Client) -> bool:
    queue = client.http.get("/api/health").json()["queue"]
    return (queue["running"], queue["waiting"]) == (0, 0) and not list(client.run.service.uploads.directory.iterdir())


def test_a_video_that_would_take_longer_than_a_task_may(client: Client) -> None:
    client.engine.cost = 89.5
    body = check_error(client.start(), 422, "too_large")
    assert "90 s" in body["error"]
    assert "60 s" in body["error"]
    assert "duration" in body["detail"]
    assert "inference_steps" not in body["detail"]  # this engine ignores them
    assert nothing_is_left(client)
    assert client.finish(client.start(duration=0.5))["status"] == "COMPLETED"


def test_a_video_that_the_device_cannot_hold(client: Client) -> None:
    client.engine.room = 0.75
    body = check_error(client.start(), 422, "too_large")
    assert body["error"] == "1 s do not fit; at most 0.75 s do."
    assert nothing_is_left(client)
    assert client.finish(client.start(duration=0.5))["status"] == "COMPLETED"


def test_a_refusal_takes_no_file_from_a_task_that_has_the_same(client: Client) -> None:
    client.engine.hold()
    accepted = client.start()
    client.engine.room = 0.5
    check_error(client.start(seed=2), 422, "too_large")
    client.engine.go_on()
    assert client.finish(accepted)["status"] == "COMPLETED"
