"""All task records: in memory, where requests read them, and in the journal, for the next process."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Protocol

from api.records import Result, Submission, Task, TaskReport
from api.storage.files import FileStore
from api.storage.journal import Journal
from api.storage.workspaces import Workspaces
from api.tasks.queue import TaskQueue
from api.utils import sha256_json
from engines.base import Engine, SynthesisJob


def result_key(submission: Submission, engine: Engine) -> str:
    """A key that is equal for submissions that produce the same video with this engine."""
    return sha256_json(
        [
            submission.image,
            submission.audio,
            engine.name,
            engine.version,
            engine.checkpoint,
            asdict(submission.params),
        ]
    )


class TaskListener(Protocol):
    """Is notified of every change of a task, under the task manager's lock: its methods must not block."""

    def changed(self, report: TaskReport) -> None:
        """A task was accepted or updated, or its place in the queue has changed."""

    def forgotten(self, task_id: str) -> None:
        """A task was deleted or has expired: no further reports follow."""

    def watched(self, task_id: str) -> bool:
        """Whether the task has listeners; queue positions are reported only for those."""


class TaskRegistry:
    """Task records, the files they reference, and the videos that equal tasks share.

    The one place where a task changes: each change goes to the journal, the queue and the listener. Changes need the
    task manager's lock. Reading needs none, since records are immutable.
    """

    def __init__(
        self,
        journal: Journal,
        queue: TaskQueue,
        listener: TaskListener,
        *,
        uploads: FileStore,
        outputs: FileStore,
        workspaces: Workspaces,
    ) -> None:
        self._journal = journal
        self._queue = queue
        self._uploads = uploads
        self._outputs = outputs
        self._workspaces = workspaces
        self._listener = listener
        # In order of acceptance.
        self._tasks: dict[str, Task] = {}
        # ID of an expired task → Unix time until which it is reported as expired.
        self._tombstones: dict[str, float] = {}
        # Idempotency-Key → id of its task.
        self._requests: dict[str, str] = {}
        # By `Task.key`, while a task with this video exists.
        self._results: dict[str, Result] = {}
        # Name of a video → number of tasks that have it.
        self._video_owners: Counter[str] = Counter()
        self._next_position = 1

    # -- reading ---------------------------------------------------------------------------------------------------

    def find(self, task_id: str) -> Task | None:
        """The task, unless it is unknown or deleted."""
        task = self._tasks.get(task_id)
        return None if task is None or task.deleted else task

    def find_any(self, task_id: str) -> Task | None:
        """The task, deleted or not, unless it is unknown."""
        return self._tasks.get(task_id)

    def get(self, task_id: str) -> Task:
        """The task, deleted or not. Raises KeyError."""
        return self._tasks[task_id]

    def newest(self) -> Iterable[Task]:
        """All tasks that are not deleted, newest first."""
        return [task for task in reversed(list(self._tasks.values())) if not task.deleted]

    def tombstone_until(self, task_id: str) -> float:
        """Unix time until which an expired task has a tombstone; 0 for others."""
        return self._tombstones.get(task_id, 0.0)

    def of_request(self, idempotency_key: str) -> Task | None:
        """The task created by the request with this Idempotency-Key."""
        return self.find(self._requests.get(idempotency_key, ""))

    def result(self, key: str) -> Result | None:
        """The finished video of tasks with this key, if its file still exists."""
        result = self._results.get(key)
        return result if result is not None and self._outputs.path(result.name).exists() else None

    def next_position(self) -> int:
        """The position of the next task to be accepted."""
        return self._next_position

    def expired(self, now: float) -> list[Task]:
        """The tasks whose retention is over."""
        return [task for task in list(self._tasks.values()) if task.expired(now)]

    # -- changing --------------------------------------------------------------------------------------------------

    def restore(self) -> list[Task]:
        """Load the journal's tasks and return the unfinished ones, oldest first. Their uploads may be missing.

        Each is put in the queue with its last recorded status, PROCESSING included.
        """
        tasks, self._tombstones = self._journal.load()
        for task in tasks:
            self._tasks[task.id] = task
            self._reference_files(task)
            self._queue.put(task)
        self._next_position = max((task.position for task in tasks), default=0) + 1
        return [task for task in tasks if not task.ended]

    def add(self, task: Task) -> TaskReport:
        """Accept a task, which takes over the caller's references to its uploads.

        Raises OSError when the journal cannot be written; the task is not accepted then.
        """
        self._journal.add(task)
        self._next_position = task.position + 1
        self._index_request(task)
        self._store(task)
        report = self._queue.report(task)
        self._listener.changed(report)
        return report

    def update(self, task: Task) -> None:
        """Store the next state of a task; a completed one references its video."""
        if task.result is not None:
            self._reference_result(task.key, task.result)
        self._journal.save(task)
        self._store(task)
        self._notify(task)

    def update_queued(self, tasks: Iterable[Task]) -> None:
        """Like `update` for any number of queued tasks; the listener is notified of those that it watches."""
        for task in tasks:
            self._journal.save(task)
            self._store(task)
        self.report_positions()

    def progress(self, task: Task) -> None:
        """Like `update`, without the journal: progress need not survive the process."""
        self._store(task)
        self._notify(task)

    def forget(self, task: Task) -> None:
        """Delete a task and its references."""
        self._journal.remove(task.id)
        self._drop(task)

    def expire(self, tasks: Iterable[tuple[Task, float]]) -> None:
        """Delete tasks and their references; each leaves a tombstone until the given Unix time."""
        tasks = [(task, until) for task, until in tasks if self._tasks.get(task.id) is task]
        self._journal.expire((task.id, until) for task, until in tasks)
        for task, until in tasks:
            self._tombstones[task.id] = until
            self._drop(task)

    def report_positions(self) -> None:
        """Report the queue positions of the queued tasks that have listeners."""
        # Usually none, and there may be thousands waiting.
        if not any(map(self._listener.watched, self._queue.waiting)):
            return
        for report in self._queue.waiting_reports():
            if self._listener.watched(report.task.id):
                self._listener.changed(report)

    def flush(self, now: float) -> None:
        """Purge expired tombstones, and write the journal's pending changes."""
        self._tombstones = {task_id: until for task_id, until in self._tombstones.items() if now < until}
        self._journal.flush(now)

    # -- files -----------------------------------------------------------------------------------------------------

    @contextmanager
    def job(self, task: Task, output: str) -> Iterator[SynthesisJob]:
        """The engine's job for the running attempt of a task; its workspace is deleted when the context ends.

        `output` is the name of the video. Raises OSError.
        """
        submission = task.submission
        with self._workspaces.create(f"{task.id}-{task.attempt}") as workspace:
            yield SynthesisJob(
                image=self._uploads.path(submission.image),
                audio=self._uploads.path(submission.audio),
                output=self._outputs.path(output),
                seconds=submission.seconds,
                face=submission.face,
                params=submission.params,
                task_id=task.id,
                attempt=task.attempt,
                workspace=workspace,
            )

    def image(self, task: Task) -> Path:
        """Path of the task's portrait."""
        return self._uploads.path(task.submission.image)

    def uploads_exist(self, task: Task) -> bool:
        """Whether both uploads are still on the disk."""
        return all(self._uploads.path(name).exists() for name in task.uploads)

    @contextmanager
    def hold_uploads(self, task: Task) -> Iterator[ExitStack]:
        """Reference a task's uploads for the duration of the context, or longer with `pop_all`."""
        with ExitStack() as held:
            for name in task.uploads:
                self._uploads.hold(name)
                held.callback(self._uploads.release, name)
            yield held

    def delete_video(self, name: str) -> None:
        """Delete an attempt's video that no task references. Raises OSError."""
        self._outputs.path(name).unlink()

    def remove_leftovers(self, older_than_seconds: float) -> None:
        """Delete unreferenced files of at least this age."""
        self._uploads.remove_leftovers(older_than_seconds)
        self._outputs.remove_leftovers(older_than_seconds)

    # ----------------------------------------------------------------------------------------------------------------

    def _store(self, task: Task) -> None:
        self._tasks[task.id] = task
        self._queue.put(task)

    def _notify(self, task: Task) -> None:
        if task.deleted:
            self._listener.forgotten(task.id)
        else:
            self._listener.changed(self._queue.report(task))

    def _drop(self, task: Task) -> None:
        del self._tasks[task.id]
        self._queue.remove(task)
        request = task.submission.idempotency
        if request is not None and self._requests.get(request.key) == task.id:
            del self._requests[request.key]
        for name in task.uploads:
            self._uploads.release(name)
        if task.result is not None:
            self._outputs.release(task.result.name)
            self._drop_result(task.key, task.result)
        self._listener.forgotten(task.id)

    def _reference_files(self, task: Task) -> None:
        for name in task.uploads:
            self._uploads.hold(name)
        self._index_request(task)
        if task.result is not None:
            self._reference_result(task.key, task.result)

    def _reference_result(self, key: str, result: Result) -> None:
        self._outputs.hold(result.name)
        self._video_owners[result.name] += 1
        self._results[key] = result

    def _drop_result(self, key: str, result: Result) -> None:
        # Counted here and not by the file store: a download may keep the file after its last task.
        self._video_owners[result.name] -= 1
        if self._video_owners[result.name] == 0:
            del self._video_owners[result.name]
            if self._results.get(key) == result:
                del self._results[key]

    def _index_request(self, task: Task) -> None:
        if task.submission.idempotency is not None:
            self._requests[task.submission.idempotency.key] = task.id
