"""The journal: what the next service has to know of this one's tasks, in an SQLite file.

The registry in memory answers every question; the journal is only written, and read once, at the start. Progress is
not in it. Everything else is, before anybody is told of it. What a change of the records needs is in `journal_file`.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from api.http.errors import JournalWriteError, disk_full
from api.records import Task
from api.storage import database, repair
from api.storage.database import FILE_NAME, Content, JournalError
from api.storage.lock import Claim

__all__ = ["FILE_NAME", "Journal", "JournalError"]

logger = logging.getLogger("api.journal")

_REMOVE = "DELETE FROM tasks WHERE id = ?"
_FORGET_GONE = "DELETE FROM gone WHERE until <= ?"
_PROBE = f"PRAGMA user_version = {database.SCHEMA}"  # as it is already; SQLite writes it all the same

Statement = tuple[str, tuple[Any, ...]]
Changes = dict[tuple[str, str], Statement]
"""What is to become of a row: by its table and id, so that the newest is all that is kept."""


class Journal:
    """One connection behind a lock; each change is one transaction, on the disk when the call returns.

    The directory belongs to one service at a time. A damaged file is set aside: `damage` says so, and `load` gives
    the tasks that could still be read from it. Raises OSError (the directory cannot be used), JournalError (a newer
    service wrote it).
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._claim = Claim(directory)
        self._path = directory / FILE_NAME
        self._lock = threading.Lock()
        self._late: Changes = {}  # that could not be written
        self.failing: str | None = None
        """A sentence while it cannot be written, by the last try."""
        self.damage: str | None = None
        """A sentence when the file was damaged."""
        try:
            self._connection, content = self._open()
        except sqlite3.Error as error:
            self._claim.close()
            raise _refusal(error, self._path) from error
        except BaseException:
            self._claim.close()
            raise
        self._tasks, self._gone = content.tasks, content.gone
        self.begun = content.begun
        """Since when it is kept, in seconds since the epoch: files from before may be of tasks that it never knew."""

    def load(self) -> tuple[list[Task], dict[str, float]]:
        """The tasks in the order of their acceptance, and until when those that expired are remembered.

        Can be called once: the journal itself keeps none of it.
        """
        tasks, gone = sorted(self._tasks, key=lambda task: task.position), self._gone
        self._tasks, self._gone = [], {}
        return tasks, gone

    def add(self, task: Task) -> None:
        """Write a task that is about to be accepted. Raises OSError: then it must not be."""
        with self._lock:
            self._write(_saved(task))

    def save(self, task: Task) -> None:
        """Write what became of a task. What the disk refuses is written with a later change, or by `flush`."""
        self._write_some_time(_saved(task))

    def remove(self, task_id: str, gone_until: float | None) -> None:
        """Remove a task; with a time, it is remembered as expired until then. Refusals are as for `save`."""
        self._write_some_time(_removed(task_id, gone_until))

    def remove_all(self, rows: Iterable[tuple[str, float | None]]) -> None:
        """`remove` for many tasks at once: the id of each, and until when it is remembered."""
        changes: Changes = {}
        for task_id, gone_until in rows:
            changes |= _removed(task_id, gone_until)
        if changes:
            self._write_some_time(changes)

    def flush(self, now: float) -> None:
        """Write what is late, and forget whom nobody has to remember any more."""
        forget: Statement = (_FORGET_GONE, (now,))
        # Where nothing changes nothing is written, and that would go well on any disk.
        self._write_some_time({}, forget, *([(_PROBE, ())] if self.failing is not None else []))

    def write_late(self) -> None:
        """Write what is late, if that can be, as nothing may come after it."""
        if self._late:
            self._write_some_time({})

    def close(self) -> None:
        """Write what is late, if that can be, and give back the file and the directory."""
        self.write_late()
        with self._lock:
            self._connection.close()
        self._claim.close()

    def _write_some_time(self, changes: Changes, *others: Statement) -> None:
        """`others` are not kept where they are refused."""
        with self._lock:
            try:
                self._write(changes, *others)
            except OSError:
                self._late |= changes

    def _write(self, changes: Changes, *others: Statement) -> None:
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            for statement in (*(self._late | changes).values(), *others):
                self._connection.execute(*statement)
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            with suppress(sqlite3.Error):
                self._connection.execute("ROLLBACK")
            if self.failing is None:
                logger.exception("The journal could not be written; it will be tried again")
            self.failing = (
                f"The journal of the tasks cannot be written ({error}). Until it can be, new tasks are refused, "
                "and what becomes of the others is kept in memory."
            )
            raise _refusal(error, self._path) from error
        self._late.clear()
        if self.failing is not None:
            self.failing = None
            logger.info("The journal can be written again")

    def _open(self) -> tuple[sqlite3.Connection, Content]:
        repair.remove_unfinished(self._path)
        try:
            return _opened(self._path)
        except Exception as error:
            if not database.is_damage(error):
                raise
            self.damage = repair.replace(self._path, error)
        return _opened(self._path)


def _opened(path: Path) -> tuple[sqlite3.Connection, Content]:
    connection = database.connect(path)
    try:
        return connection, database.read(connection)
    except BaseException:
        connection.close()
        raise


def _saved(task: Task) -> Changes:
    return {("tasks", task.id): (database.PUT, (task.id, database.record(task)))}


def _removed(task_id: str, gone_until: float | None) -> Changes:
    changes: Changes = {("tasks", task_id): (_REMOVE, (task_id,))}
    if gone_until is not None:
        changes["gone", task_id] = (database.GONE, (task_id, gone_until))
    return changes


def _refusal(error: sqlite3.Error, path: Path) -> OSError:
    """As the operating system would have said it."""
    if database.code(error) == sqlite3.SQLITE_FULL:
        return disk_full(path)
    return JournalWriteError(f"the journal cannot be used ({error})", path)
