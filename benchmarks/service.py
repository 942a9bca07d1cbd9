"""What the service costs beside a bare FastAPI application: `python -m benchmarks.service`, --save keeps the table.

Both are server processes with the same uvicorn; this process is the client of both. Rounds alternate between the two,
and the median counts. CPU time is the server process's own, from /proc.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
import wave
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import httpx
import uvloop

from benchmarks.machine import machine
from benchmarks.service_servers import ENDLESS

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "service.md"
START = "/api/v1/synthesis/start"
KINDS = ("service", "bare")
ROUNDS = 5
POLLS, POLLERS = 6000, 8  # in each round, over so many connections
SUBMITS, SUBMITTERS = 60, 4
LARGE_MB = 40
POLL_TARGET_MS = 0.3
TICK = os.sysconf("SC_CLK_TCK")
_LENGTH = re.compile(rb"\r\ncontent-length: (\d+)\r\n", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Server:
    """A server process and a running task of it."""

    pid: int
    url: str
    status_path: str

    def cpu_seconds(self) -> float:
        """Of all its threads so far, in user and system mode."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICK

    def memory_mb(self, name: str) -> float:
        """VmRSS: now; VmHWM: the peak since `forget_peak`."""
        match = re.search(rf"{name}:\s+(\d+) kB", Path(f"/proc/{self.pid}/status").read_text())
        assert match is not None
        return int(match[1]) / 1024

    def forget_peak(self) -> None:
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")


@contextmanager
def serving(kind: str) -> Iterator[Server]:
    command = [sys.executable, "-m", "benchmarks.service_servers", kind]
    with tempfile.TemporaryDirectory() as directory:
        process = subprocess.Popen(
            [*command, directory], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            yield Server(process.pid, url, _begin_task(url))
        finally:
            process.kill()
            process.communicate()


def form(audio: bytes, seed: int) -> tuple[bytes, bytes]:
    """A request's head and body."""
    files = {"image": (ROOT / "examples" / "portrait.jpg").read_bytes(), "audio": audio}
    request = httpx.Request("POST", f"http://x{START}", data={"emotion": "happy", "seed": str(seed)}, files=files)
    body = request.read()
    head = f"POST {START} HTTP/1.1\r\nHost: x\r\nContent-Type: {request.headers['content-type']}\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode(), body


def _begin_task(url: str) -> str:
    """Submit a task that goes on for ever; its status path."""
    head, body = form((ROOT / "examples" / "speech_en.wav").read_bytes(), ENDLESS)
    kind = re.search(rb"Content-Type: (.*)\r\n", head)
    assert kind is not None
    answer = httpx.post(url + START, content=body, headers={"content-type": kind[1].decode()}, timeout=60)
    path = str(answer.raise_for_status().json()["status_url"])
    while httpx.get(url + path).json()["status"] != "PROCESSING":
        time.sleep(0.05)
    return path


class Requester(asyncio.Protocol):
    """Sends one request again and again over a connection, so many times."""

    def __init__(self, request: bytes, times: int, status: bytes) -> None:
        self._request, self._left, self._status = request, times, b"HTTP/1.1 " + status
        self._received = b""
        self._transport: asyncio.WriteTransport | None = None
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)  # uvloop's is one, though no subclass
        self._transport.write(self._request)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(RuntimeError(f"the server has closed the connection: {exc}"))

    def data_received(self, data: bytes) -> None:
        self._received += data
        end = self._received.find(b"\r\n\r\n")
        length = _LENGTH.search(self._received, 0, end + 2)
        if length is None or len(self._received) < end + 4 + int(length[1]) or self._transport is None:
            return
        if not self._received.startswith(self._status):
            self.done.set_exception(RuntimeError(self._received.decode("latin-1")))
            return
        self._received = b""
        self._left -= 1
        if self._left == 0:
            self.done.set_result(None)
        else:
            self._transport.write(self._request)


