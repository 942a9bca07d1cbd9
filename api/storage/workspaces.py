"""Temporary directories of running attempts."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

logger = logging.getLogger("api.files")


class Workspaces:
    """One temporary directory per running attempt, all of them below `directory`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @contextmanager
    def create(self, name: str) -> Iterator[Path]:
        """An empty directory, deleted with its content when the context ends. Raises OSError."""
        path = self.directory / name
        path.mkdir(parents=True)
        try:
            yield path
        finally:
            self._remove(path)

    def remove_leftovers(self) -> None:
        """Delete what an earlier process left; only before any workspace is in use."""
        if self.directory.exists():
            self._remove(self.directory)

    def _remove(self, path: Path) -> None:
        try:
            shutil.rmtree(path)
        except OSError:
            logger.exception("Cannot delete a workspace; the next start tries again")
