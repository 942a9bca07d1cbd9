"""A server in a process of its own, as its users run it, and what they do with it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.server import wait_for

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"
START = "/api/v1/synthesis/start"


def environment(directory: Path, **settings: object) -> dict[str, str]:
    own = {
        "FILES__UPLOAD_DIR": directory / "uploads",
        "FILES__OUTPUT_DIR": directory / "outputs",
        "FILES__DATA_DIR": directory / "data",
        "LOGGING__FILE": directory / "api.log",
        "SYNTHESIS__ENGINE": "preview",
        **settings,
    }
    return os.environ | {f"DICE_TALK_{name}": str(value) for name, value in own.items()}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def server(
    directory: Path, *arguments: str, **settings: object
) -> AbstractContextManager[tuple[subprocess.Popen[str], httpx.Client]]:
    return serving(("-m", "api.server"), environment(directory, **settings), *arguments)


@contextmanager
def serving(
    program: Sequence[str], variables: Mapping[str, str], *arguments: str
) -> Iterator[tuple[subprocess.Popen[str], httpx.Client]]:
    """Run a Python program that takes the service's arguments, until the context ends."""
    port = free_port()
    command = [sys.executable, *program, "--host", "127.0.0.1", "--port", str(port), *arguments]
    process = subprocess.Popen(command, cwd=ROOT, env=variables, stderr=subprocess.PIPE, text=True)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            wait_for(lambda: answers(client))
            yield process, client
    finally:
        process.kill()
        process.communicate()


def answers(client: httpx.Client) -> bool:
    try:
        return client.get("/api/health/live").status_code == 200
    except httpx.TransportError:
        return False


def start(client: httpx.Client, audio: str = "speech_en.wav", **fields: object) -> dict[str, Any]:
    files = {"image": (EXAMPLES / "portrait.jpg").read_bytes(), "audio": (EXAMPLES / audio).read_bytes()}
    answer = client.post(START, data={"emotion": "happy", **fields}, files=files)
    assert answer.status_code == 202, answer.text
    return dict(answer.json())


def finish(client: httpx.Client, task: dict[str, Any]) -> dict[str, Any]:
    seen: list[dict[str, Any]] = []

    def ended() -> bool:
        seen.append(client.get(task["status_url"]).json())
        return seen[-1]["status"] in ("COMPLETED", "FAILED")

    wait_for(ended, 120)
    assert [body["progress"] for body in seen] == sorted(body["progress"] for body in seen)
    return seen[-1]
