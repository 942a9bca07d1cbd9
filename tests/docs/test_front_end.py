"""The web page of the guide works in a browser: it uploads, follows the task, cancels it and plays the video."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import httpx

from api.models import StartForm
from engines.base import Emotion
from tests.browser import open_page
from tests.docs.conftest import Service
from tests.docs.documents import ALL_BLOCKS
from tests.process import EXAMPLES, start
from tests.scripted_engine import ScriptedEngine
from tests.server import make_settings, running

(PAGE,) = [block for block in ALL_BLOCKS if block.kind == "html"]
SPEECH = EXAMPLES / "speech_zh.mp3"


class Quiet(SimpleHTTPRequestHandler):
    """Serves files and says nothing."""

    def log_message(self, *arguments: Any) -> None:
        """Not to the terminal."""


@contextmanager
def served(directory: Path, service: str) -> Iterator[str]:
    """The address of the page, on another origin than the service's."""
    (directory / "page.html").write_text(PAGE.code.replace("http://localhost:8000", service))
    site = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(directory)))
    thread = Thread(target=site.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{site.server_address[1]}/page.html"
    finally:
        site.shutdown()
        thread.join()
        site.server_close()


def test_the_page_plays_the_video_and_shows_what_is_wrong(service: Service, tmp_path: Path) -> None:
    with served(tmp_path, service.url) as address, open_page() as page:
        page.goto(address)
        page.set_input_files("[name=image]", EXAMPLES / "portrait.jpg")
        page.set_input_files("[name=audio]", SPEECH)
        page.select_option("[name=emotion]", "surprised")
        page.fill("[name=duration]", "1")
        page.click("button")
        page.wait_for_function("video.readyState >= 1 && !button.disabled")
        seen = page.evaluate("[video.hidden, video.videoWidth, video.videoHeight, video.duration, progress.value]")
        assert (seen[0], seen[1], seen[4]) == (False, 512, 1)
        assert abs(seen[3] - 1) < 0.1
        assert page.inner_text("#message").startswith("完成")

        page.fill("[name=duration]", "")
        page.click("button")
        page.click("#cancel")
        page.wait_for_function("!button.disabled")
        assert page.inner_text("#message") == "The task was cancelled."
        assert page.evaluate("video.hidden && cancel.hidden")

        page.set_input_files("[name=image]", SPEECH)  # no picture
        page.click("button")
        page.wait_for_function("message.textContent.includes('JPEG')")
        assert page.inner_text("#message") == "The image is neither a JPEG nor a PNG file."
        assert page.evaluate("video.hidden && !button.disabled")


def test_the_page_of_another_origin_is_kept_out(tmp_path: Path) -> None:
    settings = make_settings(tmp_path / "service", security={"cors_origins": ["https://www.example.com"]})
    with running(settings, ScriptedEngine()) as run, served(tmp_path, run.url) as address, open_page() as page:
        page.goto(address)
        page.set_input_files("[name=image]", EXAMPLES / "portrait.jpg")
        page.set_input_files("[name=audio]", SPEECH)
        page.click("button")
        page.wait_for_function("message.textContent === '无法连接服务'")


def test_the_lines_about_events_follow_a_task(service: Service, tmp_path: Path) -> None:
    """The block for EventSource, the same in both languages, with the two things that it expects to be there."""
    (code,) = {re.sub(r" // .*", "", block.code) for block in ALL_BLOCKS if block.kind == "javascript"}
    code = code.replace("http://localhost:8000", service.url)
    with httpx.Client(base_url=service.url) as client, served(tmp_path, service.url) as address, open_page() as page:
        task = start(client, duration=1, min_resolution=256, seed=12)
        page.goto(address)
        page.evaluate(
            "taskId => { window.taskId = taskId; window.seen = []; window.show = (view) => seen.push(view); }",
            task["task_id"],
        )
        page.add_script_tag(content=code)
        page.wait_for_function("events.readyState === EventSource.CLOSED")
        seen = page.evaluate("seen")
        assert seen[-1] == client.get(task["status_url"]).json()
        assert seen[-1]["status"] == "COMPLETED"
        assert [view["progress"] for view in seen] == sorted(view["progress"] for view in seen)

        page.evaluate("window.taskId = 'none'")
        page.add_script_tag(content=f"{{ {code} }}")
        page.wait_for_function("seen.at(-1) === null")


def test_the_form_offers_fields_and_emotions_of_the_service() -> None:
    fields = set(re.findall(r'name="(\w+)"', PAGE.code))
    assert fields <= {"image", "audio", *StartForm.model_fields}
    assert {"image", "audio", "emotion"} <= fields
    assert sorted(re.findall(r'<option value="(\w+)">', PAGE.code)) == sorted(Emotion)
    (seconds,) = re.findall(r'name="duration" min="([\d.]+)" max="([\d.]+)"', PAGE.code)
    (range_,) = [kind for kind in StartForm.model_json_schema()["properties"]["duration"]["anyOf"] if "minimum" in kind]
    assert tuple(map(float, seconds)) == (range_["minimum"], range_["maximum"])
