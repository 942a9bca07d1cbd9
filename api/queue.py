"""Who waits, who runs, and how long that will take."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable

from api.eta import SpeedMeter
from api.models import TaskStatus
from api.registry import TaskRegistry
from api.tasks import Task, TaskReport
from api.worker import Attempt


class TaskQueue:
    """Waiting tasks by id, first come first served, and running attempts by the key of their task.

    Whoever changes it must hold one lock. `report` needs that lock for tasks that wait, and none for others.
    """

    def __init__(self, registry: TaskRegistry, speed: SpeedMeter, workers: int, now: Callable[[], float]) -> None:
        self._registry = registry
        self._speed = speed
        self._workers = workers
        self._now = now
        self.one_at_a_time = False
        """Whether running tasks take turns."""
        self.waiting: dict[str, None] = {}
        self.running: dict[str, Attempt] = {}

    def insert(self, task: Task) -> None:
        """Let a task wait at its place in the order of acceptance."""
        ids = sorted((*self.waiting, task.id), key=lambda task_id: self._registry.get(task_id).position)
        self.waiting = dict.fromkeys(ids)

    def ready(self, task: Task) -> bool:
        """Whether a waiting task may be begun now."""
        return len(self.running) < self._workers and task.key not in self.running

    def report(self, task: Task) -> TaskReport:
        """The task with its place and its time."""
        if task.ended:
            return TaskReport(task, None, None)
        if task.status is TaskStatus.PROCESSING:
            return TaskReport(task, None, self._remaining(task))
        ahead = list(itertools.takewhile(lambda task_id: task_id != task.id, self.waiting))
        runner = self.running.get(task.key)
        if runner is not None:  # an equal task's video will be this one's too
            return TaskReport(task, len(ahead) + 1, self._remaining(self._registry.get(runner.task_id)))
        return TaskReport(task, len(ahead) + 1, self._until_begun(ahead) + self._remaining(task))

    def next_free(self) -> float:
        """Expected seconds until a running task ends."""
        return min(self._times(attempt.task_id for attempt in self.running.values()), default=1.0)

    def _until_begun(self, ahead: list[str]) -> float:
        """Expected seconds until a task can begin that has these before it in the queue."""
        running = self._times(attempt.task_id for attempt in self.running.values())
        waiting = sum(self._times(ahead))
        if self.one_at_a_time:  # one that takes its turn later knows of those before it
            return max(running, default=0.0) + waiting
        return (sum(running) + waiting) / self._workers

    def _times(self, task_ids: Iterable[str]) -> list[float]:
        return [self._remaining(self._registry.get(task_id)) for task_id in task_ids]

    def _remaining(self, task: Task) -> float:
        now = self._now()
        if task.remaining_seconds is not None:  # the engine knows best, and what it said ages
            return max(0.0, task.remaining_seconds - max(0.0, now - task.updated_at))
        elapsed = 0.0 if task.started_at is None else max(0.0, now - task.started_at)
        return self._speed.remaining(task.estimate_seconds, elapsed, task.progress)
