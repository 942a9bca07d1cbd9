"""The application, and `python -m api.server`.

Exit codes: 0 stopped cleanly, 1 stopped with a task still running, 2 wrong settings, 3 the address is taken or
unusable, 8 the GPU failed, or the engine that uses it fell silent: only a new process can use it again, so whoever
supervises this one should start another, which goes on with the tasks that wait.
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

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before numpy: BLAS threads spin on cores the renderer needs

import uvicorn
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from api.engine import Choice, choose_engine
from api.http import openapi
from api.http.errors import ApiError, respond
from api.http.middleware import DrainBody, ErrorEnvelope, RequestLog
from api.http.protocol import bounded_protocol
from api.logs import configure_logging
from api.models import VERSION
from api.options import settings_from
from api.routes import docs, events, health, synthesis, tasks
from api.service import Service, disk_free_bytes
from api.settings import Settings, SettingsError
from engines.base import Engine, EngineError
from media.errors import MediaError

logger = logging.getLogger("api.server")

_BACKLOG = 2048  # connections that wait to be accepted
_SWEEP_SECONDS, _WATCH_SECONDS = 60.0, 1.0
_EXIT_SECONDS = 30.0  # for open requests to end, once all tasks have
_LAST_POLLS_SECONDS = 5.0  # for clients to read how their tasks ended, when the service ends by itself
_LAST_WRITE_SECONDS = 5.0  # for a disk to take what is late, when the process leaves
_EXIT_UNFINISHED, _EXIT_GPU = 1, 8
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
    """Build the service. `engine` replaces the one the settings choose; it is loaded like any other."""
    choose = (lambda: Choice(engine)) if engine is not None else (lambda: choose_engine(settings))
    service = Service(settings, choose, disk_free)
    app = FastAPI(
        title="DICE-Talk API",
        version=VERSION,
        description=_DESCRIPTION,
        lifespan=_lifespan,
        redirect_slashes=False,
        docs_url=None,
        redoc_url=None,
    )
    app.state.service = service
    # What is asked most often is found first.
    for router in (synthesis.router, tasks.router, events.router, health.router, docs.router):
        app.include_router(router)
    app.mount(docs.ASSETS, docs.assets)
    for error in (ApiError, HTTPException, RequestValidationError, MediaError, EngineError):
        app.add_exception_handler(error, respond)
    openapi.install(app, settings)
    # Starlette puts the last one added outermost. ErrorEnvelope is on both sides of CORS: inside, so that errors
    # get CORS headers too, and outside, for CORS's own refusals.
    app.add_middleware(DrainBody)
    app.add_middleware(ErrorEnvelope)
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
    app.add_middleware(ErrorEnvelope)
    app.add_middleware(RequestLog)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    service: Service = app.state.service
    service.loader.start()
    chores = (
        asyncio.create_task(_repeat(service.tasks.sweep, _SWEEP_SECONDS)),
        asyncio.create_task(_repeat(service.tasks.watch, _WATCH_SECONDS)),
    )
    yield
    for chore in chores:
        chore.cancel()
    if await asyncio.to_thread(service.drain):
        service.close()


async def _repeat(chore: Callable[[], None], seconds: float) -> None:
    while True:
        try:
            await asyncio.to_thread(chore)
        except Exception:
            logger.exception("A chore failed; it will be tried again")
        await asyncio.sleep(seconds)


class DrainingServer(uvicorn.Server):
    """Keeps answering polls and downloads while running tasks are given their grace; a second signal ends it now.

    Ends by itself when the GPU has failed, `last_polls` seconds after all tasks have.
    """

    def __init__(self, config: uvicorn.Config, service: Service, last_polls: float) -> None:
        super().__init__(config)
        self._service = service
        self._last_polls = last_polls
        self._draining = False
        threading.Thread(target=self._end_without_gpu, name="gpu-watch", daemon=True).start()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """TERM and Ctrl-C. The base class would also raise the signal again at the end; ours is a clean exit."""
        if self._draining:
            self.should_exit = self.force_exit = True
        else:
            self._draining = True
            threading.Thread(target=self._drain, name="drain", daemon=True).start()

    def _drain(self) -> None:
        self._service.drain()
        self._end()

    def _end_without_gpu(self) -> None:
        self._service.tasks.gpu_failed.wait()
        self._service.drain()
        time.sleep(self._last_polls)
        self._end()

    def _end(self) -> None:
        self.should_exit = True
        time.sleep(_EXIT_SECONDS)  # this thread ends with the process, long before
        logger.error("The process does not end by itself; leaving now")
        _leave(self._service, _EXIT_UNFINISHED if self._service.tasks.gpu_failure is None else _EXIT_GPU)


def http_config(app: FastAPI) -> uvicorn.Config:
    """How the service is served."""
    service: Service = app.state.service
    protocol = bounded_protocol(service.settings.server.idle_timeout)
    return uvicorn.Config(
        app, http=protocol, ws="none", log_config=None, access_log=False, timeout_graceful_shutdown=10
    )


def main(
    arguments: list[str] | None = None, engine: Engine | None = None, *, last_polls: float = _LAST_POLLS_SECONDS
) -> int:
    """Run the service until it is told to stop; returns the exit code. `engine` is as for `create_app`."""
    try:
        settings = settings_from(arguments)
    except SettingsError as error:
        return _wrong(error)
    host, port = settings.server.host, settings.server.port
    try:
        listener = listen(host, port)
    except (OSError, UnicodeError) as error:  # UnicodeError: a name that cannot be one
        reason = getattr(error, "strerror", None) or error
        print(
            f"Cannot listen on {host} port {port}: {reason}. "
            "Choose others with --host and --port, or server.host and server.port.",
            file=sys.stderr,
        )
        return 3
    try:
        configure_logging(settings)
        app = create_app(settings, engine)
    except SettingsError as error:
        listener.close()
        return _wrong(error)
    logger.info("Listening on %s port %d", host, port)
    service: Service = app.state.service
    server = DrainingServer(http_config(app), service, last_polls)
    server.run(sockets=[listener])
    stopped = not server.force_exit and service.drain()
    if service.tasks.gpu_failure is not None:
        logger.error("The service ends because the GPU failed; it has to be started again")
        _leave(service, _EXIT_GPU)  # PyTorch's own way out touches the GPU, and could end in another code
    if not stopped:
        _leave(service, _EXIT_UNFINISHED)  # workers that still run would keep the process
    return 0


def _leave(service: Service, code: int) -> NoReturn:
    """End the process though threads still run. What the journal has not written yet is tried once more."""
    writer = threading.Thread(target=service.journal.write_late, name="journal", daemon=True)
    writer.start()
    writer.join(_LAST_WRITE_SECONDS)
    os._exit(code)


def _wrong(error: SettingsError) -> int:
    print(f"The settings are wrong.\n{error}", file=sys.stderr)
    return 2


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens at the address: until it does, another service can bind it too. Raises OSError."""
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
