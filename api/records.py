"""What a task is: the records the task manager keeps, and the steps they may take."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any, Self

from engines.base import Engine, FaceBox, Stage, SynthesisParams


class TaskStatus(StrEnum):
    """PENDING → PROCESSING → COMPLETED or FAILED. From PROCESSING back to PENDING only with a stop of the service."""

    PENDING = "PENDING"
    PROCESSING = "PROCESSING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"


class TaskErrorCode(StrEnum):
    """Why a task FAILED."""

    NO_FACE = "no_face"
    INVALID_IMAGE = "invalid_image"
    INVALID_AUDIO = "invalid_audio"
    ENCODER_FAILED = "encoder_failed"
    STORAGE_FULL = "storage_full"
    GPU_OUT_OF_MEMORY = "gpu_out_of_memory"
    GPU_FAILED = "gpu_failed"
    TOO_LARGE = "too_large"
    TIMEOUT = "timeout"
    STALLED = "stalled"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"
    INTERNAL = "internal"


@dataclass(frozen=True, slots=True)
class Idempotency:
    """How a request that is sent again is known: its Idempotency-Key, and a print of its parts."""

    key: str
    print: str


@dataclass(frozen=True, slots=True)
class Submission:
    """A checked request: the names of its files in the upload store, which are their SHA-256, and all a job needs."""

    image: str
    audio: str
    seconds: float
    size: tuple[int, int]  # of the portrait, in pixels
    face: FaceBox
    params: SynthesisParams
    given: tuple[str, ...] = ()  # the fields that the client sent, the others have their defaults
    warnings: tuple[str, ...] = ()  # about the portrait
    request_id: str = ""  # ties the task to its request in the log
    idempotency: Idempotency | None = None

    def key(self, engine: Engine) -> str:
        """Equal for requests that give the same video."""
        parts = [self.image, self.audio, engine.name, engine.version, engine.checkpoint, asdict(self.params)]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Maker:
    """The engine that found the face and makes the video: enough to know whether another one would make the same."""

    name: str
    version: str
    checkpoint: str

    @classmethod
    def of(cls, engine: Engine) -> Self:
        """Who `engine` is."""
        return cls(engine.name, engine.version, engine.checkpoint)


@dataclass(frozen=True, slots=True)
class Result:
    """A finished video, shared by equal tasks: its name in the output store."""

    name: str
    sha256: str
    size: int  # bytes


@dataclass(frozen=True, slots=True)
class Task:
    """One request and how far it has come. A record never changes: each step makes a new one.

    Times are seconds since the epoch.
    """

    id: str
    position: int  # in the order of acceptance
    key: str
    submission: Submission
    maker: Maker
    warnings: tuple[str, ...]
    estimate_seconds: float
    created_at: float
    updated_at: float
    accepted_position: int = 1  # in the queue, as the client was told
    status: TaskStatus = TaskStatus.PENDING
    stage: Stage = Stage.QUEUED
    progress: float = 0.0
    message: str = "Waiting for its turn."
    attempt: int = 0  # how often it was begun
    cancelled: bool = False  # asked for; the task ends when its engine has noticed
    deleted: bool = False  # asked for while it ran: nobody sees it any more, and it goes when its engine has noticed
    remaining_seconds: float | None = None  # until the video is ready, as the engine said at `updated_at`
    started_at: float | None = None
    completed_at: float | None = None
    expires_at: float | None = None
    error_code: TaskErrorCode | None = None
    result: Result | None = None

    @property
    def ended(self) -> bool:
        """Whether the task has come to its last state."""
        return self.status in (TaskStatus.COMPLETED, TaskStatus.FAILED)

    @property
    def uploads(self) -> tuple[str, str]:
        """The names of its files in the upload store."""
        return self.submission.image, self.submission.audio

    def begun(self, now: float) -> Task:
        """PENDING → PROCESSING, once more."""
        return self._step(
            TaskStatus.PENDING, now, status=TaskStatus.PROCESSING, started_at=now, stage=Stage.PREPARING,
            message="Preparing.", attempt=self.attempt + 1,
        )  # fmt: skip

    def reported(self, now: float, stage: Stage, progress: float, message: str, remaining: float | None) -> Task:
        """Progress never falls, and reaches 1 only with COMPLETED."""
        progress = min(max(progress, self.progress), 0.999)
        return self._step(
            TaskStatus.PROCESSING, now, stage=stage, progress=progress, message=message, remaining_seconds=remaining
        )

    def completed(self, now: float, expires_at: float, result: Result) -> Task:
        """PROCESSING → COMPLETED."""
        return self._step(
            TaskStatus.PROCESSING, now, status=TaskStatus.COMPLETED, stage=Stage.ENCODING, progress=1.0,
            message="The video is ready.", completed_at=now, expires_at=expires_at, result=result,
        )  # fmt: skip

    def failed(self, now: float, expires_at: float, code: TaskErrorCode, message: str) -> Task:
        """PENDING or PROCESSING → FAILED."""
        return self._step(
            self.status, now, status=TaskStatus.FAILED, message=message, error_code=code, completed_at=now,
            expires_at=expires_at,
        )  # fmt: skip

    def waiting_again(self, now: float) -> Task:
        """PROCESSING → PENDING: the service ended before the task did, and the next one runs it again."""
        return self._step(
            TaskStatus.PROCESSING, now, status=TaskStatus.PENDING, stage=Stage.QUEUED, progress=0.0, started_at=None,
            remaining_seconds=None, message="Waiting to run again.",
        )  # fmt: skip

    def _step(self, expected: TaskStatus, now: float, **changes: Any) -> Task:
        if self.ended or self.status is not expected:
            raise ValueError(f"task {self.id} is {self.status}, not {expected}")
        return replace(self, updated_at=max(now, self.updated_at), **changes)


def warnings(submission: Submission, engine: Engine) -> tuple[str, ...]:
    """What a client should know: about the portrait, and of the fields it sent that this engine cannot honour."""
    ignored = [warning for name, warning in engine.ignored_fields.items() if name in submission.given]
    return (*submission.warnings, *ignored)


@dataclass(frozen=True, slots=True)
class TaskReport:
    """A task, and what only the queue knows about it."""

    task: Task
    queue_position: int | None
    eta_seconds: float | None
