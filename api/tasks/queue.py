"""The queue: which tasks are waiting, which are running, and when each will be ready."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from api.records import Task, TaskReport, TaskStatus

# Weight of the latest task in the running mean.
_NEW_WEIGHT = 0.3
# Shorter tasks weigh less: much of them is warm-up, which says nothing about long ones.
_FULL_WEIGHT_SECONDS = 10.0
# From this progress on, a task's own speed is all that counts.
_TRUSTED_PROGRESS = 0.2


class SpeedMeter:
    """Learns the ratio of real to estimated time from finished tasks."""

    def __init__(self) -> None:
        self._ratio = 1.0

    def learn(self, estimated: float, actual: float) -> None:
        """Record that a task estimated at `estimated` seconds took `actual` seconds."""
        if estimated > 0:
            weight = _NEW_WEIGHT * min(1.0, estimated / _FULL_WEIGHT_SECONDS)
            self._ratio += weight * (actual / estimated - self._ratio)

    def total(self, estimated: float) -> float:
        """Expected seconds of a task that has not started."""
        return estimated * self._ratio

    def remaining(self, estimated: float, elapsed: float, progress: float) -> float:
        """Expected further seconds of a task that reached `progress` (0..1) in `elapsed` seconds."""
        trust = min(1.0, progress / _TRUSTED_PROGRESS)
        own = elapsed / progress if progress > 0 else 0.0
        return max(0.0, trust * own + (1 - trust) * self.total(estimated) - elapsed)


class TaskQueue:
    """The unfinished tasks: waiting ones by ID, in order of acceptance, and running ones by `Task.key`.

    The registry keeps it up to date, under the task manager's lock. Reading takes no lock, so that no request waits
    for a disk: readers copy what they need, and may see a change one step late.
    """

    def __init__(self, workers: int, now: Callable[[], float]) -> None:
        self._workers = workers
        self._now = now
        self.speed = SpeedMeter()
        # Whether the engine runs its jobs one after another even if several workers have one.
        self.one_at_a_time = False
        self.waiting: dict[str, Task] = {}
        self.running: dict[str, Task] = {}

    def put(self, task: Task) -> None:
        """Insert, move or replace a task according to its status; finished ones are removed."""
        if task.status is TaskStatus.PENDING:
            self._stop_running(task)
            last = next(reversed(self.waiting.values()), task)
            if task.id in self.waiting or task.position >= last.position:
                self.waiting[task.id] = task
            else:
                # Requeued after an interruption: back to its place in the order of acceptance.
                in_order = sorted((*self.waiting.values(), task), key=lambda waiting: waiting.position)
                self.waiting = {waiting.id: waiting for waiting in in_order}
        elif task.status is TaskStatus.PROCESSING:
            self.running[task.key] = task
            self.waiting.pop(task.id, None)
        else:
            self.remove(task)

    def remove(self, task: Task) -> None:
        """Remove a task if present."""
        self._stop_running(task)
        self.waiting.pop(task.id, None)

    def report(self, task: Task) -> TaskReport:
        """The task with its place and its estimated remaining time."""
        if task.status is not TaskStatus.PENDING:
            return TaskReport(task, None, None if task.ended else self._remaining(task))
        place, ahead = 1, 0.0
        for other in list(self.waiting.values()):
            if other.position >= task.position:
                break
            place += 1
            ahead += self._remaining(other)
        return self._waiting_report(task, place, self._running_times(), ahead)

    def waiting_reports(self) -> Iterator[TaskReport]:
        """Reports on all waiting tasks, in order. One pass: there may be thousands."""
        running, ahead = self._running_times(), 0.0
        for place, task in enumerate(list(self.waiting.values()), 1):
            yield self._waiting_report(task, place, running, ahead)
            ahead += self._remaining(task)

    def next_free(self) -> float:
        """Expected seconds until a running task finishes."""
        return min(self._running_times(), default=1.0)

    def _stop_running(self, task: Task) -> None:
        running = self.running.get(task.key)
        if running is not None and running.id == task.id:
            del self.running[task.key]

    def _waiting_report(self, task: Task, place: int, running: list[float], ahead: float) -> TaskReport:
        equal = self.running.get(task.key)
        # An equal task that is running produces this one's video too.
        if equal is not None:
            return TaskReport(task, place, self._remaining(equal))
        start = (sum(running) + ahead) / self._workers
        if self.one_at_a_time:
            # The estimate of a running task already includes those whose turn comes before.
            start = max(running, default=0.0) + ahead
        return TaskReport(task, place, start + self._remaining(task))

    def _running_times(self) -> list[float]:
        return [self._remaining(task) for task in list(self.running.values())]

    def _remaining(self, task: Task) -> float:
        now = self._now()
        # The engine's own estimate is the best one; it ages from the moment it was made.
        if task.remaining_seconds is not None:
            return max(0.0, task.remaining_seconds - max(0.0, now - task.updated_at))
        elapsed = 0.0 if task.started_at is None else max(0.0, now - task.started_at)
        return self.speed.remaining(task.estimate_seconds, elapsed, task.progress)
