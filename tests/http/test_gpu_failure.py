"""A GPU that runs out of memory costs one task; one that breaks costs the process, which says so and ends."""

from __future__ import annotations

import signal
from contextlib import AbstractContextManager
from pathlib import Path
from subprocess import Popen

import httpx
import pytest

from engines.base import GpuFailedError, GpuOutOfMemoryError
from tests.http.conftest import Client, check_error
from tests.process import environment, finish, serving, start
from tests.scripted_engine import ScriptedEngine
from tests.server import make_settings, running

FAILURE = "The GPU has fallen off the bus."


def test_out_of_memory_fails_one_task_and_no_other(shared: Client) -> None:
    shared.engine.failures.append(GpuOutOfMemoryError("The GPU has too little memory for this video."))
    status = shared.finish(shared.start(seed=1))
    assert (status["status"], status["error_code"]) == ("FAILED", "gpu_out_of_memory")
    assert status["message"] == "The GPU has too little memory for this video."
    assert shared.finish(shared.start(seed=2))["status"] == "COMPLETED"
    assert shared.http.get("/api/health").json()["status"] == "healthy"


def test_a_broken_gpu_is_told_everywhere(tmp_path: Path, wav: bytes) -> None:
    engine = ScriptedEngine()
    engine.name = "dice_talk"
    with running(make_settings(tmp_path, tasks={"max_workers": 1}), engine) as run:
        client = Client(run, engine, wav)
        before = client.start(seed=1)
        client.finish(before)
        assert client.http.get("/api/health").json()["model_loaded"]
        engine.hold()
        engine.failures.append(GpuFailedError(FAILURE))
        first, second = client.start(seed=2), client.start(seed=3)
        engine.go_on()
        status = client.finish(first)
        assert (status["error_code"], status["message"]) == ("gpu_failed", FAILURE)
        # The next process runs it.
        assert client.http.get(second.json()["status_url"]).json()["status"] == "PENDING"

        health = client.http.get("/api/health")
        assert health.status_code == 200
        body = health.json()
        assert (body["status"], body["state"], body["model_loaded"]) == ("unhealthy", "gpu_failed", False)
        assert body["reason"].startswith(FAILURE)
        assert client.http.get("/api/health/live").json()["state"] == "gpu_failed"
        check_error(client.http.get("/api/health/ready"), 503, "gpu_failed")
        assert (
            check_error(client.start(seed=4), 503, "gpu_failed")["error"] == f"{FAILURE} The service must be restarted."
        )
        check_error(client.http.get(first.json()["download_url"]), 409, "gpu_failed")
        assert client.http.get(before.json()["download_url"]).status_code == 200

        assert run.service.drain()  # what the process does next
        assert client.http.get("/api/health").json()["state"] == "gpu_failed"
    assert not engine.closed  # there is nothing it could do on that GPU


LAUNCHER = """
import sys
from api.server import main
from engines.base import GpuFailedError
from tests.scripted_engine import ScriptedEngine

engine = ScriptedEngine()
engine.failures.append(GpuFailedError(sys.argv[1]))
sys.exit(main(sys.argv[3:], engine, last_polls=float(sys.argv[2])))
"""


def process(directory: Path, last_polls: float) -> AbstractContextManager[tuple[Popen[str], httpx.Client]]:
    return serving(("-c", LAUNCHER, FAILURE, str(last_polls)), environment(directory))


def test_the_process_ends_by_itself_after_its_clients_have_read_how(tmp_path: Path) -> None:
    with process(tmp_path, last_polls=3) as (service, client):
        assert finish(client, start(client))["error_code"] == "gpu_failed"
        assert client.get("/api/health").json()["state"] == "gpu_failed"
        assert service.wait(30) == 8
    log = (tmp_path / "api.log").read_text()
    assert f"failed: gpu_failed: {FAILURE}" in log
    assert "Exiting after a GPU failure" in log


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_sooner_with_the_same_code(tmp_path: Path, number: signal.Signals) -> None:
    with process(tmp_path, last_polls=3600) as (service, client):
        finish(client, start(client))
        service.send_signal(number)
        assert service.wait(30) == 8
