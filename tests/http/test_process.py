"""The service as its users run it: `python -m api.server`, the preview engine, real files, signals."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from api.storage.journal import Journal
from engines.dice_talk.checkpoints import REQUIRED_FILES
from media import video
from tests.http.conftest import png
from tests.process import EXAMPLES, ROOT, START, environment, finish, free_port, server, serving, start
from tests.server import wait_for


@pytest.fixture(scope="module")
def preview(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    with server(tmp_path_factory.mktemp("preview")) as (_, client):
        yield client


@pytest.mark.parametrize(
    ("audio", "fields", "size", "fps", "frames"),
    [
        ("speech_en.wav", {"duration": 2, "emotion": "sad"}, (256, 320), 25, 50),
        ("speech_zh.mp3", {"duration": 1.5, "fps": 30, "crop": "true"}, (256, 256), 30, 45),
    ],
)
def test_a_real_video(
    preview: httpx.Client,
    tmp_path: Path,
    audio: str,
    fields: dict[str, Any],
    size: tuple[int, int],
    fps: int,
    frames: int,
) -> None:
    task = start(preview, audio, min_resolution=256, **fields)
    status = finish(preview, task)
    assert (status["status"], status["engine"]) == ("COMPLETED", "preview"), status
    path = tmp_path / "result.mp4"
    path.write_bytes(preview.get(task["download_url"]).content)
    info = video.probe(path)
    assert (info.width, info.height, info.fps, info.frames) == (*size, fps, frames)
    assert "preview" in info.comment.lower()
    assert abs(info.video_seconds - fields["duration"]) <= 1 / fps


def test_a_portrait_without_a_face_is_refused_at_once(preview: httpx.Client) -> None:
    files = {"image": png(300, 300), "audio": (EXAMPLES / "speech_en.wav").read_bytes()}
    answer = preview.post(START, data={"emotion": "happy"}, files=files)
    assert (answer.status_code, answer.json()["code"]) == (422, "no_face")


def test_steps_are_a_warning_under_the_preview_engine(preview: httpx.Client) -> None:
    task = start(preview, duration=0.2, inference_steps=10, min_resolution=256)
    assert any("inference_steps" in warning for warning in task["warnings"])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_the_running_task_finish(tmp_path: Path, number: signal.Signals) -> None:
    with server(tmp_path, TASKS__MAX_WORKERS=1, TASKS__SHUTDOWN_GRACE=60) as (process, client):
        running = start(client, duration=4, min_resolution=256)
        waiting = start(client, duration=4, min_resolution=256, seed=1)
        wait_for(lambda: client.get(running["status_url"]).json()["status"] == "PROCESSING")
        process.send_signal(number)
        wait_for(lambda: client.get("/api/health").json()["state"] == "draining")
        refused = client.post(START, content=b"", headers={"content-type": "multipart/form-data; boundary=x"})
        assert (refused.status_code, refused.json()["code"]) == (503, "draining")
        assert client.get(waiting["status_url"]).json()["status"] == "PENDING"  # the next service runs it
        assert process.wait(60) == 0
    log = (tmp_path / "api.log").read_text()
    assert f"Task {running['task_id']} completed" in log
    assert f"Task {waiting['task_id']} started" not in log
    assert len(list((tmp_path / "outputs").iterdir())) == 1


def test_what_outlives_its_grace_is_interrupted(tmp_path: Path) -> None:
    with server(tmp_path, TASKS__SHUTDOWN_GRACE=0.1) as (process, client):
        task = start(client, audio="speech_zh.mp3", min_resolution=1024)
        wait_for(lambda: client.get(task["status_url"]).json()["status"] == "PROCESSING")
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    assert f"Task {task['task_id']} was interrupted and is queued to run again" in (tmp_path / "api.log").read_text()
    assert list((tmp_path / "outputs").iterdir()) == []


BLOCKED_LAUNCHER = """
import sys, threading
import api.task_manager
from api.server import main
from api.service import Service
from engines.base import GpuFailedError
from tests.scripted_engine import ScriptedEngine


class Engine(ScriptedEngine):
    def synthesize(self, job, report, cancelled):
        if job.params.seed == 1:
            raise GpuFailedError("The GPU is gone.")
        threading.Event().wait()


def drain(service, drained=Service.drain):
    service.journal._database._connection.execute("PRAGMA query_only = ON")
    stopped = drained(service)
    service.journal._database._connection.execute("PRAGMA query_only = OFF")
    return stopped


