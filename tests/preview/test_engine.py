"""The whole engine: real files in, a video out."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from api.settings import Settings
from engines.base import (
    Image,
    JobCancelledError,
    NoFaceError,
    SetupError,
    Stage,
    SynthesisJob,
    SynthesisParams,
)
from engines.preview.engine import PreviewEngine
from engines.preview.face import FaceFinder
from engines.preview.frame import make_still
from engines.preview.mouth import MouthTracks
from engines.preview.render import Renderer
from media.errors import MediaError
from tests.jobs import make_job
from tests.preview.conftest import PARAMS, PORTRAIT, SPEECH, Clip, MakeClip


def job_for(engine: PreviewEngine, portrait: Image, output: Path, seconds: float = 1.0) -> SynthesisJob:
    return make_job(PORTRAIT, SPEECH, output, seconds, engine.inspect(portrait).face, PARAMS)


def ignore(*report: object) -> None:
    pass


def test_the_contract_of_the_engine(engine: PreviewEngine) -> None:
    assert engine.name == "preview"
    assert set(engine.ignored_fields) == {"inference_steps"}
    assert sum(engine.stage_weights.values()) == pytest.approx(1)
    assert list(engine.stage_weights) == [Stage.PREPARING, Stage.RENDERING, Stage.ENCODING]


def test_it_must_be_loaded_first(portrait: Image, tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="not loaded"):
        PreviewEngine(tmp_path).inspect(portrait)


def test_a_clip_has_the_size_rate_and_length_asked_for(clip: Clip) -> None:
    assert clip.frames.shape == (30, 320, 256, 3)
    assert clip.fps == 25
    assert "preview" in clip.comment.lower()


def test_the_first_frame_is_the_portrait(clip: Clip, finder: FaceFinder, portrait: Image) -> None:
    face = finder.inspect(portrait).face
    still = make_still(portrait, face, finder.landmarks(portrait, face), PARAMS)
    difference = np.abs(clip.frames[0].astype(int) - still.picture)[:-24]  # without the badge
    assert difference.mean() < 3  # what the encoder takes


def test_duration_is_kept_down_to_a_single_frame(make_clip: MakeClip) -> None:
    assert len(make_clip(0.1, fps=8).frames) == 1
    assert len(make_clip(2.0, fps=30).frames) == 60


def test_equal_input_gives_equal_bytes(engine: PreviewEngine, portrait: Image, tmp_path: Path) -> None:
    for name in ("one.mp4", "two.mp4"):
        engine.synthesize(job_for(engine, portrait, tmp_path / name), ignore, lambda: False)
    assert (tmp_path / "one.mp4").read_bytes() == (tmp_path / "two.mp4").read_bytes()


def test_progress_is_reported_in_order(clip: Clip) -> None:
    stages = [stage for stage, _, _ in clip.reports]
    assert stages == sorted(stages, key=[Stage.PREPARING, Stage.RENDERING, Stage.ENCODING].index)
    for stage in set(stages):
        fractions = [fraction for other, fraction, _ in clip.reports if other is stage]
        assert fractions == sorted(fractions)
        assert fractions[-1] == 1
    assert "Rendering frame 30 of 30" in [sentence for _, _, sentence in clip.reports]


def test_lips_of_the_video_follow_the_voice(make_clip: MakeClip, finder: FaceFinder, tracks: MouthTracks) -> None:
    """Measured on the decoded frames: together with the loudness, without a lag, and closed in the pauses."""
    made = make_clip(5.0, min_resolution=384, crop=True, expand_ratio=0.3)
    frames = made.frames
    face = finder.inspect(frames[0]).face
    gaps = []
    for frame in frames:
        points = finder.landmarks(frame, face)
        eyes = np.linalg.norm(points[33, :2] - points[263, :2])
        gaps.append(np.linalg.norm(points[13, :2] - points[14, :2]) / eyes)
    lips = np.array(gaps)[8:]
    loudness = tracks.resampled(200, 25).loudness[: len(frames)][8:]
    lags = {lag: float(np.corrcoef(lips[5 + lag : len(lips) - 5 + lag], loudness[5:-5])[0, 1]) for lag in range(-4, 5)}
    assert lags[0] >= 0.6
    assert lags[0] >= max(lags.values()) - 0.02
    quiet = np.convolve(loudness, np.ones(5), mode="same") < 0.01
    assert quiet.sum() >= 3
    assert lips[quiet].max() < 0.02


def test_cancelling_stops_soon_and_leaves_nothing(engine: PreviewEngine, portrait: Image, tmp_path: Path) -> None:
    rendered = 0

    def count(stage: Stage, fraction: float, sentence: str, remaining: float | None = None, *_: object) -> None:
        nonlocal rendered
        rendered += stage is Stage.RENDERING

    before = threading.active_count()
    job = job_for(engine, portrait, tmp_path / "result.mp4", seconds=8.0)
    with pytest.raises(JobCancelledError):
        engine.synthesize(job, count, lambda: rendered >= 2)
    assert rendered == 2
    assert list(tmp_path.iterdir()) == []
    assert threading.active_count() == before


def test_cancelled_before_it_began(engine: PreviewEngine, portrait: Image, tmp_path: Path) -> None:
    with pytest.raises(JobCancelledError):
        engine.synthesize(job_for(engine, portrait, tmp_path / "result.mp4"), ignore, lambda: True)


def test_an_error_while_drawing_reaches_the_caller(
    engine: PreviewEngine, portrait: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Renderer, weights: object) -> Image:
        raise ValueError("brush lost")

    monkeypatch.setattr(Renderer, "frame", fail)
    before = threading.active_count()
    with pytest.raises(ValueError, match="brush lost"):
        engine.synthesize(job_for(engine, portrait, tmp_path / "result.mp4"), ignore, lambda: False)
    assert list(tmp_path.iterdir()) == []
    assert threading.active_count() == before


def test_an_unwritable_output_is_an_error(engine: PreviewEngine, portrait: Image, tmp_path: Path) -> None:
    before = threading.active_count()
    with pytest.raises((OSError, MediaError)):
        engine.synthesize(job_for(engine, portrait, tmp_path / "no" / "result.mp4"), ignore, lambda: False)
    assert threading.active_count() == before


def test_another_picture_than_the_inspected_one_is_refused(
    engine: PreviewEngine, portrait: Image, tmp_path: Path
) -> None:
    blank = tmp_path / "blank.png"
    cv2.imwrite(str(blank), np.full((310, 248, 3), 128, np.uint8))
    job = replace(job_for(engine, portrait, tmp_path / "result.mp4"), image=blank)
    with pytest.raises(NoFaceError):
        engine.synthesize(job, ignore, lambda: False)


def test_two_jobs_at_once_do_not_disturb_each_other(engine: PreviewEngine, portrait: Image, tmp_path: Path) -> None:
    jobs = [job_for(engine, portrait, tmp_path / f"{number}.mp4", seconds=0.6) for number in range(3)]
    engine.synthesize(jobs[0], ignore, lambda: False)
    threads = [threading.Thread(target=engine.synthesize, args=(job, ignore, lambda: False)) for job in jobs[1:]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({job.output.read_bytes() for job in jobs}) == 1


def test_estimates_grow_with_the_work(engine: PreviewEngine) -> None:
    def estimate(seconds: float = 10.0, **changes: object) -> tuple[float, int]:
        params: SynthesisParams = replace(PARAMS, **changes)  # type: ignore[arg-type]
        guess = engine.estimate(params, seconds, (248, 310))
        return guess.seconds, guess.peak_bytes

    assert estimate(60.0)[0] > 4 * estimate(10.0)[0]
    assert estimate(fps=60)[0] > 1.5 * estimate()[0]
    assert estimate(min_resolution=1024) > estimate(min_resolution=512)
    assert 0.5 < estimate(10.0, min_resolution=512)[0] < 10


@pytest.mark.parametrize("size", [(1024, 1024), (1024, 3072)])
def test_largest_preview_fits_the_time_limit_on_half_the_speed(size: tuple[int, int]) -> None:
    settings = Settings()
    params = replace(PARAMS, min_resolution=1024, fps=settings.synthesis.fps)
    expected = PreviewEngine(settings.files.checkpoint_dir).estimate(params, 600, size).seconds
    assert 2 * expected < settings.tasks.timeout_seconds
