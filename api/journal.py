"""The journal: what the next service has to know of this one's tasks, in an SQLite file.

The registry in memory answers every question; the journal is only written, and read once, at the start. Progress is
not in it. Everything else is, before anybody is told of it.
"""

from __future__ import annotations

import errno
import logging
import sqlite3
import textwrap
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from api.directories import Claim
from api.errors import disk_full
from api.tasks import Task

logger = logging.getLogger("api.journal")

FILE_NAME = "tasks.sqlite3"
SCHEMA = 1
_TABLES = """
CREATE TABLE tasks (id TEXT PRIMARY KEY, record TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE gone (id TEXT PRIMARY KEY, until REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE begun (at REAL NOT NULL);
INSERT INTO begun VALUES ({now!r});
"""
_PUT = "INSERT INTO tasks VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET record = excluded.record"
_REMOVE = "DELETE FROM tasks WHERE id = ?"
_GONE = "INSERT OR REPLACE INTO gone VALUES (?, ?)"
_SALVAGE = (
    "SELECT CAST(record AS BLOB) FROM tasks ORDER BY id",
    "SELECT CAST(record AS BLOB) FROM tasks ORDER BY id DESC",
)
_FORGET_GONE = "DELETE FROM gone WHERE until <= ?"

# What SQLite says of a file that it can read but not use; all else, such as a full disk, is not the file's fault. The
# first is for what is not SQLite's to say.
_DAMAGE = (None, sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)

_records = TypeAdapter(Task)

Statement = tuple[str, tuple[Any, ...]]


