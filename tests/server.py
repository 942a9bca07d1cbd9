"""A real server on a real port, in this process, so that tests can hold its engine in their hands."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from api.http.submission import Submissions
from api.server import create_app, http_config, listen
from api.service import Service, disk_free_bytes
from api.settings import Settings
from engines.base import Engine


def make_settings(directory: Path, **sections: Mapping[str, Any]) -> Settings:
    """Settings whose files are all under `directory`."""
    files = {f"{name}_dir": directory / f"{name}s" for name in ("upload", "output")} | {"data_dir": directory / "data"}
    log = {"file": directory / "api.log"}
    merged = {
        **sections,
        "files": {**files, **sections.get("files", {})},
        "logging": {**log, **sections.get("logging", {})},
    }
    return Settings.model_validate(merged)


def wait_for(condition: Callable[[], bool], seconds: float = 30, *, pause: float = 0.005) -> None:
    """Look until a condition holds, with a pause in seconds after each look; fail when it does not in time."""
    deadline = time.monotonic() + seconds
    never = threading.Event()  # looking without a pause would keep a core from what is waited for
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        never.wait(pause)


class Running:
    """A server that runs, and a client for it."""

    def __init__(self, service: Service, submissions: Submissions, url: str) -> None:
        self.service = service
        self.submissions = submissions
        self.url = url
        self.client = httpx.Client(base_url=url, timeout=30, limits=httpx.Limits(max_connections=None))


@contextmanager
def running(
    settings: Settings,
    engine: Engine | None = None,
    *,
    wait_loaded: bool = True,
    disk_free: Callable[[Path], int] = disk_free_bytes,
) -> Iterator[Running]:
    """Serve in a thread until the context ends."""
    app = create_app(settings, engine, disk_free=disk_free)
    listener = listen("127.0.0.1", 0)
    server = uvicorn.Server(http_config(app))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    service: Service = app.state.service
    run = Running(service, app.state.submissions, f"http://127.0.0.1:{listener.getsockname()[1]}")
    try:
        if wait_loaded:
            assert service.loader.done.wait(30), "the engine did not load"
        yield run
    finally:
        run.client.close()
        server.should_exit = True
        thread.join(60)
        listener.close()
