"""Whatever is asked of whichever route, in whichever state of the service: its answer, or an error of the one shape.

The routes are the application's own, so that a new one is covered as soon as it is there.
"""

from __future__ import annotations

import re
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from http import HTTPMethod
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.routing import iter_route_contexts
from starlette.routing import Mount

from api.server import create_app
from engines.base import GpuFailedError
from tests.http.conftest import Client, check_error, png
from tests.process import START
from tests.scripted_engine import ScriptedEngine
from tests.server import make_settings, running

Schema = dict[str, Any]
ASSET = "/swagger-ui.css"  # of the directory that is mounted


def application() -> tuple[dict[str, set[str]], Schema]:
    """The methods of every address, and the schema."""
    with tempfile.TemporaryDirectory() as directory:
        app = create_app(make_settings(Path(directory)), ScriptedEngine())
        methods: dict[str, set[str]] = {}
        for route in iter_route_contexts(app.routes):
            path = str(route.path).replace(":task}", "}")  # as in the schema
            if isinstance(route.original_route, Mount):
                methods[path + ASSET] = {"GET", "HEAD"}
            else:
                methods.setdefault(path, set()).update(route.methods or ())
        app.state.service.close()
        return methods, app.openapi()


METHODS, SCHEMA = application()
OPERATIONS = [(method, path) for path, methods in METHODS.items() for method in sorted(methods)]
UNKNOWN = "0" * 32  # a task_id
HTTP_METHODS = sorted(set(HTTPMethod) - {"CONNECT"})  # with which nobody asks a server


def documented(method: str, path: str) -> set[int]:
    """The statuses that the schema tells of; empty for what it leaves out."""
    return {int(code) for code in SCHEMA["paths"].get(path, {}).get(method.lower(), {}).get("responses", {})}


def takes_a_form(method: str, path: str) -> bool:
    return "requestBody" in SCHEMA["paths"].get(path, {}).get(method.lower(), {})


def url(path: str, task_id: str) -> str:
    return path.replace("{task_id}", task_id)


def check(answer: httpx.Response, status: int | None = None, code: str | None = None) -> None:
    """An error of the one shape; of this status and code, where they are given."""
    if answer.request.method == "HEAD":  # has no body
        assert (answer.headers["content-type"], answer.content) == ("application/json", b"")
        assert answer.headers["x-request-id"]
        assert status in (None, answer.status_code)
    else:
        check_error(answer, status or answer.status_code, code or answer.json()["code"])


def check_any(answer: httpx.Response) -> None:
    if answer.status_code >= 400:
        check(answer)
    assert answer.status_code not in (500, 501, 502)


@pytest.fixture
def task(shared: Client) -> str:
    """The id of a task that is there; DELETE works."""
    return str(shared.start().json()["task_id"])


def test_the_routes_are_all_there() -> None:
    assert {("POST", START), ("GET", "/api/health"), ("GET", "/docs"), ("GET", "/openapi.json")} <= set(OPERATIONS)
    assert set(SCHEMA["paths"]) <= set(METHODS)
    assert all("HEAD" in methods for methods in METHODS.values() if "GET" in methods)


@pytest.mark.parametrize("path", METHODS)
def test_404_beside_every_route(shared: Client, task: str, path: str) -> None:
    here = url(path, task).rstrip("/")
    besides = [here + "/nothing", here + "%00"]
    if here and not path.endswith(ASSET):  # "/" is an address, and a file has the slash forgiven
        besides.append(here + "/")
    for beside in besides:
        # One level further down there may be tasks.
        of_tasks = [other for other in METHODS if re.fullmatch(re.sub(r"{\w+}", "(?!start$)[^/]+", other), beside)]
        for method in sorted(METHODS[path]):
            elsewhere = of_tasks and not any(method in METHODS[other] for other in of_tasks)
            check(shared.http.request(method, beside), 405 if elsewhere else 404)


@pytest.mark.parametrize(("method", "path"), [(method, path) for method, path in OPERATIONS if "{task_id}" in path])
def test_404_for_a_task_that_is_not_there(shared: Client, method: str, path: str) -> None:
    for task_id in (UNKNOWN, "%2e%2e", "x" * 2000, "%F0%9F%99%82", "%00"):
        check(shared.http.request(method, url(path, task_id)), 404, "task_not_found")


@pytest.mark.parametrize("path", METHODS)
def test_405_for_every_other_method(shared: Client, task: str, path: str) -> None:
    for method in HTTP_METHODS:
        if method not in METHODS[path]:
            answer = shared.http.request(method, url(path, task))
            check(answer, 405, "method_not_allowed")
            assert set(answer.headers["allow"].split(", ")) == METHODS[path], method


def form(**fields: bytes) -> bytes:
    """A form with the boundary x."""
    parts = [b'--x\r\nContent-Disposition: form-data; name="%b"\r\n\r\n%b\r\n' % (name.encode(), content)
             for name, content in fields.items()]  # fmt: skip
    return b"".join(parts) + b"--x--\r\n"