class JournalError(Exception):
    """The journal cannot be used: the sentence says why, and what to do."""


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
        self._late: list[Statement] = []  # changes that could not be written, oldest first
        self.damage: str | None = None
        self.begun = 0.0
        """Since when it is kept, in seconds since the epoch: files from before may be of tasks that it never knew."""
        self._tasks: list[Task] = []
        self._gone: dict[str, float] = {}
        try:
            self._connection = self._open()
        except sqlite3.Error as error:
            self._claim.close()
            raise _refusal(error, self._path) from error
        except BaseException:
            self._claim.close()
            raise

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
            self._write([(_PUT, (task.id, _record(task)))])

    def save(self, task: Task) -> None:
        """Write what became of a task. What the disk refuses is written with a later change, or by `flush`."""
        self._write_some_time([(_PUT, (task.id, _record(task)))])

    def remove(self, task_id: str, gone_until: float | None) -> None:
        """Remove a task; with a time, it is remembered as expired until then. Refusals are as for `save`."""
        self.remove_all([(task_id, gone_until)])

    def remove_all(self, rows: Iterable[tuple[str, float | None]]) -> None:
        """`remove` for many tasks at once: the id of each, and until when it is remembered."""
        statements: list[Statement] = []
        for task_id, gone_until in rows:
            statements.append((_REMOVE, (task_id,)))
            if gone_until is not None:
                statements.append((_GONE, (task_id, gone_until)))
        if statements:
            self._write_some_time(statements)

    def flush(self, now: float) -> None:
        """Write what is late, and forget whom nobody has to remember any more."""
        self._write_some_time([(_FORGET_GONE, (now,))])

    def close(self) -> None:
        """Write what is late, if that can be, and give back the file and the directory."""
        if self._late:
            self._write_some_time([])
        with self._lock:
            self._connection.close()
        self._claim.close()

    def _write_some_time(self, statements: list[Statement]) -> None:
        with self._lock:
            try:
                self._write(statements)
            except OSError:
                if not self._late:
                    logger.exception("The journal could not be written; it will be tried again")
                self._late += statements

    def _write(self, statements: list[Statement]) -> None:
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            for statement in (*self._late, *statements):
                self._connection.execute(*statement)
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            with suppress(sqlite3.Error):
                self._connection.execute("ROLLBACK")
            raise _refusal(error, self._path) from error
        self._late.clear()

    def _open(self) -> sqlite3.Connection:
        try:
            connection = _connect(self._path)
            try:
                self._tasks, self._gone = list(_read_tasks(connection)), dict(_read_gone(connection))
                self.begun = _read_begun(connection)
            except BaseException:
                connection.close()
                raise
        except (sqlite3.DatabaseError, ValidationError) as error:
            if _code(error) not in _DAMAGE:
                raise
            return self._replace(error)
        return connection

    def _replace(self, error: Exception) -> sqlite3.Connection:
        """Set the damaged file aside, and start another with what can be read of it."""
        aside = self._path.with_name(f"{FILE_NAME}.damaged-{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}")
        for suffix in ("", "-wal"):  # a log that stayed would be written into the new file
            with suppress(FileNotFoundError):
                Path(f"{self._path}{suffix}").rename(f"{aside}{suffix}")
        self._tasks, self._gone = _salvage(aside)
        connection = _connect(self._path)
        self.begun = _read_begun(connection)
        with connection:
            connection.execute("BEGIN")  # or each row would wait for the disk
            connection.executemany(_PUT, [(task.id, _record(task)) for task in self._tasks])
            connection.executemany(_GONE, self._gone.items())
        self.damage = (
            f"The journal of the tasks was damaged. It is kept as {aside.name}. "
            f"Tasks that could be read from it: {len(self._tasks)}. Any others are lost."
        )
        logger.error("%s (%s)", self.damage, textwrap.shorten(str(error), 200))
        return connection


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        _prepare(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _prepare(connection: sqlite3.Connection) -> None:
    # Nobody else has the file, as the directory is claimed; so no memory is shared, which a full disk can break. SQLite
    # shares some from the first look into the file on, unless it was told before.
    connection.execute("PRAGMA locking_mode = EXCLUSIVE")
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > SCHEMA:
        raise JournalError(
            f"{FILE_NAME} was written by a newer version of the service (its format is {version}, this one knows "
            f"{SCHEMA}). Start that version, or give this one another directory."
        )
    damage = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if damage != "ok":
        raise sqlite3.DatabaseError(damage)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")  # on the disk with every COMMIT
    if version == 0:
        tables = _TABLES.format(now=time.time())
        connection.executescript(f"BEGIN; {tables} PRAGMA user_version = {SCHEMA}; COMMIT;")


def _code(error: Exception) -> int | None:
    """SQLite's primary result code, where the error is SQLite's."""
    code: int | None = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF


def _refusal(error: sqlite3.Error, path: Path) -> OSError:
    """As the operating system would have said it."""
    if _code(error) == sqlite3.SQLITE_FULL:
        return disk_full(path)
    return OSError(errno.EIO, f"the journal cannot be used ({error})", str(path))


def _salvage(path: Path) -> tuple[list[Task], dict[str, float]]:
    """What can be read of a damaged file: from both ends up to the damage, but for records that make no sense."""
    tasks: dict[str, Task] = {}
    gone: dict[str, float] = {}
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA writable_schema = ON")  # read on, though the file is shorter than it says
        for statement in _SALVAGE:
            with suppress(sqlite3.Error):
                for (record,) in connection.execute(statement):
                    with suppress(ValidationError):
                        task = _records.validate_json(record)
                        tasks[task.id] = task
        with suppress(sqlite3.Error):
            for task_id, until in _read_gone(connection):
                gone[task_id] = until
    return list(tasks.values()), gone


def _read_begun(connection: sqlite3.Connection) -> float:
    begun = connection.execute("SELECT at FROM begun").fetchone()
    if begun is None:
        raise sqlite3.DatabaseError("it does not say since when it is kept")
    return float(begun[0])


def _read_tasks(connection: sqlite3.Connection) -> Iterator[Task]:
    for (record,) in connection.execute("SELECT record FROM tasks"):
        yield _records.validate_json(record)


def _read_gone(connection: sqlite3.Connection) -> Iterator[tuple[str, float]]:
    yield from connection.execute("SELECT id, until FROM gone")


def _record(task: Task) -> str:
    return _records.dump_json(task).decode()