Service.drain = drain
api.task_manager.STOP_SECONDS = 0
sys.exit(main(sys.argv[1:], Engine(), last_polls=0))
"""


@pytest.mark.parametrize("code", [1, 8])
def test_what_is_late_is_written_though_a_worker_is_left_behind(tmp_path: Path, code: int) -> None:
    """The disk cannot be written while the service stops, and can again when the process leaves."""
    variables = environment(tmp_path, TASKS__MAX_WORKERS=2, TASKS__SHUTDOWN_GRACE=0)
    with serving(("-c", BLOCKED_LAUNCHER), variables) as (process, client):
        task = start(client, seed=7)
        wait_for(lambda: client.get(task["status_url"]).json()["status"] == "PROCESSING")
        if code == 1:
            process.send_signal(signal.SIGTERM)
        else:
            start(client, seed=1)
        assert process.wait(30) == code
    with closing(Journal(tmp_path / "data")) as journal:
        (left,) = (left for left in journal.load()[0] if left.id == task["task_id"])
    assert (left.status, left.attempt) == ("PENDING", 1)


def test_dice_talk_without_its_checkpoints_says_what_is_missing(tmp_path: Path) -> None:
    directory = {"FILES__CHECKPOINT_DIR": tmp_path, "SYNTHESIS__ENGINE": "preview"}
    with server(tmp_path, "--engine", "dice_talk", **directory) as (_, client):
        wait_for(lambda: client.get("/api/health").json()["state"] != "starting")
        health = client.get("/api/health").json()
        assert (health["state"], health["status"]) == ("setup_failed", "unhealthy")
        assert "unet.pth" in health["reason"]


def test_auto_falls_back_to_the_preview_engine_and_says_so(tmp_path: Path) -> None:
    with server(tmp_path, SYNTHESIS__ENGINE="auto") as (_, client):
        wait_for(lambda: client.get("/api/health").json()["state"] == "ready")
        health = client.get("/api/health").json()
        assert (health["engine"], health["model_loaded"]) == ("preview", False)
        assert "preview engine is in use" in health["reason"]
    assert "WARNING - The preview engine is in use" in (tmp_path / "api.log").read_text()


def test_auto_takes_no_hours_on_a_cpu_though_the_checkpoints_are_there(tmp_path: Path) -> None:
    checkpoints = tmp_path / "checkpoints"
    shutil.copytree(ROOT / "checkpoints" / "preview", checkpoints / "preview")
    for name in REQUIRED_FILES:
        (checkpoints / name).parent.mkdir(parents=True, exist_ok=True)
        (checkpoints / name).touch()
    settings = {"SYNTHESIS__ENGINE": "auto", "GPU__DEVICE_ID": -1, "FILES__CHECKPOINT_DIR": checkpoints}
    with server(tmp_path, **settings) as (_, client):
        wait_for(lambda: client.get("/api/health").json()["state"] == "ready")
        health = client.get("/api/health").json()
        assert health["engine"] == "preview"
        assert "DICE-Talk takes hours per video on a CPU" in health["reason"]


def run(tmp_path: Path, *arguments: str, **settings: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "api.server", *arguments]
    return subprocess.run(
        command,
        check=False,
        cwd=ROOT,
        env=environment(tmp_path, **settings),
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_a_taken_port_is_said(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        ended = run(tmp_path, "--host", "127.0.0.1", "--port", port)
    assert ended.returncode == 3
    assert port in ended.stderr
    assert "Traceback" not in ended.stderr


def test_of_two_services_started_at_once_one_has_the_port(tmp_path: Path) -> None:
    port = str(free_port())
    command = [sys.executable, "-m", "api.server", "--host", "127.0.0.1", "--port", port]
    pair = [
        subprocess.Popen(command, cwd=ROOT, env=environment(tmp_path / name), stderr=subprocess.DEVNULL)
        for name in ("one", "two")
    ]
    try:
        wait_for(lambda: any(process.poll() is not None for process in pair))
        assert [process.poll() for process in pair if process.poll() is not None] == [3]
    finally:
        for process in pair:
            process.kill()
            process.wait()


def test_two_services_do_not_share_directories(tmp_path: Path) -> None:
    with server(tmp_path):
        ended = run(tmp_path, "--host", "127.0.0.1", "--port", str(free_port()))
    assert ended.returncode == 2
    assert "in use by another instance" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_wrong_settings_are_said(tmp_path: Path) -> None:
    ended = run(tmp_path, TASKS__MAX_WORKERS=0)
    assert ended.returncode == 2
    assert "tasks.max_workers" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_directory_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    ended = run(tmp_path, "--host", "127.0.0.1", "--port", str(free_port()), FILES__OUTPUT_DIR="/dev/null/outputs")
    assert ended.returncode == 2
    assert "files.output_dir: /dev/null/outputs" in ended.stderr
    assert "Traceback" not in ended.stderr
