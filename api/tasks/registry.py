"""All tasks: in memory, where every question is answered, and in the journal, which the next service reads."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Iterable

from api.records import Result, Task
from api.storage.files import FileStore
from api.storage.journal import Journal

logger = logging.getLogger("api.task_manager")


class TaskRegistry:
    """Tasks with the files they hold, the videos that equal ones share, and who expired.

    Whoever changes it must hold one lock. Asking needs none, since records never change.
    """

    def __init__(self, journal: Journal, uploads: FileStore, outputs: FileStore) -> None:
        self._journal = journal
        self._uploads = uploads
        self._outputs = outputs
        self._tasks: dict[str, Task] = {}  # in the order of acceptance
        self._gone: dict[str, float] = {}  # id of an expired task → until when it is answered with 410
        self._requests: dict[str, str] = {}  # Idempotency-Key → id of its task
        self._results: dict[str, Result] = {}  # by key of equal tasks, as long as there is one of them
        self._owners: Counter[str] = Counter()  # name of a video → how many tasks have it
        self._next_position = 1

    def restore(self) -> list[Task]:
        """Read the journal, and give the tasks that had not ended, oldest first. Their uploads may be missing."""
        tasks, self._gone = self._journal.load()
        for task in tasks:
            self._tasks[task.id] = task
            self._hold(task)
        self._next_position = max((task.position for task in tasks), default=0) + 1
        return [task for task in tasks if not task.ended]

    def find(self, task_id: str) -> Task | None:
        """The task, unless it is not there or deleted."""
        task = self._tasks.get(task_id)
        return None if task is None or task.deleted else task

    def newest(self) -> Iterable[Task]:
        """All tasks that `find` finds, the newest first."""
        return [task for task in reversed(list(self._tasks.values())) if not task.deleted]

    def find_any(self, task_id: str) -> Task | None:
        """The task, deleted or not, unless it is not there."""
        return self._tasks.get(task_id)

    def get(self, task_id: str) -> Task:
        """The task, deleted or not. Raises KeyError."""
        return self._tasks[task_id]

    def gone_until(self, task_id: str) -> float:
        """Until when an expired task is remembered; 0 for others."""
        return self._gone.get(task_id, 0.0)

    def of_request(self, idempotency_key: str) -> Task | None:
        """The task that a request with this Idempotency-Key made."""
        return self.find(self._requests.get(idempotency_key, ""))

    def result(self, key: str) -> Result | None:
        """The video of equal tasks, where it is made already and still there."""
        result = self._results.get(key)
        return result if result is not None and self._outputs.path(result.name).exists() else None

    def next_position(self) -> int:
        """The number of the next task to be accepted."""
        return self._next_position

    def add(self, task: Task) -> None:
        """Take a new task, which holds its uploads from now on, as its caller did. Raises OSError: it is not taken."""
        self._journal.add(task)
        self._next_position = task.position + 1
        self._tasks[task.id] = task
        self._remember_request(task)

    def update(self, task: Task) -> None:
        """A task has taken a step; one that is completed holds its video."""
        if task.result is not None:
            self._hold_result(task.key, task.result)
        self._journal.save(task)
        self._tasks[task.id] = task

    def progress(self, task: Task) -> None:
        """As `update`, for what the next service need not know."""
        self._tasks[task.id] = task

    def forget(self, task: Task) -> None:
        """Let go of a task and its files."""
        self._journal.remove(task.id, None)
        self._let_go(task)

    def expired(self, now: float) -> list[Task]:
        """The tasks whose time is over."""
        return [task for task in list(self._tasks.values()) if task.expires_at is not None and task.expires_at <= now]

    def expire(self, tasks: Iterable[tuple[Task, float]]) -> None:
        """Let go of tasks and their files; each is answered with 410 until its time."""
        tasks = [(task, until) for task, until in tasks if self._tasks.get(task.id) is task]
        self._journal.remove_all((task.id, until) for task, until in tasks)
        for task, until in tasks:
            self._gone[task.id] = until
            self._let_go(task)

    def tidy(self, now: float) -> None:
        """Forget whom nobody has to remember, and write to the journal what is late."""
        self._gone = {task_id: until for task_id, until in self._gone.items() if now < until}
        self._journal.flush(now)

    def _let_go(self, task: Task) -> None:
        del self._tasks[task.id]
        request = task.submission.idempotency
        if request is not None and self._requests.get(request.key) == task.id:
            del self._requests[request.key]
        for name in task.uploads:
            self._uploads.release(name)
        if task.result is not None:
            self._outputs.release(task.result.name)
            self._drop_result(task.key, task.result)

    def missing_uploads(self, task: Task) -> Collection[str]:
        """Those of its files that somebody has removed from the disk."""
        return [name for name in task.uploads if not self._uploads.path(name).exists()]

    def _hold(self, task: Task) -> None:
        for name in task.uploads:
            self._uploads.hold(name)
        self._remember_request(task)
        if task.result is not None:
            self._hold_result(task.key, task.result)

    def _hold_result(self, key: str, result: Result) -> None:
        self._outputs.hold(result.name)
        self._owners[result.name] += 1
        self._results[key] = result

    def _drop_result(self, key: str, result: Result) -> None:
        """One task less has it. The file may stay longer than the last one, for who still loads it down."""
        self._owners[result.name] -= 1
        if self._owners[result.name] == 0:
            del self._owners[result.name]
            if self._results.get(key) == result:
                del self._results[key]

    def _remember_request(self, task: Task) -> None:
        if task.submission.idempotency is not None:
            self._requests[task.submission.idempotency.key] = task.id
