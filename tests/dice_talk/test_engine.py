"""The whole engine on the small checkpoint: from files to a video, and every parameter's effect on it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from engines.base import (
    Emotion,
    FaceBox,
    GpuFailedError,
    GpuOutOfMemoryError,
    JobCancelledError,
    NoFaceError,
    Report,
    SetupError,
    Stage,
    TooLargeError,
)
from engines.dice_talk import cost
from engines.dice_talk.engine import DiceTalkEngine
from media import image, video
from tests.dice_talk.conftest import PARAMS, PORTRAIT, SPEECH, frames_of, quiet
from tests.jobs import make_job


@pytest.fixture
def make(engine: DiceTalkEngine, face: FaceBox, tmp_path: Path) -> Callable[..., Path]:
    """make(seconds, **changed parameters) → the video."""
    numbers = iter(range(100))

    def make(seconds: float = 0.4, **changes: Any) -> Path:
        output = tmp_path / f"{next(numbers)}.mp4"
        job = make_job(PORTRAIT, SPEECH, output, seconds, face, replace(PARAMS, **changes))
        engine.synthesize(job, quiet, lambda: False)
        assert [path for path in tmp_path.iterdir() if path.suffix != ".mp4"] == []
        return output

    return make


def test_a_video_is_whole_and_says_what_it_is(make: Callable[..., Path]) -> None:
    info = video.probe(make(1.3))
    assert (info.width, info.height) == (64, 64)  # 64 × 80 rounds to it
    assert (info.fps, info.frames) == (25, 32)  # round(1.3 × 25), halves to even
    assert info.audio_seconds == pytest.approx(1.3, abs=0.05)
    assert info.comment.startswith("Synthetic video: DICE-Talk")
    assert "happy" in info.comment


def test_equal_jobs_give_equal_bytes(make: Callable[..., Path]) -> None:
    assert make().read_bytes() == make().read_bytes()


@pytest.mark.parametrize(
    "change",
    [
        {"emotion": Emotion.SAD},
        {"ref_scale": 1.0},
        {"emo_scale": 1.0},
        {"crop": True},
        {"inference_steps": 3},
        {"seed": 0},
        {"seed": 2**32 - 1},
        {"dynamic_scale": 2.0},
    ],
    ids=str,
)
def test_every_parameter_changes_the_pictures(make: Callable[..., Path], plain: Any, change: dict[str, Any]) -> None:
    changed = frames_of(make(**change))
    assert changed.shape == plain.shape
    assert np.abs(changed.astype(int) - plain).mean() > 0.5


@pytest.fixture(scope="module")
def plain(engine: DiceTalkEngine, face: FaceBox, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The frames with the parameters as they are."""
    output = tmp_path_factory.mktemp("plain") / "plain.mp4"
    engine.synthesize(make_job(PORTRAIT, SPEECH, output, 0.4, face, PARAMS), quiet, lambda: False)
    return frames_of(output)


def test_expand_ratio_frames_the_crop(make: Callable[..., Path]) -> None:
    near, far = (frames_of(make(crop=True, expand_ratio=ratio)) for ratio in (0.1, 1.0))
    assert np.abs(near.astype(int) - far).mean() > 0.5


def test_min_resolution_is_the_short_side(make: Callable[..., Path]) -> None:
    info = video.probe(make(0.1, min_resolution=192, inference_steps=1))
    assert (info.width, info.height) == (192, 256)  # 192 × 240, each rounded to a multiple of 64


@pytest.mark.parametrize("fps", [8, 12, 25, 60])
def test_fps_shows_the_nearest_native_frame(make: Callable[..., Path], plain: Any, fps: int) -> None:
    shown = frames_of(make(fps=fps)).astype(int)
    assert len(shown) == round(0.4 * fps)
    for number, picture in enumerate(shown):
        nearest = min(int(number * 25 / fps + 0.5), len(plain) - 1)
        differences = np.abs(plain - picture[None]).mean(axis=(1, 2, 3))
        assert differences[nearest] <= differences.min() + 0.5  # but for the encoder


