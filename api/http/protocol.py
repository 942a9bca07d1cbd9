"""uvicorn's HTTP protocol, extended by a header size limit, an idle timeout and JSON errors below the application."""

from __future__ import annotations

import asyncio
import logging
import uuid
from http import HTTPStatus

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from api.http.errors import ApiError

logger = logging.getLogger("api.http")

HEAD_LIMIT = 64 << 10  # bytes of request line and headers


def bounded_protocol(idle_timeout: float) -> type[BoundedHttpProtocol]:
    """Return a protocol class with `idle_timeout` seconds for the request head and for each pause within a body."""
    return type("IdleTimeoutProtocol", (BoundedHttpProtocol,), {"idle_timeout": idle_timeout})


class BoundedHttpProtocol(HttpToolsProtocol):
    """One connection. uvicorn itself buffers headers of any size and waits for the rest of a request indefinitely."""

    idle_timeout = 60.0  # seconds
    # Whether a request has started and is not complete yet.
    _receiving = False
    _in_head = True
    # Bytes since the last complete request; meaningful within a head only.
    _head_bytes = 0
    # Times on the event loop's clock.
    _head_since = _last_byte = 0.0
    _idle_timer: asyncio.TimerHandle

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the idle timer."""
        super().connection_made(transport)
        self._head_since = self.loop.time()
        self._idle_timer = self.loop.call_later(self.idle_timeout, self._check_idle)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the idle timer."""
        self._idle_timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Feed the parser; respond 431 if the request head exceeds HEAD_LIMIT."""
        self._last_byte = self.loop.time()
        self._head_bytes += len(data)
        super().data_received(data)
        if self._in_head and self._head_bytes > HEAD_LIMIT and not self.transport.is_closing():
            limit = f"The limit is {HEAD_LIMIT >> 10} KiB."
            self._refuse(ApiError(431, "headers_too_large", "The request headers are too large.", limit))

    def on_message_begin(self) -> None:
        """Start the deadline for the request head."""
        self._receiving = True
        self._head_since = self.loop.time()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Switch from the head's deadline to the idle timeout of the body."""
        self._in_head = False
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Reset the state for the next request on this connection."""
        self._receiving = False
        self._in_head, self._head_bytes = True, 0
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Respond to malformed HTTP with the JSON error envelope."""
        self._refuse(ApiError(400, "bad_request", "The request is not valid HTTP.", msg))

    def _check_idle(self) -> None:
        """Close the connection if it has been idle for too long; otherwise re-arm the timer."""
        now = self.loop.time()
        responding = self._in_head and self.cycle is not None and not self.cycle.response_complete
        if responding or self.flow.read_paused or self.timeout_keep_alive_task is not None:
            # The client is waiting for this service, or the connection is between requests, where uvicorn's own
            # keep-alive timeout applies.
            self._head_since = self._last_byte = now
        left = (self._head_since if self._in_head else self._last_byte) + self.idle_timeout - now
        if left > 0:
            self._idle_timer = self.loop.call_later(left, self._check_idle)
        elif not self._receiving or (not self._in_head and self.cycle.response_started):
            # No request has started, or its response has.
            self.transport.close()
        else:
            limit = f"The headers must arrive within {self.idle_timeout:g} s and the body without longer pauses."
            self._refuse(ApiError(408, "request_timeout", "The request timed out before it was complete.", limit))

    def _refuse(self, error: ApiError) -> None:
        """Send an error without the application and close; a running application receives `http.disconnect`."""
        request_id = uuid.uuid4().hex
        if not self._in_head:
            request_id = self.cycle.scope["state"].get("request_id", request_id)
        body = error.body(request_id)
        head = (
            f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\nX-Request-ID: {request_id}\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()
        logger.info("%d %s [%s]", error.status, error.code, request_id)
