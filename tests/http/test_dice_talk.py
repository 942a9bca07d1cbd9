"""The service with the DICE-Talk engine, as its users run it: a real process, the small checkpoint, the CPU."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from media import video
from tests.http.conftest import png
from tests.process import EXAMPLES, environment, serving, start
from tests.server import wait_for

JOB: dict[str, Any] = {"inference_steps": 8, "min_resolution": 256, "crop": True, "duration": 0.5, "seed": 0}
READY_SECONDS = 120
POLL_SECONDS = 0.2  # Python runs one thread at a time: more polls would slow networks this small


@contextmanager
def ready(
    directory: Path, checkpoint: Path, **settings: object
) -> Iterator[tuple[subprocess.Popen[str], httpx.Client]]:
    """A service whose engine is loaded, its process and a client."""
    settings |= {"FILES__CHECKPOINT_DIR": checkpoint, "SYNTHESIS__ENGINE": "dice_talk", "GPU__DEVICE_ID": -1}
    # Alone on the machine, unlike the networks of other tests: both cores, and no spinning while the other works.
    variables = environment(directory, **settings) | {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "PASSIVE"}
    with serving(("-m", "api.server"), variables) as (process, client):
        wait_for(lambda: client.get("/api/health").json()["state"] == "ready", READY_SECONDS, pause=POLL_SECONDS)
        yield process, client


@pytest.fixture(scope="module")
def client(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    with ready(tmp_path_factory.mktemp("server"), checkpoint) as (_, client):
        yield client


def download(client: httpx.Client, task: dict[str, Any]) -> bytes:
    answer = client.get(task["download_url"])
    assert answer.status_code == 200
    return answer.content


def test_health_says_which_engine_it_is(client: httpx.Client) -> None:
    health = client.get("/api/health").json()
    assert (health["status"], health["engine"], health["model_loaded"]) == ("healthy", "dice_talk", True)
    assert health["reason"] is None


def test_two_jobs_at_once(client: httpx.Client, tmp_path: Path) -> None:
    wishes: list[dict[str, Any]] = [JOB, {**JOB, "seed": 1, "emotion": "sad", "ref_scale": 1.5, "fps": 12}]
    tasks = [start(client, **wish) for wish in wishes]
    seen: dict[str, list[dict[str, Any]]] = {task["task_id"]: [] for task in tasks}

    def ended() -> bool:
        for task in tasks:
            seen[task["task_id"]].append(client.get(task["status_url"]).json())
        return all(states[-1]["status"] in ("COMPLETED", "FAILED") for states in seen.values())

    wait_for(ended, 300, pause=POLL_SECONDS)
    assert any(
        state["status"] == "PROCESSING" and state["stage"] == "queued" for states in seen.values() for state in states
    ), "neither waited for the other to be denoised"
    for task, wish, frames in zip(tasks, wishes, (12, 6), strict=True):
        states = seen[task["task_id"]]
        last = states[-1]
        assert last["status"] == "COMPLETED", last["message"]
        assert (last["engine"], last["progress"], last["warnings"]) == ("dice_talk", 1.0, [])
        assert last["parameters"]["seed"] == wish["seed"]
        progress = [state["progress"] for state in states]
        assert progress == sorted(progress)
        assert any("of 8" in state["message"] for state in states if state["stage"] == "denoising")
        path = tmp_path / "video.mp4"
        path.write_bytes(download(client, task))
        info = video.probe(path)
        assert (info.width, info.height, info.frames) == (256, 256, frames)
        assert info.audio_seconds == pytest.approx(0.5, abs=0.1)
        assert "DICE-Talk" in info.comment


def test_a_portrait_without_a_face_is_refused_at_once(client: httpx.Client) -> None:
    files = {"image": png(128, 128), "audio": (EXAMPLES / "speech_en.wav").read_bytes()}
    answer = client.post("/api/v1/synthesis/start", data={"emotion": "happy"}, files=files)
    assert (answer.status_code, answer.json()["code"]) == (422, "no_face")


def test_a_job_that_would_take_for_ever_is_refused(client: httpx.Client) -> None:
    files = {"image": (EXAMPLES / "portrait.jpg").read_bytes(), "audio": (EXAMPLES / "speech_en.wav").read_bytes()}
    wish = {"emotion": "happy", "min_resolution": 1024, "inference_steps": 50}
    answer = client.post("/api/v1/synthesis/start", data=wish, files=files)
    assert (answer.status_code, answer.json()["code"]) == (422, "too_large")
    assert "3600 s" in answer.json()["error"]
    assert "inference_steps" in answer.json()["detail"]


def test_a_stop_ends_a_job_that_is_being_denoised(checkpoint: Path, tmp_path: Path) -> None:
    with ready(tmp_path, checkpoint, TASKS__SHUTDOWN_GRACE=0) as (process, client):
        task = start(client, **{**JOB, "inference_steps": 50})

        def denoising() -> bool:
            state = client.get(task["status_url"]).json()
            return state["stage"] == "denoising" and "step 2 of 50" in state["message"]

        wait_for(denoising, 60, pause=POLL_SECONDS)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0  # 1: the worker did not stop within ten seconds
    log = (tmp_path / "api.log").read_text()
    assert f"Task {task['task_id']} was interrupted and is queued to run again" in log
    assert list((tmp_path / "outputs").iterdir()) == []
