"""Whether a file is the one it should be, and the record of what was downloaded."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

RECORD_NAME = ".downloaded.json"
_CHUNK = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """Size and hash of a file's content."""

    size: int
    digest: str  # `sha256:…`, or `git:…`: the id of a git blob, which is what the hub knows of its small files

    def matches(self, path: Path) -> bool:
        """Whether `path` is a file with this content. Raises OSError if it cannot be read."""
        if not path.is_file() or path.stat().st_size != self.size:
            return False
        algorithm, _, expected = self.digest.partition(":")
        if algorithm == "sha256":
            digest = hashlib.sha256()
        else:
            digest = hashlib.sha1(b"blob %d\0" % self.size, usedforsecurity=False)
        for chunk in _chunks(path):
            digest.update(chunk)
        return digest.hexdigest() == expected


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            yield chunk


class Record:
    """`.downloaded.json` in the checkpoint directory: what the hub said about the files that were downloaded.

    With it, files can be checked where the hub cannot be asked.
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / RECORD_NAME
        self._files: dict[str, dict[str, str | int]] = {}
        with suppress(OSError, ValueError):  # without it there is less to check against, that is all
            content = json.loads(self._path.read_text(encoding="utf-8"))
            self._files = content if isinstance(content, dict) else {}

    def get(self, name: str) -> Fingerprint | None:
        """What `name` was when it was downloaded; None where that is not known."""
        try:
            entry = self._files[name]
            return Fingerprint(int(entry["size"]), str(entry["digest"]))
        except (KeyError, TypeError, ValueError):
            return None

    def put(self, name: str, fingerprint: Fingerprint, source: str) -> None:
        """Remember a file that is in place and right."""
        entry = asdict(fingerprint) | {"source": source}
        if self._files.get(name) == entry:
            return
        self._files[name] = entry
        part = self._path.with_name(f"{RECORD_NAME}.part")
        part.write_text(json.dumps(self._files, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        part.replace(self._path)


def settle(part: Path, target: Path) -> None:
    """Give a finished file its name, and not before its content is on the disk."""
    with part.open("rb") as file:
        os.fsync(file.fileno())
    part.replace(target)