def test_without_interpolation_there_is_half_the_rate(checkpoint: Path, face: FaceBox, tmp_path: Path) -> None:
    engine = DiceTalkEngine(checkpoint, device_id=-1, dtype="auto", low_vram="auto", interpolate=False)
    engine.load()
    job = make_job(PORTRAIT, SPEECH, tmp_path / "a.mp4", 0.4, face, PARAMS)
    engine.synthesize(job, quiet, lambda: False)
    frames = frames_of(job.output).astype(int)
    assert len(frames) == 10
    steps = np.abs(np.diff(frames, axis=0)).mean(axis=(1, 2, 3))
    assert np.all(steps[1::2] < 0.1 * steps[:8:2].min())  # 0, 1 1, 2 2, 3 3, 4 4: the nearest, halves to the later
    assert (
        engine.version
        != DiceTalkEngine(checkpoint, device_id=-1, dtype="auto", low_vram="auto", interpolate=True).version
    )


@pytest.fixture
def pictures(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """All pictures that go to the encoder: behind it, the least rounding shows."""
    seen: list[Any] = []
    write = video.VideoWriter.write

    def record(writer: video.VideoWriter, picture: Any) -> None:
        seen.append(picture.astype(int))
        write(writer, picture)

    monkeypatch.setattr(video.VideoWriter, "write", record)
    return seen


def test_low_memory_gives_the_same_pictures(
    checkpoint: Path, face: FaceBox, make: Callable[..., Path], pictures: list[Any], tmp_path: Path
) -> None:
    make()
    sparing = DiceTalkEngine(checkpoint, device_id=-1, dtype="auto", low_vram="on", interpolate=True)
    sparing.load()
    sparing.synthesize(make_job(PORTRAIT, SPEECH, tmp_path / "a.mp4", 0.4, face, PARAMS), quiet, lambda: False)
    assert len(pictures) == 20
    assert np.abs(np.subtract(pictures[:10], pictures[10:])).max() <= 1


def test_progress_follows_the_windows(engine: DiceTalkEngine, face: FaceBox, tmp_path: Path) -> None:
    reports: list[tuple[Stage, float, str, float | None]] = []

    def report(stage: Stage, fraction: float, message: str, remaining: float | None = None, *_: object) -> None:
        reports.append((stage, fraction, message, remaining))

    params = replace(PARAMS, inference_steps=5)
    engine.synthesize(make_job(PORTRAIT, SPEECH, tmp_path / "a.mp4", 0.4, face, params), report, lambda: False)
    denoising = [fraction for stage, fraction, *_ in reports if stage is Stage.DENOISING]
    assert denoising == pytest.approx([0, *(done / 10 for done in range(1, 11))])  # 2 windows × 5 steps
    assert list(dict.fromkeys(stage for stage, *_ in reports)) == [
        Stage.PREPARING, Stage.DENOISING, Stage.DECODING, Stage.ENCODING
    ]  # fmt: skip
    assert any("step 3 of 5" in message for _, _, message, _ in reports)
    known = [remaining for stage, _, _, remaining in reports if stage is Stage.DENOISING and remaining is not None]
    assert len(known) >= 9  # at the latest when the first window, which warms up, is done
    assert all(seconds > 0 for seconds in known)
    weights = engine.stage_weights
    assert sum(weights.values()) == pytest.approx(1)
    assert set(weights) == {stage for stage, *_ in reports}


def test_a_cancelled_job_stops_within_a_window(engine: DiceTalkEngine, face: FaceBox, tmp_path: Path) -> None:
    windows = 0

    def report(stage: Stage, fraction: float, message: str, remaining: float | None = None, *_: object) -> None:
        nonlocal windows
        windows += stage is Stage.DENOISING and fraction > 0

    job = make_job(PORTRAIT, SPEECH, tmp_path / "a.mp4", 0.4, face, replace(PARAMS, inference_steps=50))
    with pytest.raises(JobCancelledError):
        engine.synthesize(job, report, lambda: windows >= 3)
    assert windows == 3
    assert list(tmp_path.iterdir()) == []


def test_two_jobs_at_once_are_as_one_after_the_other(
    engine: DiceTalkEngine, face: FaceBox, make: Callable[..., Path], tmp_path: Path
) -> None:
    changes: list[dict[str, Any]] = [{"seed": 1, "emotion": Emotion.SAD}, {"seed": 2, "crop": True, "emo_scale": 2.0}]
    alone = [make(0.5, **change).read_bytes() for change in changes]
    together: dict[int, bytes] = {}
    messages: list[str] = []

    def report(stage: Stage, fraction: float, message: str, remaining: float | None = None, *_: object) -> None:
        messages.append(message)

    def work(number: int) -> None:
        output = tmp_path / f"together{number}.mp4"
        job = make_job(PORTRAIT, SPEECH, output, 0.5, face, replace(PARAMS, **changes[number]))
        engine.synthesize(job, report, lambda: False)
        together[number] = output.read_bytes()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [together[0], together[1]] == alone


def test_jobs_overlap_save_for_their_denoising(engine: DiceTalkEngine, face: FaceBox, tmp_path: Path) -> None:
    """While one is denoised another is prepared; while the first is encoded the other is denoised."""
    prepared, waited, denoised = threading.Event(), threading.Event(), threading.Event()
    order: list[tuple[str, Stage]] = []
    expected: list[float] = []

    def first(stage: Stage, fraction: float, message: str, remaining: float | None = None, *_: object) -> None:
        order.append(("first", stage))
        if stage is Stage.DENOISING and fraction > 0:
            assert prepared.wait(60), "the other was not prepared meanwhile"
            assert waited.wait(60), "the other did not say that it waits"
        if stage is Stage.DECODING:
            assert denoised.wait(60), "the other was not denoised meanwhile"

    def second(stage: Stage, fraction: float, message: str, remaining: float | None = None, *_: object) -> None:
        order.append(("second", stage))
        if stage is Stage.PREPARING and fraction == 1 and "Ready" in message:
            prepared.set()
        if stage is Stage.QUEUED:
            assert remaining is not None
            expected.append(remaining)
            waited.set()
        if stage is Stage.DENOISING and fraction == 1:
            denoised.set()

    failures: list[BaseException] = []

    def work(name: str, report: Report, begin: threading.Event) -> None:
        begin.wait(60)
        job = make_job(PORTRAIT, SPEECH, tmp_path / f"{name}.mp4", 0.4, face, PARAMS)
        try:
            engine.synthesize(job, report, lambda: False)
        except BaseException as error:
            failures.append(error)

    at_once, later = threading.Event(), threading.Event()
    at_once.set()

    def first_then_second(
        stage: Stage, fraction: float, message: str, remaining: float | None = None, *_: object
    ) -> None:
        if stage is Stage.DENOISING:  # it has its turn
            later.set()
        first(stage, fraction, message, remaining)

    threads = [
        threading.Thread(target=work, args=("first", first_then_second, at_once)),
        threading.Thread(target=work, args=("second", second, later)),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    denoising = [name for name, stage in order if stage is Stage.DENOISING]
    assert denoising == sorted(denoising)  # one after the other
    assert all(seconds > 0 for seconds in expected)


def test_a_full_gpu_makes_the_job_go_on_in_little_memory(
    engine: DiceTalkEngine, make: Callable[..., Path], pictures: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    make()
    unet = engine._ready()[0].networks.unet
    forward = unet.forward
    calls: list[int] = []

    def full(sample: torch.Tensor, *rest: Any) -> torch.Tensor:
        calls.append(len(sample))
        if len(calls) > 1 and len(sample) == 3:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return forward(sample, *rest)

    monkeypatch.setattr(unet, "forward", full)
    make()
    assert calls == [3, 3, *[1] * 9]  # one window whole, one refused, then three by branch
    assert np.abs(np.subtract(pictures[:10], pictures[10:])).max() <= 1


def test_a_job_that_never_fits_fails_and_the_next_one_works(
    engine: DiceTalkEngine, make: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    with monkeypatch.context() as patch:
        patch.setattr(engine._ready()[0].networks.unet, "forward", full)
        with pytest.raises(GpuOutOfMemoryError, match="min_resolution"):
            make()
    make()


def test_a_broken_gpu_is_told_apart(
    engine: DiceTalkEngine, make: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> torch.Tensor:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    with monkeypatch.context() as patch:
        patch.setattr(engine._ready()[0].networks.unet, "forward", broken)
        with pytest.raises(GpuFailedError):
            make()


def test_a_portrait_without_a_face_is_refused(engine: DiceTalkEngine) -> None:
    with pytest.raises(NoFaceError, match="No face was found"):
        engine.inspect(np.full((200, 200, 3), 128, np.uint8))


def test_several_faces_and_small_ones_are_warned_of(engine: DiceTalkEngine) -> None:
    picture = image.load(PORTRAIT)
    assert engine.inspect(picture).warnings == ()
    twice = engine.inspect(np.concatenate([picture, picture[:, ::-1]], axis=1))
    assert any("2 faces" in warning for warning in twice.warnings)
    wide = np.full((800, 800, 3), 90, np.uint8)
    wide[400 : 400 + picture.shape[0], 400 : 400 + picture.shape[1]] = picture
    assert any("crop=true" in warning for warning in engine.inspect(wide).warnings)


def test_estimates_grow_with_the_work(engine: DiceTalkEngine) -> None:
    def seconds(length: float, **changes: Any) -> float:
        return engine.estimate(replace(PARAMS, **changes), length, (300, 400)).seconds

    base = seconds(10, min_resolution=256, inference_steps=10)
    assert seconds(10, min_resolution=256, inference_steps=20) == pytest.approx(2 * base, rel=0.3)
    assert seconds(100, min_resolution=256, inference_steps=10) > 6 * base
    assert seconds(10, min_resolution=512, inference_steps=10) > 2 * base


def test_what_can_never_fit_is_refused_with_the_numbers(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = 3 * cost.GIB // 10
    monkeypatch.setattr("engines.dice_talk.engine.device_memory", lambda device: small)
    engine = DiceTalkEngine(checkpoint, device_id=-1, dtype="auto", low_vram="auto", interpolate=True)
    engine.load()
    engine.estimate(replace(PARAMS, min_resolution=256), 10, (300, 300))
    with pytest.raises(TooLargeError, match=r"3072×1024 pixels needs about \d+\.\d GiB.*0\.3 GiB.*min_resolution"):
        engine.estimate(replace(PARAMS, min_resolution=1024), 10, (3000, 1000))
    with pytest.raises(TooLargeError, match=r"1024×1024"):
        engine.estimate(replace(PARAMS, min_resolution=1024, crop=True), 10, (3000, 1000))


def test_the_length_counts_for_the_main_memory(engine: DiceTalkEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engines.dice_talk.engine.host_memory", lambda: cost.GIB)
    engine.estimate(replace(PARAMS, min_resolution=512), 60, (300, 300))
    with pytest.raises(TooLargeError, match=r"7500 frames of 512×512 pixels need 1\.4 GiB.*0\.5 GiB.*duration"):
        engine.estimate(replace(PARAMS, min_resolution=512), 600, (300, 300))


def test_without_cuda_or_load_it_says_so(checkpoint: Path) -> None:
    engine = DiceTalkEngine(checkpoint, device_id=0, dtype="auto", low_vram="auto", interpolate=True)
    if not torch.cuda.is_available():
        with pytest.raises(SetupError, match="device_id"):
            engine.load()
    with pytest.raises(SetupError, match="not loaded"):
        engine.estimate(PARAMS, 1, (100, 100))
