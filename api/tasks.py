"""What a task is: the records the task manager keeps, and the steps they may take."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from api.models import TaskErrorCode, TaskStatus
from engines.base import Engine, FaceBox, Stage, SynthesisJob, SynthesisParams


@dataclass(frozen=True, slots=True)
class Submission:
    """A checked request: the names of its files in the upload store and all that a job needs."""

    image: str
    audio: str
    seconds: float
    size: tuple[int, int]  # of the portrait, in pixels
    face: FaceBox
    params: SynthesisParams
    warnings: tuple[str, ...] = ()
    request_id: str = ""  # ties the task to its request in the log

    def key(self, engine: Engine) -> str:
        """Equal for requests that give the same video."""
        parts = [self.image, self.audio, engine.name, engine.version, asdict(self.params)]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Result:
    """A finished video, shared by equal tasks."""

    path: Path
    sha256: str


@dataclass(frozen=True, slots=True)
class Task:
    """One request and how far it has come. A record never changes: each step makes a new one.

    Times are seconds since the epoch.
    """

    id: str
    key: str
    uploads: tuple[str, ...]
    job: SynthesisJob
    engine: str
    warnings: tuple[str, ...]
    estimate_seconds: float
    created_at: float
    updated_at: float
    status: TaskStatus = TaskStatus.PENDING
    stage: Stage = Stage.QUEUED
    progress: float = 0.0
    message: str = "Waiting for its turn."
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

    def begun(self, now: float) -> Task:
        """PENDING → PROCESSING."""
        return self._step(
            TaskStatus.PENDING, now, status=TaskStatus.PROCESSING, started_at=now, stage=Stage.PREPARING,
            message="Preparing.",
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

    def _step(self, expected: TaskStatus, now: float, **changes: Any) -> Task:
        if self.ended or self.status is not expected:
            raise ValueError(f"task {self.id} is {self.status}, not {expected}")
        return replace(self, updated_at=max(now, self.updated_at), **changes)


@dataclass(frozen=True, slots=True)
class TaskReport:
    """A task, and what only the queue knows about it."""

    task: Task
    queue_position: int | None
    eta_seconds: float | None
