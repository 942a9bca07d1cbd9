"""A client that keeps books: what it sent, and what it was answered before the server was gone."""

from __future__ import annotations

import hashlib
import io
import itertools
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any

import httpx
from PIL import Image

from tests.media.speech import tone, write_wav
from tests.process import START
from tests.scripted_engine import noise_picture
from tests.server import wait_for

LIST = "/api/v1/synthesis"
SECONDS, FPS = 0.5, 8  # of each video
ENDED = ("COMPLETED", "FAILED")


class GoneError(Exception):
    """The server is not there any more."""


class Wish(Enum):
    """What became of a client's wish to cancel or delete."""

    NONE = 0
    SENT = 1
    ANSWERED = 2


@dataclass
class Request:
    """One request for a video; without an id it has no answer (yet)."""

    seed: int
    fields: dict[str, Any] = field(default_factory=dict)
    portrait: int = 0
    recording: float = 1.0  # seconds
    key: str | None = None  # Idempotency-Key
    id: str | None = None
    cancel: Wish = Wish.NONE
    delete: Wish = Wish.NONE
    may_expire: bool = False
    attempt: int = 0  # the last that was told
    etag: str | None = None  # of the finished video, once told

    @property
    def status_url(self) -> str:
        return f"{LIST}/{self.id}/status"


@cache
def portrait(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(noise_picture(64, 80, number)).save(buffer, "PNG")
    return buffer.getvalue()


@cache
def recording(seconds: float) -> bytes:
    with tempfile.TemporaryDirectory() as directory:
        return write_wav(Path(directory) / "s.wav", tone(seconds, 48000), 48000).read_bytes()


class Ledger:
    """All requests to a service, whichever process it was."""

    def __init__(self, requests: Iterable[Request] = ()) -> None:
        """`requests` were sent before; they are copied."""
        self.requests = [replace(request) for request in requests]
        self._numbers = itertools.count(len(self.requests) + 1)
        self._client: httpx.Client | None = None

    def use(self, client: httpx.Client) -> None:
        """From now on, talk to this server."""
        self._client = client

    def call(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Raises GoneError."""
        assert self._client is not None
        try:
            return self._client.request(method, path, **options)
        except httpx.TransportError as error:
            raise GoneError from error

    # -- what a client does ----------------------------------------------------------------------------------------

    def start(self, like: Request | None = None, *, base: int = 0, keyed: bool = True, **options: Any) -> Request:
        """Ask for a video: for one of its own, of a seed from `base` on, or for one `like` another."""
        number = next(self._numbers)
        if like is None:
            request = Request(base + number, **options)
        else:
            request = Request(like.seed, like.fields, like.portrait, like.recording)
        request.key = f"request-{number}" if keyed else None
        self.requests.append(request)
        self.send(request)
        return request

    def send(self, request: Request) -> httpx.Response:
        """Send it, or send it again."""
        files = {"image": portrait(request.portrait), "audio": recording(request.recording)}
        data = {"emotion": "happy", "seed": request.seed, "duration": SECONDS, "fps": FPS, **request.fields}
        headers = {} if request.key is None else {"Idempotency-Key": request.key}
        answer = self.call("POST", START, data=data, files=files, headers=headers)
        assert answer.status_code == 202, answer.text
        task_id = answer.json()["task_id"]
        assert request.id in (None, task_id), "one key, two tasks"
        request.id = task_id
        return answer

    def retry(self, failed: Request) -> Request:
        again = Request(failed.seed, failed.fields, failed.portrait, failed.recording)
        self.requests.append(again)
        answer = self.call("POST", f"{LIST}/{failed.id}/retry")
        assert answer.status_code == 202, answer.text
        again.id = answer.json()["task_id"]
        return again

    def cancel(self, request: Request) -> dict[str, Any]:
        request.cancel = Wish.SENT
        body = self._told(request, self.call("POST", f"{LIST}/{request.id}/cancel"))
        request.cancel = Wish.NONE if body["status"] == "COMPLETED" else Wish.ANSWERED  # it was too late
        return body

    def delete(self, request: Request) -> None:
        request.delete = Wish.SENT
        answer = self.call("DELETE", f"{LIST}/{request.id}")
        assert answer.status_code == 204, answer.text
        request.delete = Wish.ANSWERED

    def status(self, request: Request) -> dict[str, Any]:
        return self._told(request, self.call("GET", request.status_url))

    def finish(self, request: Request) -> dict[str, Any]:
        """Poll until the task has ended; what the video must be from then on is in its manifest."""
        seen: list[dict[str, Any]] = []

        def ended() -> bool:
            seen.append(self.status(request))
            return seen[-1]["status"] in ENDED

        wait_for(ended, 60)
        if seen[-1]["status"] == "COMPLETED" and request.etag is None:
            manifest = self.call("GET", f"{LIST}/{request.id}/manifest").json()
            request.etag = f'"{manifest["output"]["sha256"]}"'
        return seen[-1]

    def download(self, request: Request) -> bytes:
        """The video of a completed task, which never changes."""
        answer = self.call("GET", f"{LIST}/{request.id}/download")
        assert answer.status_code == 200, answer.text
        etag = answer.headers["etag"]
        assert etag == f'"{hashlib.sha256(answer.content).hexdigest()}"'
        assert request.etag in (None, etag), "another video than before"
        request.etag = etag
        return answer.content

    def all(self) -> dict[str, dict[str, Any]]:
        """Every task there is, by id."""
        return {body["task_id"]: body for body in self._pages()}

    def _pages(self) -> Iterator[dict[str, Any]]:
        query: dict[str, Any] = {"limit": 100}
        while True:
            page = self.call("GET", LIST, params=query).json()
            yield from page["data"]
            if not page["has_more"]:
                return
            query["after"] = page["last_id"]

    def _told(self, request: Request, answer: httpx.Response) -> dict[str, Any]:
        assert answer.status_code == 200, answer.text
        body: dict[str, Any] = answer.json()
        assert body["attempt"] >= request.attempt, "an attempt was not counted"
        request.attempt = body["attempt"]
        return body