async def _send(server: Server, request: bytes, status: bytes, total: int, connections: int) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    loop = asyncio.get_running_loop()
    opened = [
        await loop.create_connection(lambda: Requester(request, total // connections, status), host, int(port))
        for _ in range(connections)
    ]
    async with asyncio.timeout(60):
        await asyncio.gather(*(protocol.done for _, protocol in opened))
    for transport, _ in opened:
        transport.close()


def load(server: Server, request: bytes, status: bytes, total: int, connections: int) -> tuple[float, float]:
    """Requests a second, and milliseconds of the server's CPU for each."""
    cpu, started = server.cpu_seconds(), time.perf_counter()
    uvloop.run(_send(server, request, status, total, connections))
    took = time.perf_counter() - started
    return total / took, (server.cpu_seconds() - cpu) / total * 1000


def alternate(servers: dict[str, Server], rounds: int, *, submits: bool) -> dict[str, tuple[float, float]]:
    """Medians of `load` by kind of server."""
    found: dict[str, list[tuple[float, float]]] = {kind: [] for kind in servers}
    head, body = form((ROOT / "examples" / "speech_en.wav").read_bytes(), 1)
    for turn in range(rounds + 1):
        for kind, server in servers.items():
            if submits:
                figures = load(server, head + body, b"202", SUBMITS, SUBMITTERS)
            else:
                poll = f"GET {server.status_path} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
                figures = load(server, poll, b"200", POLLS, POLLERS)
            if turn > 0:  # the first round warms up
                found[kind].append(figures)
    return {
        kind: (statistics.median(rate for rate, _ in each), statistics.median(cpu for _, cpu in each))
        for kind, each in found.items()
    }


def upload_memory(server: Server, directory: Path) -> float:
    """MB by which the server grows while it accepts a large recording."""
    path = directory / "large.wav"
    with wave.open(str(path), "wb") as recording:
        recording.setnchannels(2)
        recording.setsampwidth(2)
        recording.setframerate(48000)
        recording.writeframes(os.urandom(LARGE_MB << 20))
    head, body = form(path.read_bytes(), 2)
    before = server.memory_mb("VmRSS")
    server.forget_peak()
    uvloop.run(_send(server, head + body, b"202", 1, 1))
    return server.memory_mb("VmHWM") - before


def table(rounds: int) -> str:
    """Measure both and say what came out."""
    with ExitStack() as stack:
        servers = {kind: stack.enter_context(serving(kind)) for kind in KINDS}
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        polls = alternate(servers, rounds, submits=False)
        submits = alternate(servers, rounds, submits=True)
        memory = {kind: upload_memory(server, directory) for kind, server in servers.items()}
    rows: list[tuple[str, list[float], str]] = [
        ("status polls a second", [polls[kind][0] for kind in KINDS], ".0f"),
        (f"CPU for a status poll, ms (target < {POLL_TARGET_MS})", [polls[kind][1] for kind in KINDS], ".3f"),
        ("submits a second", [submits[kind][0] for kind in KINDS], ".0f"),
        ("CPU for a submit, ms", [submits[kind][1] for kind in KINDS], ".1f"),
        (f"memory while a recording of {LARGE_MB} MB is accepted, MB more", [memory[kind] for kind in KINDS], ".0f"),
    ]
    lines = [
        "# The service beside a bare FastAPI application",
        "",
        f"{machine()}; medians of {rounds} rounds of {POLLS} polls of a running task over {POLLERS} connections and of "
        f"{SUBMITS} submits of the examples over {SUBMITTERS}. Made by `python -m benchmarks.service --save`.",
        "",
        "The bare application answers with the same models through the same uvicorn. It takes files as `UploadFile`, "
        "stores them and checks nothing; the service decodes both to prove that they are whole. No engine works "
        "meanwhile, and the client is another process.",
        "",
        "| | service | bare FastAPI | ratio |",
        "|---|---|---|---|",
        *(f"| {name} | {own:{style}} | {other:{style}} | {own / other:.2f} |" for name, (own, other), style in rows),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="What the service costs beside a bare FastAPI application.")
    parser.add_argument("--save", action="store_true", help="write the table to benchmarks/results/")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="of each measurement")
    options = parser.parse_args()
    text = table(options.rounds)
    print(text)
    if options.save:
        RESULTS.write_text(text)
