"""Files shared by several tasks: each stays until its last holder lets go."""

from __future__ import annotations

import logging
import math
import os
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from api.storage.lock import Claim

logger = logging.getLogger("api.file_store")

_FINISHED = re.compile(r"[0-9a-f]{64}|[0-9a-f]{32}-\d+\.mp4|[0-9a-f]{64}\.mp4")  # the last: of former versions
_PART = ".part"


class FileStore:
    """Files in one directory, counted by holder. Safe to use from any thread.

    The directory belongs to one service at a time, since the counts are in its memory. Raises OSError as Claim does.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._holders: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._claim = Claim(directory)

    def close(self) -> None:
        """Leave the directory to others; the files stay."""
        self._claim.close()

    def path(self, name: str) -> Path:
        """Where the file is, or will be."""
        return self.directory / name

    def adopt(self, source: Path, name: str) -> Path:
        """Move `source` here as `name`, unless the same content is here already, and hold it once.

        It is on the disk, and would survive a loss of power, when this returns.
        """
        path = self.path(name)
        with self._lock:
            if path.exists():
                source.unlink(missing_ok=True)
            else:
                source.replace(path)
            self._holders[name] += 1
        try:
            with path.open("rb") as file:
                os.fsync(file.fileno())  # quick where that was done before
            self.sync()
        except OSError:
            self.release(name)
            raise
        return path

    def hold(self, name: str) -> None:
        """Add a holder."""
        with self._lock:
            self._holders[name] += 1

    def release(self, name: str) -> bool:
        """Remove a holder; the file goes with the last one. True when it has gone."""
        with self._lock:
            self._holders[name] -= 1
            if self._holders[name] > 0:
                return False
            del self._holders[name]
            try:
                self.path(name).unlink(missing_ok=True)
            except OSError:
                logger.exception("A file could not be removed; the sweep will try again")
            return True

    @contextmanager
    def held(self, name: str) -> Iterator[Path]:
        """Hold the file for as long as the context lasts."""
        self.hold(name)
        try:
            yield self.path(name)
        finally:
            self.release(name)

    def sync(self) -> None:
        """Return when the names of the files are on the disk."""
        self._claim.sync()

    def remove_leftovers(self, older_than_seconds: float, made_since: float = math.inf) -> None:
        """Remove files that nobody holds: what an earlier service left, what could not be removed.

        Those younger than `older_than_seconds` stay, unless they were made since a time (seconds since the epoch).
        """
        before = time.time() - older_than_seconds
        self._remove(lambda path: bool(_FINISHED.fullmatch(path.name)) and not before < _made(path) < made_since)

    def remove_parts(self) -> None:
        """Remove half-written files; only before anything is being written."""
        self._remove(lambda path: path.name.endswith(_PART))

    def _remove(self, ours: Callable[[Path], bool]) -> None:
        for name in os.listdir(self.directory):  # noqa: PTH208  there may be many, and nearly all are held
            if name in self._holders:
                continue
            path = self.path(name)
            with self._lock, suppress(FileNotFoundError):  # its own holder may be quicker
                if name not in self._holders and ours(path):
                    path.unlink()


def _made(path: Path) -> float:
    return path.stat().st_mtime
