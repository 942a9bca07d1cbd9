"""A task registry without a service."""

from __future__ import annotations

from pathlib import Path

from api.records import TaskReport
from api.storage.files import FileStore
from api.storage.journal import Journal
from api.storage.workspaces import Workspaces
from api.tasks.queue import TaskQueue
from api.tasks.registry import TaskListener, TaskRegistry
from tests.records import NOW


class RecordingListener:
    """Records its notifications; watches the tasks that a test adds to `watching`."""

    def __init__(self) -> None:
        self.reports: list[TaskReport] = []
        self.dropped: list[str] = []
        self.watching: set[str] = set()

    def changed(self, report: TaskReport) -> None:
        self.reports.append(report)

    def forgotten(self, task_id: str) -> None:
        self.dropped.append(task_id)

    def watched(self, task_id: str) -> bool:
        return task_id in self.watching


class NoListener:
    """Ignores all notifications."""

    def changed(self, report: TaskReport) -> None: ...

    def forgotten(self, task_id: str) -> None: ...

    def watched(self, task_id: str) -> bool:
        return False


def make_registry(
    directory: Path,
    journal: Journal,
    uploads: FileStore,
    outputs: FileStore,
    listener: TaskListener | None = None,
    queue: TaskQueue | None = None,
) -> TaskRegistry:
    """A registry with one worker's queue, on a clock that stands at NOW."""
    return TaskRegistry(
        journal,
        queue or TaskQueue(1, lambda: NOW),
        listener or NoListener(),
        uploads=uploads,
        outputs=outputs,
        workspaces=Workspaces(directory / "workspaces"),
    )
