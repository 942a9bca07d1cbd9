"""Reference-counted files: a file is deleted with its last reference."""

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

from api.storage.lock import DirectoryLock
from api.utils import fsync

logger = logging.getLogger("api.file_store")

# Names of uploads (their SHA-256), of videos (task id and attempt), and of videos in earlier versions.
_FINISHED = re.compile(r"[0-9a-f]{64}|[0-9a-f]{32}-\d+\.mp4|[0-9a-f]{64}\.mp4")
PART = ".part"


class FileStore:
    """Files in one directory, each with a reference count. Thread-safe.

    The counts are in memory, so the directory is locked: one process uses it at a time. Raises OSError when it cannot
    be used.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._references: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._directory_lock = DirectoryLock(directory)

    def close(self) -> None:
        """Release the directory; the files stay."""
        self._directory_lock.close()

    def path(self, name: str) -> Path:
        """Path of a file in the store, whether or not it exists."""
        return self.directory / name

    def adopt(self, source: Path, name: str) -> Path:
        """Move `source` into the store and add a reference; `source` is deleted if `name` already exists.

        The file and its directory entry are fsynced on return. Raises OSError.
        """
        path = self.path(name)
        with self._lock:
            if path.exists():
                source.unlink(missing_ok=True)
            else:
                source.replace(path)
            self._references[name] += 1
        try:
            # Also for a file that was there already: cheap, and the request that stored it may not have done so yet.
            fsync(path)
            self._directory_lock.sync()
        except OSError:
            self.release(name)
            raise
        return path

    def hold(self, name: str) -> None:
        """Add a reference."""
        with self._lock:
            self._references[name] += 1

    def release(self, name: str) -> bool:
        """Drop a reference and delete the file with the last one. Returns whether it was the last."""
        with self._lock:
            self._references[name] -= 1
            if self._references[name] > 0:
                return False
            del self._references[name]
            try:
                self.path(name).unlink(missing_ok=True)
            except OSError:
                logger.exception("Cannot delete %s; a later sweep will delete it", name)
            return True

    @contextmanager
    def held(self, name: str) -> Iterator[Path]:
        """Keep a reference for the duration of the context."""
        self.hold(name)
        try:
            yield self.path(name)
        finally:
            self.release(name)

    def remove_leftovers(self, older_than_seconds: float, modified_since: float = math.inf) -> None:
        """Delete unreferenced files: left by an earlier process, or impossible to delete at the time.

        Files younger than `older_than_seconds` stay, unless they were modified after the Unix time `modified_since`.
        """
        before = time.time() - older_than_seconds
        self._remove(
            lambda path: bool(_FINISHED.fullmatch(path.name)) and not before < _modified(path) < modified_since
        )

    def remove_parts(self) -> None:
        """Delete partial files; only before anything is being written."""
        self._remove(lambda path: path.name.endswith(PART))

    def _remove(self, matches: Callable[[Path], bool]) -> None:
        # os.listdir avoids creating a Path for each of thousands of referenced files.
        for name in os.listdir(self.directory):  # noqa: PTH208
            if name in self._references:
                continue
            path = self.path(name)
            # The file may be released and deleted meanwhile.
            with self._lock, suppress(FileNotFoundError):
                if name not in self._references and matches(path):
                    path.unlink()


def _modified(path: Path) -> float:
    return path.stat().st_mtime
