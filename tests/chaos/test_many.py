"""A start with many tasks in the journal."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from pydantic import TypeAdapter

from api.records import Task
from api.storage.database import FILE_NAME
from api.storage.journal import Journal
from tests.chaos.ledger import LIST, recording
from tests.http.conftest import png
from tests.records import HOUR, completed, pending
from tests.scripted_engine import ScriptedEngine
from tests.server import make_settings, running

ENDED, WAITING = 9_900, 100
LIMIT = 5.0  # seconds; half a second on a quiet machine


def write(directory: Path, tasks: Sequence[Task]) -> None:
    """A journal with these, made in one transaction, since ten thousand would take their time."""
    Journal(directory).close()
    records = TypeAdapter(Task)
    rows = [(task.id, records.dump_json(task).decode()) for task in tasks]
    with closing(sqlite3.connect(directory / FILE_NAME)) as connection, connection:
        connection.executemany("INSERT INTO tasks VALUES (?, ?)", rows)


def test_a_service_with_ten_thousand_tasks_answers_soon(tmp_path: Path) -> None:
    later = time.time() + HOUR
    ended = [replace(completed(number), expires_at=later) for number in range(1, ENDED + 1)]
    waiting = [pending(number) for number in range(ENDED + 1, ENDED + WAITING + 1)]
    write(tmp_path / "data", [*ended, *waiting])
    (tmp_path / "uploads").mkdir()
    (tmp_path / "uploads" / waiting[0].submission.image).write_bytes(png())
    (tmp_path / "uploads" / waiting[0].submission.audio).write_bytes(recording(1.0))
    engine = ScriptedEngine(steps=1)
    engine.hold()
    begun = time.perf_counter()
    with running(make_settings(tmp_path, tasks={"max_workers": 1}), engine) as run:
        last = run.client.get(f"{LIST}/{waiting[-1].id}/status").json()
        took = time.perf_counter() - begun
        assert (last["status"], last["queue_position"]) == ("PENDING", WAITING - 1)
        assert run.client.get(f"{LIST}/{ended[0].id}/status").json()["status"] == "COMPLETED"
        assert run.client.get(LIST).json()["first_id"] == last["task_id"]
        engine.go_on()
    assert took < LIMIT
