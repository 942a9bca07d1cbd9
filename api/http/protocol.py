"""uvicorn's HTTP protocol with what it lacks: bounded headers, deadlines, the one shape for errors below the app."""

from __future__ import annotations

import asyncio
import logging
import uuid
from http import HTTPStatus

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from api.http.errors import ApiError

logger = logging.getLogger("api.http")

_HEAD_LIMIT = 64 << 10  # bytes of request line and headers


def bounded_protocol(idle_timeout: float) -> type[BoundedHttpProtocol]:
    """The protocol with this many seconds for request line and headers, and for each pause within a body."""
    return type("IdleTimeoutProtocol", (BoundedHttpProtocol,), {"idle_timeout": idle_timeout})


class BoundedHttpProtocol(HttpToolsProtocol):
    """One connection. uvicorn itself would keep headers of any size in memory, and wait for ever for their end."""

    idle_timeout = 60.0  # seconds
    _receiving = False  # a request, from its first byte to its last
    _in_head = True
    _head_bytes = 0  # of a head that has not come to its end
    _head_since = _last_byte = 0.0  # on the event loop's clock
    _alarm: asyncio.TimerHandle

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has connected."""
        super().connection_made(transport)
        self._head_since = self.loop.time()
        self._alarm = self.loop.call_later(self.idle_timeout, self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended, whoever ended it."""
        self._alarm.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Bytes from the client."""
        self._last_byte = self.loop.time()
        self._head_bytes += len(data)
        super().data_received(data)
        if self._in_head and self._head_bytes > _HEAD_LIMIT and not self.transport.is_closing():
            limit = f"At most {_HEAD_LIMIT >> 10} kB are read."
            self._refuse(ApiError(431, "headers_too_large", "The request's headers are too large.", limit))

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        self._receiving = True
        self._head_since = self.loop.time()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """The parser has come to the body."""
        self._in_head = False
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The parser has come to the end of the request."""
        self._receiving = False
        self._in_head, self._head_bytes = True, 0
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """What arrived is no HTTP."""
        self._refuse(ApiError(400, "bad_request", "The request is not valid HTTP.", msg))

    def _look(self) -> None:
        """Has the client been silent for too long, or until when may it be?"""
        now = self.loop.time()
        answering = self._in_head and self.cycle is not None and not self.cycle.response_complete
        if answering or self.flow.read_paused or self.timeout_keep_alive_task is not None:
            # It waits for this service, or for nothing: between requests uvicorn has a timeout of its own.
            self._head_since = self._last_byte = now
        left = (self._head_since if self._in_head else self._last_byte) + self.idle_timeout - now
        if left > 0:
            self._alarm = self.loop.call_later(left, self._look)
        elif not self._receiving or (not self._in_head and self.cycle.response_started):
            self.transport.close()  # nothing was asked, or it has its answer
        else:
            waited = f"Nothing came for {self.idle_timeout:g} s."
            self._refuse(ApiError(408, "request_timeout", "The request did not come to its end.", waited))

    def _refuse(self, error: ApiError) -> None:
        """Answer without the application; if it is at work on the request, it learns that the client has gone."""
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
