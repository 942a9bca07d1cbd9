"""Clients that stop in the middle of a request: they slow nobody, and do not hold their connection for ever."""

from __future__ import annotations

import json
import socket
import statistics
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from api.http.multipart import _FileSink
from tests.http.conftest import Client
from tests.process import START
from tests.scripted_engine import ScriptedEngine
from tests.server import make_settings, running, wait_for

STALLED = 50
IDLE = 0.4  # seconds
HEAD = f"POST {START} HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=x\r\n".encode()
PART = b'--x\r\nContent-Disposition: form-data; name="image"; filename="x"\r\n\r\n'
UPLOAD = HEAD + b"Content-Length: 5000000\r\n\r\n" + PART + bytes(600_000)  # of which the first half MB is on the disk


def connect(client: Client) -> socket.socket:
    base = client.http.base_url
    return socket.create_connection((base.host, base.port or 0), timeout=20)


def parts(client: Client) -> int:
    return len(list(client.run.service.uploads.directory.glob("*.part")))


def health_latency(client: Client) -> float:
    """Median of seconds."""

    def once() -> float:
        started = time.perf_counter()
        assert client.http.get("/api/health").status_code == 200
        return time.perf_counter() - started

    return statistics.median(once() for _ in range(40))


def test_stalled_uploads_do_not_slow_health(shared: Client) -> None:
    health_latency(shared)  # warm
    alone = health_latency(shared)
    with ExitStack() as open_connections:
        for _ in range(STALLED):
            open_connections.enter_context(connect(shared)).sendall(UPLOAD)
        wait_for(lambda: parts(shared) == STALLED)
        beside = health_latency(shared)
        assert parts(shared) == STALLED
        assert shared.finish(shared.start())["status"] == "COMPLETED"  # and others' uploads get through
    assert beside < 10 * alone + 0.1
    wait_for(lambda: parts(shared) == 0)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory, wav: bytes) -> Iterator[Client]:
    """Of an impatient service."""
    engine = ScriptedEngine()
    settings = make_settings(tmp_path_factory.mktemp("impatient"), server={"idle_timeout": IDLE})
    with running(settings, engine) as run:
        yield Client(run, engine, wav)


def answer(connection: socket.socket) -> bytes:
    """Everything until the server closes the connection."""
    received = b""
    while chunk := connection.recv(65536):
        received += chunk
    return received


def check_timeout(received: bytes) -> dict[str, Any]:
    head, _, body = received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 408 Request Timeout")
    fields: dict[str, Any] = json.loads(body)
    assert (set(fields), fields["code"]) == ({"error", "detail", "code", "request_id"}, "request_timeout")
    assert f"X-Request-ID: {fields['request_id']}".encode() in head
    return fields


@pytest.mark.parametrize("sent", [b"P", HEAD, HEAD + b"Content-Length: 10\r\n\r\n", UPLOAD])
def test_a_request_that_stalls_is_ended(client: Client, sent: bytes) -> None:
    with connect(client) as connection:
        connection.sendall(sent)
        fields = check_timeout(answer(connection))
        assert f"{IDLE:g} s" in fields["detail"]
    wait_for(lambda: parts(client) == 0)


def test_the_answer_has_the_id_that_the_request_has_in_the_log(
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", logger="api.http"), connect(client) as connection:
        connection.sendall(HEAD + b"X-Request-ID: stalled-1\r\nContent-Length: 10\r\n\r\n")
        assert check_timeout(answer(connection))["request_id"] == "stalled-1"
        wait_for(lambda: any(f"POST {START} aborted" in line and "[stalled-1]" in line for line in caplog.messages))
    assert any("408 request_timeout [stalled-1]" in line for line in caplog.messages)


def test_headers_that_trickle_in_are_ended_too(client: Client) -> None:
    """Each byte comes in time; the head as a whole does not."""
    with connect(client) as connection:
        connection.settimeout(IDLE / 8)
        connection.sendall(HEAD)
        received = b""
        while not received:
            connection.sendall(b"x")
            try:
                received = connection.recv(65536)
            except TimeoutError:
                continue
        connection.settimeout(20)
        check_timeout(received + answer(connection))


def test_a_connection_without_a_request_is_closed_without_a_word(client: Client) -> None:
    with connect(client) as connection:
        assert answer(connection) == b""


def test_the_next_request_on_a_connection_is_awaited_as_patiently(client: Client) -> None:
    with connect(client) as connection:
        connection.sendall(b"GET /api/health/live HTTP/1.1\r\nHost: x\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 200")
        connection.sendall(b"GET /api/hea")
        check_timeout(answer(connection))


def test_a_slow_but_steady_upload_is_accepted(client: Client) -> None:
    """All of it takes several times as long as a single pause may."""
    request = client.http.build_request("POST", START, data={"emotion": "sad"}, files={"image": b"x", "audio": b"y"})
    content = request.read()
    kind = request.headers["content-type"]
    step = -(-len(content) // 12)
    with connect(client) as connection:
        connection.sendall(
            f"POST {START} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: {kind}\r\n"
            f"Content-Length: {len(content)}\r\n\r\n".encode()
        )
        connection.settimeout(IDLE / 4)
        for at in range(0, len(content), step):
            connection.sendall(content[at : at + step])
            with pytest.raises(TimeoutError):  # no answer yet: this is the pause
                connection.recv(1)
            if at + 2 * step >= len(content):
                break
        connection.settimeout(20)
        connection.sendall(content[at + step :])
        assert answer(connection).startswith(b"HTTP/1.1 415")  # the whole has been read, and is no picture


def test_a_client_that_waits_for_its_answer_is_not_stalled(tmp_path: Path, wav: bytes) -> None:
    engine = ScriptedEngine()
    engine.loading.clear()
    settings = make_settings(tmp_path, server={"idle_timeout": IDLE})
    with running(settings, engine, wait_loaded=False) as run, ThreadPoolExecutor(1) as pool:
        client = Client(run, engine, wav)
        waiting = pool.submit(client.start)
        wait_for(lambda: parts(client) == 2)  # all of it has been received
        enough = time.monotonic() + 2 * IDLE
        wait_for(lambda: time.monotonic() > enough)
        engine.loading.set()
        assert waiting.result(30).status_code == 202


def test_a_connection_between_requests_is_not_stalled(client: Client) -> None:
    with connect(client) as connection:
        for pause in (IDLE / 2, IDLE / 2, 2 * IDLE):
            connection.settimeout(20)
            connection.sendall(b"GET /api/health/live HTTP/1.1\r\nHost: x\r\n\r\n")
            assert connection.recv(65536).startswith(b"HTTP/1.1 200")
            connection.settimeout(pause)
            with pytest.raises(TimeoutError):  # nothing more, and no end: this is the pause
                connection.recv(1)


def test_a_client_that_the_service_lets_wait_is_not_stalled(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is slow: no more is read from the connection for a while."""
    flush, go_on = _FileSink.flush, threading.Event()

    def slow(sink: _FileSink) -> None:
        assert go_on.wait(20)
        flush(sink)

    monkeypatch.setattr(_FileSink, "flush", slow)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.start, image=bytes(5_000_000))
        enough = time.monotonic() + 3 * IDLE
        wait_for(lambda: time.monotonic() > enough)
        go_on.set()
        assert waiting.result(30).status_code == 415


def test_a_client_that_went_away_is_forgotten(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="api.http"):
        with connect(client) as connection:
            connection.sendall(HEAD)
        enough = time.monotonic() + 2 * IDLE
        wait_for(lambda: time.monotonic() > enough)
    assert caplog.messages == []
