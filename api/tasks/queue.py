"""Who waits, who runs, and how long that will take."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from api.eta import SpeedMeter
from api.records import Task, TaskReport, TaskStatus
from api.tasks.attempt import Attempt
from api.tasks.registry import TaskRegistry


class TaskQueue:
    """Waiting tasks by id, first come first served, and running attempts by the key of their task.

    Whoever changes it must hold one lock. Asking needs none, so that nobody waits for a disk to get an answer: what
    is asked for is copied first, and tasks that go meanwhile are left out.
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
        if task.status is not TaskStatus.PENDING:
            return TaskReport(task, None, None if task.ended else self._remaining(task))
        ids = list(self.waiting)
        ahead = ids[: ids.index(task.id)] if task.id in ids else []  # otherwise it is just being begun
        return self._of_waiting(task, len(ahead) + 1, self._running_times(), sum(self._times(ahead)))

    def waiting_reports(self) -> Iterator[TaskReport]:
        """All tasks that wait, first come first; in one pass, since there may be many."""
        running, ahead = self._running_times(), 0.0
        for place, task in enumerate(self._known(list(self.waiting)), 1):
            yield self._of_waiting(task, place, running, ahead)
            ahead += self._remaining(task)

    def next_free(self) -> float:
        """Expected seconds until a running task ends."""
        return min(self._running_times(), default=1.0)

    def _of_waiting(self, task: Task, place: int, running: list[float], ahead: float) -> TaskReport:
        runner = self.running.get(task.key)
        equal = None if runner is None else self._registry.find_any(runner.task_id)
        if equal is not None:  # its video will be this one's too
            return TaskReport(task, place, self._remaining(equal))
        begun = (sum(running) + ahead) / self._workers
        if self.one_at_a_time:  # one that takes its turn later knows of those before it
            begun = max(running, default=0.0) + ahead
        return TaskReport(task, place, begun + self._remaining(task))

    def _running_times(self) -> list[float]:
        return self._times([attempt.task_id for attempt in list(self.running.values())])

    def _times(self, task_ids: Iterable[str]) -> list[float]:
        return [self._remaining(task) for task in self._known(task_ids)]

    def _known(self, task_ids: Iterable[str]) -> Iterator[Task]:
        return filter(None, map(self._registry.find_any, task_ids))

    def _remaining(self, task: Task) -> float:
        now = self._now()
        if task.remaining_seconds is not None:  # the engine knows best, and what it said ages
            return max(0.0, task.remaining_seconds - max(0.0, now - task.updated_at))
        elapsed = 0.0 if task.started_at is None else max(0.0, now - task.started_at)
        return self._speed.remaining(task.estimate_seconds, elapsed, task.progress)
