"""A damaged journal is set aside, and another takes its place with what can be read of it.

Whenever the process dies at that, the next one finds the damaged file and does it again, or the new one, whole.
"""

from __future__ import annotations

import logging
import os
import shutil
import sqlite3
import textwrap
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from api.records import Task
from api.storage import database

logger = logging.getLogger("api.journal")

_LOGS = ("-wal", "-journal")  # SQLite's own files beside a database, which belong to it and to no other
_SALVAGE = (
    "SELECT CAST(record AS BLOB) FROM tasks ORDER BY id",
    "SELECT CAST(record AS BLOB) FROM tasks ORDER BY id DESC",
)


def replace(path: Path, reason: Exception) -> str:
    """Put a new file in the damaged one's place; gives a sentence on what happened. Raises OSError, sqlite3.Error."""
    aside = _set_aside(path)
    tasks, gone = _salvage(aside)
    _write(_unfinished(path), tasks, gone)
    damage = (
        f"The journal of the tasks was damaged. It is kept as {aside.name}. "
        f"Tasks that could be read from it: {len(tasks)}. Any others are lost."
    )
    logger.error("%s (%s)", damage, textwrap.shorten(str(reason), 200))  # afterwards, the next start would see nothing
    _swap(path)
    return damage


def remove_unfinished(path: Path) -> None:
    """Remove what a process left that died while it replaced the file. Raises OSError."""
    for suffix in ("", *_LOGS):
        Path(f"{_unfinished(path)}{suffix}").unlink(missing_ok=True)


def _unfinished(path: Path) -> Path:
    return path.with_name(f"{path.name}.new")


def _set_aside(path: Path) -> Path:
    """Copy the damaged file and its logs. It is named by its last change, so that there is one copy of one damage."""
    changed = datetime.fromtimestamp(path.stat().st_mtime, UTC)
    aside = path.with_name(f"{path.name}.damaged-{changed:%Y%m%dT%H%M%S.%fZ}")
    for suffix in (*_LOGS, ""):
        with suppress(FileNotFoundError):  # a log that went in an earlier try is there already
            _copy(Path(f"{path}{suffix}"), Path(f"{aside}{suffix}"))
    _sync(path.parent)
    return aside


def _copy(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)
    _sync(target)


def _salvage(path: Path) -> tuple[list[Task], dict[str, float]]:
    """What can be read of a damaged file: from both ends up to the damage, but for records that make no sense."""
    tasks: dict[str, Task] = {}
    gone: dict[str, float] = {}
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")  # so SQLite makes no file of its own beside it
        connection.execute("PRAGMA writable_schema = ON")  # read on, though the file is shorter than it says
        for statement in _SALVAGE:
            with suppress(sqlite3.Error):
                for (record,) in connection.execute(statement):
                    with suppress(ValidationError):
                        task = database.task_of(record)
                        tasks[task.id] = task
        with suppress(sqlite3.Error):
            for task_id, until in database.read_gone(connection):
                gone[task_id] = until
    return list(tasks.values()), gone


def _write(path: Path, tasks: list[Task], gone: dict[str, float]) -> None:
    """Make a journal with these, in one file: it has no log that would have to be moved with it."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous = FULL")
        database.create(connection)
        connection.executemany(database.PUT, [(task.id, database.record(task)) for task in tasks])
        connection.executemany(database.GONE, gone.items())
        connection.execute("COMMIT")


def _swap(path: Path) -> None:
    """Let the new file take the name of the damaged one."""
    _remove_logs(path)
    _unfinished(path).replace(path)
    _sync(path.parent)


def _remove_logs(path: Path) -> None:
    for suffix in _LOGS:  # SQLite would write them into the new file
        Path(f"{path}{suffix}").unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Return when a file, or the names in a directory, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
