"""Server-sent events of a task."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated

from fastapi import APIRouter, Header, Request, Response
from fastapi.responses import StreamingResponse
from starlette.types import Send

from api.http.dependencies import ServiceDep
from api.http.openapi import error_responses, events_responses
from api.http.sse import event_stream
from api.routes.synthesis import PREFIX

# X-Accel-Buffering: no disables response buffering in nginx.
_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}

router = APIRouter(prefix=PREFIX, tags=["synthesis"])


class EventStream(StreamingResponse):
    """Closes its generator when the client disconnects, instead of leaving that to the garbage collector."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[bytes, None]) -> None:
        super().__init__(events, headers=_HEADERS)
        self._events = events

    async def stream_response(self, send: Send) -> None:
        """Send the events, then close the generator."""
        async with aclosing(self._events):
            await super().stream_response(send)


@router.head("/{task_id}/events", include_in_schema=False)
@router.get(
    "/{task_id}/events",
    summary="Stream task events",
    response_class=StreamingResponse,
    responses=events_responses() | error_responses(404, 410, 500),
)
async def events(
    task_id: str,
    request: Request,
    service: ServiceDep,
    last_event_id: Annotated[
        str | None,
        Header(alias="Last-Event-ID", description="ID of the last event received; only later ones are sent."),
    ] = None,
) -> Response:
    """Server-sent events: the current state first, then `queued`, `progress` and finally `completed` or `failed`.

    The data of each event is the `status` response at that moment. The stream ends after the last event.
    """
    report = service.task_manager.get(task_id)
    if service.events.has_seen_end(report.task, last_event_id):
        return Response(status_code=204)
    if request.method == "HEAD":
        return StreamingResponse([], headers=_HEADERS, media_type=EventStream.media_type)
    stream = service.events.stream(task_id, lambda: service.task_manager.get(task_id), last_event_id)
    return EventStream(event_stream(stream))
