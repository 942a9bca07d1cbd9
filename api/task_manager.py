"""The queue: an in-memory registry of tasks and a thread pool that works them off."""

from __future__ import annotations

import hashlib
import itertools
import logging
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from api.admission import check_time
from api.errors import ApiError, UnavailableError, is_disk_full
from api.eta import SpeedMeter, WorkClock
from api.file_store import FileStore
from api.models import TaskErrorCode, TaskStatus
from api.settings import TaskSettings
from api.tasks import Result, Submission, Task, TaskReport
from engines.base import Engine, EngineError, JobCancelledError, Report, Stage, SynthesisJob
from media.errors import MediaError

logger = logging.getLogger("api.task_manager")

_STOP_SECONDS = 10.0  # for an interrupted job to notice
_CLOSED_RETRY_SECONDS = 30.0  # until another service may have taken this one's place
_STOPPED = "The service was stopped before the video was ready."
_LOST_GPU = "The GPU failed while another video was being made, and the service has to start again; send it again then."


class TaskManager:
    """Runs at most `max_workers` tasks, lets `max_queue` wait, and forgets them after `retention_hours`.

    Equal requests share one video: while one of them runs the others wait for it; when it has failed the next
    runs itself. Uploads and videos stay as long as a task that needs them. Safe to use from any thread.

    When the GPU fails, no task can be worked off any more: new ones are refused and all others end. Whoever runs the
    manager waits for `gpu_failed`; `gpu_failure` says what happened.
    """

    def __init__(
        self,
        engine: Callable[[], Engine],
        settings: TaskSettings,
        uploads: FileStore,
        outputs: FileStore,
        *,
        now: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        new_id: Callable[[], str] = lambda: uuid.uuid4().hex,
    ) -> None:
        self._engine = engine
        self._settings = settings
        self._uploads = uploads
        self._outputs = outputs
        self._now = now
        self._monotonic = monotonic
        self._new_id = new_id
        self._retention = settings.retention_hours * 3600
        self._executor = ThreadPoolExecutor(settings.max_workers, thread_name_prefix="worker")
        self._changed = threading.Condition()  # guards all below
        self._tasks: dict[str, Task] = {}
        self._gone: dict[str, float] = {}  # id of an expired task → until when it is answered with 410
        self._waiting: dict[str, None] = {}  # ids of PENDING tasks, first come first
        self._running: dict[str, str] = {}  # key → id of PROCESSING tasks
        self._results: dict[str, Result] = {}  # by key, as long as a task holds the file
        self._speed = SpeedMeter()
        self._refusal: tuple[str, str] | None = None  # code and sentence; None: tasks are accepted
        self._interrupt = threading.Event()
        self._interrupted = _STOPPED  # what the tasks are told that end before their time
        self.gpu_failed = threading.Event()
        self.gpu_failure: str | None = None

    # -- what routes call ------------------------------------------------------------------------------------------

    def check_open(self) -> None:
        """Raise UnavailableError when a submission would be refused now: 503 draining or gpu_failed, 429 queue_full."""
        with self._changed:
            self._check_open()

    def submit(self, submission: Submission) -> TaskReport:
        """Accept a task; its two uploads must be held for it. Raises UnavailableError, ApiError, TooLargeError."""
        engine = self._engine()
        estimate = engine.estimate(submission.params, submission.seconds, submission.size)
        key = submission.key(engine)
        with self._changed:
            self._check_open()
            if key not in self._results:  # a video that is there takes no time
                expected = self._speed.total(estimate.seconds)
                check_time(expected, self._settings.timeout_seconds, engine.ignored_fields)
            now = self._now()
            task = Task(
                id=self._new_id(),
                key=key,
                uploads=(submission.image, submission.audio),
                job=SynthesisJob(
                    image=self._uploads.path(submission.image),
                    audio=self._uploads.path(submission.audio),
                    output=self._outputs.path(f"{key}.mp4"),
                    seconds=submission.seconds,
                    face=submission.face,
                    params=submission.params,
                ),
                engine=engine.name,
                warnings=submission.warnings,
                estimate_seconds=estimate.seconds,
                created_at=now,
                updated_at=now,
            )
            self._tasks[task.id] = task
            self._waiting[task.id] = None
            accepted = self._report(task)
            logger.info(
                "Task %s accepted: %.1f s of speech, %s, %d waiting [%s]",
                task.id, submission.seconds, submission.params.emotion, len(self._waiting), submission.request_id,
            )  # fmt: skip
            self._dispatch()
            return accepted

    def get(self, task_id: str) -> TaskReport:
        """The present state of a task. Raises ApiError 404, or 410 when it has expired."""
        with self._changed:
            now = self._now()
            task = self._tasks.get(task_id)
            if task is not None and (task.expires_at is None or now < task.expires_at):
                return self._report(task)
            if task is not None or now < self._gone.get(task_id, 0):
                raise ApiError(
                    410, "task_expired", "The task has expired; its video is gone.",
                    f"Finished tasks are kept for {self._settings.retention_hours:g} hours.",
                )  # fmt: skip
            raise ApiError(404, "task_not_found", "There is no such task.", "Check the task_id; ids of a stopped "
                           "service are not known to the next one.")  # fmt: skip

    def counts(self) -> tuple[int, int]:
        """How many tasks run, and how many wait."""
        with self._changed:
            return len(self._running), len(self._waiting)

    # -- what the service's life calls -----------------------------------------------------------------------------

    def sweep(self) -> None:
        """Forget what has expired, the files with the tasks."""
        with self._changed:
            now = self._now()
            for task in [task for task in self._tasks.values() if task.expires_at is not None]:
                if task.expires_at is not None and task.expires_at <= now:
                    self._forget(task)
            self._gone = {task_id: until for task_id, until in self._gone.items() if now < until}
        self._uploads.remove_leftovers(self._retention)
        self._outputs.remove_leftovers(self._retention)

    def shutdown(self, grace: float) -> bool:
        """Refuse new tasks, fail the waiting ones, give the running ones `grace` seconds and interrupt the rest.

        Blocks. True when all workers have stopped.
        """
        with self._changed:
            self._close("draining", "The service is stopping and takes no new tasks.")
            self._changed.wait_for(lambda: not self._running, grace)
            self._interrupt.set()
            stopped = self._changed.wait_for(lambda: not self._running, _STOP_SECONDS)
            for task_id in self._running.values():
                self._end(self._tasks[task_id], code=TaskErrorCode.INTERRUPTED, message=self._interrupted)
        self._executor.shutdown(wait=stopped)
        return stopped

    # -- the queue; all of these need the lock ---------------------------------------------------------------------

    def _check_open(self) -> None:
        if self._refusal is not None:
            raise UnavailableError(*self._refusal, _CLOSED_RETRY_SECONDS)
        if len(self._waiting) >= self._settings.max_queue:
            raise UnavailableError(
                "queue_full", f"The queue is full: {len(self._waiting)} tasks are waiting.",
                min((self._remaining(self._tasks[task_id]) for task_id in self._running.values()), default=1.0),
                status=429,
            )  # fmt: skip

    def _close(self, code: str, error: str) -> None:
        """Refuse new tasks from now on, the first reason counts, and end those that wait."""
        self._refusal = self._refusal or (code, error)
        for task_id in list(self._waiting):
            self._end(self._tasks[task_id], code=TaskErrorCode.INTERRUPTED, message=self._interrupted)

    def _lose_gpu(self, failure: str) -> None:
        if self.gpu_failure is not None:
            return  # another task has met it before
        logger.error("The GPU failed, so all tasks end: %s", failure)
        self.gpu_failure = failure
        self._interrupted = _LOST_GPU
        self._close("gpu_failed", failure)
        self._interrupt.set()
        self.gpu_failed.set()

    def _dispatch(self) -> None:
        """Start every waiting task that may run, first come first served; those that share a result end at once."""
        for task_id in list(self._waiting):
            task = self._tasks[task_id]
            result = self._results.get(task.key)
            if result is not None and result.path.exists():
                self._begin(task)
                self._end(self._tasks[task.id], result=result)
            elif len(self._running) < self._settings.max_workers and task.key not in self._running:
                self._begin(task)
                self._running[task.key] = task.id
                self._executor.submit(self._run, task.id)

    def _begin(self, task: Task) -> None:
        self._tasks[task.id] = task.begun(self._now())
        del self._waiting[task.id]

    def _end(
        self,
        task: Task,
        *,
        result: Result | None = None,
        code: TaskErrorCode = TaskErrorCode.INTERNAL,
        message: str = "",
    ) -> None:
        now = self._now()
        expires_at = now + self._retention
        if result is not None:
            self._outputs.hold(result.path.name)
            self._results[task.key] = result
            ended = task.completed(now, expires_at, result)
        else:
            ended = task.failed(now, expires_at, code, message)
        self._tasks[task.id] = ended
        self._waiting.pop(task.id, None)
        if result is not None:
            logger.info("Task %s completed after %.1f s", task.id, now - task.created_at)
        else:
            logger.error("Task %s failed: %s: %s", task.id, code, message)

    def _forget(self, task: Task) -> None:
        del self._tasks[task.id]
        self._gone[task.id] = (task.expires_at or self._now()) + self._retention
        for name in task.uploads:
            self._uploads.release(name)
        if task.result is not None and self._outputs.release(task.result.path.name):
            self._results.pop(task.key, None)
        logger.info("Task %s expired", task.id)

    def _report(self, task: Task) -> TaskReport:
        if task.ended:
            return TaskReport(task, None, None)
        if task.status is TaskStatus.PROCESSING:
            return TaskReport(task, None, self._remaining(task))
        ahead = list(itertools.takewhile(lambda task_id: task_id != task.id, self._waiting))
        runner = self._running.get(task.key)
        if runner is not None:  # an equal task's video will be this one's too
            return TaskReport(task, len(ahead) + 1, self._remaining(self._tasks[runner]))
        return TaskReport(task, len(ahead) + 1, self._until_begun(ahead) + self._remaining(task))

    def _until_begun(self, ahead: list[str]) -> float:
        """Expected seconds until a task can begin that has these before it in the queue."""
        running = [self._remaining(self._tasks[task_id]) for task_id in self._running.values()]
        waiting = sum(self._remaining(self._tasks[task_id]) for task_id in ahead)
        if self._engine().one_at_a_time:  # one that takes its turn later knows of those before it
            return max(running, default=0.0) + waiting
        return (sum(running) + waiting) / self._settings.max_workers

    def _remaining(self, task: Task) -> float:
        now = self._now()
        if task.remaining_seconds is not None:  # the engine knows best, and what it said ages
            return max(0.0, task.remaining_seconds - max(0.0, now - task.updated_at))
        elapsed = 0.0 if task.started_at is None else max(0.0, now - task.started_at)
        return self._speed.remaining(task.estimate_seconds, elapsed, task.progress)

    # -- the workers -----------------------------------------------------------------------------------------------

    def _run(self, task_id: str) -> None:
        task = self._tasks[task_id]
        engine = self._engine()
        clock = WorkClock(self._monotonic)
        result: Result | None = None
        code, message = TaskErrorCode.INTERNAL, ""
        logger.info("Task %s started", task_id)
        try:
            engine.synthesize(
                task.job,
                self._reporter(task_id, engine, clock),
                lambda: self._interrupt.is_set() or clock.seconds() > self._settings.timeout_seconds,
            )
            result = Result(task.job.output, _sha256(task.job.output))
        except JobCancelledError:
            code, message = TaskErrorCode.INTERRUPTED, self._interrupted
            if not self._interrupt.is_set():
                code = TaskErrorCode.TIMEOUT
                message = f"The task took longer than the {self._settings.timeout_seconds:g} seconds allowed."
        except Exception as error:
            code, message = _explain(error, task_id)
        with self._changed:
            task = self._tasks[task_id]
            del self._running[task.key]
            if code is TaskErrorCode.GPU_FAILED:
                self._lose_gpu(message)
            if not task.ended:  # a shutdown may have given it up
                self._end(task, result=result, code=code, message=message)
            if result is not None:
                self._speed.learn(task.estimate_seconds, clock.seconds())
            self._dispatch()
            self._changed.notify_all()

    def _reporter(self, task_id: str, engine: Engine, clock: WorkClock) -> Report:
        before: dict[Stage, float] = {}
        total = 0.0
        for stage, weight in engine.stage_weights.items():
            before[stage] = total
            total += weight

        def report(stage: Stage, fraction: float, message: str, remaining: float | None = None, /) -> None:
            clock.run(stage is not Stage.QUEUED)
            weight = engine.stage_weights.get(stage, 0.0)
            progress = before.get(stage, 0.0) + weight * min(max(fraction, 0.0), 1.0)
            with self._changed:
                task = self._tasks[task_id]
                self._tasks[task_id] = task.reported(self._now(), stage, progress, message, remaining)

        return report


def _explain(error: Exception, task_id: str) -> tuple[TaskErrorCode, str]:
    """Code and sentence for what an engine raised."""
    if isinstance(error, (EngineError, MediaError)) and error.code in list(TaskErrorCode):
        return TaskErrorCode(error.code), str(error)
    if isinstance(error, OSError) and is_disk_full(error):
        return TaskErrorCode.STORAGE_FULL, "The service ran out of room for the video."
    logger.error("Task %s broke the engine", task_id, exc_info=error)
    return TaskErrorCode.INTERNAL, "The engine failed unexpectedly; the service's log tells more."


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
