"""uvicorn's HTTP protocol with bounded request headers, and errors below the application in the one shape."""

from __future__ import annotations

import uuid
from http import HTTPStatus

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from api.errors import ApiError

_HEAD_LIMIT = 64 << 10  # bytes of request line and headers


class BoundedHttpProtocol(HttpToolsProtocol):
    """One connection. httptools itself would keep headers of any size in memory."""

    _in_head = True
    _head_bytes = 0  # of a head that has not come to its end

    def data_received(self, data: bytes) -> None:
        """Bytes from the client."""
        self._head_bytes += len(data)
        super().data_received(data)
        if self._in_head and self._head_bytes > _HEAD_LIMIT and not self.transport.is_closing():
            limit = f"At most {_HEAD_LIMIT >> 10} kB are read."
            self._refuse(ApiError(431, "headers_too_large", "The request's headers are too large.", limit))

    def on_headers_complete(self) -> None:
        """The parser has come to the body."""
        self._in_head = False
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The parser has come to the end of the request."""
        self._in_head, self._head_bytes = True, 0
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """What arrived is no HTTP."""
        self._refuse(ApiError(400, "bad_request", "The request is not valid HTTP.", msg))

    def _refuse(self, error: ApiError) -> None:
        request_id = uuid.uuid4().hex
        body = error.body(request_id)
        head = (
            f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\nX-Request-ID: {request_id}\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()
