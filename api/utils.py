"""Small helpers that several parts of the service need."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path


def fsync(path: Path) -> None:
    """Flush a file, or the entries of a directory, to the disk. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_json(value: object) -> str:
    """SHA-256, in hex, of a JSON-serialisable value; the order of keys does not matter."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
