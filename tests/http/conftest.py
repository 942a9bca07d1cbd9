"""A server with the scripted engine, and the files to send to it."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from tests.media.speech import tone, write_wav
from tests.process import ROOT, START
from tests.scripted_engine import ScriptedEngine, noise_picture
from tests.server import Running, make_settings, running, wait_for

_LEAKS = re.compile(
    r"Traceback|/(root|tmp|home|usr|work)\b|\.py\b|\.part\b|site-packages|object at|<class|\bline \d|\\x[0-9a-f]{2}"
    r"|\b[A-Z]\w*(Error|Exception|Warning)\b|Errno|\b(PIL|Pillow|libav|FFmpeg|avcodec|numpy|OpenCV|pydantic|starlette)\b"
    f"|{re.escape(str(ROOT))}"
)
"""What an answer must not tell: paths, names of classes and libraries."""


def png(width: int = 64, height: int = 80, seed: int = 0) -> bytes:
    """A picture in which the scripted engine finds a face."""
    buffer = io.BytesIO()
    Image.fromarray(noise_picture(width, height, seed)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="session")
def wav(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """One second of sound."""
    return write_wav(tmp_path_factory.mktemp("speech") / "s.wav", tone(1, 16000), 16000).read_bytes()


class Client:
    """Submits with sane defaults and knows what every error must look like."""

    def __init__(self, run: Running, engine: ScriptedEngine, wav: bytes) -> None:
        self.run, self.engine, self.wav = run, engine, wav
        self.http = run.client

    def start(self, *, image: bytes | None = None, audio: bytes | None = None, **fields: Any) -> httpx.Response:
        data = {"emotion": "happy", **fields}
        files = {"image": png() if image is None else image, "audio": self.wav if audio is None else audio}
        return self.http.post(START, data=data, files=files)

    def finish(self, accepted: httpx.Response) -> dict[str, Any]:
        """Poll as a client does until the task has ended."""
        assert accepted.status_code == 202, accepted.text
        body: dict[str, Any] = {}

        def ended() -> bool:
            body.update(self.http.get(accepted.json()["status_url"]).json())
            return body["status"] in ("COMPLETED", "FAILED")

        wait_for(ended)
        return body


def assert_no_secrets(text: str) -> None:
    leak = _LEAKS.search(text)
    assert leak is None, leak


def check_error(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """Assert the one error shape, and that it tells no secrets."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    body: dict[str, Any] = response.json()
    expected = {"error", "detail", "code", "request_id"}
    assert set(body) == (expected | {"errors"} if code == "validation_error" else expected)
    assert body["code"] == code
    assert body["error"].endswith(".")
    assert body["request_id"] == response.headers["x-request-id"]
    assert_no_secrets(response.text)
    if status in (429, 503):
        assert int(response.headers["retry-after"]) >= 1
    return body


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, wav: bytes) -> Iterator[Client]:
    """One server for the tests of a module that leave it as it was."""
    engine = ScriptedEngine()
    with running(make_settings(tmp_path_factory.mktemp("server")), engine) as run:
        yield Client(run, engine, wav)


@pytest.fixture
def upload_dir(shared: Client) -> Path:
    return shared.run.service.uploads.directory
