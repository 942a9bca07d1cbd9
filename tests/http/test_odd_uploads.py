"""Bad and odd uploads by the thousand: each is taken or refused as it should be, in the one shape, and nothing is left.

Every run sends a tenth of them, `./run_tests.sh -m full` all.
"""

from __future__ import annotations

import io
from collections.abc import Iterator

import av
import cv2
import httpx
import numpy as np
import pytest

from tests.http.conftest import assert_no_secrets, check_error
from tests.http.odd.all_cases import GROUPS, cases
from tests.http.odd.case import ACCEPTED, Case
from tests.http.odd.pictures import portrait
from tests.http.odd.server import OddServer, odd_server
from tests.server import wait_for

PEAK_MB = 900  # of the server; two of the largest pictures are decoded at once at most
ALIKE = 0.8  # correlation of a video's first frame with the portrait


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OddServer]:
    with odd_server(tmp_path_factory.mktemp("odd"), renders=True) as server:
        yield server


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("share", [pytest.param(0.1, id="a tenth"), pytest.param(1, id="all", marks=pytest.mark.full)])
def test_uploads_of_every_kind(odd: OddServer, group: str, share: float) -> None:
    problems: list[str] = []
    accepted: list[tuple[Case, str]] = []
    for case in cases(group, share):
        answer = odd.send(case, case.body())
        try:
            if check_answer(case, answer):
                accepted.append((case, answer.json()["status_url"]))
        except (AssertionError, ValueError) as problem:
            problems.append(f"{case.name}: {answer.status_code} {answer.text[:300]}: {problem}")
    for case, status_url in accepted:
        try:
            check_task(odd.client, case, status_url)
        except AssertionError as problem:
            problems.append(f"{case.name}: {problem}")
    assert not problems, "\n".join(problems)
    assert odd.client.get("/api/health").json()["status"] == "healthy"
    assert not list(odd.directory.rglob("*.part"))
    assert odd.peak_mb() < PEAK_MB
    assert (odd.directory / "api.log").read_text() == ""


def check_answer(case: Case, answer: httpx.Response) -> bool:
    """Whether the case was accepted; fail when that, or what was said about it, is not as it should be."""
    body = answer.json()
    outcome = (answer.status_code, "accepted" if answer.status_code == 202 else body["code"])
    assert outcome in case.outcomes, f"instead of {set(case.outcomes)}"
    if outcome == ACCEPTED:
        assert_no_secrets(answer.text)
        return True
    check_error(answer, *outcome)
    return False


def check_task(client: httpx.Client, case: Case, status_url: str) -> None:
    """The files were read to the end, or the video shows the portrait as it is meant to be seen."""
    status: dict[str, object] = {}

    def ended() -> bool:
        answer = client.get(status_url)
        assert_no_secrets(answer.text)
        status.update(answer.json())
        return status["status"] in ("COMPLETED", "FAILED")

    wait_for(ended, 300)
    assert status["status"] == "COMPLETED", status["message"]
    if case.rendered:
        video = client.get(status_url.replace("/status", "/download")).content
        assert likeness(video) > ALIKE, f"{likeness(video)}"


def likeness(video: bytes) -> float:
    """Correlation of the video's first frame with the portrait, once all frames have been decoded."""
    with av.open(io.BytesIO(video), "r") as container:
        frames = [frame.to_ndarray(format="gray") for frame in container.decode(video=0)]
    wanted = np.asarray(portrait(150).convert("L"))
    shown = cv2.resize(frames[0], wanted.shape[::-1], interpolation=cv2.INTER_AREA)
    return float(np.corrcoef(shown.ravel(), wanted.ravel())[0, 1])
