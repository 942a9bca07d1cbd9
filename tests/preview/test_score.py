"""The score of `benchmarks/preview_score.py`: a good video passes, and each kind of fault is noticed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from benchmarks import preview, preview_cases, preview_score
from benchmarks.preview_score import LIMITS, Take
from engines.base import Emotion, Image
from engines.preview import motion
from engines.preview.engine import PreviewEngine
from engines.preview.face import FaceFinder
from engines.preview.frame import Still
from engines.preview.mouth import analyse
from engines.preview.rig import Rig
from media.video import VideoWriter
from tests.preview.conftest import PARAMS, ROOT, SPEECH

SECONDS = 2.0
CHINESE = ROOT / "examples" / "speech_zh.mp3"


@pytest.fixture(scope="module")
def take(engine: PreviewEngine, finder: FaceFinder, portrait: Image, tmp_path_factory: pytest.TempPathFactory) -> Take:
    return preview_score.make(
        engine,
        finder,
        portrait,
        speech=SPEECH,
        seconds=SECONDS,
        params=replace(PARAMS, emotion=Emotion.HAPPY, min_resolution=320),
        directory=tmp_path_factory.mktemp("take"),
    )


def spoilt(take: Take, directory: Path, change: Callable[[list[Image]], list[Image]], seconds: float = SECONDS) -> Take:
    """The same video with other frames."""
    path = directory / "spoilt.mp4"
    height, width = take.still.picture.shape[:2]
    with VideoWriter(path, width=width, height=height, fps=25, audio=SPEECH, seconds=seconds) as writer:
        for shown in change([frame.copy() for frame in preview_score.decode(take.path)]):
            writer.write(shown)
    return replace(take, path=path)


def late(frames: list[Image]) -> list[Image]:
    """The picture lags by a fifth of a second."""
    return frames[:1] * 5 + frames[:-5]


def frozen(frames: list[Image]) -> list[Image]:
    return frames[:1] * len(frames)


def flickering(frames: list[Image]) -> list[Image]:
    return [np.clip(frame.astype(np.int16) + 3 * (-1) ** i, 0, 255).astype(np.uint8) for i, frame in enumerate(frames)]


def shimmering(frames: list[Image]) -> list[Image]:
    """The light on the face alone goes to and fro, by less than two hundredths."""
    height, width = frames[0].shape[:2]
    spot = np.zeros((height, width), np.float32)
    cv2.ellipse(spot, (width // 2, int(0.4 * height)), (48, 56), 0, 0, 360, 1, -1)
    return [
        (frame * (1 + 0.015 * (-1) ** i * spot[..., None])).clip(0, 255).astype(np.uint8)
        for i, frame in enumerate(frames)
    ]


def sliding(frames: list[Image]) -> list[Image]:
    """The whole picture moves by two pixels."""
    return [frame if i < 20 else np.roll(frame, 2, axis=1) for i, frame in enumerate(frames)]


def test_a_video_of_the_example_is_within_all_limits(take: Take, finder: FaceFinder) -> None:
    found = preview_score.score(finder, take)
    assert preview_score.failures(found) == []
    assert found.ends == 0


@pytest.mark.parametrize(
    ("fault", "figures"),
    [
        (late, {"mouth"}),
        (frozen, {"mouth"}),
        (flickering, {"flicker"}),
        (shimmering, {"skin"}),
        (sliding, {"outside", "far"}),
    ],
    ids=["late", "frozen", "flickering", "shimmering", "sliding"],
)
def test_every_fault_is_noticed(
    take: Take, finder: FaceFinder, tmp_path: Path, fault: Callable[[list[Image]], list[Image]], figures: set[str]
) -> None:
    assert figures <= set(preview_score.failures(preview_score.score(finder, spoilt(take, tmp_path, fault))))


def test_the_worst_of_scores_is_the_worst_of_every_figure() -> None:
    one, other = replace(LIMITS, mouth=0.5), replace(LIMITS, far=20.0)
    found = preview_score.worst([LIMITS, one, other])
    assert found == replace(LIMITS, mouth=0.5, far=20.0)
    assert preview_score.failures(found) == ["mouth", "far"]
    assert preview_score.failures(replace(LIMITS, mouth=float("nan"))) == ["mouth"]


@pytest.mark.parametrize("speech", [SPEECH, CHINESE], ids=["english", "mandarin"])
def test_poses_open_the_lips_with_the_voice(speech: Path, rig: Rig, still: Still, tmp_path: Path) -> None:
    frames = 200
    tracks = analyse(speech, frames / 25).resampled(frames, 25)
    poses = motion.perform(tracks, rig.shape, replace(PARAMS, min_resolution=512), frames)
    gaps = preview_score.wanted_gaps(Take(tmp_path, still, rig, poses))[preview_score.EASE :]
    loud = preview_score.loudness(speech, frames, 25)[preview_score.EASE :]
    assert preview_score.correlation(gaps, loud) >= 0.74
    assert preview_score.best_lag(gaps, loud) == 0


def test_a_lag_is_found_with_its_sign() -> None:
    track = np.random.default_rng(1).random(60)
    assert preview_score.best_lag(track[:-3], track[3:]) == 3
    assert preview_score.best_lag(track[3:], track[:-3]) == -3
    assert preview_score.correlation(track, np.zeros(60)) == 0


def test_the_gap_of_pauses_is_the_largest_of_their_medians() -> None:
    loud, gaps = np.ones(60), np.full(60, 9.0)
    loud[10:25] = loud[40:55] = 0
    gaps[13:22], gaps[43:52] = 0.2, 0.6
    gaps[15] = 5  # a blink
    assert preview_score.silence_gap(gaps, loud) == 0.6
    assert np.isnan(preview_score.silence_gap(gaps, np.ones(60)))


def test_the_benchmark_says_which_targets_were_met(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tables alone: the cases are made up, one of them a bad one."""

    def pretend(name: str, *given: object) -> dict[str, Any]:
        if name == "speed":
            return {"seconds": float(str(given[1])) / 4, "encoding": 1.0, "peak_mb": 200.0}
        if name == "voice":
            return {"correlation": 0.65, "lag": 0, "silence": 0.5, "ends": 0.0}
        score = {"mouth": 0.95, "outside": 3.0, "far": 4.0, "flicker": 0.5, "skin": 3.0, "ends": 0.0}
        return score if name == "scores" else {"sha256": "abc"}

    monkeypatch.setattr(preview, "_case", pretend)
    monkeypatch.setattr(preview, "_voices", lambda _: {f"voice {number}": SPEECH for number in range(4)})
    lines = preview.report().splitlines()
    assert "| 10 s at 512 pixels | 4.0 × real time | ≥ 3 | yes |" in lines
    assert [line for line in lines if "lip gap against loudness" in line and "**no**" in line]
    assert [
        line for line in lines if line.startswith("| photographs within") and line.endswith("| 12 of 12 | all | yes |")
    ]


def test_the_cases_run() -> None:
    """The quickest one, for real."""
    first, second = preview_cases.digest(seconds=0.4), preview_cases.digest(seconds=0.4)
    assert first == second
    assert len(str(first["sha256"])) == 64
