"""The queue: an in-memory registry of tasks and a thread pool that works them off."""

from __future__ import annotations

import itertools
import logging
import time
import uuid
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace

from api.admission import check_time
from api.http.errors import ApiError, UnavailableError
from api.records import Maker, Submission, Task, TaskReport, TaskStatus, warnings
from api.settings import TaskSettings
from api.storage.files import FileStore
from api.storage.journal import Journal
from api.tasks.events import EventHub
from api.tasks.registry import TaskRegistry
from api.tasks.scheduler import Clocks, Scheduler
from engines.base import Engine

logger = logging.getLogger("api.task_manager")

_STOP_SECONDS = 10.0  # for an interrupted job to notice
_SWEPT_AT_ONCE = 100  # tasks
_CLOSED_RETRY_SECONDS = 30.0  # until another service may have taken this one's place


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
        self._new_id = new_id
        self._retention = settings.retention_hours * 3600
        self._registry = TaskRegistry(journal, uploads, outputs)
        self._scheduler = Scheduler(
            engine,
            settings,
            uploads,
            outputs,
            self._registry,
            events=events,
            clocks=Clocks(now, monotonic),
            new_executor=new_executor,
        )
        self._queue = self._scheduler.queue
        self._lock = self._scheduler.changed  # guards the registry, the scheduler and its queue
        self.gpu_failed = self._scheduler.gpu_failed
        for task in self._registry.restore():
            self._scheduler.restore(task)

    @property
    def gpu_failure(self) -> str | None:
        """What happened to the GPU; None while it works."""
        return self._scheduler.gpu_failure

    # -- what routes call; who only asks takes no lock, as the event loop must not wait for a disk -------------------

    def check_open(self) -> None:
        """Raise UnavailableError when a submission would be refused now: 503 draining or gpu_failed, 429 queue_full."""
        if self._scheduler.refusal is not None:
            raise UnavailableError(*self._scheduler.refusal, _CLOSED_RETRY_SECONDS)
        waiting = len(self._queue.waiting)
        if waiting >= self._settings.max_queue:
            error = f"The queue is full: {waiting} tasks are waiting."
            raise UnavailableError("queue_full", error, self._queue.next_free(), status=429)

    def submit(self, submission: Submission) -> TaskReport:
        """Accept a task; its two uploads must be held for it.

        Raises UnavailableError, ApiError, TooLargeError, OSError (it cannot be written to the journal).
        """
        return self._accept(submission, Maker.of(self._engine()))

    def retry(self, task_id: str, request_id: str = "") -> TaskReport:
        """Accept a task like this one, which has FAILED. Raises as `get` and `submit`; ApiError 409, 410."""
        task = self.get(task_id).task
        if task.status is not TaskStatus.FAILED:
            raise ApiError(
                409, "not_failed", "Only a task that failed can be tried again.", f"The task is {task.status}."
            )
        with ExitStack() as held:
            for name in task.uploads:
                self._uploads.hold(name)
                held.callback(self._uploads.release, name)
            self.get(task_id)  # once more: now nobody can delete the files with it
            if self._registry.missing_uploads(task):
                raise ApiError(
                    410,
                    "task_expired",
                    "A file of the task was removed from the service's disk.",
                    "Send the files again.",
                )
            again = replace(task.submission, idempotency=None, request_id=request_id)
            accepted = self._accept(again, task.maker)
            held.pop_all()  # the new task holds them now
            return accepted

    def cancel(self, task_id: str) -> TaskReport:
        """Let a task fail with `cancelled`: at once where it waits, at the next step of its engine where it runs.

        A task that has ended stays as it is. Raises as `get`.
        """
        with self._lock:
            task = self._get(task_id)
            self._scheduler.cancel(task)
            return self._queue.report(self._registry.get(task_id))

    def delete(self, task_id: str) -> None:
        """Cancel a task if need be, and forget it with its files. Raises as `get`."""
        with self._lock:
            task = self._get(task_id)
            if task.status is TaskStatus.PROCESSING:
                self._registry.update(replace(task, deleted=True))
                self._scheduler.cancel(self._registry.get(task_id))
            else:
                self._queue.waiting.pop(task_id, None)
                self._registry.forget(task)
            self._events.forget(task_id)
            logger.info("Task %s deleted", task_id)
            self._scheduler.publish_queue()

    def get(self, task_id: str) -> TaskReport:
        """The present state of a task. Raises ApiError 404, or 410 when it has expired."""
        return self._queue.report(self._get(task_id))

    def newest(self, status: TaskStatus | None, limit: int, after: str | None) -> tuple[list[TaskReport], bool]:
        """Up to `limit` tasks, the newest first, those older than `after`; and whether there are more.

        Raises ApiError 404 when there is no task `after`, 410 when it has expired.
        """
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
        task = self._registry.of_request(idempotency_key)
        return None if task is None or _expired(task, self._now()) else task

    def counts(self) -> tuple[int, int]:
        """How many tasks run, and how many wait."""
        return len(self._queue.running), len(self._queue.waiting)

    # -- what the service's life calls -----------------------------------------------------------------------------

    def resume(self) -> None:
        """The engine is there: work off what waits."""
        with self._lock:
            self._scheduler.resume()

    def sweep(self) -> None:
        """Forget what has expired, the files with the tasks; some at a time, so that others get the lock between."""
        expired = self._registry.expired(self._now())
        for start in range(0, len(expired), _SWEPT_AT_ONCE):
            some = expired[start : start + _SWEPT_AT_ONCE]
            with self._lock:
                self._registry.expire((task, (task.expires_at or self._now()) + self._retention) for task in some)
            for task in some:
                self._events.forget(task.id)
                logger.info("Task %s expired", task.id)
        with self._lock:
            self._registry.tidy(self._now())
        self._uploads.remove_leftovers(self._retention)
        self._outputs.remove_leftovers(self._retention)

    def watch(self) -> None:
        """Give up the tasks of engines that have fallen silent; see Scheduler."""
        with self._lock:
            self._scheduler.give_up_silent()

    def shutdown(self, grace: float) -> bool:
        """Refuse new tasks, give the running ones `grace` seconds and interrupt the rest.

        What has not ended then is left to the next service. Blocks. True when all workers have stopped.
        """
        with self._lock:
            self._scheduler.close("draining", "The service is stopping and takes no new tasks.")
            self._lock.wait_for(lambda: not self._queue.running, grace)
            self._scheduler.interrupt()
            self._lock.wait_for(lambda: not self._queue.running, _STOP_SECONDS)
            stopped = self._scheduler.give_up()
        self._scheduler.end_workers(wait=stopped)
        return stopped

    # ----------------------------------------------------------------------------------------------------------------

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

    def _accept(self, submission: Submission, maker: Maker) -> TaskReport:
        engine = self._engine()
        estimate = engine.estimate(submission.params, submission.seconds, submission.size)
        key = submission.key(engine)
        with self._lock:
            self.check_open()
            if self._registry.result(key) is None:  # a video that is there takes no time
                expected = self._scheduler.speed.total(estimate.seconds)
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
            accepted = self._scheduler.publish(task)
            logger.info(
                "Task %s accepted: %.1f s of speech, %s, %d waiting [%s]",
                task.id, submission.seconds, submission.params.emotion, len(self._queue.waiting), submission.request_id,
            )  # fmt: skip
            self._scheduler.dispatch()
            return accepted


def _expired(task: Task, now: float) -> bool:
    return task.expires_at is not None and task.expires_at <= now
