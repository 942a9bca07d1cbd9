"""Pure ASGI middleware, outermost first: RequestLog, ErrorEnvelope, DrainBody."""

from __future__ import annotations

import asyncio
import logging
import random
import re
import time
from collections.abc import Callable

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.http.errors import ApiError, from_exception, from_status

logger = logging.getLogger("api.http")

REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,100}")
_QUIET = re.compile(r"/api/health(/.*)?|/api/v1/synthesis/[^/]+/status")
# Bytes of a plain-text error that are kept as its detail.
_REASON_LIMIT = 200
_DRAIN_BYTES = 128 << 20
_DRAIN_SECONDS = 10.0


class RequestLog:
    """Assigns each request an id and logs it in one line; polls and probes at DEBUG unless they fail with a 5xx status.

    A valid X-Request-ID header is used as the id; otherwise one is generated.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        # Not a UUID: reading the operating system's randomness costs as much as a middleware layer.
        self._random = random.Random()  # noqa: S311

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        requested_id = Headers(scope=scope).get("x-request-id", "")
        valid = REQUEST_ID.fullmatch(requested_id) is not None
        request_id = requested_id if valid else f"{self._random.getrandbits(128):032x}"
        scope.setdefault("state", {})["request_id"] = request_id
        status = 0
        started = time.perf_counter()

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
            await send(message)

        try:
            await self.app(scope, receive, send_with_id)
        finally:
            level = logging.DEBUG if _QUIET.fullmatch(scope["path"]) and status < 500 else logging.INFO
            if logger.isEnabledFor(level):
                milliseconds = (time.perf_counter() - started) * 1000
                logger.log(
                    level, "%s %s %s %.0f ms [%s]", scope["method"], _printable(scope["path"]), status or "aborted",
                    milliseconds, request_id,
                )  # fmt: skip


class ErrorEnvelope:
    """Converts exceptions and plain-text errors of the inner layers to the JSON error envelope."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = scope["state"]["request_id"]
        started = False
        # A plain-text error that is being collected: its status, the headers to keep and its text.
        plain: tuple[int, dict[str, str], bytearray] | None = None

        async def send_enveloped(message: Message) -> None:
            nonlocal started, plain
            if message["type"] == "http.response.start":
                started = True
                if message["status"] >= 400:
                    headers = Headers(scope=message)
                    if not headers.get("content-type", "").startswith("application/json"):
                        kept = {name: headers[name] for name in ("allow", "content-range") if name in headers}
                        plain = message["status"], kept, bytearray()
                        return
            if plain is None:
                await send(message)
                return
            status, kept, text = plain
            text.extend(message.get("body", b"")[:_REASON_LIMIT])
            if not message.get("more_body", False):
                reason = text[:_REASON_LIMIT].decode("utf-8", "replace") or None
                await _send_error(from_status(status, reason, kept), request_id, send)

        try:
            await self.app(scope, receive, send_enveloped)
        except ClientDisconnect:
            logger.info("Client disconnected while sending the request [%s]", request_id)
        except Exception as error:
            logger.exception("%s %s failed [%s]", scope["method"], _printable(scope["path"]), request_id)
            # Once the response has started, only closing the connection can signal the failure.
            if started:
                raise
            await _send_error(from_exception(error), request_id, send)


class DrainBody:
    """Lets a client that is still sending read an early response.

    Closing a connection with unread data resets it, and many clients then lose the response. So the response is sent
    in full, and the rest of the request is read and discarded (bounded) before the exchange ends.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope) if scope["type"] == "http" else {}
        if headers.get("content-length", "0") == "0" and "transfer-encoding" not in headers:
            await self.app(scope, receive, send)
            return
        received = False

        async def receive_tracked() -> Message:
            nonlocal received
            message = await receive()
            received = message["type"] != "http.request" or not message.get("more_body", False)
            return message

        async def send_then_drain(message: Message) -> None:
            if message["type"] != "http.response.body" or message.get("more_body", False) or received:
                await send(message)
                return
            await send({**message, "more_body": True})
            await self._drain(receive_tracked, lambda: received)
            await send({"type": "http.response.body", "body": b"", "more_body": False})

        await self.app(scope, receive_tracked, send_then_drain)

    @staticmethod
    async def _drain(receive: Receive, done: Callable[[], bool]) -> None:
        dropped = 0
        try:
            async with asyncio.timeout(_DRAIN_SECONDS):
                while not done() and dropped < _DRAIN_BYTES:
                    dropped += len((await receive()).get("body", b""))
        except TimeoutError:
            return


async def _send_error(error: ApiError, request_id: str, send: Send) -> None:
    body = error.body(request_id)
    headers = {"content-type": "application/json", "content-length": str(len(body)), **error.headers}
    raw = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": error.status, "headers": raw})
    await send({"type": "http.response.body", "body": body})


def _printable(path: str) -> str:
    """Escape and truncate a path for a log line."""
    return path[:200].encode("unicode_escape").decode("ascii")
