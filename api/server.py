"""The application, and `python -m api.server`.

Exit codes: 0 clean shutdown; 1 shutdown with a task still running; 2 invalid configuration; 3 the address is in use or
invalid; 8 the GPU failed or its engine stopped responding. Only a new process can use the GPU again, so the supervisor
should restart this one; the new process resumes the queued tasks.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn

# Before numpy is imported: idle BLAS threads would spin on cores that the renderer needs.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import uvicorn
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from api import VERSION
from api.engine import Choice, choose_engine
from api.http import openapi
from api.http.errors import ApiError, respond
from api.http.middleware import DrainBody, ErrorShape, RequestLog
from api.http.protocol import bounded_protocol
from api.http.sse import EventEncoder
from api.http.status import StatusEncoder
from api.http.submission import Submissions
from api.logs import configure_logging
from api.options import settings_from
from api.routes import docs, events, health, synthesis, tasks
from api.service import Service, disk_free_bytes
from api.settings import Settings, SettingsError
from api.tasks.events import EventHub
from engines.base import Engine
from media.errors import CodedError

logger = logging.getLogger("api.server")

# Connections waiting to be accepted.
_BACKLOG = 2048
# Intervals of the periodic tasks.
SWEEP_SECONDS, WATCH_SECONDS = 60.0, 1.0
# Grace for open requests once all tasks have ended.
_EXIT_SECONDS = 30.0
# Before an exit on its own, clients get this long to read how their tasks ended.
LAST_POLLS_SECONDS = 5.0
# Grace for flushing pending journal writes at exit.
_LAST_WRITE_SECONDS = 5.0
EXIT_UNFINISHED, EXIT_CONFIGURATION, EXIT_ADDRESS, EXIT_GPU = 1, 2, 3, 8
_DESCRIPTION = """\
One portrait, one speech recording and an emotion become a talking-portrait video.
一张肖像、一段语音和一种情绪，生成会说话的肖像视频。

`POST /api/v1/synthesis/start`, poll the `status_url` until COMPLETED or FAILED, or follow the task's `events`; then get
the `download_url`. Tasks outlive the service: those that it accepted are there again after a restart.
Videos of the `preview` engine are labelled as previews; they are not made by the DICE-Talk model.
"""


def create_app(
    settings: Settings, engine: Engine | None = None, *, disk_free: Callable[[Path], int] = disk_free_bytes
) -> FastAPI:
    """Build the application. `engine` replaces the one that the settings select; it is loaded in the same way."""
    choose = (lambda: Choice(engine)) if engine is not None else (lambda: choose_engine(settings))
    status_body = StatusEncoder()
    service = Service(settings, choose, disk_free, EventHub(EventEncoder(status_body)))
    app = FastAPI(
        title="DICE-Talk API",
        version=VERSION,
        description=_DESCRIPTION,
        lifespan=_lifespan,
        redirect_slashes=False,
        docs_url=None,
        redoc_url=None,
        # OpenTelemetry is not configured; looking for it with every request is not free.
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    app.state.service = service
    app.state.submissions = Submissions(service)
    app.state.status_body = status_body
    # In order of traffic, as routes are matched in order.
    for router in (synthesis.polling, synthesis.router, tasks.router, events.router, health.router, docs.router):
        app.include_router(router)
    app.mount(docs.ASSETS, docs.assets)
    for error in (ApiError, CodedError, HTTPException, RequestValidationError):
        app.add_exception_handler(error, respond)
    openapi.install(app, settings)
    # Starlette puts the last one added outermost. ErrorEnvelope is on both sides of CORS: inside, so that errors get
    # CORS headers too, and outside, for CORS's own errors.
    app.add_middleware(DrainBody)
    app.add_middleware(ErrorShape)
    app.add_middleware(
        CORSMiddleware,
        allow_origins=settings.security.cors_origins,
        allow_credentials=settings.security.cors_credentials,
        allow_methods=["*"],
        allow_headers=["*"],
        expose_headers=[
            "X-Request-ID",
            "Location",
            "Idempotent-Replayed",
            "Retry-After",
            "ETag",
            "Content-Disposition",
            "Content-Range",
        ],
    )
    app.add_middleware(ErrorShape)
    app.add_middleware(RequestLog)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    service: Service = app.state.service
    service.loader.start()
    periodic = (
        asyncio.create_task(_repeat(service.task_manager.sweep, SWEEP_SECONDS)),
        asyncio.create_task(_repeat(service.task_manager.watch, WATCH_SECONDS)),
    )
    yield
    for task in periodic:
        task.cancel()
    if await asyncio.to_thread(service.drain):
        service.close()


async def _repeat(job: Callable[[], None], seconds: float) -> None:
    while True:
        try:
            await asyncio.to_thread(job)
        except Exception:
            logger.exception("Periodic task %s failed; retrying in %.0f s", job.__name__, seconds)
        await asyncio.sleep(seconds)


class DrainingServer(uvicorn.Server):
    """Keeps serving polls and downloads during the grace period of running tasks; a second signal exits immediately.

    Exits on its own after a GPU failure, `last_polls` seconds after all tasks have ended.
    """

    def __init__(self, config: uvicorn.Config, service: Service, last_polls: float) -> None:
        super().__init__(config)
        self._service = service
        self._last_polls = last_polls
        self._draining = False
        threading.Thread(target=self._end_without_gpu, name="gpu-watch", daemon=True).start()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """Handle SIGTERM and Ctrl-C. Unlike the base class, does not re-raise the signal after a clean shutdown."""
        if self._draining:
            self.should_exit = self.force_exit = True
        else:
            self._draining = True
            threading.Thread(target=self._drain, name="drain", daemon=True).start()

    def _drain(self) -> None:
        self._service.drain()
        self._end()

    def _end_without_gpu(self) -> None:
        self._service.task_manager.gpu_failed.wait()
        self._service.drain()
        time.sleep(self._last_polls)
        self._end()

    def _end(self) -> None:
        self.should_exit = True
        # A daemon thread: usually the process exits during this pause.
        time.sleep(_EXIT_SECONDS)
        logger.error("Shutdown timed out; forcing exit")
        _exit(self._service, EXIT_UNFINISHED if self._service.task_manager.gpu_failure is None else EXIT_GPU)


def http_config(app: FastAPI) -> uvicorn.Config:
    """uvicorn's configuration."""
    service: Service = app.state.service
    protocol = bounded_protocol(service.settings.server.idle_timeout)
    return uvicorn.Config(
        app, http=protocol, ws="none", log_config=None, access_log=False, timeout_graceful_shutdown=10
    )


