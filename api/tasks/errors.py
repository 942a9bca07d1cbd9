"""Errors of the task service. They carry facts; `api/http/errors.py` maps them to statuses, `messages.py` to texts.

CodedError
├── MediaError, EngineError
└── TaskError
    ├── TaskNotFoundError          task_not_found
    ├── TaskExpiredError           task_expired
    ├── FileMissingError           task_expired
    ├── NotFailedError             not_failed
    ├── NotFinishedError           not_finished
    ├── TaskFailedError            that of the task
    ├── TooLongError               too_large
    └── UnavailableError
        ├── QueueFullError         queue_full
        ├── StartingError          starting
        ├── SetupFailedError       setup_failed
        ├── DrainingError          draining
        ├── GpuUnavailableError    gpu_failed
        ├── StorageFullError       storage_full
        │   └── LowDiskSpaceError
        └── JournalFailedError     journal_failed
"""

from __future__ import annotations

from collections.abc import Sequence

from api.records import TaskErrorCode, TaskStatus
from media.errors import CodedError


class TaskError(CodedError):
    """Base of the errors of the task service."""


class TaskNotFoundError(TaskError):
    """No task has this id: it never existed, was deleted, or its tombstone is gone too."""

    code = "task_not_found"


class TaskExpiredError(TaskError):
    """The retention of the task is over."""

    code = "task_expired"

    def __init__(self, retention_hours: float) -> None:
        super().__init__()
        self.retention_hours = retention_hours


class FileMissingError(TaskError):
    """A file of the task is no longer on the disk, although the task has not expired.

    kind: "upload" or "video".
    """

    code = "task_expired"

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind


class NotFailedError(TaskError):
    """Only a FAILED task can be retried."""

    code = "not_failed"

    def __init__(self, status: TaskStatus) -> None:
        super().__init__()
        self.status = status


class NotFinishedError(TaskError):
    """There is no video yet."""

    code = "not_finished"

    def __init__(self, status: TaskStatus) -> None:
        super().__init__()
        self.status = status


class TaskFailedError(TaskError):
    """There is no video, as the task FAILED with this code and message."""

    def __init__(self, code: TaskErrorCode, message: str) -> None:
        super().__init__(message)
        # Hides the code of the class: each failure has its own.
        self.code = code  # type: ignore[misc]


class TooLongError(TaskError):
    """The job is expected to exceed `tasks.timeout_seconds`.

    expected, allowed: seconds.
    fields: the form fields that would make it shorter.
    """

    code = "too_large"

    def __init__(self, expected: float, allowed: float, fields: Sequence[str]) -> None:
        super().__init__()
        self.expected, self.allowed, self.fields = expected, allowed, tuple(fields)


class UnavailableError(TaskError):
    """New tasks are refused for now.

    retry_after: seconds after which it may be worth trying again.
    """

    retry_after: float = 30.0


class QueueFullError(UnavailableError):
    """`waiting` tasks are queued, and `tasks.max_queue` allows no more."""

    code = "queue_full"

    def __init__(self, waiting: int, retry_after: float) -> None:
        super().__init__()
        self.waiting, self.retry_after = waiting, retry_after


class StartingError(UnavailableError):
    """The engine is still loading."""

    code = "starting"


class SetupFailedError(UnavailableError):
    """The engine could not be set up; `reason` is a message from the engine."""

    code = "setup_failed"

    def __init__(self, reason: str | None) -> None:
        super().__init__()
        self.reason = reason


class DrainingError(UnavailableError):
    """The service is shutting down."""

    code = "draining"


class GpuUnavailableError(UnavailableError):
    """The GPU failed or its engine hangs, and the process is about to exit; `reason` is a message from the engine."""

    code = "gpu_failed"

    def __init__(self, reason: str) -> None:
        super().__init__()
        self.reason = reason


class StorageFullError(UnavailableError):
    """The disk is full."""

    code = "storage_full"
    retry_after = 60.0


class LowDiskSpaceError(StorageFullError):
    """Less than `files.min_free_mb` of disk space is free.

    free, required: bytes.
    """

    def __init__(self, free: int, required: float) -> None:
        super().__init__()
        self.free, self.required = free, required


class JournalFailedError(UnavailableError):
    """The journal cannot be written; `reason` comes from SQLite, where it is known."""

    code = "journal_failed"
    retry_after = 60.0

    def __init__(self, reason: str | None = None) -> None:
        super().__init__()
        self.reason = reason
