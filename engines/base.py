"""The contract between the service and the engines that make the videos."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from media.errors import CodedError

Image = NDArray[np.uint8]
"""An upright RGB picture, shape (height, width, 3)."""


class Emotion(StrEnum):
    """The emotions DICE-Talk was trained on."""

    CONTEMPT = "contempt"
    SAD = "sad"
    HAPPY = "happy"
    SURPRISED = "surprised"
    ANGRY = "angry"
    DISGUSTED = "disgusted"
    FEAR = "fear"
    NEUTRAL = "neutral"


class Stage(StrEnum):
    """Processing stage of a task, in order; each engine uses a subset."""

    QUEUED = "queued"
    PREPARING = "preparing"
    DENOISING = "denoising"
    DECODING = "decoding"
    INTERPOLATING = "interpolating"
    RENDERING = "rendering"
    ENCODING = "encoding"


@dataclass(frozen=True, slots=True)
class SynthesisParams:
    """Effective parameters of a task, including defaults."""

    emotion: Emotion
    ref_scale: float  # identity guidance, 0..10
    emo_scale: float  # audio and emotion guidance, 0..10
    crop: bool  # square around the face instead of the whole portrait
    inference_steps: int  # denoising steps, 8..50
    duration: float | None  # use only the first seconds of the audio; None: all of it
    fps: int  # frames per second of the file, 8..60
    seed: int  # 0..2**32-1
    dynamic_scale: float  # motion of the head, 0.1..3
    min_resolution: int  # short side of the video in pixels, 256..1024
    expand_ratio: float  # margin around the face when cropping, in face sizes, 0.1..2


@dataclass(frozen=True, slots=True)
class FaceBox:
    """A face in pixels of the upright image; `roll` (radians, clockwise) is the tilt of its eye line."""

    left: float
    top: float
    right: float
    bottom: float
    roll: float = 0.0


@dataclass(frozen=True, slots=True)
class Portrait:
    """A portrait an engine can animate: which face, and what its owner should know."""

    face: FaceBox
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a job is expected to cost on an idle machine."""

    seconds: float
    peak_bytes: int


@dataclass(frozen=True, slots=True)
class SynthesisJob:
    """Everything an engine needs to produce one video. The inputs were validated at submission and do not change.

    output: where the finished MP4 goes; it must appear there complete, by a rename.
    seconds: length of speech to use, `duration` already applied.
    face: from `inspect`, so that nothing is detected twice.
    attempt: 1 for the first attempt at the task `task_id`.
    workspace: an empty directory for the engine's temporary files, deleted after `synthesize`.
    """

    image: Path
    audio: Path
    output: Path
    seconds: float
    face: FaceBox
    params: SynthesisParams
    task_id: str
    attempt: int
    workspace: Path


class Report(Protocol):
    """Called by an engine with its progress."""

    def __call__(
        self,
        stage: Stage,
        fraction: float,
        message: str,
        remaining: float | None = None,
        picture: bytes | None = None,
        /,
    ) -> None:
        """Report that `fraction` (0..1) of the stage is done.

        `Stage.QUEUED` means that the engine waits for another job; that time does not count for this one.

        message: for the client.
        remaining: seconds until the video is ready, where the engine knows better than the stage weights.
        picture: the newest picture of the video, a JPEG file.
        """


Cancelled = Callable[[], bool]
"""True once the job should stop; polled at least once per denoising step or rendered chunk."""


class EngineError(CodedError):
    """A failure with a stable `code` and a message for the person who sent the request."""


class SetupError(EngineError):
    """The engine cannot start: the sentence says what is missing and what to do about it."""

    code = "setup_failed"


class NoFaceError(EngineError):
    """The portrait shows no face this engine can animate."""

    code = "no_face"


class JobCancelledError(EngineError):
    """The job stopped because `cancelled()` said so."""

    code = "cancelled"


class TooLargeError(EngineError):
    """The job cannot fit this device: the sentence has the numbers, and what would fit."""

    code = "too_large"


class GpuOutOfMemoryError(EngineError):
    """The GPU ran out of memory, in the low-memory mode too. The next job may well work."""

    code = "gpu_out_of_memory"


class GpuFailedError(EngineError):
    """The GPU, or this process's hold on it, is broken: no job can work until the process is started again."""

    code = "gpu_failed"


class Engine(Protocol):
    """One way of making the video. All methods may be called from any thread once `load` has returned."""

    name: str
    """`dice_talk` or `preview`: what health, status and equal-request sharing call it."""

    version: str
    """Changes whenever equal input would give another video."""

    checkpoint: str
    """sha256 in hex over names and content of all model files that make the video, wherever they lie: another one
    whenever one of them is. Known once `load` has returned; empty before, and for an engine without such files.
    """

    one_at_a_time: bool
    """Whether jobs take turns for most of their time, so that more of them at once make none faster."""

    ignored_fields: Mapping[str, str]
    """Form fields that this engine cannot honour, each with the warning a client is given."""

    stage_weights: Mapping[Stage, float]
    """The share of a job's time each stage takes, adding up to 1, in the order they run."""

    def load(self) -> None:
        """Read the models. Raises SetupError."""

    def inspect(self, image: Image) -> Portrait:
        """Find the face to animate. Raises NoFaceError."""

    def estimate(self, params: SynthesisParams, seconds: float, size: tuple[int, int]) -> Estimate:
        """Predict the cost of `seconds` of video of a portrait of `size` (width, height).

        Raises TooLargeError when the device can never hold it.
        """

    def synthesize(self, job: SynthesisJob, report: Report, cancelled: Cancelled) -> None:
        """Make the video; `job.output` exists only when it is whole.

        Raises EngineError, MediaError, OSError (the disk is full).
        """

    def close(self) -> None:
        """Give back what `load` took."""
