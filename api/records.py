"""The task record: its states, its error codes, and the transitions between them.

The field names of `Task`, `Submission`, `EngineIdentity`, `Idempotency` and `Result` are the journal's on-disk format:
see `api/storage/database.py` before changing one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Self

from engines.base import Engine, FaceBox, Stage, SynthesisParams


class TaskStatus(StrEnum):
    """PENDING → PROCESSING → COMPLETED or FAILED; an interruption returns PROCESSING to PENDING."""

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
    """What identifies an idempotent request: its Idempotency-Key and a fingerprint of its files and fields."""

    key: str
    print: str


@dataclass(frozen=True, slots=True)
class Submission:
    """A validated request: everything a job needs.

    image, audio: names in the upload store, which are the SHA-256 of the content.
    seconds: length of speech to use, `duration` already applied.
    size: (width, height) of the upright portrait in pixels.
    given: form fields that the client sent; the others hold their defaults.
    warnings: about the portrait.
    request_id: ties the task to its request in the log.
    """

    image: str
    audio: str
    seconds: float
    size: tuple[int, int]
    face: FaceBox
    params: SynthesisParams
    given: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    request_id: str = ""
    idempotency: Idempotency | None = None


@dataclass(frozen=True, slots=True)
class EngineIdentity:
    """Identifies an engine: two with equal identities produce the same video from the same job."""

    name: str
    version: str
    checkpoint: str

    @classmethod
    def of(cls, engine: Engine) -> Self:
        """The identity of a loaded engine."""
        return cls(engine.name, engine.version, engine.checkpoint)


@dataclass(frozen=True, slots=True)
class Result:
    """A finished video, shared by equal tasks: its name in the output store, SHA-256 and size in bytes."""

    name: str
    sha256: str
    size: int


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Task:
    """One request and its progress. Records are immutable: each transition returns a new one.

    All times are Unix times in seconds.
    position: sequence number in order of acceptance, unique across all tasks.
    key: equal for tasks that produce the same video, see `result_key`.
    maker: identity of the engine that accepted the task; updated if another one runs it.
    accepted_position: place in the queue when the task was accepted, 1 is next.
    attempt: number of times the task was started.
    cancelled: cancellation was requested; the task ends when the engine checks for it.
    deleted: deletion was requested while the task was running; it is hidden, and removed when the engine stops.
    remaining_seconds: until the video is ready, as reported by the engine at `updated_at`.
    """

    id: str
    position: int
    key: str
    submission: Submission
    maker: EngineIdentity
    warnings: tuple[str, ...]
    estimate_seconds: float
    created_at: float
    updated_at: float
    accepted_position: int = 1
    status: TaskStatus = TaskStatus.PENDING
    stage: Stage = Stage.QUEUED
    progress: float = 0.0
    message: str = "Queued."
    attempt: int = 0
    cancelled: bool = False
    deleted: bool = False
    remaining_seconds: float | None = None
    started_at: float | None = None
    completed_at: float | None = None
    expires_at: float | None = None
    error_code: TaskErrorCode | None = None
    result: Result | None = None

    @property
    def ended(self) -> bool:
        """Whether the task is in a terminal state."""
        return self.status in (TaskStatus.COMPLETED, TaskStatus.FAILED)

    @property
    def uploads(self) -> tuple[str, str]:
        """Names of the task's files in the upload store."""
        return self.submission.image, self.submission.audio

    def expired(self, now: float) -> bool:
        """Whether the retention of the task is over."""
        return self.expires_at is not None and self.expires_at <= now

    def started(self, now: float) -> Task:
        """PENDING → PROCESSING; counts an attempt."""
        return self._step(
            TaskStatus.PENDING, now, status=TaskStatus.PROCESSING, started_at=now, stage=Stage.PREPARING,
            message="Preparing.", attempt=self.attempt + 1,
        )  # fmt: skip

    def reported(self, now: float, stage: Stage, progress: float, message: str, remaining: float | None) -> Task:
        """Record progress, which never decreases and reaches 1 only with COMPLETED."""
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

    def requeued(self, now: float) -> Task:
        """PROCESSING → PENDING: the process ended before the task did; the next one runs it again."""
        return self._step(
            TaskStatus.PROCESSING, now, status=TaskStatus.PENDING, stage=Stage.QUEUED, progress=0.0, started_at=None,
            remaining_seconds=None, message="Requeued after an interruption.",
        )  # fmt: skip

    def with_engine(self, engine: Engine) -> Task:
        """The same task, to be run by this engine."""
        return replace(self, maker=EngineIdentity.of(engine), warnings=client_warnings(self.submission, engine))

    def _step(self, expected: TaskStatus, now: float, **changes: Any) -> Task:
        if self.ended or self.status is not expected:
            raise ValueError(f"task {self.id} is {self.status}, not {expected}")
        return replace(self, updated_at=max(now, self.updated_at), **changes)


def client_warnings(submission: Submission, engine: Engine) -> tuple[str, ...]:
    """Warnings about the portrait, and about each field the client sent that the engine ignores."""
    ignored = [warning for name, warning in engine.ignored_fields.items() if name in submission.given]
    return (*submission.warnings, *ignored)


@dataclass(frozen=True, slots=True)
class TaskReport:
    """A task with its place in the queue (1 is next; None unless queued) and its estimated remaining seconds."""

    task: Task
    queue_position: int | None
    eta_seconds: float | None
