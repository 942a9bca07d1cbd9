"""Accepts, queues, cancels, retries and expires tasks; thread-safe."""

from __future__ import annotations

import itertools
import logging
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import replace

from api.records import EngineIdentity, Result, Submission, Task, TaskReport, TaskStatus, client_warnings
from api.settings import TaskSettings
from api.tasks.errors import (
    FileMissingError,
    NotFailedError,
    NotFinishedError,
    QueueFullError,
    TaskExpiredError,
    TaskFailedError,
    TaskNotFoundError,
    TooLongError,
)
from api.tasks.queue import TaskQueue
from api.tasks.registry import TaskRegistry, result_key
from api.tasks.scheduler import Scheduler
from engines.base import Engine

logger = logging.getLogger("api.task_manager")

# Grace for an interrupted engine to stop.
STOP_SECONDS = 10.0
# Expired tasks are deleted in batches, so that other threads get the lock in between.
_SWEEP_BATCH = 100
# Form fields that make a job shorter.
_SHORTENING_FIELDS = ("duration", "inference_steps", "min_resolution")


def new_task_id() -> str:
    """A random id, 32 hexadecimal digits."""
    return uuid.uuid4().hex


class TaskManager:
    """Runs at most `max_workers` tasks, queues `max_queue` more, and deletes them after `retention_hours`.

    Equal requests share one video: only one of them runs at a time; if it fails, the next one runs. Uploads and videos
    are kept while a task needs them. Tasks survive the process: the constructor restores those in the journal, and
    unfinished ones run after `resume`, at most `max_attempts` times in all.

    When the GPU fails, no task can run any more in this process: new ones are refused and the others are left to the
    next process. `gpu_failed` is set then, and `gpu_failure` has the reason.

    lock: guards the registry and the scheduler, and is notified when an attempt has ended.
    """

    def __init__(
        self,
        registry: TaskRegistry,
        scheduler: Scheduler,
        queue: TaskQueue,
        engine: Callable[[], Engine],
        settings: TaskSettings,
        *,
        lock: threading.Condition,
        now: Callable[[], float] = time.time,
        new_id: Callable[[], str] = new_task_id,
    ) -> None:
        """Restores the journal's tasks. `engine` returns the loaded engine; the scheduler uses the same `lock`."""
        self.lock = lock
        self.gpu_failed = scheduler.gpu_failed
        self._registry = registry
        self._queue = queue
        self._scheduler = scheduler
        self._settings = settings
        self._engine = engine
        self._now = now
        self._new_id = new_id
        with self.lock:
            for task in self._registry.restore():
                self._scheduler.restore(task)

    @property
    def gpu_failure(self) -> str | None:
        """Why the GPU is unusable; None while it works."""
        return self._scheduler.gpu_failure

    # -- called by routes; reading takes no lock, as the event loop must not wait for a disk -------------------------

    def check_open(self) -> None:
        """Raise UnavailableError if a new task would be refused now: draining, gpu_failed or queue_full."""
        refusal = self._scheduler.refusal
        if refusal is not None:
            raise refusal
        waiting = len(self._queue.waiting)
        if waiting >= self._settings.max_queue:
            raise QueueFullError(waiting, self._queue.next_free())

    def submit(self, submission: Submission) -> TaskReport:
        """Accept a task, which takes over the caller's references to its two uploads.

        Raises UnavailableError, TooLongError, TooLargeError, OSError (the journal cannot be written).
        """
        return self._accept(submission, EngineIdentity.of(self._engine()))

    def retry(self, task_id: str, request_id: str = "") -> TaskReport:
        """Accept a copy of a FAILED task. Raises like `get` and `submit`, and NotFailedError, FileMissingError."""
        task = self.get(task_id).task
        if task.status is not TaskStatus.FAILED:
            raise NotFailedError(task.status)
        with self._registry.hold_uploads(task) as held:
            # The task may have been deleted, and its files with it, just before they were held.
            self.get(task_id)
            if not self._registry.uploads_exist(task):
                raise FileMissingError("upload")
            copy = replace(task.submission, idempotency=None, request_id=request_id)
            accepted = self._accept(copy, task.maker)
            held.pop_all()
            return accepted

    def cancel(self, task_id: str) -> TaskReport:
        """Fail a task with `cancelled`: a queued one now, a running one when its engine checks for it.

        A finished task stays as it is. Raises like `get`.
        """
        with self.lock:
            self._scheduler.cancel(self._find(task_id))
            return self._queue.report(self._registry.get(task_id))

    def delete(self, task_id: str) -> None:
        """Delete a task and its files. Raises like `get`.

        A running one is cancelled and hidden at once, and deleted when its engine stops.
        """
        with self.lock:
            task = self._find(task_id)
            if task.status is TaskStatus.PROCESSING:
                self._registry.update(replace(task, deleted=True))
                self._scheduler.cancel(self._registry.get(task_id))
            else:
                self._registry.forget(task)
            logger.info("Task %s deleted", task_id)
            self._registry.report_positions()

    def get(self, task_id: str) -> TaskReport:
        """The current state of a task. Raises TaskNotFoundError, TaskExpiredError."""
        return self._queue.report(self._find(task_id))

    def result(self, task_id: str) -> Result:
        """The video of a COMPLETED task. Raises like `get`, and NotFinishedError, TaskFailedError."""
        task = self._find(task_id)
        if task.error_code is not None:
            raise TaskFailedError(task.error_code, task.message)
        if task.result is None:
            raise NotFinishedError(task.status)
        return task.result

    def newest(self, status: TaskStatus | None, limit: int, after: str | None) -> tuple[list[TaskReport], bool]:
        """A page of up to `limit` tasks, newest first, and whether there are more.

        Only tasks with this `status`, and older than the task `after`, where given. Raises like `get` for `after`.
        """
        now = self._now()
        last = self._find(after).position if after is not None else float("inf")
        found = (
            task
            for task in self._registry.newest()
            if task.position < last and status in (None, task.status) and not task.expired(now)
        )
        page = list(itertools.islice(found, limit + 1))
        return [self._queue.report(task) for task in page[:limit]], len(page) > limit

    def of_request(self, idempotency_key: str) -> Task | None:
        """The task created by the request with this Idempotency-Key, while there is one."""
        task = self._registry.of_request(idempotency_key)
        return None if task is None or task.expired(self._now()) else task

    def counts(self) -> tuple[int, int]:
        """Numbers of running and of queued tasks."""
        return len(self._queue.running), len(self._queue.waiting)

    # -- called by the service ---------------------------------------------------------------------------------------

    def resume(self) -> None:
        """Start queued tasks, now that the engine is loaded."""
        with self.lock:
            self._scheduler.resume()

    def sweep(self) -> None:
        """Delete expired tasks and their files."""
        retention = self._settings.retention_seconds
        expired = self._registry.expired(self._now())
        for start in range(0, len(expired), _SWEEP_BATCH):
            batch = expired[start : start + _SWEEP_BATCH]
            with self.lock:
                self._registry.expire((task, (task.expires_at or self._now()) + retention) for task in batch)
            for task in batch:
                logger.info("Task %s expired", task.id)
        with self.lock:
            self._registry.flush(self._now())
        self._registry.remove_leftovers(retention)

    def watch(self) -> None:
        """Fail the tasks of engines that have stopped responding; see Scheduler."""
        with self.lock:
            self._scheduler.abandon_stalled()

    def shutdown(self, grace: float) -> bool:
        """Refuse new tasks, give running ones `grace` seconds, and interrupt the rest.

        Unfinished tasks are left to the next process. Blocks. Returns whether all worker threads have ended.
        """
        with self.lock:
            self._scheduler.close()
            self.lock.wait_for(lambda: not self._scheduler.busy, grace)
            self._scheduler.interrupt()
            self.lock.wait_for(lambda: not self._scheduler.busy, STOP_SECONDS)
            stopped = self._scheduler.abandon()
        self._scheduler.shut_down_workers(wait=stopped)
        return stopped

    # ----------------------------------------------------------------------------------------------------------------

    def _find(self, task_id: str) -> Task:
        now = self._now()
        task = self._registry.find(task_id)
        if task is not None and not task.expired(now):
            return task
        if task is not None or now < self._registry.tombstone_until(task_id):
            raise TaskExpiredError(self._settings.retention_hours)
        raise TaskNotFoundError

    def _accept(self, submission: Submission, maker: EngineIdentity) -> TaskReport:
        engine = self._engine()
        estimate = engine.estimate(submission.params, submission.seconds, submission.size)
        key = result_key(submission, engine)
        with self.lock:
            self.check_open()
            # A video that exists already takes no time.
            if self._registry.result(key) is None:
                self._check_time(self._queue.speed.total(estimate.seconds), engine)
            now = self._now()
            task = Task(
                id=self._new_id(),
                position=self._registry.next_position(),
                key=key,
                submission=submission,
                maker=maker,
                warnings=client_warnings(submission, engine),
                estimate_seconds=estimate.seconds,
                created_at=now,
                updated_at=now,
                accepted_position=len(self._queue.waiting) + 1,
            )
            accepted = self._registry.add(task)
            logger.info(
                "Task %s accepted: %.1f s of speech, emotion %s, %d queued [%s]",
                task.id, submission.seconds, submission.params.emotion, len(self._queue.waiting), submission.request_id,
            )  # fmt: skip
            self._scheduler.dispatch()
            return accepted

    def _check_time(self, expected: float, engine: Engine) -> None:
        allowed = self._settings.timeout_seconds
        if expected > allowed:
            fields = [name for name in _SHORTENING_FIELDS if name not in engine.ignored_fields]
            raise TooLongError(expected, allowed, fields)
