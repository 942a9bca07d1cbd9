"""The real server in a process of its own, with strings to pull: hold its engine, arm a trap, kill it."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import httpx

import api.server
from tests.chaos.engine import ClipEngine
from tests.chaos.points import Trap
from tests.process import answers, environment, free_port
from tests.server import wait_for

# Every server is forked from a process that has imported it: it starts in a fraction of a second.
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload([__name__, "engines.preview.engine"])
_SWEEP_SECONDS = 0.2  # instead of a minute


class Server:
    """A server that runs, and a client for it.

    With `clips`, it has the engine of this package, else the one of the settings. The trap can be armed from the start.
    """

    def __init__(
        self, directory: Path, *, point: str | None = None, occurrence: int = 1, clips: bool = True, **settings: object
    ) -> None:
        directory.mkdir(exist_ok=True)
        port = free_port()
        variables = environment(directory, **settings)
        self._control, theirs = _context.Pipe()
        arguments = (theirs, directory / "terminal.log", variables, port, clips, point, occurrence)
        self.process = _context.Process(target=_serve, args=arguments, daemon=True)
        self.process.start()
        theirs.close()
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30)

    def wait_ready(self) -> None:
        """Wait until it takes tasks."""
        wait_for(lambda: answers(self.client) or not self.process.is_alive())
        assert self.process.is_alive(), f"it ended with {self.process.exitcode}"
        wait_for(lambda: self.client.get("/api/health").json()["state"] == "ready")

    def arm(self, point: str | None, occurrence: int = 1) -> None:
        """Kill it where it passes a point for the nth time from now on."""
        self._do("arm", point, occurrence)

    def hold(self, held: bool) -> None:
        """Let jobs that wait in their middle do so, or go on."""
        self._do("hold", held)

    def passed(self) -> Counter[str]:
        """How often each point was passed since `arm`."""
        return Counter(self._do("passed"))

    def wait_killed(self, seconds: float = 30) -> str | None:
        """Wait for its end; the point where the trap killed it, if it was that."""
        self.process.join(seconds)
        assert self.process.exitcode is not None, "it still runs"
        told = None
        try:
            while self._control.poll():
                told = self._control.recv()
        except EOFError:
            pass
        return told if isinstance(told, str) else None

    def kill(self) -> None:
        self.process.kill()
        self.process.join()

    def close(self) -> None:
        self.client.close()
        self.kill()
        self._control.close()
        self.process.close()

    def _do(self, *command: Any) -> Any:
        self._control.send(command)
        assert self._control.poll(10), "it does not listen"
        return self._control.recv()


@contextmanager
def serving(directory: Path, **options: Any) -> Iterator[Server]:
    """A server that is ready, until the context ends: then it is killed."""
    server = Server(directory, **options)
    try:
        server.wait_ready()
        yield server
    finally:
        server.close()


def _serve(
    control: Connection,
    terminal: Path,
    variables: Mapping[str, str],
    port: int,
    clips: bool,
    point: str | None,
    occurrence: int,
) -> None:
    with terminal.open("ab") as file:
        os.dup2(file.fileno(), sys.stderr.fileno())
    os.environ.clear()
    os.environ.update(variables)
    held = threading.Event()
    held.set()
    trap = Trap(control.send)
    trap.install()
    trap.arm(point, occurrence)
    threading.Thread(target=_obey, args=(control, trap, held), daemon=True).start()
    api.server.SWEEP_SECONDS = _SWEEP_SECONDS
    arguments = ["--host", "127.0.0.1", "--port", str(port)]
    sys.exit(api.server.main(arguments, ClipEngine(held) if clips else None))


def _obey(control: Connection, trap: Trap, held: threading.Event) -> None:
    while True:
        try:
            name, *values = control.recv()
        except EOFError:  # the test has ended
            os._exit(0)
        if name == "arm":
            trap.arm(*values)
        elif name == "hold" and values[0]:
            held.set()
        elif name == "hold":
            held.clear()
        control.send(dict(trap.passed))
