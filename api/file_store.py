"""Files shared by several tasks: each stays until its last holder lets go."""

from __future__ import annotations

import re
import threading
import time
from collections import Counter
from pathlib import Path

_OURS = re.compile(r"[0-9a-f]{64}(\.mp4)?|.+\.part")


class FileStore:
    """Content-addressed files in one directory, counted by holder. Safe to use from any thread."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self._holders: Counter[str] = Counter()
        self._lock = threading.Lock()

    def path(self, name: str) -> Path:
        """Where the file is, or will be."""
        return self.directory / name

    def adopt(self, source: Path, name: str) -> Path:
        """Move `source` here as `name`, unless the same content is here already, and hold it once."""
        with self._lock:
            path = self.path(name)
            if path.exists():
                source.unlink(missing_ok=True)
            else:
                source.replace(path)
            self._holders[name] += 1
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
            self.path(name).unlink(missing_ok=True)
            return True

    def sweep(self, older_than_seconds: float) -> int:
        """Remove what an earlier run of the service left here; returns how many files. Other files stay."""
        removed = 0
        before = time.time() - older_than_seconds
        for path in self.directory.iterdir():
            with self._lock:
                ours = _OURS.fullmatch(path.name) and path.name not in self._holders and path.is_file()
                if ours and path.stat().st_mtime < before:
                    path.unlink(missing_ok=True)
                    removed += 1
        return removed