def main(
    arguments: list[str] | None = None, engine: Engine | None = None, *, last_polls: float = LAST_POLLS_SECONDS
) -> int:
    """Run the service until it is stopped; returns the exit code. `engine`: see `create_app`."""
    try:
        settings = settings_from(arguments)
    except SettingsError as error:
        return _report(error)
    host, port = settings.server.host, settings.server.port
    try:
        listener = listen(host, port)
    # UnicodeError: a host name that cannot be encoded.
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        print(
            f"Cannot listen on {host} port {port}: {reason}. "
            "Set another address with --host and --port, or with server.host and server.port.",
            file=sys.stderr,
        )
        return EXIT_ADDRESS
    try:
        configure_logging(settings)
        app = create_app(settings, engine)
    except SettingsError as error:
        listener.close()
        return _report(error)
    logger.info("Listening on %s port %d", host, port)
    service: Service = app.state.service
    server = DrainingServer(http_config(app), service, last_polls)
    server.run(sockets=[listener])
    stopped = not server.force_exit and service.drain()
    if service.task_manager.gpu_failure is not None:
        logger.error("Exiting after a GPU failure; restart the service")
        # PyTorch's exit handlers use the GPU, and may end with another exit code.
        _exit(service, EXIT_GPU)
    if not stopped:
        # Worker threads that are still running would keep the process alive.
        _exit(service, EXIT_UNFINISHED)
    return 0


def _exit(service: Service, code: int) -> NoReturn:
    """Exit although threads are still running, after a last attempt to flush the journal."""
    writer = threading.Thread(target=service.journal.flush_pending, name="journal", daemon=True)
    writer.start()
    writer.join(_LAST_WRITE_SECONDS)
    os._exit(code)


def _report(error: SettingsError) -> int:
    print(f"Invalid configuration.\n{error}", file=sys.stderr)
    return EXIT_CONFIGURATION


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Listening, not only binding, claims the address. Raises OSError."""
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


if __name__ == "__main__":
    sys.exit(main())
