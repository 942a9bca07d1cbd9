"""The journal's SQLite file: tables, records and every SQL statement.

A record is a `Task` as JSON, read by field name. A new field therefore needs a default, which is used for older
records; older versions of the service ignore it. Any other change (a field removed, renamed or redefined, an enum
value that older versions do not know, another table) must raise SCHEMA and convert the previous schema in
`Database.__init__`: no upgrade may lose tasks.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_json

from api.records import Task
from api.storage.errors import JournalError, JournalWriteError, disk_full

FILE_NAME = "tasks.sqlite3"
SCHEMA = 1
# `gone` has the tombstones, `begun` the creation time: their names are part of the format.
_TABLES = """
CREATE TABLE tasks (id TEXT PRIMARY KEY, record TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE gone (id TEXT PRIMARY KEY, until REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE begun (at REAL NOT NULL);
INSERT INTO begun VALUES ({now!r});
"""
_PUT = "INSERT INTO tasks VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET record = excluded.record"
_REMOVE = "DELETE FROM tasks WHERE id = ?"
_ADD_TOMBSTONE = "INSERT OR REPLACE INTO gone VALUES (?, ?)"
_PURGE_TOMBSTONES = "DELETE FROM gone WHERE until <= ?"
_READ_TASKS = "SELECT record FROM tasks"
_READ_TOMBSTONES = "SELECT id, until FROM gone"
# A damaged page ends a scan. Scanning from both ends recovers the rows on either side of it.
_SALVAGE = (
    "SELECT CAST(record AS BLOB) FROM tasks ORDER BY id",
    "SELECT CAST(record AS BLOB) FROM tasks ORDER BY id DESC",
)
# Sets user_version to its current value: changes nothing, but is still written to the file.
_PROBE = f"PRAGMA user_version = {SCHEMA}"

# SQLite's result codes for a file that can be read but not used; other codes, such as that of a full disk, are not the
# file's fault. None stands for errors that are raised here and not by SQLite.
_DAMAGE = (None, sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)

_records = TypeAdapter(Task)


class Change(NamedTuple):
    """A change to write. Of two pending changes to the same `row` the later replaces the earlier."""

    sql: str
    parameters: tuple[Any, ...] = ()
    row: tuple[str, str] = ("", "")


@dataclass(frozen=True, slots=True)
class Content:
    """Everything in a journal.

    tombstones: ID of an expired task → Unix time until which it is reported as expired (HTTP 410).
    created_at: Unix time; files older than this may belong to tasks that this journal never knew.
    """

    tasks: list[Task]
    tombstones: dict[str, float]
    created_at: float


class Database:
    """An open journal file; created if missing. Not thread-safe.

    Raises sqlite3.Error (unusable or damaged: see `is_damage`), JournalError (written by a newer version).
    """

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        try:
            _prepare(self._connection)
        except BaseException:
            self._connection.close()
            raise

    def read(self) -> Content:
        """Read the tasks, the tombstones and the creation time. Raises sqlite3.Error, ValidationError."""
        tasks = [_task(text) for (text,) in self._connection.execute(_READ_TASKS)]
        tombstones = dict(self._connection.execute(_READ_TOMBSTONES))
        created = self._connection.execute("SELECT at FROM begun").fetchone()
        if created is None:
            raise sqlite3.DatabaseError("the creation time is missing")
        return Content(tasks, tombstones, float(created[0]))

    def write(self, changes: Iterable[Change]) -> None:
        """Apply all changes or none, in one transaction; durable on return. Raises sqlite3.Error."""
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            for change in changes:
                self._connection.execute(change.sql, change.parameters)
            self._connection.execute("COMMIT")
        except sqlite3.Error:
            with suppress(sqlite3.Error):
                self._connection.execute("ROLLBACK")
            raise

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


def put(task: Task) -> Change:
    """Insert or replace the record of a task."""
    return Change(_PUT, (task.id, _record(task)), ("tasks", task.id))


def remove(task_id: str) -> Change:
    """Delete the record of a task."""
    return Change(_REMOVE, (task_id,), ("tasks", task_id))


def add_tombstone(task_id: str, until: float) -> Change:
    """Leave a tombstone for an expired task until this Unix time."""
    return Change(_ADD_TOMBSTONE, (task_id, until), ("gone", task_id))


def purge_tombstones(now: float) -> Change:
    """Delete expired tombstones."""
    return Change(_PURGE_TOMBSTONES, (now,))


def probe() -> Change:
    """Change nothing, but fail where the disk refuses writes."""
    return Change(_PROBE)


def create(path: Path, tasks: Iterable[Task], tombstones: Iterable[tuple[str, float]]) -> None:
    """Create a journal with this content, in one file without a log beside it. Raises sqlite3.Error."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous = FULL")
        create_tables(connection)
        connection.executemany(_PUT, [(task.id, _record(task)) for task in tasks])
        connection.executemany(_ADD_TOMBSTONE, tombstones)
        connection.execute("COMMIT")


def create_tables(connection: sqlite3.Connection) -> None:
    """Create the tables of a new file and leave the transaction open."""
    tables = _TABLES.format(now=time.time())
    connection.executescript(f"BEGIN; {tables} PRAGMA user_version = {SCHEMA};")


def salvage(path: Path) -> tuple[list[Task], dict[str, float]]:
    """Read the tasks and tombstones of a damaged file that are still readable and valid."""
    tasks: dict[str, Task] = {}
    tombstones: dict[str, float] = {}
    with closing(sqlite3.connect(path)) as connection:
        # Otherwise SQLite would create a shared-memory file beside it.
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        # Makes SQLite read a file that is shorter than its header says.
        connection.execute("PRAGMA writable_schema = ON")
        for statement in _SALVAGE:
            with suppress(sqlite3.Error):
                for (record,) in connection.execute(statement):
                    with suppress(ValidationError):
                        task = _task(record)
                        tasks[task.id] = task
        with suppress(sqlite3.Error):
            for task_id, until in connection.execute(_READ_TOMBSTONES):
                tombstones[task_id] = until
    return list(tasks.values()), tombstones


def is_damage(error: Exception) -> bool:
    """Whether an error of `Database()` or `read` means that the file is damaged."""
    return isinstance(error, ValidationError) or (isinstance(error, sqlite3.DatabaseError) and _code(error) in _DAMAGE)


def as_os_error(error: sqlite3.Error, path: Path) -> OSError:
    """The OSError that corresponds to an error of SQLite."""
    if _code(error) == sqlite3.SQLITE_FULL:
        return disk_full(path)
    return JournalWriteError(f"the journal cannot be read or written ({error})", path)


def _record(task: Task) -> str:
    # JSON has no infinity or NaN; null would not be readable as a number again.
    return to_json(task, inf_nan_mode="strings").decode()


def _task(text: str | bytes) -> Task:
    return _records.validate_json(text)


def _code(error: sqlite3.Error) -> int | None:
    """SQLite's primary result code; None for an error that SQLite did not raise."""
    code: int | None = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF


def _prepare(connection: sqlite3.Connection) -> None:
    # The directory is locked, so no other process opens the file. With exclusive locking SQLite needs no shared-memory
    # file, which a full disk can break; it must be set before the first access to the file.
    connection.execute("PRAGMA locking_mode = EXCLUSIVE")
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > SCHEMA:
        raise JournalError(
            f"{FILE_NAME} was written by a newer version of the service (its schema is {version}, this version "
            f"supports {SCHEMA}). Start that version, or choose another directory."
        )
    damage = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if damage != "ok":
        raise sqlite3.DatabaseError(damage)
    connection.execute("PRAGMA journal_mode = WAL")
    # Every COMMIT is fsynced.
    connection.execute("PRAGMA synchronous = FULL")
    if version == 0:
        create_tables(connection)
        connection.execute("COMMIT")
