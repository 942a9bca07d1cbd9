"""Dispatches queued tasks to worker threads and drives their transitions."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

from api.records import EngineIdentity, Result, Task, TaskErrorCode, TaskStatus
from api.settings import TaskSettings
from api.tasks.attempt import Attempt, Failure, explain
from api.tasks.errors import DrainingError, GpuUnavailableError, UnavailableError
from api.tasks.queue import TaskQueue
from api.tasks.registry import TaskRegistry, result_key
from engines.base import Engine, Stage
from media import image

logger = logging.getLogger("api.task_manager")

_CANCELLED = Failure(TaskErrorCode.CANCELLED, "The task was cancelled.")
_INTERRUPTED = Failure(TaskErrorCode.INTERRUPTED, "The service stopped before the video was ready.")


@dataclass(frozen=True, slots=True)
class Clocks:
    """Unix time, and a monotonic clock, in seconds."""

    now: Callable[[], float]
    monotonic: Callable[[], float]


SYSTEM_CLOCKS = Clocks(time.time, time.monotonic)


def new_workers(size: int) -> Executor:
    """A pool of `size` worker threads."""
    return ThreadPoolExecutor(size, thread_name_prefix="worker")


class Scheduler:
    """Starts tasks in order of acceptance, at most `max_workers` at a time, once it is resumed.

    Equal tasks share one run: the others reuse its video, or run in turn if it fails. Callers must hold `lock`, unless
    noted; it is notified when an attempt has ended.

    gpu_failed: set when no task can run any more in this process.
    """

    def __init__(
        self,
        registry: TaskRegistry,
        queue: TaskQueue,
        engine: Callable[[], Engine],
        settings: TaskSettings,
        *,
        lock: threading.Condition,
        clocks: Clocks,
        new_executor: Callable[[int], Executor] = new_workers,
    ) -> None:
        """`engine` returns the loaded engine; it is first called by `resume`."""
        self.gpu_failed = threading.Event()
        self._registry = registry
        self._queue = queue
        self._engine = engine
        self._settings = settings
        self._lock = lock
        self._clocks = clocks
        self._new_executor = new_executor
        self._executor = new_executor(settings.max_workers)
        self._resumed = False
        # By `Task.key`: equal tasks never run at the same time.
        self._attempts: dict[str, Attempt] = {}
        # Abandoned attempts whose threads still run: Python cannot kill a thread.
        self._abandoned: set[Attempt] = set()
        self._refusal: Callable[[], UnavailableError] | None = None
        self._gpu_failure: str | None = None

    @property
    def gpu_failure(self) -> str | None:
        """Why no task can run any more in this process; None while tasks can. Needs no lock."""
        return self._gpu_failure

    @property
    def refusal(self) -> UnavailableError | None:
        """Why new tasks are rejected and queued ones not started; None while tasks are accepted. Needs no lock.

        The first reason is kept.
        """
        return None if self._refusal is None else self._refusal()

    @property
    def busy(self) -> bool:
        """Whether any attempt is running."""
        return bool(self._attempts)

    # -- starting and ending tasks ---------------------------------------------------------------------------------

    def restore(self, task: Task) -> None:
        """Requeue a task that was running when the previous process ended; end it if it cannot run."""
        if task.deleted:
            self._registry.forget(task)
        elif task.cancelled:
            self._fail(task, _CANCELLED)
        elif not self._registry.uploads_exist(task):
            message = "A file of the task is missing on the server. Upload the files again."
            self._fail(task, Failure(TaskErrorCode.INTERRUPTED, message))
        elif task.status is TaskStatus.PROCESSING:
            self._requeue(task)

    def resume(self) -> None:
        """Start queued tasks, now that the engine is loaded. Tasks are estimated again: engine or GPU may differ."""
        engine = self._engine()
        self._resumed = True
        self._queue.one_at_a_time = engine.one_at_a_time
        changed: list[Task] = []
        for task in list(self._queue.waiting.values()):
            submission = task.submission
            try:
                estimate = engine.estimate(submission.params, submission.seconds, submission.size)
            except Exception as error:
                self._fail(task, explain(error, task.id))
                continue
            estimated = replace(task, key=result_key(submission, engine), estimate_seconds=estimate.seconds)
            if estimated != task:
                changed.append(estimated)
        self._registry.update_queued(changed)
        self.dispatch()

    def dispatch(self) -> None:
        """Start every queued task that may run, and complete those whose video exists already."""
        if not self._resumed or self.refusal is not None:
            return
        engine = self._engine()
        for task in list(self._queue.waiting.values()):
            result = self._registry.result(task.key)
            if result is not None:
                self._complete(self._start(task.with_engine(engine)), result)
            elif len(self._attempts) < self._settings.max_workers and task.key not in self._attempts:
                started = self._start(task)
                attempt = Attempt(
                    task.id,
                    f"{task.id}-{started.attempt}.mp4",
                    self._settings.timeout_seconds,
                    self._clocks.monotonic,
                )
                self._attempts[task.key] = attempt
                self._executor.submit(self._run, attempt)
        self._registry.report_positions()

    def cancel(self, task: Task) -> None:
        """Fail a queued task now, a running one when its engine checks for cancellation."""
        if task.status is TaskStatus.PENDING:
            self._fail(task, _CANCELLED)
            self._registry.report_positions()
        elif task.status is TaskStatus.PROCESSING and not task.cancelled:
            self._registry.update(replace(task, cancelled=True))
            self._attempts[task.key].stop(_CANCELLED)
            logger.info("Task %s: cancellation requested", task.id)

    def _start(self, task: Task) -> Task:
        started = task.started(self._clocks.now())
        self._registry.update(started)
        return started

    def _complete(self, task: Task, result: Result) -> None:
        now = self._clocks.now()
        self._registry.update(task.completed(now, now + self._settings.retention_seconds, result))
        logger.info("Task %s completed after %.1f s", task.id, now - task.created_at)

    def _fail(self, task: Task, failure: Failure) -> None:
        now = self._clocks.now()
        expires_at = now + self._settings.retention_seconds
        self._registry.update(task.failed(now, expires_at, failure.code, failure.message))
        level = logging.INFO if failure.code is TaskErrorCode.CANCELLED else logging.ERROR
        logger.log(level, "Task %s failed: %s: %s", task.id, failure.code, failure.message)

    def _requeue(self, task: Task) -> None:
        """Return an interrupted task to the queue, or fail it if it was started `max_attempts` times.

        Called at shutdown or, after a crash, when the next process restores its tasks.
        """
        if task.attempt >= self._settings.max_attempts:
            message = f"Interrupted in attempt {task.attempt} of {self._settings.max_attempts}."
            self._fail(task, Failure(TaskErrorCode.INTERRUPTED, message))
            return
        self._registry.update(task.requeued(self._clocks.now()))
        logger.warning("Task %s was interrupted and is queued to run again", task.id)

    # -- stopping --------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Refuse new tasks and start no more; queued ones are left to the next process."""
        self._refusal = self._refusal or DrainingError

    def interrupt(self) -> None:
        """Stop all running attempts; their tasks run again in the next process."""
        for attempt in self._attempts.values():
            attempt.stop(_INTERRUPTED)

    def abandon(self) -> bool:
        """Leave all running tasks to the next process. Returns whether no worker thread is still running."""
        for attempt in list(self._attempts.values()):
            self._abandon(attempt, _INTERRUPTED)
        return not self._abandoned

    def shut_down_workers(self, *, wait: bool) -> None:
        """Release the worker threads. Needs no lock."""
        self._executor.shutdown(wait=wait)

    def abandon_stalled(self) -> None:
        """Fail the tasks of engines without a heartbeat for `stall_seconds`, and replace their worker threads.

        If the engine runs one job at a time, a hung job blocks all others. That, or too many hung threads, counts as a
        GPU failure: the process exits and must be restarted.
        """
        limit = self._settings.stall_seconds
        stalled = [attempt for attempt in self._attempts.values() if attempt.seconds_since_heartbeat() > limit]
        if not stalled:
            return
        failure = Failure(TaskErrorCode.STALLED, f"The engine stopped responding (no progress for {limit:g} s).")
        for attempt in stalled:
            attempt.stop(failure)
            self._abandon(attempt, failure)
        if self._queue.one_at_a_time or len(self._abandoned) > self._settings.max_workers:
            self._record_gpu_failure("The engine stopped responding.")
        else:
            self._executor.shutdown(wait=False)
            self._executor = self._new_executor(self._settings.max_workers)
        self.dispatch()
        self._lock.notify_all()

    def _abandon(self, attempt: Attempt, outcome: Failure) -> None:
        """End an attempt although its thread is still running."""
        self._finish(attempt, outcome)
        self._abandoned.add(attempt)

    def _record_gpu_failure(self, failure: str) -> None:
        # Only the first failure counts: others follow from it.
        if self._gpu_failure is not None:
            return
        logger.error("GPU failure, no more tasks can run in this process: %s", failure)
        self._gpu_failure = failure
        self._refusal = self._refusal or partial(GpuUnavailableError, failure)
        self.interrupt()
        self.gpu_failed.set()

    # -- worker threads --------------------------------------------------------------------------------------------

    def _run(self, attempt: Attempt) -> None:
        logger.info("Task %s started", attempt.task_id)
        engine = self._engine()
        try:
            task = self._inspected(engine, attempt)
            with self._registry.job(task, attempt.output) as job:
                outcome = attempt.run(engine, job, self._progress)
        except Exception as error:
            outcome = explain(error, attempt.task_id)
        with self._lock:
            try:
                self._finish(attempt, outcome)
            except Exception as error:
                # Whatever went wrong, the task must not stay PROCESSING.
                self._fail(self._registry.get(attempt.task_id), explain(error, attempt.task_id))
            finally:
                self._abandoned.discard(attempt)
                self.dispatch()
                self._lock.notify_all()

    def _inspected(self, engine: Engine, attempt: Attempt) -> Task:
        """The attempt's task; inspected again if another engine accepted it. Raises NoFaceError."""
        task = self._registry.get(attempt.task_id)
        if task.maker == EngineIdentity.of(engine):
            return task
        portrait = engine.inspect(image.load(self._registry.image(task)))
        with self._lock:
            task = self._registry.get(attempt.task_id)
            submission = replace(task.submission, face=portrait.face, warnings=portrait.warnings)
            task = replace(task, submission=submission).with_engine(engine)
            if not task.ended:
                self._registry.update(task)
            return task

    def _progress(
        self, attempt: Attempt, stage: Stage, progress: float, message: str, remaining: float | None, /
    ) -> None:
        with self._lock:
            task = self._running_task(attempt)
            if task is not None:
                self._registry.progress(task.reported(self._clocks.now(), stage, progress, message, remaining))

    def _running_task(self, attempt: Attempt) -> Task | None:
        """The task of an attempt; None if the attempt was abandoned."""
        task = self._registry.find_any(attempt.task_id)
        return task if task is not None and self._attempts.get(task.key) is attempt else None

    def _finish(self, attempt: Attempt, outcome: Result | Failure) -> None:
        """Record the outcome unless the attempt was already abandoned; delete a video that no task needs."""
        task = self._running_task(attempt)
        if task is None:
            self._delete_video(outcome)
            return
        del self._attempts[task.key]
        if isinstance(outcome, Failure) and outcome.code is TaskErrorCode.GPU_FAILED:
            self._record_gpu_failure(outcome.message)
        if isinstance(outcome, Result):
            self._queue.speed.learn(task.estimate_seconds, attempt.clock.seconds())
        if task.deleted:
            self._delete_video(outcome)
            self._registry.forget(task)
        elif task.cancelled:
            self._delete_video(outcome)
            self._fail(task, _CANCELLED)
        elif isinstance(outcome, Result):
            self._complete(task, outcome)
        elif outcome.code is TaskErrorCode.INTERRUPTED:
            self._requeue(task)
        else:
            self._fail(task, outcome)

    def _delete_video(self, outcome: Result | Failure) -> None:
        if isinstance(outcome, Result):
            # A file that cannot be deleted now is left to the sweep.
            with suppress(OSError):
                self._registry.delete_video(outcome.name)
