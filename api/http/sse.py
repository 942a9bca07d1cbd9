"""Server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html)."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event

from api.records import TaskReport, TaskStatus
from api.tasks.events import Event

# After a lost connection the client waits this long before it reconnects.
RETRY_MILLISECONDS = 2000
EVENT_NAMES = {
    TaskStatus.PENDING: "queued",
    TaskStatus.PROCESSING: "progress",
    TaskStatus.COMPLETED: "completed",
    TaskStatus.FAILED: "failed",
}


class EventEncoder:
    """Encodes events as text/event-stream; `body` encodes their data."""

    def __init__(self, body: Callable[[TaskReport], bytes]) -> None:
        self._body = body

    def __call__(self, event: Event) -> bytes:
        """Encode an event with its name and ID."""
        name = EVENT_NAMES[event.report.task.status]
        return format_sse_event(event=name, data_str=self._body(event.report).decode(), id=str(event.id))


async def event_stream(events: AsyncGenerator[bytes | None, None]) -> AsyncGenerator[bytes, None]:
    """The stream of one connection, from encoded events; None is a heartbeat. Closes `events` at the end."""
    yield format_sse_event(retry=RETRY_MILLISECONDS)
    async with aclosing(events):
        async for event in events:
            yield KEEPALIVE_COMMENT if event is None else event
