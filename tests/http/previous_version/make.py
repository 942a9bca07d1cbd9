"""Write the data of a service that was killed: `python make.py CHECKOUT DIRECTORY`. README.md describes it."""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import sys
import time
import wave
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from PIL import Image

API = "/api/v1/synthesis"
KEY = "finished-by-the-previous-version"
TEN_YEARS = 87600  # hours; the longest retention
NO_TIME = 1e-6


def make(checkout: Path, directory: Path) -> dict[str, Any]:
    """Leave one task of each kind, and return what the service returned for each."""
    examples = checkout / "examples"
    image, short, long = portrait(examples), speech(examples, 0.5), speech(examples, 1.5)

    def start(audio: bytes, key: str | None = None, **fields: str) -> dict[str, Any]:
        form = {"min_resolution": "256", **fields}
        headers = {} if key is None else {"Idempotency-Key": key}
        files = {"image": image, "audio": audio}
        accepted = client.post(f"{API}/start", data=form, files=files, headers=headers).raise_for_status().json()
        return {"fields": form, "accepted": accepted}

    def status(task: dict[str, Any]) -> dict[str, Any]:
        return dict(client.get(task["accepted"]["status_url"]).raise_for_status().json())

    with service(checkout, directory, NO_TIME) as (process, client):
        expired = start(short, emotion="sad")
        process.terminate()  # the running task finishes first
        process.wait()
    with service(checkout, directory, TEN_YEARS) as (process, client):
        wait_for(lambda: not any((directory / "uploads").iterdir()))  # the expired task is deleted
        fields = {"duration": "0.4", "fps": "20", "crop": "true", "inference_steps": "10", "seed": "7"}
        finished = start(short, KEY, emotion="happy", **fields) | {"key": KEY}
        wait_for(lambda: status(finished)["status"] == "COMPLETED")
        finished |= {"status": status(finished)}
        finished |= {"manifest": client.get(f"{API}/{finished['status']['task_id']}/manifest").json()}
        cancelled = start(short, emotion="angry")
        client.post(f"{API}/{cancelled['accepted']['task_id']}/cancel").raise_for_status()
        wait_for(lambda: status(cancelled)["status"] == "FAILED")
        cancelled |= {"status": status(cancelled)}
        killed, waiting = start(long, emotion="surprised"), start(long, emotion="neutral")
        wait_for(lambda: status(killed)["stage"] == "rendering")
        killed |= {"status": status(killed)}
        waiting |= {"status": status(waiting)}
        process.kill()
        process.wait()
    if not list((directory / "outputs").glob("*.part")):
        sys.exit("The task finished before the service was killed. Try again.")
    return {"expired": expired, "finished": finished, "cancelled": cancelled, "killed": killed, "waiting": waiting}


@contextmanager
def service(checkout: Path, directory: Path, hours: float) -> Iterator[tuple[subprocess.Popen[bytes], httpx.Client]]:
    """Run the server of the checkout with one worker."""
    settings = {
        "FILES__UPLOAD_DIR": directory / "uploads",
        "FILES__OUTPUT_DIR": directory / "outputs",
        "FILES__DATA_DIR": directory / "data",
        "LOGGING__FILE": "null",
        "SYNTHESIS__ENGINE": "preview",
        "TASKS__MAX_WORKERS": 1,
        "TASKS__RETENTION_HOURS": hours,
    }
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    command = [sys.executable, "-m", "api.server", "--host", "127.0.0.1", "--port", port]
    variables = os.environ | {f"DICE_TALK_{name}": str(value) for name, value in settings.items()}
    process = subprocess.Popen(command, cwd=checkout, env=variables)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            wait_for(lambda: listens(client))
            yield process, client
    finally:
        process.kill()
        process.wait()


def listens(client: httpx.Client) -> bool:
    try:
        return client.get("/api/health/live").status_code == 200
    except httpx.TransportError:
        return False


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        if time.monotonic() > deadline:
            sys.exit("It takes too long.")
        time.sleep(0.001)


def portrait(examples: Path) -> bytes:
    buffer = io.BytesIO()
    Image.open(examples / "portrait.jpg").save(buffer, "JPEG", quality=75)
    return buffer.getvalue()


def speech(examples: Path, seconds: float) -> bytes:
    """The first seconds of the bundled recording."""
    buffer = io.BytesIO()
    with wave.open(str(examples / "speech_en.wav")) as source, wave.open(buffer, "wb") as target:
        target.setparams(source.getparams())
        target.writeframes(source.readframes(round(seconds * source.getframerate())))
    return buffer.getvalue()


if __name__ == "__main__":
    checkout, directory = (Path(argument).resolve() for argument in sys.argv[1:])
    directory.mkdir(parents=True)
    (directory / "recorded.json").write_text(json.dumps(make(checkout, directory), indent=2) + "\n")
