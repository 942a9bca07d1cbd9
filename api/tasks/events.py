"""The history of each task as events, and the listeners that follow it.

A change is appended to its task's history, from which every listener reads at its own pace: nothing is queued per
listener, so one that stops reading costs nothing. How an event is sent is up to `api/http/sse.py`.
"""

from __future__ import annotations

import asyncio
import threading
import time
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from operator import attrgetter

from api.records import Task, TaskReport
from api.tasks.errors import TaskError

# Seconds without an event after which a heartbeat shows client and proxies that the stream is alive.
HEARTBEAT_SECONDS = 15.0
# Minimum seconds between two events of one status and stage.
INTERVAL_SECONDS = 0.5
# Events kept per task: about a minute of progress.
HISTORY = 128
# Ended tasks whose history is kept.
ENDED = 32


@dataclass(frozen=True)
class Event:
    """A state of a task. Ids increase: they are Unix times in microseconds, or later where those are taken."""

    id: int
    report: TaskReport
    encode: Callable[[Event], bytes]

    @cached_property
    def encoded(self) -> bytes:
        """The encoded event, made once for all listeners."""
        return self.encode(self)

    @property
    def last(self) -> bool:
        """Whether no event follows."""
        return self.report.task.ended


class Channel:
    """One task's history and its number of listeners. All but `changed` is guarded by the hub's lock."""

    def __init__(self) -> None:
        self.events: deque[Event] = deque(maxlen=HISTORY)
        # When the newest event was appended, on the monotonic clock.
        self.published = 0.0
        # The latest change, held back because it followed the newest event too soon.
        self.held_back: TaskReport | None = None
        self.release_scheduled = False
        self.listeners = 0
        self.closed = False
        # Used on the event loop only.
        self.changed = asyncio.Event()

    @property
    def newest(self) -> Event | None:
        """The latest event, if there is one."""
        return self.events[-1] if self.events else None

    def has(self, event_id: int) -> bool:
        """Whether the event is in the history."""
        place = bisect_left(self.events, event_id, key=attrgetter("id"))
        return place < len(self.events) and self.events[place].id == event_id

    def after(self, event_id: int) -> Event | None:
        """The next event; a listener that paused for longer than the history misses some."""
        place = bisect_right(self.events, event_id, key=attrgetter("id"))
        return self.events[place] if place < len(self.events) else None

    def wake(self) -> None:
        """Wake all listeners."""
        self.changed.set()
        self.changed = asyncio.Event()


