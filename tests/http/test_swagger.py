"""/docs as a person uses it, in headless Chromium: try `start` out with real files, then `status` and `download`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

from media import video
from tests.browser import ARGUMENTS, CHROMIUM
from tests.process import EXAMPLES, finish, server

MILLISECONDS = 20_000  # for whatever a page has to show

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed (apt-get install chromium)")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    with server(tmp_path_factory.mktemp("preview")) as (_, client):
        yield client


class Watched:
    """A page, what it complained of, and the hosts that it asked."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.complaints: list[str] = []
        self.hosts: set[str] = set()
        self.kept_from: str | None = None  # a host that the page's own policy lets nobody ask
        page.set_default_timeout(MILLISECONDS)
        page.on("console", lambda message: self.complaints.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("requestfailed", lambda request: self.complaints.append(f"{request.url} {request.failure}"))
        page.on("request", lambda request: self._ask(request.url))

    def _ask(self, url: str) -> None:
        if urlsplit(url).scheme not in ("data", "blob"):
            self.hosts.add(urlsplit(url).hostname or url)


@pytest.fixture
def watched(browser: Browser) -> Iterator[Watched]:
    """What a page complains of, and whom it asks, is checked at the end."""
    context = browser.new_context(viewport={"width": 1200, "height": 1600})
    watched = Watched(context.new_page())
    yield watched
    context.close()
    kept_from = watched.kept_from
    assert [text for text in watched.complaints if kept_from is None or kept_from not in text] == []
    assert watched.hosts - {kept_from} == {"127.0.0.1"}


def try_out(page: Page, method: str, path: str) -> Locator:
    """Open an operation's form."""
    operation = page.locator(f".opblock-{method}").filter(has=page.locator(f'[data-path="{path}"]'))
    operation.locator(".opblock-summary").click()
    operation.get_by_role("button", name="Try it out").click()
    return operation


def execute(operation: Locator, status: int) -> Locator:
    """Send the form; the answer that the page shows."""
    operation.get_by_role("button", name="Execute").click()
    answer = operation.locator(".live-responses-table .response")
    expect(answer.locator(".response-col_status")).to_contain_text(str(status), timeout=MILLISECONDS)
    return answer


def test_a_video_from_the_page(client: httpx.Client, watched: Watched, tmp_path: Path) -> None:
    page = watched.page
    page.goto(f"{client.base_url}/docs")

    start = try_out(page, "post", "/api/v1/synthesis/start")
    files = start.locator("input[type=file]")
    files.nth(0).set_input_files(EXAMPLES / "portrait.jpg")
    files.nth(1).set_input_files(EXAMPLES / "speech_en.wav")
    start.locator('tr[data-property-name="emotion"] select').select_option("happy")
    start.locator('tr[data-property-name="duration"] input[type=text]').fill("1")
    start.locator('tr[data-property-name="min_resolution"] input[type=text]').fill("256")
    with page.expect_response("**/synthesis/start") as accepted:
        answer = execute(start, 202)
    task = accepted.value.json()
    expect(answer).to_contain_text(task["task_id"])
    parameters = finish(client, task)["parameters"]
    assert (parameters["duration"], parameters["min_resolution"], parameters["seed"]) == (1, 256, 72589)

    status = try_out(page, "get", "/api/v1/synthesis/{task_id}/status")
    status.locator('tr[data-param-name="task_id"] input').fill(task["task_id"])
    expect(execute(status, 200)).to_contain_text('"status": "COMPLETED"')

    download = try_out(page, "get", "/api/v1/synthesis/{task_id}/download")
    download.locator('tr[data-param-name="task_id"] input').fill(task["task_id"])
    link = execute(download, 200).get_by_role("link", name="Download file")
    with page.expect_download() as saved:
        link.click()
    path = tmp_path / "result.mp4"
    saved.value.save_as(path)
    info = video.probe(path)
    assert (info.width, info.frames, info.fps) == (256, 25, 25)


def test_redoc_shows_the_reference(client: httpx.Client, watched: Watched) -> None:
    watched.kept_from = "cdn.redoc.ly"  # where its maker's logo is
    watched.page.goto(f"{client.base_url}/redoc")
    expect(watched.page.get_by_role("heading", name="DICE-Talk API")).to_be_visible(timeout=MILLISECONDS)