FORM = "multipart/form-data; boundary=x"
BODIES: dict[str, tuple[str, bytes, int, str]] = {
    "no form": ("application/json", b"{}", 415, "unsupported_media_type"),
    "files of no kind": (FORM, form(emotion=b"sad", image=b"i", audio=b"a"), 415, "unsupported_media_type"),
    "a file that is too large": (FORM, form(image=bytes(11 << 20)), 413, "too_large"),
    "a malformed form": (FORM, b"--x\r\nnonsense", 400, "malformed_form"),
    "a form without a boundary": ("multipart/form-data", form(), 400, "malformed_form"),
    "a form without an end": (FORM, form(emotion=b"sad")[:-6], 400, "malformed_form"),
    "wrong fields": (FORM, form(colour=b"red"), 422, "validation_error"),
}


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_bodies_that_are_no_good(shared: Client, task: str, method: str, path: str, body: str) -> None:
    """Who takes a form says what is wrong with it; who takes none answers as without."""
    kind, content, status, code = BODIES[body]
    headers = {"content-type": kind}
    answer = shared.http.request(method, url(path, task), content=content, headers=headers)
    if takes_a_form(method, path):
        check(answer, status, code)
        assert status in documented(method, path)
    else:
        another = str(shared.start().json()["task_id"])
        assert answer.status_code == shared.http.request(method, url(path, another)).status_code
        check_any(answer)


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_a_body_that_is_announced_as_endless(shared: Client, task: str, method: str, path: str) -> None:
    """The answer does not wait for it."""
    base = shared.http.base_url
    with socket.create_connection((base.host, base.port or 0), timeout=5) as connection:
        connection.sendall(
            f"{method} {url(path, task)} HTTP/1.1\r\nHost: x\r\nContent-Type: {FORM}\r\n"
            f"Content-Length: {10**15}\r\n\r\n--x".encode()
        )
        status = int(connection.recv(65536).split()[1])
    assert status == 413 if takes_a_form(method, path) else status < 400 or status == 409


@contextmanager
def queue_full(directory: Path, wav: bytes) -> Iterator[Client]:
    engine = ScriptedEngine()
    engine.hold()
    with running(make_settings(directory, tasks={"max_workers": 1, "max_queue": 1}), engine) as run:
        client = Client(run, engine, wav)
        assert [client.start(seed=seed).status_code for seed in range(2)] == [202, 202]
        yield client
        engine.go_on()


@contextmanager
def starting(directory: Path, wav: bytes) -> Iterator[Client]:
    engine = ScriptedEngine()
    engine.loading.clear()
    with running(make_settings(directory), engine, wait_loaded=False) as run:
        run.service.engine_wait_seconds = 0.05
        yield Client(run, engine, wav)
        engine.loading.set()


@contextmanager
def setup_failed(directory: Path, wav: bytes) -> Iterator[Client]:
    engine = ScriptedEngine(load_error="The weights are missing.")
    with running(make_settings(directory), engine) as run:
        yield Client(run, engine, wav)


@contextmanager
def draining(directory: Path, wav: bytes) -> Iterator[Client]:
    engine = ScriptedEngine()
    with running(make_settings(directory), engine) as run:
        assert run.service.drain()
        yield Client(run, engine, wav)


@contextmanager
def gpu_failed(directory: Path, wav: bytes) -> Iterator[Client]:
    engine = ScriptedEngine()
    engine.failures.append(GpuFailedError("The GPU fell off the bus."))
    with running(make_settings(directory), engine) as run:
        client = Client(run, engine, wav)
        client.finish(client.start())
        yield client


STATES: dict[str, tuple[Callable[[Path, bytes], Any], int]] = {
    "queue_full": (queue_full, 429),
    "starting": (starting, 503),
    "setup_failed": (setup_failed, 503),
    "draining": (draining, 503),
    "gpu_failed": (gpu_failed, 503),
}


@pytest.fixture(scope="module")
def in_state(tmp_path_factory: pytest.TempPathFactory, wav: bytes) -> Iterator[Callable[[str], Client]]:
    """A service in the state of this name."""
    clients: dict[str, Client] = {}
    with ExitStack() as services:

        def client(state: str) -> Client:
            if state not in clients:
                manager, _ = STATES[state]
                clients[state] = services.enter_context(manager(tmp_path_factory.mktemp(state), wav))
            return clients[state]

        yield client


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_a_service_that_takes_no_jobs(in_state: Callable[[str], Client], method: str, path: str, state: str) -> None:
    """A route that can be unavailable is, and says why; all others answer as ever."""
    client, status = in_state(state), STATES[state][1]
    if takes_a_form(method, path):
        files = {"image": png(), "audio": client.wav}
        answer = client.http.request(method, url(path, UNKNOWN), data={"emotion": "happy", "seed": "99"}, files=files)
    else:
        answer = client.http.request(method, url(path, UNKNOWN))
    if status in documented("GET" if method == "HEAD" else method, path):  # the schema leaves HEAD out
        check(answer, status, state)
    else:
        check_any(answer)
        assert answer.status_code < 400 or (answer.status_code == 404 and "{task_id}" in path)


class Broken:
    """Stands where the queue was."""

    def __getattr__(self, name: str) -> None:
        raise RuntimeError(f"/secret/path.py has no {name}")


def test_500_from_every_route_that_asks_the_queue(tmp_path: Path, wav: bytes) -> None:
    with running(make_settings(tmp_path), ScriptedEngine()) as run:
        tasks, run.service.task_manager = run.service.task_manager, Broken()  # type: ignore[assignment]
        answers = {(method, path): run.client.request(method, url(path, UNKNOWN)) for method, path in OPERATIONS}
        run.service.task_manager = tasks
    for (method, path), answer in answers.items():
        if 500 in documented(method, path):
            check(answer, 500, "internal")
        else:
            assert answer.status_code in (200, 307, 500)
            if answer.status_code == 500:
                check(answer, 500)
