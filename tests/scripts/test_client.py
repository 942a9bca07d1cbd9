"""test_api.py, the smoke test and example client, against a real service and against one that misbehaves."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.scripts.checkout import REPOSITORY, Checkout

HEALTH = {"status": "healthy", "state": "ready", "engine": "preview", "version": "1", "reason": None}
COMPLETED = {"progress": 1.0, "status": "COMPLETED", "message": "Done.", "error_code": None}
ANSWERS = {
    "/api/health": HEALTH,
    "/api/v1/synthesis/start": {"task_id": "1"},
    "/api/v1/synthesis/1/status": COMPLETED,
    "/api/v1/synthesis/1/download": b"\0\0\0\x18ftypisom",
}


def test_health(running: Checkout) -> None:
    code, output = running.run_client("health")
    assert code == 0
    assert f"{running.url}: healthy, ready, engine preview" in output


def test_the_whole_way(running: Checkout, tmp_path: Path) -> None:
    video = tmp_path / "result.mp4"
    code, output = running.run_client("--emotion", "sad", "--output", str(video))
    assert code == 0, output
    assert "100%  COMPLETED" in output
    assert f"Video saved to {video} ({video.stat().st_size} bytes)." in output


def test_the_sentence_of_the_service_is_shown(running: Checkout) -> None:
    code, output = running.run_client("--image", str(REPOSITORY / "examples" / "speech_en.wav"))
    assert code == 1
    assert "The service returned 415: " in output
    assert "Traceback" not in output


def test_no_service(checkout: Checkout) -> None:
    code, output = checkout.run_client("health")
    assert (code, f"Cannot connect to {checkout.url}" in output) == (1, True)


class Scripted(ThreadingHTTPServer):
    """Answers each path with what `answers` has for it."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), ScriptedHandler)
        self.answers: dict[str, object] = dict(ANSWERS)


class ScriptedHandler(BaseHTTPRequestHandler):
    server: Scripted

    def do_GET(self) -> None:
        answer = self.server.answers[self.path]
        body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(200 if answer != b"broken" else 500)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.do_GET()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@pytest.fixture
def scripted() -> Iterator[Scripted]:
    with Scripted() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("path", "answer", "sentence"),
    [
        ("/api/health", HEALTH | {"status": "unhealthy", "reason": "It is draining."}, "It is draining."),
        ("/api/health", b"broken", "The service returned 500"),
        ("/api/v1/synthesis/1/status", COMPLETED | {"status": "FAILED", "error_code": "no_face"}, "(no_face): Done."),
        ("/api/v1/synthesis/1/download", b"<html>not a video</html>", "is not an MP4 file"),
        ("/api/v1/synthesis/1/download", b"", "is incomplete: 0 of 0 bytes"),
    ],
)
def test_what_is_wrong_is_said(
    checkout: Checkout, scripted: Scripted, path: str, answer: object, sentence: str
) -> None:
    scripted.answers[path] = answer
    url = f"http://127.0.0.1:{scripted.server_address[1]}"
    command: list[str | Path] = [sys.executable, REPOSITORY / "test_api.py"]
    code, output = checkout.run_command(command, DICE_TALK_URL=url)
    assert code == 1
    assert sentence in output
