"""Part of benchmarks/journal.py: how long a service takes to know its tasks again."""

from __future__ import annotations

import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
from pydantic import TypeAdapter

from api.records import Task
from api.storage.database import FILE_NAME
from api.storage.files import FileStore
from api.storage.journal import Journal
from tests.process import ROOT, environment, free_port
from tests.records import completed, failed
from tests.registries import make_registry
from tests.server import wait_for

COUNTS = (100, 1000, 10_000)
TARGET_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Recovery:
    """Seconds until the tasks are known, in a registry and to a client."""

    registry: float
    service: float


def recover(count: int, rounds: int) -> Recovery:
    """Medians of so many rounds with `count` tasks."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        newest = _write(directory, count)
        registries = [_registry(directory, count) for _ in range(rounds)]
        services = [_service(directory, newest) for _ in range(rounds)]
        return Recovery(statistics.median(registries), statistics.median(services))


def _write(directory: Path, count: int) -> str:
    """A journal of ended tasks and their files, small ones; the newest task's id."""
    Journal(directory / "data").close()
    later = time.time() - 1_000_000.0 + 3600  # from the times of the records to now
    tasks = [_moved((failed if number % 10 == 0 else completed)(number), later) for number in range(1, count + 1)]
    records = TypeAdapter(Task)
    with closing(sqlite3.connect(directory / "data" / FILE_NAME)) as connection, connection:
        rows = ((task.id, records.dump_json(task).decode()) for task in tasks)
        connection.executemany("INSERT INTO tasks VALUES (?, ?)", rows)
    for kind in ("uploads", "outputs"):
        (directory / kind).mkdir()
    for task in tasks:
        for name in task.uploads:
            (directory / "uploads" / name).write_bytes(b"x")
        if task.result is not None:
            (directory / "outputs" / task.result.name).write_bytes(b"x")
    return tasks[-1].id if tasks else ""


def _moved(task: Task, later: float) -> Task:
    image, audio = f"{2 * task.position:064x}", f"{2 * task.position + 1:064x}"
    times = {
        name: value + later
        for name in ("created_at", "updated_at", "started_at", "completed_at", "expires_at")
        if (value := getattr(task, name)) is not None
    }
    return replace(task, submission=replace(task.submission, image=image, audio=audio), key=image, **times)


def _registry(directory: Path, count: int) -> float:
    started = time.perf_counter()
    journal = Journal(directory / "data")
    uploads, outputs = FileStore(directory / "uploads"), FileStore(directory / "outputs")
    registry = make_registry(directory, journal, uploads, outputs)
    registry.restore()
    took = time.perf_counter() - started
    assert len(list(registry.newest())) == count
    for close in (journal.close, uploads.close, outputs.close):
        close()
    return took


def _service(directory: Path, newest: str) -> float:
    port = free_port()
    command = [sys.executable, "-m", "api.server", "--host", "127.0.0.1", "--port", str(port)]
    path = f"/api/v1/synthesis/{newest}/status" if newest else "/api/health/live"
    started = time.perf_counter()
    process = subprocess.Popen(command, cwd=ROOT, env=environment(directory), stderr=subprocess.DEVNULL)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
            wait_for(lambda: _answers(client, path), 60, pause=0.01)
        return time.perf_counter() - started
    finally:
        process.terminate()
        process.wait()


def _answers(client: httpx.Client, path: str) -> bool:
    try:
        return client.get(path).raise_for_status().is_success
    except httpx.TransportError:
        return False
