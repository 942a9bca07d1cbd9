"""Server-sent events as a client reads them: https://html.spec.whatwg.org/multipage/server-sent-events.html"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Sent:
    """One event, and what its data says."""

    name: str
    id: int
    body: dict[str, Any]


class Parser:
    """Takes chunks, cut anywhere."""

    def __init__(self) -> None:
        self.events: list[Sent] = []
        self.comments: list[str] = []
        self.retry: int | None = None
        self._rest = b""
        self._fields: dict[str, str] = {}
        self._id = -1

    def feed(self, chunk: bytes) -> None:
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for line in lines:
            self._take(line.decode())

    @property
    def names(self) -> list[str]:
        return [event.name for event in self.events]

    @property
    def ids(self) -> list[int]:
        return [event.id for event in self.events]

    @property
    def last_id(self) -> str | None:
        """What the client sends as Last-Event-ID when it comes back."""
        return str(self._id) if self._id >= 0 else None

    def _take(self, line: str) -> None:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if line.startswith(":"):
            self.comments.append(value)
        elif name == "retry":
            self.retry = int(value)
        elif name == "id":
            self._id = int(value)
        elif line:
            assert name in ("event", "data"), line
            assert name not in self._fields, "data must be one line"
            self._fields[name] = value
        elif self._fields:
            self.events.append(Sent(self._fields["event"], self._id, json.loads(self._fields["data"])))
            self._fields = {}


def parsed(chunks: Iterable[bytes]) -> Parser:
    """All of a stream."""
    parser = Parser()
    for chunk in chunks:
        parser.feed(chunk)
    return parser
