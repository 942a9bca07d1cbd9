"""One job from its files to its video: prepare, denoise, then decode, interpolate and encode side by side."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engines.ahead import ahead
from engines.base import Cancelled, JobCancelledError, Report, Stage, SynthesisJob
from engines.dice_talk import portrait
from engines.dice_talk.audio_features import RATE, SpeechFeatures, speech_windows
from engines.dice_talk.cost import DECODED_FRAME
from engines.dice_talk.device import Turn, Work
from engines.dice_talk.interpolation import double_rate
from engines.dice_talk.networks import Loaded
from engines.dice_talk.pipeline import FPS, PADDING, Conditions, Pipeline, Sampling
from engines.dice_talk.portrait import PortraitTensors
from engines.dice_talk.vae import CHUNK
from engines.dice_talk.windows import windows
from media import image as images
from media.video import VideoWriter, frame_count

_QUEUE_FRAMES = 10  # ready but not yet encoded


@dataclass(slots=True)
class Shared:
    """What the jobs of one device share: the line for single pieces of work, and the one for denoising, with the
    seconds that each job in it still needs.
    """

    device: torch.device
    pieces: Turn = field(default_factory=Turn)
    denoising: Turn = field(default_factory=Turn)
    remaining: dict[int, float] = field(default_factory=dict)
    slowness: float | None = None  # how long the latest job's windows took, as a multiple of what was expected

    def before(self, job: int) -> float:
        """Seconds that the jobs before this one need."""
        return sum(
            seconds for _, seconds in itertools.takewhile(lambda item: item[0] != job, list(self.remaining.items()))
        )


@dataclass(frozen=True, slots=True)
class Plan:
    """What the engine decides for a job. Sizes are (width, height)."""

    low_memory: Callable[[tuple[int, int]], bool]
    window_seconds: Callable[[tuple[int, int]], float]  # expected, of one call of the UNet
    comment: str  # in the file


class Synthesis:
    """Makes one video."""

    def __init__(
        self, loaded: Loaded, shared: Shared, plan: Plan, *, job: SynthesisJob, report: Report, cancelled: Cancelled
    ) -> None:
        self._loaded = loaded
        self._pipeline = Pipeline(loaded.networks)
        self._shared = shared
        self._plan = plan
        self._job = job
        self._report = report
        self._cancelled = cancelled
        self._abandoned = False

    def run(self) -> None:
        """Raises EngineError, MediaError, OSError."""
        self._check()
        self._report(Stage.PREPARING, 0.0, "Looking at the portrait")
        tensors = self._portrait()
        height, width = tensors.mask.shape
        work = Work(
            self._shared.device, self._shared.pieces, self._check, low_memory=self._plan.low_memory((width, height))
        )
        with torch.inference_mode(), self._listen() as features:
            frames = features.frames
            row = self._loaded.networks.emotion_rows[self._job.params.emotion]
            conditions = self._pipeline.prepare(tensors, row, work)
            self._report(Stage.PREPARING, 1.0, "Ready to denoise")
            expected = self._plan.window_seconds((width, height))
            self._shared.remaining[id(self)] = self._left(0, frames) * expected * (self._shared.slowness or 1.0)
            try:
                with self._shared.denoising.held(self._check, self._report_waiting):
                    started = time.perf_counter()
                    latents = self._denoise(conditions, features, work)
                    per_window = (time.perf_counter() - started) / self._windows(frames)
                    self._shared.slowness = per_window / expected
            finally:
                del self._shared.remaining[id(self)]
        self._encode(latents, frames, work)

    def _check(self) -> None:
        if self._abandoned or self._cancelled():
            raise JobCancelledError("The job was cancelled.")

    def _portrait(self) -> PortraitTensors:
        job, params = self._job, self._job.params
        picture, face = images.load(job.image), job.face
        if params.crop:
            picture, face = portrait.cut(picture, face, params.expand_ratio)
        return portrait.tensors(picture, face, params.min_resolution)

    def _listen(self) -> SpeechFeatures:
        job = self._job

        def after_window(samples: int) -> None:
            self._check()
            self._report(Stage.PREPARING, min(samples / RATE / job.seconds, 1.0), "Listening to the speech")

        return SpeechFeatures.of(
            speech_windows(job.audio, job.seconds), self._loaded.speech, job.workspace, after_window
        )

    def _windows(self, frames: int) -> int:
        """How many calls of the UNet so many generated frames take."""
        return self._job.params.inference_steps * len(windows(frames + PADDING, 0))

    def _left(self, done: int, frames: int) -> float:
        """What is left when so many windows are done, counted in windows: decoding is worth some too."""
        return self._windows(frames) - done + frames * DECODED_FRAME

    def _report_waiting(self) -> None:
        own = self._shared.remaining[id(self)]
        message = "Waiting until another video has been denoised"
        self._report(Stage.QUEUED, 1.0, message, self._shared.before(id(self)) + own)

    def _denoise(self, conditions: Conditions, features: SpeechFeatures, work: Work) -> Tensor:
        pipeline, params = self._pipeline, self._job.params
        height, width = (8 * side for side in conditions.start.shape[-2:])
        on_window = self._window_reporter(features.frames)
        on_window(0, self._windows(features.frames))
        return pipeline.denoise(
            conditions,
            work(lambda _: pipeline.noise(pipeline.generator(params.seed), features.frames, height, width)),
            features.clips,
            Sampling(
                steps=params.inference_steps,
                identity=params.ref_scale,
                expression=params.emo_scale,
                motion=params.dynamic_scale,
            ),
            run=work,
            on_window=on_window,
        )

    def _window_reporter(self, frames: int) -> Callable[[int, int], None]:
        """Reports each window, and how long the rest will take at the pace of the windows so far."""
        steps = self._job.params.inference_steps
        pace = Pace(warm_up=1)
        known = None if self._shared.slowness is None else self._shared.remaining[id(self)]  # from the job before

        def on_window(done: int, total: int) -> None:
            per_window = pace.after(done)
            remaining = None if known is None else known * (1 - done / total)
            if per_window is not None:
                remaining = per_window * self._left(done, frames)
                self._shared.remaining[id(self)] = remaining
            step = max(1, math.ceil(done * steps / total))
            self._report(Stage.DENOISING, done / total, f"Denoising, step {step} of {steps}", remaining)

        return on_window

    def _encode(self, latents: Tensor, frames: int, work: Work) -> None:
        job = self._job
        total = frame_count(job.seconds, job.params.fps)
        height, width = (8 * side for side in latents.shape[-2:])
        pace = Pace(warm_up=0)
        pictures = at_rate(self._pictures(latents, frames, work), self._native_fps(), job.params.fps, total)
        with (
            VideoWriter(
                job.output,
                width=width,
                height=height,
                fps=job.params.fps,
                audio=job.audio,
                seconds=job.seconds,
                comment=self._plan.comment,
            ) as writer,
            ahead(pictures, _QUEUE_FRAMES) as ready,
        ):
            for number, picture in enumerate(ready, 1):
                self._check()
                self._write(writer, picture)
                done = min(decoded(number, job.params.fps), total)
                per_frame = pace.after(done)
                remaining = None if per_frame is None else per_frame * (total - done)
                message = f"Decoding and encoding, frame {number} of {total}"
                self._report(Stage.DECODING, number / total, message, remaining)
            self._report(Stage.ENCODING, 0.0, "Finishing the video file")
        self._report(Stage.ENCODING, 1.0, "The video is finished")

    def _write(self, writer: VideoWriter, picture: NDArray[np.uint8]) -> None:
        try:
            writer.write(picture)
        except BaseException:
            self._abandoned = True  # nobody takes what is still being decoded
            raise

    def _native_fps(self) -> float:
        return FPS if self._loaded.interpolation is None else 2 * FPS

    def _pictures(self, latents: Tensor, frames: int, work: Work) -> Iterator[NDArray[np.uint8]]:
        """The frames at their native rate as pictures, decoded and interpolated chunk by chunk."""
        network = self._loaded.interpolation
        before: Tensor | None = None

        def finish(chunk: Tensor) -> list[NDArray[np.uint8]]:
            nonlocal before
            native = iter(chunk) if network is None else double_rate(network.middle, chunk, before)
            pictures = [picture_of(frame) for frame in native]
            before = chunk[-1].clone()  # last, since the whole may be done again; a view would keep all of it
            return pictures

        for pictures in self._pipeline.decode(latents, frames, finish, work):
            yield from pictures


class Pace:
    """How long one thing takes, after the first `warm_up` of them."""

    def __init__(self, warm_up: int) -> None:
        self._warm_up = warm_up
        self._since = time.perf_counter()

    def after(self, done: int) -> float | None:
        """Seconds for each, now that so many are done; None as long as there is nothing to go by."""
        now = time.perf_counter()
        if done <= self._warm_up:
            self._since = now
            return None
        return (now - self._since) / (done - self._warm_up)


def decoded(number: int, fps: int) -> int:
    """How many frames of the file are decoded when this one, from 1, is there: those of a chunk come all at once."""
    chunks = math.ceil(((number - 1) * FPS / fps + 1) / CHUNK)
    return math.floor((chunks * CHUNK - 1) * fps / FPS) + 1


def picture_of(frame: Tensor) -> NDArray[np.uint8]:
    """(3, H, W) in 0..1 → (H, W, 3)."""
    return (frame * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().cpu().numpy()


def at_rate(
    frames: Iterator[NDArray[np.uint8]], native_fps: float, fps: int, count: int
) -> Iterator[NDArray[np.uint8]]:
    """`count` frames at `fps`, each the nearest in time of those at `native_fps`; the last one is held."""
    held = next(frames)
    position = 0
    for number in range(count):
        wanted = math.floor(number * native_fps / fps + 0.5)
        while position < wanted:
            following = next(frames, None)
            if following is None:
                break
            held, position = following, position + 1
        yield held
