"""The server that the cases are sent to: a process of its own, whose memory is measured."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from subprocess import Popen

import httpx

from tests.http.odd.case import Case
from tests.process import START, environment, serving
from tests.server import wait_for


@dataclass(frozen=True)
class OddServer:
    """The process, a client for it, and where it keeps its files."""

    process: Popen[str]
    client: httpx.Client
    directory: Path

    def send(self, case: Case, body: bytes) -> httpx.Response:
        headers = {b"content-type": case.content_type.encode("latin-1")}
        return self.client.post(START, content=body, headers=headers)

    def peak_mb(self) -> float:
        """The most memory that the process has had."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) / 1024


@contextmanager
def odd_server(directory: Path, *, renders: bool) -> Iterator[OddServer]:
    """Serve until the context ends; see `engine` for what is rendered."""
    # At this level the log says only what must not happen; nobody reads what goes to the terminal.
    settings = environment(directory, TASKS__MAX_QUEUE=10_000, LOGGING__LEVEL="WARNING")
    with serving(("-m", "tests.http.odd.engine"), settings | {"ODD_RENDERS": str(int(renders))}) as (process, client):
        wait_for(lambda: bool(client.get("/api/health").json()["state"] == "ready"))
        yield OddServer(process, client, directory)
