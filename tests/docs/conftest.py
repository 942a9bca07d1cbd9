"""The service that the examples of the documents talk to."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.docs.documents import Block
from tests.process import ROOT, finish, server, start
from tests.server import wait_for


@dataclass(frozen=True)
class Service:
    """Where it answers, and its log."""

    url: str
    log: Path


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """With a log that tells of a finished and of a failed task already, as one that has been in use for a while."""
    directory = tmp_path_factory.mktemp("docs")
    with server(directory, TASKS__SHUTDOWN_GRACE=0, TASKS__MAX_ATTEMPTS=1) as (process, client):
        assert finish(client, start(client, duration=0.2, min_resolution=256))["status"] == "COMPLETED"
        task = start(client, audio="speech_zh.mp3", seed=1, min_resolution=256)
        wait_for(lambda: client.get(task["status_url"]).json()["status"] == "PROCESSING")
        process.send_signal(signal.SIGTERM)
        process.wait(30)
    with server(directory) as (_, client):
        yield Service(str(client.base_url).rstrip("/"), directory / "api.log")


Run = Callable[[Block, Service], str]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs a bash or Python block as it stands, where a user would: in the project's directory."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    shutil.copy(ROOT / "test_api.py", tmp_path)
    (tmp_path / ".venv").symlink_to(sys.prefix)
    (tmp_path / "logs").mkdir()

    def run(block: Block, service: Service) -> str:
        (tmp_path / "logs" / "api.log").symlink_to(service.log)
        program = {"bash": ["bash", "-euo", "pipefail", "-c"], "python": [sys.executable, "-c"]}[block.kind]
        ended = subprocess.run(
            [*program, block.code.replace("http://localhost:8000", service.url)],
            check=False, cwd=tmp_path, env=os.environ | {"DICE_TALK_URL": service.url}, capture_output=True, text=True,
            timeout=180,
        )  # fmt: skip
        assert ended.returncode == 0, f"{ended.stdout}{ended.stderr}"
        assert '"error":' not in ended.stdout
        return ended.stdout

    return run
