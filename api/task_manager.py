"""The queue: an in-memory registry of tasks and a thread pool that works them off."""

from __future__ import annotations

import itertools
import logging
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import replace

from api.admission import check_time
from api.errors import ApiError, UnavailableError
from api.eta import SpeedMeter
from api.events import EventHub
from api.file_store import FileStore
from api.journal import Journal
from api.models import TaskErrorCode, TaskStatus
from api.queue import TaskQueue
from api.registry import TaskRegistry
from api.settings import TaskSettings
from api.tasks import Maker, Result, Submission, Task, TaskReport, warnings
from api.worker import Attempt, Failure, explain
from engines.base import Engine, Stage, SynthesisJob, TooLargeError
from media import image

logger = logging.getLogger("api.task_manager")

_STOP_SECONDS = 10.0  # for an interrupted job to notice
_CLOSED_RETRY_SECONDS = 30.0  # until another service may have taken this one's place
_CANCELLED = "The task was cancelled."
_STOPPED = "The service was stopped before the video was ready."
_NO_UPLOADS = "A file of the task has been removed from the service's disk."


class TaskManager:
    """Runs at most `max_workers` tasks, lets `max_queue` wait, and forgets them after `retention_hours`.

    Equal requests share one video: while one of them runs the others wait for it; when it has failed the next
    runs itself. Uploads and videos stay as long as a task that needs them. Safe to use from any thread.

    Tasks outlive the service: what the journal knows is here again from the start, and what had not ended waits until
    `resume` and then runs, at most `max_attempts` times in all.

    When the GPU fails, no task can be worked off any more: new ones are refused and the others wait for the next
    service. Whoever runs the manager waits for `gpu_failed`; `gpu_failure` says what happened.
    """

    def __init__(
        self,
        engine: Callable[[], Engine],
        settings: TaskSettings,
        uploads: FileStore,
        outputs: FileStore,
        journal: Journal,
        *,
        events: EventHub,
        now: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        new_id: Callable[[], str] = lambda: uuid.uuid4().hex,
        new_executor: Callable[[int], Executor] = lambda size: ThreadPoolExecutor(size, thread_name_prefix="worker"),
    ) -> None:
        self._engine = engine
        self._settings = settings
        self._uploads = uploads
        self._outputs = outputs
        self._events = events
        self._now = now
        self._monotonic = monotonic
        self._new_id = new_id
        self._new_executor = new_executor
        self._retention = settings.retention_hours * 3600
        self._executor = new_executor(settings.max_workers)
        self._changed = threading.Condition()  # guards all below
        self._registry = TaskRegistry(journal, uploads, outputs)
        self._speed = SpeedMeter()
        self._queue = TaskQueue(self._registry, self._speed, settings.max_workers, now)
        self._left_behind: set[Attempt] = set()  # given up, but their threads still work
        self._resumed = False
        self._refusal: tuple[str, str] | None = None  # code and sentence; None: tasks are accepted
        self.gpu_failed = threading.Event()
        self.gpu_failure: str | None = None
        self._restore()

    # -- what routes call ------------------------------------------------------------------------------------------

    def check_open(self) -> None:
        """Raise UnavailableError when a submission would be refused now: 503 draining or gpu_failed, 429 queue_full."""
        with self._changed:
            self._check_open()

    def submit(self, submission: Submission) -> TaskReport:
        """Accept a task; its two uploads must be held for it.

        Raises UnavailableError, ApiError, TooLargeError, OSError (it cannot be written to the journal).
        """
        return self._accept(submission, Maker.of(self._engine()))

    def retry(self, task_id: str) -> TaskReport:
        """Accept a task like this one, which has FAILED. Raises as `get` and `submit`; ApiError 409, 410."""
        task = self.get(task_id).task
        if task.status is not TaskStatus.FAILED:
            raise ApiError(
                409, "not_failed", "Only a task that failed can be tried again.", f"The task is {task.status}."
            )
        with ExitStack() as held:
            for name in task.uploads:
                held.enter_context(self._uploads.held(name))
            if self._registry.missing_uploads(task):
                raise ApiError(410, "task_expired", _NO_UPLOADS, "Send the files again.")
            accepted = self._accept(replace(task.submission, idempotency=None), task.maker)
            held.pop_all()  # the new task holds them now
            return accepted

    def cancel(self, task_id: str) -> TaskReport:
        """Let a task fail with `cancelled`: at once where it waits, at the next step of its engine where it runs.

        A task that has ended stays as it is. Raises as `get`.
        """
        with self._changed:
            task = self._get(task_id)
            self._cancel(task)
            return self._queue.report(self._registry.get(task_id))

    def delete(self, task_id: str) -> None:
        """Cancel a task if need be, and forget it with its files. Raises as `get`."""
        with self._changed:
            task = self._get(task_id)
            if task.status is TaskStatus.PROCESSING:
                self._registry.update(replace(task, deleted=True))
                self._cancel(self._registry.get(task_id))
            else:
                self._queue.waiting.pop(task_id, None)
                self._registry.forget(task)
            self._events.forget(task_id)
            logger.info("Task %s deleted", task_id)
            self._publish_queue()

    def get(self, task_id: str) -> TaskReport:
        """The present state of a task. Raises ApiError 404, or 410 when it has expired."""
        task = self._get(task_id)
        if task.status is not TaskStatus.PENDING:  # the rest needs no lock, and does not wait for the journal
            return self._queue.report(task)
        with self._changed:
            return self._queue.report(self._get(task_id))

    def newest(self, status: TaskStatus | None, limit: int, after: str | None) -> tuple[list[TaskReport], bool]:
        """Up to `limit` tasks, the newest first, those older than `after`; and whether there are more.

        Raises ApiError 404 when there is no task `after`, 410 when it has expired.
        """
        with self._changed:
            now = self._now()
            last = self._get(after).position if after is not None else float("inf")
            found = (
                task
                for task in self._registry.newest()
                if task.position < last and status in (None, task.status) and not _expired(task, now)
            )
            page = list(itertools.islice(found, limit + 1))
            return [self._queue.report(task) for task in page[:limit]], len(page) > limit

    def of_request(self, idempotency_key: str) -> Task | None:
        """The task that a request with this Idempotency-Key made, as long as there is one."""
        with self._changed:
            task = self._registry.of_request(idempotency_key)
            return None if task is None or _expired(task, self._now()) else task

    def counts(self) -> tuple[int, int]:
        """How many tasks run, and how many wait."""
        with self._changed:
            return len(self._queue.running), len(self._queue.waiting)

    # -- what the service's life calls -----------------------------------------------------------------------------

    def resume(self) -> None:
        """The engine is there: work off what waits."""
        engine = self._engine()
        with self._changed:
            self._resumed = True
            self._queue.one_at_a_time = engine.one_at_a_time
            for task_id in list(self._queue.waiting):
                task = self._registry.get(task_id)
                if task.maker == Maker.of(engine):
                    continue
                try:
                    estimate = engine.estimate(task.submission.params, task.submission.seconds, task.submission.size)
                except TooLargeError as error:
                    self._fail(task, explain(error, task_id))
                else:
                    key = task.submission.key(engine)
                    self._registry.update(replace(task, key=key, estimate_seconds=estimate.seconds))
            self._dispatch()

    def sweep(self) -> None:
        """Forget what has expired, the files with the tasks."""
        with self._changed:
            for task in self._registry.sweep(self._now()):
                self._registry.forget(task, (task.expires_at or self._now()) + self._retention)
                self._events.forget(task.id)
                logger.info("Task %s expired", task.id)
        self._uploads.remove_leftovers(self._retention)
        self._outputs.remove_leftovers(self._retention)

    def watch(self) -> None:
        """Fail tasks whose engine has not been heard of for `stall_seconds`, and give their place to others.

        Where an engine works on one task at a time, none of the others could run: then the GPU counts as failed.
        """
        with self._changed:
            silent = [
                attempt
                for attempt in self._queue.running.values()
                if attempt.silent_seconds() > self._settings.stall_seconds
            ]
            for attempt in silent:
                message = f"Nothing was heard of the engine for {self._settings.stall_seconds:g} seconds."
                self._finish(attempt, Failure(TaskErrorCode.STALLED, message))
                attempt.stop(TaskErrorCode.STALLED, message)
            self._left_behind.update(silent)
            if silent and self._queue.one_at_a_time:
                self._lose_gpu("The engine does not answer any more.")
            elif silent:  # threads cannot be ended: these are left behind
                self._executor.shutdown(wait=False)
                self._executor = self._new_executor(self._settings.max_workers)
            self._dispatch()
            self._changed.notify_all()

    def shutdown(self, grace: float) -> bool:
        """Refuse new tasks, give the running ones `grace` seconds and interrupt the rest.

        What has not ended then is left to the next service. Blocks. True when all workers have stopped.
        """
        with self._changed:
            self._close("draining", "The service is stopping and takes no new tasks.")
            self._changed.wait_for(lambda: not self._queue.running, grace)
            self._interrupt()
            self._changed.wait_for(lambda: not self._queue.running, _STOP_SECONDS)
            for attempt in list(self._queue.running.values()):
                self._finish(attempt, Failure(TaskErrorCode.INTERRUPTED, _STOPPED))
                self._left_behind.add(attempt)
            stopped = not self._left_behind
        self._executor.shutdown(wait=stopped)
        return stopped

    # -- the queue; all of these need the lock, but for _get and _report of a task that does not wait -----------------

    def _restore(self) -> None:
        for task in self._registry.restore():
            if task.deleted:
                self._registry.forget(task)
            elif task.cancelled:
                self._fail(task, Failure(TaskErrorCode.CANCELLED, _CANCELLED))
            elif self._registry.missing_uploads(task):
                self._fail(task, Failure(TaskErrorCode.INTERRUPTED, f"{_NO_UPLOADS} Send the files again."))
            elif task.status is TaskStatus.PROCESSING:
                self._wait_again(task)
            else:
                self._queue.waiting[task.id] = None

    def _get(self, task_id: str) -> Task:
        now = self._now()
        task = self._registry.find(task_id)
        if task is not None and not _expired(task, now):
            return task
        if task is not None or now < self._registry.gone_until(task_id):
            raise ApiError(
                410, "task_expired", "The task has expired; its video is gone.",
                f"Finished tasks are kept for {self._settings.retention_hours:g} hours.",
            )  # fmt: skip
        raise ApiError(404, "task_not_found", "There is no such task.", "Check the task_id; deleted tasks are "
                       "forgotten, and so are those that expired long ago.")  # fmt: skip

    def _check_open(self) -> None:
        if self._refusal is not None:
            raise UnavailableError(*self._refusal, _CLOSED_RETRY_SECONDS)
        if len(self._queue.waiting) >= self._settings.max_queue:
            raise UnavailableError(
                "queue_full", f"The queue is full: {len(self._queue.waiting)} tasks are waiting.",
                self._queue.next_free(), status=429,
            )  # fmt: skip

    def _accept(self, submission: Submission, maker: Maker) -> TaskReport:
        engine = self._engine()
        estimate = engine.estimate(submission.params, submission.seconds, submission.size)
        key = submission.key(engine)
        with self._changed:
            self._check_open()
            if self._registry.result(key) is None:  # a video that is there takes no time
                expected = self._speed.total(estimate.seconds)
                check_time(expected, self._settings.timeout_seconds, engine.ignored_fields)
            now = self._now()
            task = Task(
                id=self._new_id(),
                position=self._registry.next_position(),
                key=key,
                submission=submission,
                maker=maker,
                warnings=warnings(submission, engine),
                estimate_seconds=estimate.seconds,
                created_at=now,
                updated_at=now,
                accepted_position=len(self._queue.waiting) + 1,
            )
            self._registry.add(task)
            self._queue.waiting[task.id] = None
            accepted = self._publish(task)
            logger.info(
                "Task %s accepted: %.1f s of speech, %s, %d waiting [%s]",
                task.id, submission.seconds, submission.params.emotion, len(self._queue.waiting), submission.request_id,
            )  # fmt: skip
            self._dispatch()
            return accepted

    def _cancel(self, task: Task) -> None:
        if task.status is TaskStatus.PENDING:
            self._fail(task, Failure(TaskErrorCode.CANCELLED, _CANCELLED))
            self._publish_queue()
        elif task.status is TaskStatus.PROCESSING and not task.cancelled:
            self._update(replace(task, cancelled=True))
            self._queue.running[task.key].stop(TaskErrorCode.CANCELLED, _CANCELLED)
            logger.info("Task %s is to be cancelled", task.id)

    def _close(self, code: str, error: str) -> None:
        """Refuse new tasks from now on, the first reason counts; those that wait are left to the next service."""
        self._refusal = self._refusal or (code, error)

    def _interrupt(self) -> None:
        for attempt in self._queue.running.values():
            attempt.stop(TaskErrorCode.INTERRUPTED, _STOPPED)

    def _lose_gpu(self, failure: str) -> None:
        if self.gpu_failure is not None:
            return  # another task has met it before
        logger.error("The GPU failed, so no task can run any more: %s", failure)
        self.gpu_failure = failure
        self._close("gpu_failed", failure)
        self._interrupt()
        self.gpu_failed.set()

    def _dispatch(self) -> None:
        """Start every waiting task that may run, first come first served; those that share a result end at once."""
        if not self._resumed or self._refusal is not None:
            return
        engine = self._engine()
        for task_id in list(self._queue.waiting):
            task = self._registry.get(task_id)
            result = self._registry.result(task.key)
            if result is not None:
                self._complete(self._begin(_taken_over(task, engine)), result)
            elif self._queue.ready(task):
                task = self._begin(task)
                attempt = Attempt(
                    task_id, f"{task_id}-{task.attempt}.mp4", self._settings.timeout_seconds, self._monotonic
                )
                self._queue.running[task.key] = attempt
                self._executor.submit(self._run, attempt)
        self._publish_queue()

    def _begin(self, task: Task) -> Task:
        del self._queue.waiting[task.id]
        return self._update(task.begun(self._now()))

    def _complete(self, task: Task, result: Result) -> None:
        now = self._now()
        self._update(task.completed(now, now + self._retention, result))
        logger.info("Task %s completed after %.1f s", task.id, now - task.created_at)

    def _fail(self, task: Task, failure: Failure) -> None:
        now = self._now()
        self._queue.waiting.pop(task.id, None)
        self._update(task.failed(now, now + self._retention, failure.code, failure.message))
        logger.error("Task %s failed: %s: %s", task.id, failure.code, failure.message)

    def _wait_again(self, task: Task) -> None:
        """Leave an interrupted task to the next service, or give it up where it was begun often enough."""
        if task.attempt >= self._settings.max_attempts:
            message = f"The service was stopped before the video was ready, {task.attempt} times."
            self._fail(task, Failure(TaskErrorCode.INTERRUPTED, message))
            return
        self._registry.update(task.waiting_again(self._now()))
        self._queue.insert(task)
        self._publish(self._registry.get(task.id))
        logger.warning("Task %s was interrupted, and waits to run again", task.id)

    def _update(self, task: Task) -> Task:
        self._registry.update(task)
        self._publish(task)
        return task

    def _publish(self, task: Task) -> TaskReport:
        report = self._queue.report(task)
        if not task.deleted:
            self._events.publish(report)
        return report

    def _publish_queue(self) -> None:
        """Tell those who look at a waiting task its place in the queue."""
        for task_id in self._queue.waiting:
            if self._events.listened(task_id):
                self._publish(self._registry.get(task_id))

    # -- the workers -----------------------------------------------------------------------------------------------

    def _run(self, attempt: Attempt) -> None:
        logger.info("Task %s started", attempt.task_id)
        engine = self._engine()
        try:
            task = self._inspected(engine, attempt)
        except Exception as error:
            outcome: Result | Failure = explain(error, attempt.task_id)
        else:
            outcome = attempt.run(engine, self._job(task, attempt), self._progress)
            if isinstance(outcome, Result):
                self._outputs.sync()
        with self._changed:
            self._finish(attempt, outcome)
            self._left_behind.discard(attempt)
            self._dispatch()
            self._changed.notify_all()

    def _inspected(self, engine: Engine, attempt: Attempt) -> Task:
        """The task; where another engine has accepted it, as this one sees it. Raises NoFaceError."""
        task = self._registry.get(attempt.task_id)
        if task.maker == Maker.of(engine):
            return task
        portrait = engine.inspect(image.load(self._uploads.path(task.submission.image)))
        with self._changed:
            task = self._registry.get(attempt.task_id)
            submission = replace(task.submission, face=portrait.face, warnings=portrait.warnings)
            task = _taken_over(replace(task, submission=submission), engine)
            return task if task.ended else self._update(task)

    def _job(self, task: Task, attempt: Attempt) -> SynthesisJob:
        return SynthesisJob(
            image=self._uploads.path(task.submission.image),
            audio=self._uploads.path(task.submission.audio),
            output=self._outputs.path(attempt.output),
            seconds=task.submission.seconds,
            face=task.submission.face,
            params=task.submission.params,
        )

    def _progress(
        self, attempt: Attempt, stage: Stage, progress: float, message: str, remaining: float | None, /
    ) -> None:
        with self._changed:
            task = self._registry.find_any(attempt.task_id)
            if task is not None and self._queue.running.get(task.key) is attempt:
                task = task.reported(self._now(), stage, progress, message, remaining)
                self._registry.progress(task)
                self._publish(task)

    def _finish(self, attempt: Attempt, outcome: Result | Failure) -> None:
        """Let the task take its last step, unless it was given up before; a video that nobody wants goes."""
        task = self._registry.find_any(attempt.task_id)
        if task is None or self._queue.running.get(task.key) is not attempt:
            self._drop(outcome)
            return
        del self._queue.running[task.key]
        if isinstance(outcome, Failure) and outcome.code is TaskErrorCode.GPU_FAILED:
            self._lose_gpu(outcome.message)
        if isinstance(outcome, Result):
            self._speed.learn(task.estimate_seconds, attempt.clock.seconds())
        if task.deleted:
            self._drop(outcome)
            self._registry.forget(task)
        elif task.cancelled:
            self._drop(outcome)
            self._fail(task, Failure(TaskErrorCode.CANCELLED, _CANCELLED))
        elif isinstance(outcome, Result):
            self._complete(task, outcome)
        elif outcome.code is TaskErrorCode.INTERRUPTED:
            self._wait_again(task)
        else:
            self._fail(task, outcome)

    def _drop(self, outcome: Result | Failure) -> None:
        if isinstance(outcome, Result):
            with suppress(OSError):  # the sweep will try again
                self._outputs.path(outcome.name).unlink()


def _taken_over(task: Task, engine: Engine) -> Task:
    """The task, made by this engine instead of the one that accepted it."""
    return replace(task, maker=Maker.of(engine), warnings=warnings(task.submission, engine))


def _expired(task: Task, now: float) -> bool:
    return task.expires_at is not None and task.expires_at <= now