class EventHub:
    """Records changes of tasks from any thread and streams them to listeners on one event loop.

    Implements the registry's TaskListener. Its memory is bounded by the unfinished tasks and `ENDED` more.
    """

    def __init__(
        self,
        encode: Callable[[Event], bytes],
        *,
        now: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        heartbeat: float = HEARTBEAT_SECONDS,
        interval: float = INTERVAL_SECONDS,
    ) -> None:
        """`encode` encodes an event for sending; `heartbeat` and `interval` are in seconds."""
        self._encode = encode
        self._now = now
        self._monotonic = monotonic
        self._heartbeat = heartbeat
        self._interval = interval
        # Guards everything below; never held while waiting for anything else.
        self._lock = threading.Lock()
        # By task id.
        self._channels: dict[str, Channel] = {}
        # Ids of the ended tasks among them, in the order in which they ended.
        self._ended: dict[str, None] = {}
        # The listeners' event loop.
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False

    # -- called by the registry; from any thread, never blocks -----------------------------------------------------

    def changed(self, report: TaskReport) -> None:
        """Record a change. Within one status and stage, only one per `interval` becomes an event."""
        with self._lock:
            channel = self._channels.setdefault(report.task.id, Channel())
            if self._too_soon(channel, report):
                channel.held_back = report
                self._schedule_release(channel)
                return
            self._append(channel, report)
            if report.task.ended:
                self._ended[report.task.id] = None
                if len(self._ended) > ENDED:
                    oldest = next(iter(self._ended))
                    del self._ended[oldest], self._channels[oldest]

    def watched(self, task_id: str) -> bool:
        """Whether the task has listeners now."""
        with self._lock:
            channel = self._channels.get(task_id)
            return channel is not None and channel.listeners > 0

    def forgotten(self, task_id: str) -> None:
        """Drop the task's history; its streams end after the events they have not sent yet."""
        with self._lock:
            self._ended.pop(task_id, None)
            channel = self._channels.pop(task_id, None)
            if channel is not None:
                channel.closed = True
                self._wake(channel)

    def close(self) -> None:
        """End all streams, as the service shuts down; clients reconnect to the next process."""
        with self._lock:
            self._closed = True
            for channel in self._channels.values():
                self._wake(channel)

    # -- called by the route, on the event loop --------------------------------------------------------------------

    def has_seen_end(self, task: Task, last_event_id: str | None) -> bool:
        """Whether the client has already received the task's last event.

        EventSource reconnects whenever a stream ends; the HTML standard's way to stop it is a 204.
        """
        seen = _number(last_event_id)
        if not task.ended or seen is None:
            return False
        with self._lock:
            channel = self._channels.get(task.id)
            newest = None if channel is None else channel.newest
        return seen == (_microseconds(task.updated_at) if newest is None else newest.id)

    async def stream(
        self, task_id: str, current: Callable[[], TaskReport], last_event_id: str | None = None
    ) -> AsyncGenerator[bytes | None, None]:
        """Yield the encoded events after `last_event_id` or, if that is unknown, the current state and later events.

        Ends after the last event. None is a heartbeat. `current` returns the current state of the task, or raises
        TaskError if it was deleted or has expired.
        """
        self._loop = asyncio.get_running_loop()
        with self._lock:
            channel = self._channels.setdefault(task_id, Channel())
            channel.listeners += 1
            self._schedule_release(channel)
        try:
            seen = self._resume_id(channel, last_event_id)
            while True:
                # Read first: events appended before the end are still sent.
                closed = channel.closed or self._closed
                event = self._initial_event(channel, current) if seen is None else self._after(channel, seen)
                if event is not None:
                    yield event.encoded
                    if event.last:
                        return
                    seen = event.id
                elif closed:
                    return
                elif not await self._has_changed(channel):
                    yield None
        except TaskError:
            return
        finally:
            with self._lock:
                channel.listeners -= 1
                if not channel.listeners and not channel.events and self._channels.get(task_id) is channel:
                    del self._channels[task_id]

    async def _has_changed(self, channel: Channel) -> bool:
        """Wait for the next event; False when it is time for a heartbeat."""
        try:
            async with asyncio.timeout(self._heartbeat):
                await channel.changed.wait()
        except TimeoutError:
            return False
        return True

    def _resume_id(self, channel: Channel, last_event_id: str | None) -> int | None:
        """The id as a number, if the history has the event."""
        seen = _number(last_event_id)
        with self._lock:
            return seen if seen is not None and channel.has(seen) else None

    def _after(self, channel: Channel, event_id: int) -> Event | None:
        with self._lock:
            return channel.after(event_id)

    def _initial_event(self, channel: Channel, current: Callable[[], TaskReport]) -> Event:
        """The current state under the newest event's ID, so that the events after that one follow.

        `current` cannot be called under the lock, as the registry calls the hub: hence the check before and after.
        """
        while True:
            newest = channel.newest
            report = current()
            with self._lock:
                if channel.newest is not newest:
                    continue
                if newest is not None:
                    return Event(newest.id, report, self._encode)
                # Its history was evicted: nothing follows.
                if report.task.ended:
                    return Event(self._new_id(channel, report), report, self._encode)
                # Accepted by the previous process: this is the first event here.
                self._append(channel, report)
                return channel.events[-1]

    def _release(self, channel: Channel) -> None:
        """Append the held-back change once the interval is over."""
        with self._lock:
            channel.release_scheduled = False
            report = channel.held_back
            if report is None:
                return
            wait = channel.published + self._interval - self._monotonic()
            if wait <= 0:
                self._append(channel, report)
            elif channel.listeners:
                channel.release_scheduled = True
                asyncio.get_running_loop().call_later(wait, self._release, channel)

    # -- these need the lock ---------------------------------------------------------------------------------------

    def _too_soon(self, channel: Channel, report: TaskReport) -> bool:
        newest = channel.newest
        if newest is None or self._monotonic() - channel.published >= self._interval:
            return False
        before, task = newest.report.task, report.task
        return (before.status, before.stage) == (task.status, task.stage)

    def _schedule_release(self, channel: Channel) -> None:
        if channel.held_back is not None and channel.listeners and not channel.release_scheduled:
            channel.release_scheduled = True
            self._call(lambda: self._release(channel))

    def _append(self, channel: Channel, report: TaskReport) -> None:
        channel.events.append(Event(self._new_id(channel, report), report, self._encode))
        channel.published = self._monotonic()
        channel.held_back = None
        self._wake(channel)

    def _new_id(self, channel: Channel, report: TaskReport) -> int:
        """Larger than all before, even in the previous process; a task's last event always has the same id."""
        task, newest = report.task, channel.newest
        since = task.updated_at if task.ended else max(self._now(), task.updated_at)
        return max(_microseconds(since), 0 if newest is None else newest.id + 1)

    def _wake(self, channel: Channel) -> None:
        if channel.listeners:
            self._call(channel.wake)

    def _call(self, function: Callable[[], None]) -> None:
        if self._loop is not None:
            # Raised when the loop has ended, and its listeners with it.
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(function)


def _microseconds(seconds: float) -> int:
    return int(seconds * 1e6)


def _number(event_id: str | None) -> int | None:
    """The id as a number; None if it cannot be one of the hub's."""
    if event_id is None or len(event_id) > 20 or not (event_id.isascii() and event_id.isdigit()):
        return None
    return int(event_id)
