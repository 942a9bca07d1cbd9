"""Recovery of a corrupt journal: back it up, salvage its readable rows into a new file, and replace it atomically.

Safe to interrupt at any point: the next start finds either the damaged file, and repairs it again, or the new one.
"""

from __future__ import annotations

import logging
import shutil
import textwrap
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from api.storage import database
from api.utils import fsync

logger = logging.getLogger("api.journal")

# Files that SQLite keeps beside a database.
_LOGS = ("-wal", "-journal")


@dataclass(frozen=True, slots=True)
class Damage:
    """What a repair saved: the name of the backup and the number of tasks recovered from it."""

    backup: str
    recovered: int


def replace(path: Path, reason: Exception) -> Damage:
    """Replace the damaged journal. Raises OSError, sqlite3.Error."""
    backup = _back_up(path)
    tasks, tombstones = database.salvage(backup)
    database.create(_new_file(path), tasks, tombstones.items())
    # Logged before the swap: after it, the next start would find nothing to report.
    logger.error(
        "The task journal was damaged (%s). Recovered tasks: %d; backup: %s",
        textwrap.shorten(str(reason), 200), len(tasks), backup.name,
    )  # fmt: skip
    _swap(path)
    return Damage(backup.name, len(tasks))


def remove_unfinished(path: Path) -> None:
    """Remove the unfinished new file of an interrupted repair. Raises OSError."""
    for suffix in ("", *_LOGS):
        Path(f"{_new_file(path)}{suffix}").unlink(missing_ok=True)


def _new_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.new")


def _back_up(path: Path) -> Path:
    """Copy the damaged file and its logs. The copy is named after the last change, so a repeated repair reuses it."""
    changed = datetime.fromtimestamp(path.stat().st_mtime, UTC)
    backup = path.with_name(f"{path.name}.damaged-{changed:%Y%m%dT%H%M%S.%fZ}")
    for suffix in (*_LOGS, ""):
        # A log that an earlier, interrupted repair removed was copied by it.
        with suppress(FileNotFoundError):
            _copy(Path(f"{path}{suffix}"), Path(f"{backup}{suffix}"))
    fsync(path.parent)
    return backup


def _copy(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)
    fsync(target)


def _swap(path: Path) -> None:
    _remove_logs(path)
    _new_file(path).replace(path)
    fsync(path.parent)


def _remove_logs(path: Path) -> None:
    # SQLite would apply them to the new file.
    for suffix in _LOGS:
        Path(f"{path}{suffix}").unlink(missing_ok=True)
