"""The hub of server-sent events: what listeners get, when they come, come back, fall behind and go."""

from __future__ import annotations

import asyncio
import gc
import json
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import replace
from typing import Any

import pytest

from api.http.sse import EventEncoder, event_stream
from api.http.status import StatusEncoder
from api.models import task_view
from api.records import Result, TaskErrorCode, TaskReport
from api.tasks.errors import TaskNotFoundError
from api.tasks.events import ENDED, HISTORY, Channel, Event, EventHub
from engines.base import Stage
from tests.records import pending
from tests.sse import Parser, Sent, parsed

START = 1_800_000_000.0  # seconds since the epoch

Stream = AsyncGenerator[bytes, None]


class World:
    """A hub, a clock that tests turn, and tasks that do what they are told."""

    def __init__(self, now: float = START, **settings: float) -> None:
        self.now = now
        self.hub = EventHub(EventEncoder(StatusEncoder()), now=lambda: self.now, monotonic=lambda: self.now, **settings)
        self.reports: dict[str, TaskReport] = {}

    def accept(self, task_id: str = "t", position: int = 1) -> None:
        task = pending(id=task_id, created_at=self.now, updated_at=self.now)
        self.reports[task_id] = TaskReport(task, position, 10.0)
        self.hub.changed(self.reports[task_id])

    def move(self, position: int, task_id: str = "t") -> None:
        self._publish(replace(self.reports[task_id], queue_position=position))

    def begin(self, task_id: str = "t") -> None:
        self._publish(TaskReport(self.reports[task_id].task.started(self.now), None, 10.0))

    def report(self, progress: float, stage: Stage = Stage.RENDERING, task_id: str = "t") -> None:
        task = self.reports[task_id].task.reported(self.now, stage, progress, f"At {progress}", None)
        self._publish(TaskReport(task, None, 5.0))

    def complete(self, task_id: str = "t") -> None:
        task = self.reports[task_id].task.completed(self.now, self.now + 60, Result("v.mp4", "c" * 64, 7))
        self._publish(TaskReport(task, None, None))

    def fail(self, task_id: str = "t") -> None:
        task = self.reports[task_id].task.failed(self.now, self.now + 60, TaskErrorCode.INTERNAL, "It broke.")
        self._publish(TaskReport(task, None, None))

    def run(self, steps: int = 3, task_id: str = "t") -> None:
        """A whole life with so many steps, a second each."""
        self.accept(task_id)
        self.begin(task_id)
        for step in range(steps):
            self.now += 1
            self.report((step + 1) / (steps + 1), task_id=task_id)
        self.now += 1
        self.complete(task_id)

    def stream(self, last_event_id: str | None = None, task_id: str = "t") -> Stream:
        return event_stream(self.hub.stream(task_id, lambda: self.reports[task_id], last_event_id))

    def read(self, last_event_id: str | None = None, task_id: str = "t") -> Parser:
        """All of the stream of a task that has ended."""
        return asyncio.run(whole(self.stream(last_event_id, task_id)))

    def glance(self, task_id: str = "t") -> str:
        """The id that a client has who looked once."""

        async def look() -> str:
            async with aclosing(self.stream(task_id=task_id)) as stream:
                return str((await Listener(stream).next()).id)

        return asyncio.run(look())

    def _publish(self, report: TaskReport) -> None:
        self.reports[report.task.id] = report
        self.hub.changed(report)


async def whole(stream: Stream) -> Parser:
    async with asyncio.timeout(10), aclosing(stream):
        return parsed([chunk async for chunk in stream])


