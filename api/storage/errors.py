"""Errors of the disk and of the journal."""

from __future__ import annotations

import errno
import os
from pathlib import Path


class JournalError(Exception):
    """The journal cannot be opened; the message says why and what to do."""


class JournalWriteError(OSError):
    """The journal cannot be read or written, for a reason other than a full disk."""

    def __init__(self, reason: str, path: Path) -> None:
        super().__init__(errno.EIO, reason, str(path))


def is_disk_full(error: OSError) -> bool:
    """Whether the error means that no space is left: on the disk, in a quota, or below a file size limit."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def disk_full(path: Path) -> OSError:
    """The operating system's error for a full disk."""
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
