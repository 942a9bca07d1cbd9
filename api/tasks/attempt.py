"""One attempt at a task: what its engine may ask and tell while it works, and how it ended."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from api.eta import WorkClock
from api.http.errors import is_disk_full
from api.records import Result, Task, TaskErrorCode
from api.storage.files import FileStore
from engines.base import Engine, EngineError, JobCancelledError, Report, Stage, SynthesisJob
from media.errors import MediaError

logger = logging.getLogger("api.task_manager")


class Progress(Protocol):
    """How an attempt tells how far the task is."""

    def __call__(
        self, attempt: Attempt, stage: Stage, progress: float, message: str, remaining: float | None, /
    ) -> None:
        """`progress` is of the whole task (0..1); `remaining` are seconds, where the engine knows them."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why there is no video."""

    code: TaskErrorCode
    message: str


class Attempt:
    """A task that is being worked off. `stop` may be called from any thread, and so may what the engine is given."""

    def __init__(self, task_id: str, output: str, timeout: float, monotonic: Callable[[], float]) -> None:
        """`output` is the name of the video to make, and of no other attempt's."""
        self.task_id = task_id
        self.output = output
        self.clock = WorkClock(monotonic)
        self._timeout = timeout
        self._monotonic = monotonic
        self._told = monotonic()
        self._stopped: Failure | None = None

    def stop(self, reason: Failure) -> None:
        """Let the engine stop at its next step; the first reason counts."""
        self._stopped = self._stopped or reason

    def silent_seconds(self) -> float:
        """Since the engine last reported, or asked whether to go on."""
        return self._monotonic() - self._told

    def run(self, engine: Engine, job: SynthesisJob, progress: Progress) -> Result | Failure:
        """Make the video. Blocks; raises nothing."""
        try:
            engine.synthesize(job, self._reporter(engine, progress), self._cancelled)
            return _result(job.output)
        except JobCancelledError:
            failure = self._stopped or Failure(TaskErrorCode.INTERNAL, "The engine stopped without being asked to.")
        except BaseException as error:  # SystemExit too: it would take the worker with it, and leave the task
            failure = explain(error, self.task_id)
        with suppress(OSError):  # there is none, or the sweep will try again
            job.output.unlink()
        return failure

    def _cancelled(self) -> bool:
        self._told = self._monotonic()
        if self.clock.seconds() > self._timeout:
            message = f"The task took longer than the {self._timeout:g} seconds allowed."
            self.stop(Failure(TaskErrorCode.TIMEOUT, message))
        return self._stopped is not None

    def _reporter(self, engine: Engine, progress: Progress) -> Report:
        before: dict[Stage, float] = {}
        total = 0.0
        for stage, weight in engine.stage_weights.items():
            before[stage] = total
            total += weight

        def report(stage: Stage, fraction: float, message: str, remaining: float | None = None, /) -> None:
            self._told = self._monotonic()
            self.clock.run(stage is not Stage.QUEUED)
            weight = engine.stage_weights.get(stage, 0.0)
            done = before.get(stage, 0.0) + weight * min(max(fraction, 0.0), 1.0)
            progress(self, stage, done, message, remaining)

        return report


def job_of(task: Task, uploads: FileStore, output: Path) -> SynthesisJob:
    """What the engine is given."""
    return SynthesisJob(
        image=uploads.path(task.submission.image),
        audio=uploads.path(task.submission.audio),
        output=output,
        seconds=task.submission.seconds,
        face=task.submission.face,
        params=task.submission.params,
    )


def explain(error: BaseException, task_id: str) -> Failure:
    """Code and sentence for what an engine raised."""
    if isinstance(error, (EngineError, MediaError)) and error.code in list(TaskErrorCode):
        sentence = str(error).encode("utf-8", "replace").decode()  # whatever it quotes, it has to be written as JSON
        return Failure(TaskErrorCode(error.code), sentence)
    if isinstance(error, OSError) and is_disk_full(error):
        return Failure(TaskErrorCode.STORAGE_FULL, "The service ran out of room for the video.")
    logger.error("Task %s broke the engine", task_id, exc_info=error)
    return Failure(TaskErrorCode.INTERNAL, "The engine failed unexpectedly; the service's log tells more.")


def _result(path: Path) -> Result:
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        os.fsync(file.fileno())
        size = os.fstat(file.fileno()).st_size
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)  # the name, too, would survive a loss of power
    finally:
        os.close(directory)
    return Result(path.name, sha256, size)