class Listener:
    """Reads a stream as far as a test wants."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.parser = Parser()

    async def next(self) -> Sent:
        """Wait for one more event."""
        before = len(self.parser.events)
        await self.until(lambda parser: len(parser.events) > before)
        return self.parser.events[-1]

    async def until(self, condition: Callable[[Parser], bool]) -> None:
        async with asyncio.timeout(10):
            while not condition(self.parser):
                self.parser.feed(await anext(self.stream))

    async def ended(self) -> bool:
        """Whether nothing follows; raises TimeoutError when the stream stays open."""
        async with asyncio.timeout(10):
            return [chunk async for chunk in self.stream] == []


def alive(kind: type) -> int:
    """How many objects of this class there are."""
    gc.collect()
    # Not isinstance, which asks an object for its class: some of torch warn of themselves then.
    return sum(type(thing) is kind for thing in gc.get_objects())


def test_a_task_from_the_queue_to_its_end() -> None:
    world = World()

    async def scenario() -> None:
        world.accept(position=2)
        listener = Listener(world.stream())
        assert (await listener.next()).body["queue_position"] == 2
        assert listener.parser.retry == 2000
        steps: list[tuple[str, Callable[[], None]]] = [
            ("queued", lambda: world.move(1)),
            ("progress", world.begin),
            ("progress", lambda: world.report(0.25)),
            ("progress", lambda: world.report(0.5)),
            ("completed", world.complete),
        ]
        for name, step in steps:
            world.now += 1
            step()
            event = await listener.next()
            assert event.name == name
            assert event.body == json.loads(task_view(world.reports["t"]).model_dump_json())
        assert await listener.ended()
        assert listener.parser.ids == sorted(set(listener.parser.ids))

    asyncio.run(scenario())


def test_a_failure_ends_the_stream_too() -> None:
    world = World()
    world.accept()
    world.fail()
    events = world.read().events
    assert [event.name for event in events] == ["failed"]
    assert events[0].body["error_code"] == "internal"


def test_an_interrupted_task_is_queued_again() -> None:
    world = World()

    async def scenario() -> None:
        world.accept()
        world.begin()
        listener = Listener(world.stream())
        await listener.next()
        task = world.reports["t"].task.requeued(world.now)
        world.hub.changed(TaskReport(task, 1, None))
        assert (await listener.next()).name == "queued"
        assert not task.ended
        await listener.stream.aclose()

    asyncio.run(scenario())


def test_the_present_state_comes_first_with_the_newest_events_id() -> None:
    world = World()

    async def scenario() -> None:
        world.accept()
        world.begin()
        world.now += 1
        world.report(0.2)
        world.report(0.3)  # too soon after it for an event of its own
        first, second = Listener(world.stream()), Listener(world.stream())
        event = await first.next()
        assert (event.name, event.body["progress"]) == ("progress", 0.3)
        assert (await second.next()).id == event.id
        world.now += 1
        world.complete()
        assert (await first.next()).id > event.id
        await second.stream.aclose()

    asyncio.run(scenario())


@pytest.mark.parametrize("seen", range(8))
def test_resuming_anywhere_leaves_no_gap(seen: int) -> None:
    """The connection is lost after `seen` + 1 events, and the task goes on before the client is back."""
    world = World()

    async def scenario() -> tuple[list[Sent], list[Sent]]:
        world.accept()
        all_of_it, lost = Listener(world.stream()), Listener(world.stream())
        await all_of_it.next()
        await lost.next()
        for step in range(7):
            world.now += 1
            world.begin() if step == 0 else world.report(step / 10)
            await all_of_it.next()
            if step < seen:
                await lost.next()
        await lost.stream.aclose()
        world.complete()
        back = await whole(world.stream(lost.parser.last_id))
        await all_of_it.next()
        return all_of_it.parser.events, lost.parser.events + back.events

    expected, got = asyncio.run(scenario())
    assert got == expected
    assert len(got) == 9


@pytest.mark.parametrize(
    "unknown", ["0", "7", "18446744073709551616", "-1", "", "x", "１２", "9" * 5000, "1 2", str(int(START * 1e6) + 5)]
)
def test_an_id_that_is_not_known_begins_with_the_present_state(unknown: str) -> None:
    world = World()
    world.run()
    assert world.read(unknown).events == world.read().events
    assert world.read().names == ["completed"]


def test_an_id_older_than_the_history_begins_with_the_present_state() -> None:
    world = World()

    async def scenario() -> None:
        world.accept()
        world.begin()
        listener = Listener(world.stream())
        await listener.next()
        for step in range(HISTORY):
            world.now += 1
            world.report((step + 1) / 1000)
            await listener.next()
        oldest, second = listener.parser.ids[:2]
        resumed = Listener(world.stream(str(second)))
        assert (await resumed.next()).id == listener.parser.ids[2]
        anew = Listener(world.stream(str(oldest)))
        assert (await anew.next()) == listener.parser.events[-1]
        for open_one in (listener, resumed, anew):
            await open_one.stream.aclose()

    asyncio.run(scenario())


def test_reports_are_thinned_but_for_changes_of_stage() -> None:
    world = World()
    world.accept()
    first = world.glance()
    world.begin()
    for hundredth in range(200):  # two seconds, of which the second half is another stage
        world.now = START + hundredth / 100
        stage = Stage.RENDERING if hundredth < 100 else Stage.ENCODING
        world.report(hundredth / 200, stage)
    world.complete()
    events = world.read(first).events
    stages = [(event.name, event.body["stage"]) for event in events]
    assert stages == [
        ("progress", "preparing"),
        *[("progress", "rendering")] * 2,
        *[("progress", "encoding")] * 2,
        ("completed", "encoding"),
    ]
    assert [event.body["progress"] for event in events] == [0, 0, 0.25, 0.5, 0.75, 1]


def test_the_last_report_before_a_pause_comes_all_the_same() -> None:
    world = World(interval=0.05)
    world.hub = EventHub(EventEncoder(StatusEncoder()), interval=0.05)  # on real clocks

    async def scenario() -> None:
        world.accept()
        world.begin()
        listener = Listener(world.stream())
        await listener.next()
        world.report(0.1)
        world.report(0.2)
        world.report(0.3)
        await listener.until(lambda parser: parser.events[-1].body["progress"] == 0.3)
        assert [event.body["progress"] for event in listener.parser.events] == [0, 0.1, 0.3]
        world.report(0.4)
        late = Listener(world.stream(listener.parser.last_id))  # one that comes while a report is held back
        assert (await late.next()).body["progress"] == 0.4
        await listener.stream.aclose()
        await late.stream.aclose()
        world.report(0.5)
        world.report(0.6)  # with nobody there
        again = Listener(world.stream(late.parser.last_id))
        await again.until(lambda parser: bool(parser.events) and parser.events[-1].body["progress"] == 0.6)
        await again.stream.aclose()

    asyncio.run(scenario())


def test_ids_of_a_restarted_service_are_larger() -> None:
    world = World()
    world.run(steps=20)
    before = int(world.glance())
    again = World(world.now)
    again.run()
    assert int(again.glance()) > before


def test_ids_grow_when_the_clock_stands_or_goes_back() -> None:
    world = World()

    async def scenario() -> None:
        world.accept()
        listener = Listener(world.stream())
        await listener.next()
        world.begin()
        await listener.next()
        for stage, now in ((Stage.DECODING, START), (Stage.RENDERING, START - 100), (Stage.ENCODING, START - 200)):
            world.now = now
            world.report(0.1, stage)
            await listener.next()
        world.complete()
        await listener.next()
        assert listener.parser.ids == sorted(set(listener.parser.ids))

    asyncio.run(scenario())


def test_a_task_of_a_former_service_can_be_listened_to_and_resumed() -> None:
    world, former = World(), World(START - 10)
    former.accept()
    world.reports["t"] = former.reports["t"]

    async def scenario() -> None:
        listener = Listener(world.stream(former_id))
        first = await listener.next()
        assert first.name == "queued"
        assert first.id > int(former_id)
        await listener.stream.aclose()
        world.now += 1
        world.begin()
        world.complete()
        back = await whole(world.stream(listener.parser.last_id))
        assert back.names == ["progress", "completed"]

    former_id = former.glance()
    asyncio.run(scenario())


def test_who_has_seen_the_end_need_not_come_back() -> None:
    world = World()
    world.accept()
    assert not world.hub.has_seen_end(world.reports["t"].task, world.glance())
    world.begin()
    seen = world.glance()
    world.complete()
    task = world.reports["t"].task
    last = world.glance()
    assert [world.hub.has_seen_end(task, known) for known in (last, seen, None, "x", "9" * 16)] == [
        True, False, False, False, False,
    ]  # fmt: skip


def test_the_end_is_known_without_a_history_too() -> None:
    """As after a restart, or when many tasks have ended since: the last event has the id that it always had."""
    world = World()
    world.run()
    task, last = world.reports["t"].task, world.glance()
    former = World()
    former.reports["t"] = world.reports["t"]
    assert former.read().ids == [int(last)]
    assert former.hub.has_seen_end(task, last)
    assert not former.hub.has_seen_end(task, str(int(last) - 1))
    assert former.read(str(int(last) - 1)).names == ["completed"]


def test_a_step_while_the_present_state_is_read_is_not_lost_or_told_twice() -> None:
    world = World()

    def present() -> TaskReport:
        before = world.reports["t"]
        if not before.task.ended:
            world.complete()
        return before

    world.accept()
    world.begin()
    assert asyncio.run(whole(event_stream(world.hub.stream("t", present)))).names == ["completed"]


def test_heartbeats_while_nothing_happens() -> None:
    world = World(heartbeat=0.01)

    async def scenario() -> None:
        world.accept()
        listener = Listener(world.stream())
        await listener.until(lambda parser: len(parser.comments) == 3)
        assert listener.parser.names == ["queued"]
        world.begin()
        await listener.next()
        world.complete()
        await listener.next()
        assert await listener.ended()

    asyncio.run(scenario())


def test_a_task_that_is_forgotten_ends_its_streams_after_what_they_have_not_sent() -> None:
    world = World()

    async def scenario() -> None:
        world.accept()
        world.accept("other")
        waiting, behind, other = (Listener(world.stream(task_id=task_id)) for task_id in ("t", "t", "other"))
        for listener in (waiting, behind, other):
            await listener.next()
        rest = asyncio.create_task(waiting.ended())
        await asyncio.sleep(0)  # now it waits
        world.hub.forgotten("t")
        assert await rest
        world.accept("t2")
        last = Listener(world.stream(task_id="t2"))
        await last.next()
        world.fail("t2")
        world.hub.forgotten("t2")
        assert (await last.next()).name == "failed"
        assert await last.ended()
        assert await behind.ended()
        assert world.hub.watched("other")
        await other.stream.aclose()

    asyncio.run(scenario())


def test_a_task_that_goes_before_the_stream_begins() -> None:
    def gone() -> TaskReport:
        raise TaskNotFoundError

    world = World()
    assert asyncio.run(whole(event_stream(world.hub.stream("t", gone)))).events == []
    assert not world.hub.watched("t")


def test_the_end_of_the_service_ends_all_streams() -> None:
    world = World()

    async def scenario() -> None:
        listeners = []
        for task_id in "ab":
            world.accept(task_id)
            listeners.append(Listener(world.stream(task_id=task_id)))
            await listeners[-1].next()
        rest = [asyncio.create_task(listener.ended()) for listener in listeners]
        await asyncio.sleep(0)
        await asyncio.to_thread(world.hub.close)
        assert await asyncio.gather(*rest) == [True, True]
        assert (await whole(world.stream(task_id="a"))).names == ["queued"]  # a late one is told where it stands

    asyncio.run(scenario())
    world.begin("a")  # nobody is there to hear of it


def test_a_listener_that_goes_leaves_nothing_behind() -> None:
    world = World()

    async def scenario() -> None:
        world.accept()
        assert not world.hub.watched("t")
        first, second = Listener(world.stream()), Listener(world.stream())
        await first.next()
        await second.next()
        waiting = asyncio.create_task(first.next())
        await asyncio.sleep(0)
        await second.stream.aclose()
        assert world.hub.watched("t")
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert not world.hub.watched("t")

    asyncio.run(scenario())


def test_memory_is_bounded_however_many_tasks_and_listeners_there_were() -> None:
    world = World()
    events, channels = alive(Event), alive(Channel)

    async def scenario() -> None:
        for number in range(3 * ENDED):
            task_id = f"t{number}"
            world.run(task_id=task_id)
            assert len((await whole(world.stream(task_id=task_id))).events) == 1
        for number in range(ENDED):  # whose history is gone
            assert len((await whole(world.stream("1", f"t{number}"))).events) == 1

    asyncio.run(scenario())
    assert alive(Event) - events == ENDED * 6
    assert alive(Channel) - channels == ENDED


class Loop:
    """An event loop in a thread, that can be blocked."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever)
        self._thread.start()

    def run(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(20)

    @contextmanager
    def blocked(self) -> Iterator[None]:
        begun, free = threading.Event(), threading.Event()

        def block() -> None:
            begun.set()
            free.wait(20)

        self.loop.call_soon_threadsafe(block)
        assert begun.wait(10)
        yield
        assert not free.is_set()
        free.set()

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(10)
        self.loop.close()


@pytest.fixture
def loop() -> Iterator[Loop]:
    loop = Loop()
    yield loop
    loop.close()


def test_publishing_does_not_wait_for_the_event_loop(loop: Loop) -> None:
    world = World()
    world.accept()
    listeners = [Listener(world.stream()) for _ in range(20)]
    for listener in listeners:
        loop.run(listener.next())
    with loop.blocked():
        world.begin()
        for _ in range(1000):
            world.now += 1
            world.report(0.5)
        world.complete()
    for listener in listeners:
        loop.run(listener.until(lambda parser: parser.names[-1:] == ["completed"]))
        assert loop.run(listener.ended())


def test_listeners_share_each_event_and_one_that_reads_nothing_costs_nothing(loop: Loop) -> None:
    world = World()
    world.accept()
    before = alive(Event)

    async def chunks(stream: Stream) -> list[bytes]:
        return [chunk async for chunk in stream]

    async def connect() -> tuple[Stream, list[asyncio.Task[list[bytes]]]]:
        stalled = world.stream()
        await anext(stalled)
        tasks = [asyncio.create_task(chunks(world.stream())) for _ in range(100)]
        await asyncio.sleep(0)  # each comes as far as it can
        return stalled, tasks

    stalled, tasks = loop.run(connect())
    world.begin()
    for step in range(HISTORY + 50):
        world.now += 1
        world.report(step / 1000)
    assert alive(Event) - before <= HISTORY + 1
    world.complete()

    async def gather() -> list[list[bytes]]:
        return list(await asyncio.gather(*tasks))

    everything: list[list[bytes]] = loop.run(gather())
    assert [parsed(received).names[-1] for received in everything] == ["completed"] * 100
    assert len({id(received[-1]) for received in everything}) == 1  # made once
    assert (loop.run(whole(stalled))).names[-1] == "completed"  # and when it reads at last, it is told
    assert not world.hub.watched("t")


def test_progress_never_falls_for_listeners_who_come_while_a_worker_reports(loop: Loop) -> None:
    world = World(interval=0.0)
    lock = threading.Lock()  # as the task manager's
    world.accept()
    world.begin()
    go_on = True

    def work() -> None:
        step = 0
        while go_on and step < 100_000:
            step += 1
            with lock:
                world.report(step / 100_000)
        with lock:
            world.complete()

    def present() -> TaskReport:
        with lock:
            return world.reports["t"]

    async def listen() -> list[Sent]:
        listener = Listener(event_stream(world.hub.stream("t", present)))
        for _ in range(20):
            await listener.next()
        await listener.stream.aclose()
        return listener.parser.events

    worker = threading.Thread(target=work)
    worker.start()
    heard = [loop.run(listen()) for _ in range(20)]
    go_on = False
    worker.join(10)
    for events in heard:
        progress = [event.body["progress"] for event in events]
        assert progress == sorted(progress)
        assert [event.id for event in events] == sorted({event.id for event in events})
