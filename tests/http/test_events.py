"""A task's events over HTTP: for curl, for a browser's EventSource, and for many at once."""

from __future__ import annotations

import asyncio
import logging
import resource
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from engines.base import Stage
from tests.browser import open_page
from tests.http.conftest import Client, check_error
from tests.scripted_engine import ScriptedEngine
from tests.server import make_settings, running, wait_for
from tests.sse import Parser, Sent

LISTENERS = 500


def events_url(accepted: httpx.Response) -> str:
    return str(accepted.json()["status_url"]).replace("status", "events")


class Stream:
    """A connection that reads as far as a test wants."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self.parser = Parser()
        self.raw = b""
        self._chunks = response.iter_bytes()

    def next(self) -> Sent:
        """Wait for one more event."""
        before = len(self.parser.events)
        while len(self.parser.events) == before:
            chunk = next(self._chunks)
            assert not chunk.startswith(b":"), "no event came in a heartbeat's time"
            self._feed(chunk)
        return self.parser.events[-1]

    def rest(self) -> Parser:
        """All until the service ends the stream."""
        for chunk in self._chunks:
            self._feed(chunk)
        return self.parser

    def _feed(self, chunk: bytes) -> None:
        self.raw += chunk
        self.parser.feed(chunk)


@contextmanager
def listening(client: Client, url: str, last_event_id: int | str | None = None) -> Iterator[Stream]:
    headers = {} if last_event_id is None else {"Last-Event-ID": str(last_event_id)}
    with client.http.stream("GET", url, headers=headers) as response:
        assert response.status_code == 200
        yield Stream(response)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory, wav: bytes) -> Iterator[Client]:
    """Of a service with one worker."""
    engine = ScriptedEngine()
    settings = make_settings(tmp_path_factory.mktemp("events"), tasks={"max_workers": 1})
    with running(settings, engine) as run:
        yield Client(run, engine, wav)
        engine.go_on()


def begun(client: Client, **fields: Any) -> httpx.Response:
    """A task at which the engine works, and stays until it is let go on."""
    client.engine.hold()
    accepted = client.start(**fields)
    wait_for(lambda: client.http.get(accepted.json()["status_url"]).json()["status"] == "PROCESSING")
    return accepted


def listened(client: Client, accepted: httpx.Response) -> bool:
    return client.run.service.events.watched(accepted.json()["task_id"])


def test_a_task_is_followed_to_its_end(client: Client) -> None:
    accepted = begun(client, seed=1)
    with listening(client, events_url(accepted)) as stream:
        headers = stream.response.headers
        assert headers["content-type"] == "text/event-stream; charset=utf-8"
        assert (headers["cache-control"], headers["x-accel-buffering"]) == ("no-store", "no")
        first = stream.next()
        assert (first.name, first.body["status"]) == ("progress", "PROCESSING")
        client.engine.go_on()
        heard = stream.rest()
    assert heard.names == ["progress"] * (len(heard.names) - 1) + ["completed"]
    assert heard.ids == sorted(set(heard.ids))
    assert list(dict.fromkeys(event.body["stage"] for event in heard.events)) == ["preparing", "rendering", "encoding"]
    status = client.http.get(accepted.json()["status_url"])
    assert b"data: " + status.content + b"\n" in stream.raw  # to the byte
    with listening(client, events_url(accepted)) as late:
        assert late.rest().events == heard.events[-1:]


def test_a_task_that_fails(client: Client) -> None:
    client.engine.failures.append(RuntimeError("broken"))
    accepted = begun(client, seed=2)
    with listening(client, events_url(accepted)) as stream:
        client.engine.go_on()
        last = stream.rest().events[-1]
    assert (last.name, last.body["error_code"]) == ("failed", "internal")


def test_a_waiting_task_hears_its_place_in_the_queue(client: Client) -> None:
    begun(client, seed=3)
    ahead, waiting = client.start(seed=4), client.start(seed=5)
    with listening(client, events_url(waiting)) as stream:
        assert stream.next().body["queue_position"] == 2
        client.http.post(f"{events_url(ahead).removesuffix('/events')}/cancel")
        moved = stream.next()
        assert (moved.name, moved.body["queue_position"]) == ("queued", 1)
        client.engine.go_on()
        assert stream.rest().names[-1] == "completed"


def test_a_lost_connection_is_resumed_without_a_gap(client: Client) -> None:
    accepted = begun(client, seed=6)
    url = events_url(accepted)
    with listening(client, url) as whole:
        whole.next()
        with listening(client, url) as lost:
            last_seen = lost.next().id
        client.engine.go_on()
        expected = [event for event in whole.rest().events if event.id > last_seen]
    assert len(expected) >= 3
    for seen in (last_seen, *(event.id for event in expected[:-1])):
        with listening(client, url, seen) as back:
            assert back.rest().events == [event for event in expected if event.id > seen]
    with listening(client, url, 12345) as unknown:
        assert unknown.rest().events == expected[-1:]


def test_who_has_seen_the_end_is_told_not_to_come_back(client: Client) -> None:
    accepted = client.start(seed=7)
    client.engine.go_on()
    with listening(client, events_url(accepted)) as stream:
        last = stream.rest().ids[-1]
    for method in ("GET", "HEAD"):
        answer = client.http.request(method, events_url(accepted), headers={"Last-Event-ID": str(last)})
        assert (answer.status_code, answer.content) == (204, b"")


def test_head_tells_of_a_stream_and_begins_none(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    accepted = begun(client, seed=8)
    url = events_url(accepted)
    with caplog.at_level(logging.INFO, "api.http"):
        answer = client.http.head(url)
        wait_for(lambda: f"HEAD {url} 200" in caplog.text, 10)  # it does not go on as long as the task
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert "content-length" not in answer.headers
    client.engine.go_on()
    client.finish(accepted)


def test_tasks_that_are_not_there_any_more(client: Client, tmp_path: Path, wav: bytes) -> None:
    check_error(client.http.get(f"/api/v1/synthesis/{'0' * 32}/events"), 404, "task_not_found")
    engine = ScriptedEngine()
    with running(make_settings(tmp_path, tasks={"retention_hours": 1e-6}), engine) as run:
        accepted = Client(run, engine, wav).start()
        wait_for(lambda: run.client.get(accepted.json()["status_url"]).status_code == 410)
        check_error(run.client.get(events_url(accepted)), 410, "task_expired")


def test_a_deleted_task_ends_its_streams(client: Client) -> None:
    accepted = begun(client, seed=9)
    with listening(client, events_url(accepted)) as stream:
        stream.next()
        client.http.delete(events_url(accepted).removesuffix("/events"))
        stream.rest()
    check_error(client.http.get(events_url(accepted)), 404, "task_not_found")
    client.engine.go_on()


def test_a_client_that_goes_leaves_nothing_behind(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    accepted = begun(client, seed=10)
    url = events_url(accepted)
    with caplog.at_level(logging.INFO, "api.http"):
        with listening(client, url) as stream:
            stream.next()
            assert listened(client, accepted)
            assert url not in caplog.text
        wait_for(lambda: not listened(client, accepted))
        wait_for(lambda: f"GET {url} 200" in caplog.text)  # its one line, at its end
    client.engine.go_on()
    client.finish(accepted)


def connect(client: Client, url: str) -> socket.socket:
    """Ask, and read nothing."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    base = client.http.base_url
    connection.connect((base.host, base.port or 0))
    connection.sendall(f"GET {url} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    return connection


def test_a_client_that_reads_nothing_holds_up_nobody_and_can_go(client: Client) -> None:
    accepted = begun(client, seed=11)
    url, events = events_url(accepted), client.run.service.events
    with closing(connect(client, url)):
        wait_for(lambda: listened(client, accepted))
        with listening(client, url) as stream:
            stream.next()
            report = client.run.service.task_manager.get(accepted.json()["task_id"])
            for number in range(60):  # 6 MB, more than fits into buffers between the two
                stage = (Stage.RENDERING, Stage.ENCODING)[number % 2]
                events.changed(replace(report, task=replace(report.task, stage=stage, message="x" * 100_000)))
                stream.next()
            client.engine.go_on()
            assert stream.rest().names[-1] == "completed"
        assert client.finish(client.start(seed=12))["status"] == "COMPLETED"
        assert listened(client, accepted)  # by the one that stands still
    wait_for(lambda: not listened(client, accepted))


@pytest.fixture
def many_files() -> Iterator[None]:
    """Both ends of the connections are in this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < 2048:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096) if hard > 0 else 4096, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def last_words(host: str, port: int, url: str, ready: asyncio.Semaphore) -> bytes:
    """What comes at the end of a stream; `ready` is released when it has begun."""
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(f"GET {url} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    received = await reader.readuntil(b"event: progress")
    ready.release()
    received += await reader.read()
    writer.close()
    await writer.wait_closed()
    return received[-3000:]


@pytest.mark.usefixtures("many_files")
def test_five_hundred_listeners_and_one_that_reads_nothing(client: Client) -> None:
    accepted = begun(client, seed=13)
    base, url = client.http.base_url, events_url(accepted)
    threads = threading.active_count()

    async def scenario() -> list[bytes]:
        ready = asyncio.Semaphore(0)
        listeners = [asyncio.create_task(last_words(base.host, base.port or 0, url, ready)) for _ in range(LISTENERS)]
        for _ in listeners:
            await ready.acquire()
        assert threading.active_count() < threads + 10  # streams need none, but chores come and go
        other = await asyncio.to_thread(client.start, seed=14)  # the service is there for others
        assert other.status_code == 202
        client.engine.go_on()
        return await asyncio.wait_for(asyncio.gather(*listeners), 30)

    with closing(connect(client, url)):
        ends = asyncio.run(scenario())
    assert [end.count(b"event: completed") for end in ends] == [1] * LISTENERS
    wait_for(lambda: not listened(client, accepted))


def test_the_end_of_the_service_ends_streams(tmp_path: Path, wav: bytes) -> None:
    engine = ScriptedEngine()
    settings = make_settings(tmp_path, tasks={"max_workers": 1, "shutdown_grace": 0})
    with running(settings, engine) as run, ThreadPoolExecutor(1) as pool:
        client = Client(run, engine, wav)
        first, second = begun(client, seed=1), client.start(seed=2)
        with listening(client, events_url(first)) as of_first, listening(client, events_url(second)) as of_second:
            assert (of_first.next().name, of_second.next().name) == ("progress", "queued")
            draining = pool.submit(run.service.drain)
            assert of_first.rest().names[-1] == "queued"  # the next service runs it again
            assert of_second.rest().names[-1] == "queued"
            assert draining.result(10)


LISTEN = """url => new Promise(resolve => {
    const source = new EventSource(url), heard = [];
    for (const name of ["queued", "progress", "completed", "failed"])
        source.addEventListener(name, event => {
            heard.push([name, event.lastEventId, JSON.parse(event.data).status]);
            document.title = name;
        });
    source.onerror = () => {  // once when the stream has ended, and again when it is told not to come back
        if (source.readyState === EventSource.CLOSED) resolve(heard);
    };
})"""


def test_a_browser_hears_all_and_stops_at_the_end(client: Client) -> None:
    """Without a call of close(): EventSource connects once more, and 204 tells it that there is no more."""
    accepted = begun(client, seed=15)
    with open_page() as page:
        page.goto(f"{client.run.url}/api/health")
        heard = page.evaluate_handle(f"url => ({{ promise: ({LISTEN})(url) }})", events_url(accepted))
        page.wait_for_function("document.title === 'progress'")
        client.engine.go_on()
        told = heard.evaluate("heard => heard.promise")
    assert [name for name, _, _ in told][-1] == "completed"
    assert [status for _, _, status in told] == ["PROCESSING"] * (len(told) - 1) + ["COMPLETED"]
    assert [int(known) for _, known, _ in told] == sorted({int(known) for _, known, _ in told})
