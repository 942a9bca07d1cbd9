"""Where a server can be made to end: points in the product's own functions, which are wrapped from outside."""

from __future__ import annotations

import itertools
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any

from api.http import multipart, submission
from api.records import Task, TaskErrorCode, TaskStatus
from api.routes import synthesis
from api.storage import database, repair
from api.storage.database import FILE_NAME, Database
from api.storage.files import FileStore
from api.storage.journal import Journal
from api.task_manager import TaskManager
from api.tasks.registry import TaskRegistry
from api.tasks.scheduler import Scheduler
from media.video import VideoWriter


def _always(*_: Any) -> bool:
    return True


def _saved(state: Callable[[Task], bool]) -> Callable[..., bool]:
    return lambda _, task: state(task)


def _every_other() -> Callable[..., bool]:
    calls = itertools.count()
    return lambda *_: next(calls) % 2 == 0


@dataclass(frozen=True)
class Point:
    """Before or after a function, where `only` says so of its arguments.

    `most`: how often a workload passes it at least. `unfinished`: whether a task is being worked off there.
    """

    owner: Any
    function: str
    after: bool = True
    only: Callable[..., bool] = _always
    most: int = 1
    unfinished: bool = False


POINTS = {
    # a request
    "in the middle of an upload, half a file written": Point(
        multipart._FileSink, "flush", only=lambda sink: sink.size >= multipart.FLUSH_SIZE
    ),
    "the upload is there, not yet looked at": Point(submission, "_check_and_enqueue", after=False, most=8),
    "between the adoption of the two files": Point(FileStore, "adopt", only=_every_other(), most=8),
    "before the record": Point(Journal, "add", after=False, most=8),
    "after the record": Point(Journal, "add", most=8),
    "before the 202 is sent": Point(synthesis, "accepted", after=False, most=8),
    # a worker
    "begun": Point(Scheduler, "_start", most=7, unfinished=True),
    "in the middle of rendering": Point(VideoWriter, "write", most=12, unfinished=True),
    "in the middle of encoding": Point(
        VideoWriter, "_write_audio", only=lambda _, until=0.0: until == float("inf"), most=3, unfinished=True
    ),
    "before the video is renamed": Point(VideoWriter, "_check", most=3, unfinished=True),
    "the video is renamed": Point(VideoWriter, "_finish", most=3, unfinished=True),
    "before COMPLETED is in the journal": Point(Scheduler, "_complete", after=False, most=4, unfinished=True),
    "COMPLETED is in the journal": Point(
        Journal, "save", only=_saved(lambda task: task.status is TaskStatus.COMPLETED), most=4
    ),
    # what a client does to its tasks
    "a running task is marked as cancelled": Point(
        Journal, "save", only=_saved(lambda task: task.cancelled and not task.ended and not task.deleted)
    ),
    "FAILED cancelled is in the journal": Point(
        Journal, "save", only=_saved(lambda task: task.error_code is TaskErrorCode.CANCELLED)
    ),
    "a running task is marked as deleted": Point(Journal, "save", only=_saved(lambda task: task.deleted)),
    "deleted in the journal, its files still there": Point(Journal, "remove", most=3),
    "between the removals of a task's files": Point(
        FileStore, "release", after=False, only=lambda _, name: name.endswith(".mp4"), most=2
    ),
    # the journal
    "in the middle of a transaction": Point(database, "COMMIT", most=20),
    # what the service does by itself
    "expired in the journal, its files still there": Point(TaskRegistry, "_drop", after=False, most=2),
    "a stopping service lets a task wait again": Point(
        Journal, "save", only=_saved(lambda task: task.status is TaskStatus.PENDING and task.attempt > 0)
    ),
    "a stopping service closes the journal": Point(Journal, "close", after=False),
    # the start
    "the start has read the journal": Point(TaskRegistry, "restore"),
    "the start lets a task wait again": Point(Scheduler, "_requeue"),
    "the start has removed half uploads, no half videos": Point(FileStore, "remove_parts"),
    "the start has removed leftovers": Point(FileStore, "remove_leftovers", most=2),
    "the engine is loaded, nothing begun": Point(TaskManager, "resume", after=False),
    "the start has begun a task": Point(Scheduler, "_start", unfinished=True),
}
REPLACING = {  # a damaged journal
    "damaged, nothing done": Point(repair, "_back_up", after=False),
    "its log is copied": Point(repair, "_copy", after=False, only=lambda path, *_: path.name == FILE_NAME),
    "all of it is copied": Point(repair, "_back_up"),
    "in the middle of the new journal": Point(database, "create_tables"),
    "the new journal is written": Point(database, "create"),
    "the log of the damaged one is removed": Point(repair, "_remove_logs"),
    "the new journal is in its place": Point(repair, "_swap"),
}
EXPIRING = "expired in the journal, its files still there"
STOPPING = [name for name in POINTS if name.startswith("a stopping service")]
STARTING = [name for name in POINTS if name.startswith(("the start", "the engine"))]


class Trap:
    """Kills this process when a point is passed for the nth time since `arm`; counts what is passed."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._lock = threading.Lock()
        self._point: str | None = None
        self._left = 0
        self.passed: Counter[str] = Counter()

    def arm(self, point: str | None, occurrence: int) -> None:
        with self._lock:
            self._point, self._left = point, occurrence
            self.passed.clear()

    def install(self) -> None:
        """Wrap the functions."""
        for name, point in (POINTS | REPLACING).items():
            if point.function == "COMMIT":
                self._watch_transactions(name)
            else:
                setattr(point.owner, point.function, self._wrapped(name, point))

    def _wrapped(self, name: str, point: Point) -> Callable[..., Any]:
        function = getattr(point.owner, point.function)

        @wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            here = point.only(*args, **kwargs)
            if here and not point.after:
                self._pass(name)
            result = function(*args, **kwargs)
            if here and point.after:
                self._pass(name)
            return result

        return wrapper

    def _watch_transactions(self, name: str) -> None:
        open_database = Database.__init__

        def wrapper(self_: Database, path: Path) -> None:
            open_database(self_, path)
            self_._connection.set_trace_callback(lambda statement: self._pass(name) if statement == "COMMIT" else None)

        Database.__init__ = wrapper  # type: ignore[method-assign,assignment]

    def _pass(self, name: str) -> None:
        with self._lock:
            self.passed[name] += 1
            if name != self._point:
                return
            self._left -= 1
            if self._left == 0:
                self._tell(name)
                os.kill(os.getpid(), signal.SIGKILL)
