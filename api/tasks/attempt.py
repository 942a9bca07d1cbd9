"""One attempt at a task: what its engine reports and checks while it runs, and how it ended."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from api.records import Result, TaskErrorCode
from api.storage.errors import is_disk_full
from api.utils import fsync
from engines.base import Engine, JobCancelledError, Report, Stage, SynthesisJob
from media.errors import CodedError

logger = logging.getLogger("api.task_manager")


class Progress(Protocol):
    """Called by an attempt with its progress."""

    def __call__(
        self, attempt: Attempt, stage: Stage, progress: float, message: str, remaining: float | None, /
    ) -> None:
        """`progress` of the whole task (0..1); `remaining` seconds, where the engine knows them."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an attempt produced no video."""

    code: TaskErrorCode
    message: str


class WorkClock:
    """Measures the working time of an attempt. Time spent waiting for another job does not count."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        # Seconds up to the last pause, and the start of the current run (None while paused).
        self._accumulated = 0.0
        self._resumed_at: float | None = monotonic()

    def run(self, running: bool) -> None:
        """Start or pause; no effect if it is running, or paused, already."""
        if running != (self._resumed_at is not None):
            self._accumulated = self.seconds()
            self._resumed_at = self._monotonic() if running else None

    def seconds(self) -> float:
        """Working time so far."""
        return (
            self._accumulated if self._resumed_at is None else self._accumulated + self._monotonic() - self._resumed_at
        )


class Attempt:
    """One attempt at a task. `stop` and the callbacks passed to the engine are thread-safe.

    picture: the newest preview picture (JPEG) that the engine has reported; None before.
    """

    def __init__(self, task_id: str, output: str, timeout: float, monotonic: Callable[[], float]) -> None:
        """`output` is the name of the video, unique to this attempt; `timeout` is in seconds of working time."""
        self.task_id = task_id
        self.output = output
        self.clock = WorkClock(monotonic)
        self.picture: bytes | None = None
        self._timeout = timeout
        self._monotonic = monotonic
        self._last_heartbeat = monotonic()
        self._stopped: Failure | None = None

    def stop(self, reason: Failure) -> None:
        """Make the engine stop at its next cancellation check; the first reason wins."""
        self._stopped = self._stopped or reason

    def seconds_since_heartbeat(self) -> float:
        """Seconds since the engine last reported progress or checked for cancellation."""
        return self._monotonic() - self._last_heartbeat

    def run(self, engine: Engine, job: SynthesisJob, progress: Progress) -> Result | Failure:
        """Produce the video. Blocks; never raises."""
        try:
            engine.synthesize(job, self._reporter(engine, progress), self._cancelled)
            return _result(job.output)
        except JobCancelledError:
            failure = self._stopped or Failure(TaskErrorCode.INTERNAL, "The engine cancelled the job unexpectedly.")
        except BaseException as error:
            # SystemExit included: it would end the worker thread and leave its task PROCESSING.
            failure = explain(error, self.task_id)
        # A file that cannot be deleted now is left to the sweep.
        with suppress(OSError):
            job.output.unlink()
        return failure

    def _cancelled(self) -> bool:
        self._last_heartbeat = self._monotonic()
        if self.clock.seconds() > self._timeout:
            message = f"The task exceeded the time limit of {self._timeout:g} s."
            self.stop(Failure(TaskErrorCode.TIMEOUT, message))
        return self._stopped is not None

    def _reporter(self, engine: Engine, progress: Progress) -> Report:
        offsets: dict[Stage, float] = {}
        total = 0.0
        for stage, weight in engine.stage_weights.items():
            offsets[stage] = total
            total += weight

        def report(
            stage: Stage,
            fraction: float,
            message: str,
            remaining: float | None = None,
            picture: bytes | None = None,
            /,
        ) -> None:
            self._last_heartbeat = self._monotonic()
            self.clock.run(stage is not Stage.QUEUED)
            self.picture = picture or self.picture
            weight = engine.stage_weights.get(stage, 0.0)
            done = offsets.get(stage, 0.0) + weight * min(max(fraction, 0.0), 1.0)
            progress(self, stage, done, message, remaining)

        return report


def explain(error: BaseException, task_id: str) -> Failure:
    """Error code and message for an exception of the engine; logs those that are not expected."""
    if isinstance(error, CodedError) and error.code in list(TaskErrorCode):
        # The message may quote anything, and has to be encodable as JSON.
        message = str(error).encode("utf-8", "replace").decode()
        return Failure(TaskErrorCode(error.code), message)
    if isinstance(error, OSError) and is_disk_full(error):
        return Failure(TaskErrorCode.STORAGE_FULL, "No disk space left for the video.")
    logger.error("Task %s failed with an unexpected engine error", task_id, exc_info=error)
    return Failure(TaskErrorCode.INTERNAL, "Unexpected engine error; see the server log.")


def _result(path: Path) -> Result:
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        size = file.tell()
    fsync(path)
    fsync(path.parent)
    return Result(path.name, sha256, size)
