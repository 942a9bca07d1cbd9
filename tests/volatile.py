"""Directories in memory, for tests that write much and do not ask what a loss of power leaves."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_MEMORY = Path("/dev/shm")


@contextmanager
def volatile_directory() -> Iterator[Path]:
    """An empty directory, in memory where the system has such; gone with the context."""
    with tempfile.TemporaryDirectory(dir=_MEMORY if _MEMORY.is_dir() else None) as directory:
        yield Path(directory)
