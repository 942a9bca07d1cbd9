"""Works off the tasks that wait, and lets each take the steps of its life."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass, replace

from api.eta import SpeedMeter
from api.records import Maker, Result, Task, TaskErrorCode, TaskReport, TaskStatus, warnings
from api.settings import TaskSettings
from api.storage.files import FileStore
from api.tasks.attempt import Attempt, Failure, explain, job_of
from api.tasks.events import EventHub
from api.tasks.queue import TaskQueue
from api.tasks.registry import TaskRegistry
from engines.base import Engine, Stage
from media import image

logger = logging.getLogger("api.task_manager")

_CANCELLED = Failure(TaskErrorCode.CANCELLED, "The task was cancelled.")
_INTERRUPTED = Failure(TaskErrorCode.INTERRUPTED, "The service was stopped before the video was ready.")


@dataclass(frozen=True, slots=True)
class Clocks:
    """Where the time comes from: seconds since the epoch, and seconds that nobody sets."""

    now: Callable[[], float]
    monotonic: Callable[[], float]


class Scheduler:
    """Begins tasks in the order of their acceptance, at most `max_workers` at once, as soon as it is resumed.

    Of equal tasks one runs; the others share its video, or run themselves when there is none. All methods need the
    lock `changed`, which is notified when a task has ended.
    """

    def __init__(
        self,
        engine: Callable[[], Engine],
        settings: TaskSettings,
        uploads: FileStore,
        outputs: FileStore,
        registry: TaskRegistry,
        *,
        events: EventHub,
        clocks: Clocks,
        new_executor: Callable[[int], Executor],
    ) -> None:
        self._engine = engine
        self._settings = settings
        self._uploads = uploads
        self._outputs = outputs
        self._registry = registry
        self._events = events
        self._clocks = clocks
        self._new_executor = new_executor
        self._retention = settings.retention_hours * 3600
        self._executor = new_executor(settings.max_workers)
        self._resumed = False
        self._left_behind: set[Attempt] = set()  # given up, but their threads still work
        self.changed = threading.Condition()
        self.speed = SpeedMeter()
        self.queue = TaskQueue(registry, self.speed, settings.max_workers, clocks.now)
        self.refusal: tuple[str, str] | None = None
        """Code and sentence for those who bring new tasks; None: they are welcome, and waiting ones are begun."""
        self.gpu_failed = threading.Event()
        self.gpu_failure: str | None = None

    def resume(self) -> None:
        """The engine is there: begin what waits. What another engine has accepted, this one measures anew."""
        engine = self._engine()
        self._resumed = True
        self.queue.one_at_a_time = engine.one_at_a_time
        for task_id in list(self.queue.waiting):
            task = self._registry.get(task_id)
            submission = task.submission
            try:  # even where the engine is the same: it may have another device now
                estimate = engine.estimate(submission.params, submission.seconds, submission.size)
            except Exception as error:
                self.fail(task, explain(error, task_id))
                continue
            measured = replace(task, key=submission.key(engine), estimate_seconds=estimate.seconds)
            if measured != task:
                self._registry.update(measured)
        self.dispatch()

    def cancel(self, task: Task) -> None:
        """End a waiting task now, and a running one at the next step of its engine."""
        if task.status is TaskStatus.PENDING:
            self.fail(task, _CANCELLED)
            self.publish_queue()
        elif task.status is TaskStatus.PROCESSING and not task.cancelled:
            attempt = self.queue.running[task.key]
            self._update(replace(task, cancelled=True))
            attempt.stop(_CANCELLED)
            logger.info("Task %s is to be cancelled", task.id)

    def restore(self, task: Task) -> None:
        """Take up a task of the service before, which had not ended."""
        if task.deleted:
            self._registry.forget(task)
        elif task.cancelled:
            self.fail(task, _CANCELLED)
        elif self._registry.missing_uploads(task):
            message = "A file of the task was removed from the service's disk. Send the files again."
            self.fail(task, Failure(TaskErrorCode.INTERRUPTED, message))
        elif task.status is TaskStatus.PROCESSING:
            self._wait_again(task)
        else:
            self.queue.waiting[task.id] = None

    def give_up_silent(self) -> None:
        """Fail tasks whose engine has not been heard of for `stall_seconds`, and give their place to others.

        Where an engine works on one task at a time, none of the others could run; and where many have fallen silent,
        their threads are too many. Then the GPU counts as failed: the service ends, to be started again.
        """
        limit = self._settings.stall_seconds
        silent = [attempt for attempt in self.queue.running.values() if attempt.silent_seconds() > limit]
        if not silent:
            return
        failure = Failure(TaskErrorCode.STALLED, f"Nothing was heard of the engine for {limit:g} seconds.")
        for attempt in silent:
            attempt.stop(failure)
            self._give_up(attempt, failure)
        if self.queue.one_at_a_time or len(self._left_behind) > self._settings.max_workers:
            self._lose_gpu("The engine does not answer any more.")
        else:  # threads cannot be ended: these are left behind
            self._executor.shutdown(wait=False)
            self._executor = self._new_executor(self._settings.max_workers)
        self.dispatch()
        self.changed.notify_all()

    def interrupt(self) -> None:
        """Let all running tasks stop at their next step, to run again in the next service."""
        for attempt in self.queue.running.values():
            attempt.stop(_INTERRUPTED)

    def give_up(self) -> bool:
        """Leave all that still runs to the next service. True when no worker is left behind."""
        for attempt in list(self.queue.running.values()):
            self._give_up(attempt, _INTERRUPTED)
        return not self._left_behind

    def end_workers(self, *, wait: bool) -> None:
        """Begin nothing any more; needs no lock."""
        self._executor.shutdown(wait=wait)

    def close(self, code: str, error: str) -> None:
        """Refuse new tasks from now on, the first reason counts; those that wait are left to the next service."""
        self.refusal = self.refusal or (code, error)

    def _lose_gpu(self, failure: str) -> None:
        if self.gpu_failure is not None:
            return  # another task has met it before
        logger.error("No task can run any more: %s", failure)
        self.gpu_failure = failure
        self.close("gpu_failed", failure)
        self.interrupt()
        self.gpu_failed.set()

    def dispatch(self) -> None:
        """Start every waiting task that may run, first come first served; those that share a result end at once."""
        if not self._resumed or self.refusal is not None:
            return
        engine = self._engine()
        for task_id in list(self.queue.waiting):
            task = self._registry.get(task_id)
            result = self._registry.result(task.key)
            if result is not None:
                self._complete(self._begin(_taken_over(task, engine)), result)
            elif self.queue.ready(task):
                task = self._begin(task)
                attempt = Attempt(
                    task_id, f"{task_id}-{task.attempt}.mp4", self._settings.timeout_seconds, self._clocks.monotonic
                )
                self.queue.running[task.key] = attempt
                self._executor.submit(self._run, attempt)
        self.publish_queue()

    def _begin(self, task: Task) -> Task:
        del self.queue.waiting[task.id]
        return self._update(task.begun(self._clocks.now()))

    def _complete(self, task: Task, result: Result) -> None:
        now = self._clocks.now()
        self._update(task.completed(now, now + self._retention, result))
        logger.info("Task %s completed after %.1f s", task.id, now - task.created_at)

    def fail(self, task: Task, failure: Failure) -> None:
        """PENDING or PROCESSING → FAILED."""
        now = self._clocks.now()
        self.queue.waiting.pop(task.id, None)
        self._update(task.failed(now, now + self._retention, failure.code, failure.message))
        level = logging.INFO if failure.code is TaskErrorCode.CANCELLED else logging.ERROR
        logger.log(level, "Task %s failed: %s: %s", task.id, failure.code, failure.message)

    def _wait_again(self, task: Task) -> None:
        """Leave an interrupted task to the next service, or give it up where it was begun often enough."""
        if task.attempt >= self._settings.max_attempts:
            message = f"The service was stopped before the video was ready, {task.attempt} times."
            self.fail(task, Failure(TaskErrorCode.INTERRUPTED, message))
            return
        self._registry.update(task.waiting_again(self._clocks.now()))
        self.queue.insert(task)
        self.publish(self._registry.get(task.id))
        logger.warning("Task %s was interrupted, and waits to run again", task.id)

    def _update(self, task: Task) -> Task:
        self._registry.update(task)
        self.publish(task)
        return task

    def publish(self, task: Task) -> TaskReport:
        """Tell those who look at a task; gives what they are told."""
        report = self.queue.report(task)
        if not task.deleted:
            self._events.publish(report)
        return report

    def publish_queue(self) -> None:
        """Tell those who look at a waiting task its place in the queue."""
        if not any(map(self._events.listened, self.queue.waiting)):  # as a rule, and there may be many who wait
            return
        for report in self.queue.waiting_reports():
            if self._events.listened(report.task.id):
                self._events.publish(report)

    # -- the workers -----------------------------------------------------------------------------------------------

    def _run(self, attempt: Attempt) -> None:
        logger.info("Task %s started", attempt.task_id)
        engine = self._engine()
        try:
            task = self._inspected(engine, attempt)
        except Exception as error:
            outcome: Result | Failure = explain(error, attempt.task_id)
        else:
            outcome = attempt.run(
                engine, job_of(task, self._uploads, self._outputs.path(attempt.output)), self._progress
            )
        with self.changed:
            try:
                self._finish(attempt, outcome)
            except Exception as error:  # a task must not stay PROCESSING, whatever went wrong
                self.fail(self._registry.get(attempt.task_id), explain(error, attempt.task_id))
            finally:
                self._left_behind.discard(attempt)
                self.dispatch()
                self.changed.notify_all()

    def _inspected(self, engine: Engine, attempt: Attempt) -> Task:
        """The task; where another engine has accepted it, as this one sees it. Raises NoFaceError."""
        task = self._registry.get(attempt.task_id)
        if task.maker == Maker.of(engine):
            return task
        portrait = engine.inspect(image.load(self._uploads.path(task.submission.image)))
        with self.changed:
            task = self._registry.get(attempt.task_id)
            submission = replace(task.submission, face=portrait.face, warnings=portrait.warnings)
            task = _taken_over(replace(task, submission=submission), engine)
            return task if task.ended else self._update(task)

    def _progress(
        self, attempt: Attempt, stage: Stage, progress: float, message: str, remaining: float | None, /
    ) -> None:
        with self.changed:
            task = self._registry.find_any(attempt.task_id)
            if task is not None and self.queue.running.get(task.key) is attempt:
                task = task.reported(self._clocks.now(), stage, progress, message, remaining)
                self._registry.progress(task)
                self.publish(task)

    def _finish(self, attempt: Attempt, outcome: Result | Failure) -> None:
        """Let the task take its last step, unless it was given up before; a video that nobody wants goes."""
        task = self._registry.find_any(attempt.task_id)
        if task is None or self.queue.running.get(task.key) is not attempt:
            self._drop(outcome)
            return
        del self.queue.running[task.key]
        if isinstance(outcome, Failure) and outcome.code is TaskErrorCode.GPU_FAILED:
            self._lose_gpu(outcome.message)
        if isinstance(outcome, Result):
            self.speed.learn(task.estimate_seconds, attempt.clock.seconds())
        if task.deleted:
            self._drop(outcome)
            self._registry.forget(task)
        elif task.cancelled:
            self._drop(outcome)
            self.fail(task, _CANCELLED)
        elif isinstance(outcome, Result):
            self._complete(task, outcome)
        elif outcome.code is TaskErrorCode.INTERRUPTED:
            self._wait_again(task)
        else:
            self.fail(task, outcome)

    def _give_up(self, attempt: Attempt, outcome: Failure) -> None:
        """End an attempt whose thread goes on."""
        self._finish(attempt, outcome)
        self._left_behind.add(attempt)

    def _drop(self, outcome: Result | Failure) -> None:
        if isinstance(outcome, Result):
            with suppress(OSError):  # the sweep will try again
                self._outputs.path(outcome.name).unlink()


def _taken_over(task: Task, engine: Engine) -> Task:
    """The task, made by this engine instead of the one that accepted it."""
    return replace(task, maker=Maker.of(engine), warnings=warnings(task.submission, engine))
