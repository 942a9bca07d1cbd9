"""Exclusive locks on directories."""

from __future__ import annotations

import errno
import fcntl
import os
import tempfile
from pathlib import Path


class DirectoryLock:
    """Exclusive lock on a directory, released by `close` or when the process exits.

    Creates the directory if it is missing. Raises OSError when it is not writable or another process holds the lock.
    """

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(directory, os.O_RDONLY)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Fail fast on a directory that is not writable, not with the first upload.
            tempfile.TemporaryFile(dir=directory).close()
        except BlockingIOError:
            self.close()
            raise OSError(errno.EBUSY, "in use by another instance of the service", str(directory)) from None
        except OSError as error:
            self.close()
            raise OSError(error.errno, f"cannot create a file here ({error.strerror})", str(directory)) from error

    def sync(self) -> None:
        """fsync the directory. Raises OSError."""
        os.fsync(self._descriptor)

    def close(self) -> None:
        """Release the lock."""
        os.close(self._descriptor)
