"""Directories that belong to one service at a time."""

from __future__ import annotations

import errno
import fcntl
import os
import tempfile
from pathlib import Path


class Claim:
    """A directory that this process holds until `close`, or its end, whatever that is.

    Makes the directory where it is missing. Raises OSError when no file can be made in it, or another service has it.
    """

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(directory, os.O_RDONLY)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            tempfile.TemporaryFile(dir=directory).close()
        except BlockingIOError:
            self.close()
            raise OSError(errno.EBUSY, "another service uses this directory", str(directory)) from None
        except OSError as error:  # better now than when the first client sends its files
            self.close()
            raise OSError(error.errno, f"no file can be made here ({error.strerror})", str(directory)) from error

    def sync(self) -> None:
        """Return when the names of its files are on the disk."""
        os.fsync(self._descriptor)

    def close(self) -> None:
        """Leave the directory to others."""
        os.close(self._descriptor)
