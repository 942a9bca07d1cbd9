"""The journal's file: an SQLite database with tasks as records.

A record is a `Task` as JSON, read by the names of its fields. So a new field needs a default, with which older records
are read; older services pass over it. With anything else (a field that is gone, renamed or means something else, a
value that older services do not know, another table) raise SCHEMA, and convert the file of the schema before in
`connect`: no change may cost the tasks of those who have some.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_json

from api.records import Task

FILE_NAME = "tasks.sqlite3"
SCHEMA = 1
_TABLES = """
CREATE TABLE tasks (id TEXT PRIMARY KEY, record TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE gone (id TEXT PRIMARY KEY, until REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE begun (at REAL NOT NULL);
INSERT INTO begun VALUES ({now!r});
"""
PUT = "INSERT INTO tasks VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET record = excluded.record"
GONE = "INSERT OR REPLACE INTO gone VALUES (?, ?)"

# What SQLite says of a file that it can read but not use; all else, such as a full disk, is not the file's fault. The
# first is for what is not SQLite's to say.
_DAMAGE = (None, sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)

_records = TypeAdapter(Task)


class JournalError(Exception):
    """The journal cannot be used: the sentence says why, and what to do."""


@dataclass(frozen=True, slots=True)
class Content:
    """What is in a journal."""

    tasks: list[Task]
    gone: dict[str, float]
    """The ids of tasks that expired, and until when they are remembered."""
    begun: float
    """Since when it is kept; times are in seconds since the epoch."""


def connect(path: Path) -> sqlite3.Connection:
    """Open the file, or make it. Raises sqlite3.Error, for one that is damaged too; JournalError: of a newer schema."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        _prepare(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def create(connection: sqlite3.Connection) -> None:
    """Make the tables in a new file, and leave the transaction open."""
    tables = _TABLES.format(now=time.time())
    connection.executescript(f"BEGIN; {tables} PRAGMA user_version = {SCHEMA};")


def read(connection: sqlite3.Connection) -> Content:
    """Everything. Raises sqlite3.Error, ValidationError."""
    tasks = [task_of(text) for (text,) in connection.execute("SELECT record FROM tasks")]
    gone = dict(read_gone(connection))
    begun = connection.execute("SELECT at FROM begun").fetchone()
    if begun is None:
        raise sqlite3.DatabaseError("it does not say since when it is kept")
    return Content(tasks, gone, float(begun[0]))


def read_gone(connection: sqlite3.Connection) -> Iterator[tuple[str, float]]:
    """Those who expired, one by one."""
    yield from connection.execute("SELECT id, until FROM gone")


def record(task: Task) -> str:
    """The task as it is kept."""
    return to_json(task, inf_nan_mode="strings").decode()  # JSON has no such numbers, and null would not be read again


def task_of(text: str | bytes) -> Task:
    """The task of a record. Raises ValidationError."""
    return _records.validate_json(text)


def is_damage(error: Exception) -> bool:
    """Whether an error of `connect` or `read` means that the file is damaged."""
    return isinstance(error, ValidationError) or (isinstance(error, sqlite3.DatabaseError) and code(error) in _DAMAGE)


def code(error: sqlite3.Error) -> int | None:
    """SQLite's primary result code, where the error is SQLite's."""
    found: int | None = getattr(error, "sqlite_errorcode", None)
    return None if found is None else found & 0xFF


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
        create(connection)
        connection.execute("COMMIT")
