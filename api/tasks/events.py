"""The steps of tasks as server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html).

A published step goes into its task's history, and every listener reads from there at its own pace: nothing is queued
for anybody, so a listener that reads nothing costs nothing.
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

from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event

from api.http.errors import ApiError
from api.models import task_view
from api.records import Task, TaskReport, TaskStatus

HEARTBEAT_SECONDS = 15.0  # without an event, until a comment tells client and proxies that the stream lives
INTERVAL_SECONDS = 0.5  # between two events of one state and stage
HISTORY = 128  # events of one task: a minute of progress
ENDED = 32  # ended tasks that have a history
RETRY_MILLISECONDS = 2000  # until a client that lost its connection comes back
NAMES = {
    TaskStatus.PENDING: "queued",
    TaskStatus.PROCESSING: "progress",
    TaskStatus.COMPLETED: "completed",
    TaskStatus.FAILED: "failed",
}


@dataclass(frozen=True)
class Event:
    """A task as it was. Ids are microseconds since the epoch, or later where those are taken."""

    id: int
    report: TaskReport

    @property
    def last(self) -> bool:
        """Whether no event follows."""
        return self.report.task.ended

    @cached_property
    def encoded(self) -> bytes:
        """The event on the wire, made once for all of its listeners."""
        body = task_view(self.report).model_dump_json()
        return format_sse_event(event=NAMES[self.report.task.status], data_str=body, id=str(self.id))


class Channel:
    """One task's history, and how many listen to it. All but `changed` needs the hub's lock."""

    def __init__(self) -> None:
        self.events: deque[Event] = deque(maxlen=HISTORY)
        self.published = 0.0  # when the newest event was, on the monotonic clock
        self.held_back: TaskReport | None = None  # newer than the newest event, but too soon after it
        self.release_planned = False
        self.listeners = 0
        self.closed = False
        self.changed = asyncio.Event()  # only touched by the event loop

    @property
    def newest(self) -> Event | None:
        return self.events[-1] if self.events else None

    def has(self, event_id: int) -> bool:
        place = bisect_left(self.events, event_id, key=attrgetter("id"))
        return place < len(self.events) and self.events[place].id == event_id

    def after(self, event_id: int) -> Event | None:
        """The event that follows; a listener that stood still for more than a whole history misses some."""
        place = bisect_right(self.events, event_id, key=attrgetter("id"))
        return self.events[place] if place < len(self.events) else None

    def wake(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()


class EventHub:
    """Takes tasks' steps from any thread and streams them to listeners on one event loop.

    Its memory is bounded by the tasks that have not ended, and `ENDED` more.
    """

    def __init__(
        self,
        *,
        now: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        heartbeat: float = HEARTBEAT_SECONDS,
        interval: float = INTERVAL_SECONDS,
    ) -> None:
        self._now = now
        self._monotonic = monotonic
        self._heartbeat = heartbeat
        self._interval = interval
        self._lock = threading.Lock()  # guards all below; never held while anything else is waited for
        self._channels: dict[str, Channel] = {}  # by task
        self._ended: dict[str, None] = {}  # ids of ended tasks among them, first ended first
        self._loop: asyncio.AbstractEventLoop | None = None  # of the listeners
        self._closed = False

    # -- what the task manager calls; from any thread, never waits -------------------------------------------------

    def publish(self, report: TaskReport) -> None:
        """A task has made a step. Of steps in one state and stage only one per `interval` is an event."""
        with self._lock:
            channel = self._channels.setdefault(report.task.id, Channel())
            if self._too_soon(channel, report):
                channel.held_back = report
                self._plan_release(channel)
                return
            self._append(channel, report)
            if report.task.ended:
                self._ended[report.task.id] = None
                if len(self._ended) > ENDED:
                    oldest = next(iter(self._ended))
                    del self._ended[oldest], self._channels[oldest]

    def listened(self, task_id: str) -> bool:
        """Whether anybody listens to this task now."""
        with self._lock:
            channel = self._channels.get(task_id)
            return channel is not None and channel.listeners > 0

    def forget(self, task_id: str) -> None:
        """The task is no more: its streams end, after the events that they have not sent yet."""
        with self._lock:
            self._ended.pop(task_id, None)
            channel = self._channels.pop(task_id, None)
            if channel is not None:
                channel.closed = True
                self._wake(channel)

    def close(self) -> None:
        """The service ends, and so do all streams; their clients come back to the next one."""
        with self._lock:
            self._closed = True
            for channel in self._channels.values():
                self._wake(channel)

    # -- what the route calls, on the event loop -------------------------------------------------------------------

    def has_seen_end(self, task: Task, last_event_id: str | None) -> bool:
        """Whether the event that a client saw last was the task's last one.

        EventSource connects again after every end of a stream. The HTML standard's way to stop it is 204.
        """
        seen = _number(last_event_id)
        if not task.ended or seen is None:
            return False
        with self._lock:
            channel = self._channels.get(task.id)
            newest = None if channel is None else channel.newest
        return seen == (_microseconds(task.updated_at) if newest is None else newest.id)

    async def stream(
        self, task_id: str, present: Callable[[], TaskReport], last_event_id: str | None = None
    ) -> AsyncGenerator[bytes, None]:
        """The events after the one of this id, or else the present state and what follows; ends after the last.

        `present` gives the task as it is now; it raises ApiError when the task is no more.
        """
        self._loop = asyncio.get_running_loop()
        with self._lock:
            channel = self._channels.setdefault(task_id, Channel())
            channel.listeners += 1
            self._plan_release(channel)
        try:
            yield format_sse_event(retry=RETRY_MILLISECONDS)
            seen = self._known(channel, last_event_id)
            while True:
                closed = channel.closed or self._closed  # asked first: what was published before that is still sent
                event = self._first(channel, present) if seen is None else self._after(channel, seen)
                if event is not None:
                    yield event.encoded
                    if event.last:
                        return
                    seen = event.id
                elif closed:
                    return
                elif not await self._has_changed(channel):
                    yield KEEPALIVE_COMMENT
        except ApiError:
            return  # as `present` says
        finally:
            with self._lock:
                channel.listeners -= 1
                if not channel.listeners and not channel.events and self._channels.get(task_id) is channel:
                    del self._channels[task_id]

    async def _has_changed(self, channel: Channel) -> bool:
        """Wait for it; False when it is time for a heartbeat."""
        try:
            async with asyncio.timeout(self._heartbeat):
                await channel.changed.wait()
        except TimeoutError:
            return False
        return True

    def _known(self, channel: Channel, last_event_id: str | None) -> int | None:
        """The id, if it is that of an event in the history."""
        seen = _number(last_event_id)
        with self._lock:
            return seen if seen is not None and channel.has(seen) else None

    def _after(self, channel: Channel, event_id: int) -> Event | None:
        with self._lock:
            return channel.after(event_id)

    def _first(self, channel: Channel, present: Callable[[], TaskReport]) -> Event:
        """The present state, with the newest event's id: what follows that event is still to come.

        The lock cannot be held meanwhile (steps are published under the task manager's), so look before and after.
        """
        while True:
            newest = channel.newest
            report = present()
            with self._lock:
                if channel.newest is not newest:
                    continue
                if newest is not None:
                    return Event(newest.id, report)
                if report.task.ended:  # long ago: nothing follows
                    return Event(self._new_id(channel, report), report)
                self._append(channel, report)  # one that another process has accepted
                return channel.events[-1]

    def _release(self, channel: Channel) -> None:
        """Publish what was held back, when it is time for it."""
        with self._lock:
            channel.release_planned = False
            report = channel.held_back
            if report is None:
                return
            wait = channel.published + self._interval - self._monotonic()
            if wait <= 0:
                self._append(channel, report)
            elif channel.listeners:
                channel.release_planned = True
                asyncio.get_running_loop().call_later(wait, self._release, channel)

    # -- all of these need the lock --------------------------------------------------------------------------------

    def _too_soon(self, channel: Channel, report: TaskReport) -> bool:
        newest = channel.newest
        if newest is None or self._monotonic() - channel.published >= self._interval:
            return False
        before, task = newest.report.task, report.task
        return (before.status, before.stage) == (task.status, task.stage)

    def _plan_release(self, channel: Channel) -> None:
        if channel.held_back is not None and channel.listeners and not channel.release_planned:
            channel.release_planned = True
            self._call(lambda: self._release(channel))

    def _append(self, channel: Channel, report: TaskReport) -> None:
        channel.events.append(Event(self._new_id(channel, report), report))
        channel.published = self._monotonic()
        channel.held_back = None
        self._wake(channel)

    def _new_id(self, channel: Channel, report: TaskReport) -> int:
        """Larger than all before, those of an earlier process too; that of a task's last event is always the same."""
        task, newest = report.task, channel.newest
        since = task.updated_at if task.ended else max(self._now(), task.updated_at)
        return max(_microseconds(since), 0 if newest is None else newest.id + 1)

    def _wake(self, channel: Channel) -> None:
        if channel.listeners:
            self._call(channel.wake)

    def _call(self, function: Callable[[], None]) -> None:
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop has ended, and its listeners with it
                self._loop.call_soon_threadsafe(function)


def _microseconds(seconds: float) -> int:
    return int(seconds * 1e6)


def _number(event_id: str | None) -> int | None:
    """None for what cannot be an id of ours."""
    if event_id is None or len(event_id) > 20 or not (event_id.isascii() and event_id.isdigit()):
        return None
    return int(event_id)
