"""The journal: a durable copy of all tasks, from which the next process restores them.

The registry in memory answers every request; the journal is only written, and read once, at the start. An accepted task
is durable before its client is notified. Later changes, except progress, are too, unless the disk refuses the write:
then they stay pending. Tables and record format: see `database`.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Iterable
from pathlib import Path

from api.records import Task
from api.storage import database, repair
from api.storage.database import FILE_NAME, Change, Content, Database
from api.storage.lock import DirectoryLock
from api.storage.repair import Damage

logger = logging.getLogger("api.journal")


class Journal:
    """Thread-safe journal in a directory that it locks; each change is one durable transaction.

    A damaged file is backed up and replaced: `damage` says so, and `load` returns the tasks that could be recovered.
    Raises OSError (the directory cannot be used), JournalError (written by a newer version of the service).

    failing: SQLite's reason while the journal cannot be written, from the latest attempt; None otherwise.
    damage: set when the file was found damaged; None otherwise.
    created_at: Unix time of the journal's creation.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.failing: str | None = None
        self.damage: Damage | None = None
        self._directory_lock = DirectoryLock(directory)
        self._path = directory / FILE_NAME
        # Guards the database and the pending writes.
        self._lock = threading.Lock()
        # Changes that the disk has refused so far, by row: only the latest of each row matters.
        self._pending: dict[tuple[str, str], Change] = {}
        try:
            self._database, content = self._open()
        except sqlite3.Error as error:
            self._directory_lock.close()
            raise database.as_os_error(error, self._path) from error
        except BaseException:
            self._directory_lock.close()
            raise
        self._tasks, self._tombstones = content.tasks, content.tombstones
        self.created_at = content.created_at

    def load(self) -> tuple[list[Task], dict[str, float]]:
        """Return the restored tasks, oldest first, and the tombstones (task ID → their end as Unix time).

        Call once: the journal does not keep them in memory.
        """
        tasks, tombstones = sorted(self._tasks, key=lambda task: task.position), self._tombstones
        self._tasks, self._tombstones = [], {}
        return tasks, tombstones

    def add(self, task: Task) -> None:
        """Persist a task that is about to be accepted. Raises OSError; the task must not be accepted then."""
        with self._lock:
            self._write([database.put(task)])

    def save(self, task: Task) -> None:
        """Persist a new state of a task. If the disk refuses, the write stays pending for a later call."""
        self._write_or_keep([database.put(task)])

    def remove(self, task_id: str) -> None:
        """Remove a task; pending like `save` if the disk refuses."""
        self._write_or_keep([database.remove(task_id)])

    def expire(self, expired: Iterable[tuple[str, float]]) -> None:
        """Replace tasks by tombstones: for each its id and the Unix time until which it is remembered."""
        changes = [
            change
            for task_id, until in expired
            for change in (database.remove(task_id), database.add_tombstone(task_id, until))
        ]
        if changes:
            self._write_or_keep(changes)

    def flush(self, now: float) -> None:
        """Write pending changes and purge expired tombstones."""
        upkeep = [database.purge_tombstones(now)]
        if self.failing is not None:
            # A transaction that changes nothing succeeds on any disk, and would not show whether it works again.
            upkeep.append(database.probe())
        self._write_or_keep([], upkeep)

    def flush_pending(self) -> None:
        """Attempt to write pending changes, the last time before the process exits."""
        if self._pending:
            self._write_or_keep([])

    def close(self) -> None:
        """Attempt to write pending changes, then release the file and the directory."""
        self.flush_pending()
        with self._lock:
            self._database.close()
        self._directory_lock.close()

    def _write_or_keep(self, changes: list[Change], upkeep: Iterable[Change] = ()) -> None:
        """Write; changes that are refused stay pending, `upkeep` is dropped."""
        with self._lock:
            try:
                self._write(changes, upkeep)
            except OSError:
                self._pending |= {change.row: change for change in changes}

    def _write(self, changes: list[Change], upkeep: Iterable[Change] = ()) -> None:
        latest = self._pending | {change.row: change for change in changes}
        try:
            self._database.write([*latest.values(), *upkeep])
        except sqlite3.Error as error:
            if self.failing is None:
                logger.exception("Cannot write the journal; retrying with the next change")
            self.failing = str(error)
            raise database.as_os_error(error, self._path) from error
        self._pending.clear()
        if self.failing is not None:
            self.failing = None
            logger.info("The journal can be written again")

    def _open(self) -> tuple[Database, Content]:
        repair.remove_unfinished(self._path)
        try:
            return _open_and_read(self._path)
        except Exception as error:
            if not database.is_damage(error):
                raise
            self.damage = repair.replace(self._path, error)
        return _open_and_read(self._path)


def _open_and_read(path: Path) -> tuple[Database, Content]:
    opened = Database(path)
    try:
        return opened, opened.read()
    except BaseException:
        opened.close()
        raise
