"""Part of benchmarks/journal.py: a server with a busy worker, and clients that listen to its events."""

from __future__ import annotations

import asyncio
import re
import resource
import socket
import statistics
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import cast

import httpx
import uvloop

from benchmarks.service import Requester, Server, serving

LISTENERS = 500
POLLS, POLLERS = 4000, 8
STEPS_SECONDS = 4.0  # in which the worker's steps are counted
_EVENT = b"\nevent: "


class Load(StrEnum):
    """Who listens."""

    NOBODY = "nobody"
    MANY = f"{LISTENERS} clients, and one that reads nothing"


@dataclass(frozen=True, slots=True)
class Answers:
    """Of a server, a second."""

    polls: float
    steps: float
    events: float


class Listener(asyncio.Protocol):
    """Opens a stream and counts its events; one that is `deaf` reads nothing."""

    def __init__(self, request: bytes, *, deaf: bool) -> None:
        self._request, self._deaf = request, deaf
        self.events = 0
        self.begun: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        opened = cast(asyncio.Transport, transport)  # uvloop's is one, though no subclass
        opened.write(self._request)
        if self._deaf:
            opened.pause_reading()
            self.begun.set_result(None)

    def data_received(self, data: bytes) -> None:
        self.events += data.count(_EVENT)
        if self.events and not self.begun.done():
            self.begun.set_result(None)


def measure(rounds: int) -> dict[Load, Answers]:
    """Medians; the rounds alternate between the two."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # the server that is begun now inherits it
    found: dict[Load, list[Answers]] = {load: [] for load in Load}
    with serving("reporting") as server:
        for turn in range(rounds + 1):
            for load, seen in found.items():
                answers = uvloop.run(_round(server, LISTENERS if load is Load.MANY else 0))
                if turn > 0:  # the first round warms up
                    seen.append(answers)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return {
        load: Answers(*(statistics.median(getattr(one, name) for one in seen) for name in ("polls", "steps", "events")))
        for load, seen in found.items()
    }


async def _round(server: Server, listeners: int) -> Answers:
    loop = asyncio.get_running_loop()
    async with _listening(server, listeners) as opened:
        first, before, started = await _steps(server), _events(opened), loop.time()
        await asyncio.sleep(STEPS_SECONDS)
        last, after, took = await _steps(server), _events(opened), loop.time() - started
        started = loop.time()
        await _poll(server)
        return Answers(POLLS / (loop.time() - started), (last - first) / took, (after - before) / took)


@asynccontextmanager
async def _listening(server: Server, listeners: int) -> AsyncIterator[list[Listener]]:
    request = f"GET {server.status_path.replace('/status', '/events')} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    opened = []
    for number in range(listeners + 1 if listeners else 0):
        opened.append(await _connect(server, Listener(request, deaf=number == listeners)))
    async with asyncio.timeout(60):
        for _, listener in opened:
            await listener.begun
    yield [listener for _, listener in opened]
    for transport, _ in opened:
        transport.abort()


async def _connect(server: Server, listener: Listener) -> tuple[asyncio.Transport, Listener]:
    host, port = server.url.removeprefix("http://").split(":")
    plain = socket.socket()
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # what is not read soon fills the server's side
    plain.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(plain, (host, int(port)))
    transport, _ = await loop.create_connection(lambda: listener, sock=plain)
    return transport, listener


async def _poll(server: Server) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    poll = f"GET {server.status_path} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    loop = asyncio.get_running_loop()
    opened = [
        await loop.create_connection(lambda: Requester(poll, POLLS // POLLERS, b"200"), host, int(port))
        for _ in range(POLLERS)
    ]
    async with asyncio.timeout(120):
        await asyncio.gather(*(requester.done for _, requester in opened))
    for transport, _ in opened:
        transport.close()


async def _steps(server: Server) -> int:
    """How many the worker has done."""
    async with httpx.AsyncClient(timeout=60) as client:
        answer = await client.get(server.url + server.status_path)
    found = re.search(r"frame (\d+) of", answer.json()["message"])
    assert found is not None, answer.text
    return int(found[1])


def _events(opened: list[Listener]) -> int:
    return sum(listener.events for listener in opened)
