"""Temporary directories of running attempts."""

from __future__ import annotations

import logging
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

logger = logging.getLogger("api.file_store")


class Workspaces:
    """One temporary directory per running attempt, below `directory`, which exists while there are any. Thread-safe."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        # Guards the creation and removal of `directory`.
        self._lock = threading.Lock()

    @contextmanager
    def create(self, name: str) -> Iterator[Path]:
        """An empty directory, deleted with its content when the context ends. Raises OSError."""
        path = self.directory / name
        with self._lock:
            path.mkdir(parents=True)
        try:
            yield path
        finally:
            self._remove(path)
            # Fails while others are in use.
            with self._lock, suppress(OSError):
                self.directory.rmdir()

    def remove_leftovers(self) -> None:
        """Delete what an earlier process left; only before any workspace is in use."""
        if self.directory.exists():
            self._remove(self.directory)

    def _remove(self, path: Path) -> None:
        try:
            shutil.rmtree(path)
        except OSError:
            logger.exception("Cannot delete workspace %s; retrying at the next start", path.name)
