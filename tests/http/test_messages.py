"""The texts of errors follow from their types and facts."""

from __future__ import annotations

import pytest

from api.http.errors import STATUSES, from_exception
from api.http.messages import damage_notice, describe
from api.records import TaskErrorCode, TaskStatus
from api.storage.errors import JournalWriteError, disk_full
from api.tasks.errors import (
    DrainingError,
    FileMissingError,
    GpuUnavailableError,
    JournalFailedError,
    LowDiskSpaceError,
    NotFailedError,
    NotFinishedError,
    QueueFullError,
    SetupFailedError,
    StartingError,
    StorageFullError,
    TaskError,
    TaskExpiredError,
    TaskFailedError,
    TaskNotFoundError,
    TooLongError,
    UnavailableError,
)
from engines.base import GpuOutOfMemoryError, NoFaceError, TooLargeError
from media.errors import CodedError, EncoderError, InvalidAudioError, InvalidImageError, UnsupportedMediaError
from tests.process import ROOT

ERRORS: list[tuple[CodedError, int, str, str]] = [
    (TaskNotFoundError(), 404, "task_not_found", "Task not found."),
    (TaskExpiredError(24), 410, "task_expired", "The task has expired."),
    (FileMissingError("upload"), 410, "task_expired", "A file of the task is missing on the server."),
    (FileMissingError("video"), 410, "task_expired", "The video is missing on the server."),
    (NotFinishedError(TaskStatus.PENDING), 409, "not_finished", "The video is not ready yet."),
    (TaskFailedError(TaskErrorCode.NO_FACE, "No face."), 409, "no_face", "The task failed; there is no video."),
    (NotFailedError(TaskStatus.PENDING), 409, "not_failed", "Only a failed task can be retried."),
    (
        TooLongError(10.2, 10, ["duration"]),
        422,
        "too_large",
        "The video would take about 11 s, more than the time limit of 10 s.",
    ),
    (QueueFullError(7, 12.4), 429, "queue_full", "The queue is full: 7 tasks are queued."),
    (StartingError(), 503, "starting", "The engine is still loading."),
    (SetupFailedError("unet.pth is missing."), 503, "setup_failed", "unet.pth is missing."),
    (SetupFailedError(None), 503, "setup_failed", "The engine could not be set up."),
    (DrainingError(), 503, "draining", "The service is shutting down; new tasks are rejected."),
    (GpuUnavailableError("It broke."), 503, "gpu_failed", "It broke. The service must be restarted."),
    (StorageFullError(), 503, "storage_full", "No disk space left on the server."),
    (
        LowDiskSpaceError(12 << 20, 500 << 20),
        503,
        "storage_full",
        "Only 12 MiB of disk space left; new tasks need at least 500 MiB.",
    ),
    (JournalFailedError(), 503, "journal_failed", "The task journal cannot be written; new tasks are rejected."),
    (
        JournalFailedError("disk I/O error"),
        503,
        "journal_failed",
        "The task journal cannot be written (disk I/O error); new tasks are rejected.",
    ),
    (UnsupportedMediaError("Neither."), 415, "unsupported_media_type", "Neither."),
    (InvalidImageError("{side} px is too small.", side=3), 422, "invalid_image", "3 px is too small."),
    (InvalidAudioError("Damaged."), 422, "invalid_audio", "Damaged."),
    (NoFaceError("No face."), 422, "no_face", "No face."),
    (TooLargeError("Too large."), 422, "too_large", "Too large."),
]


@pytest.mark.parametrize(("error", "status", "code", "message"), ERRORS, ids=lambda value: type(value).__name__)
def test_error_becomes_its_response(error: CodedError, status: int, code: str, message: str) -> None:
    response = from_exception(error)
    assert (response.status, response.code, response.error) == (status, code, message)
    assert ("Retry-After" in response.headers) == isinstance(error, UnavailableError)


def test_every_error_of_the_task_service_has_a_status() -> None:
    kinds = {kind for kind in _leaves(TaskError) if kind not in (TaskError, UnavailableError)}
    assert kinds <= STATUSES.keys()
    assert {type(error) for error, *_ in ERRORS} == STATUSES.keys()


def _leaves(kind: type[TaskError]) -> set[type[TaskError]]:
    return {kind}.union(*(_leaves(child) for child in kind.__subclasses__()))


def test_tree_in_the_docstring_names_every_error() -> None:
    drawn = (ROOT / "api" / "tasks" / "errors.py").read_text().split('"""')[1]
    for kind in _leaves(TaskError):
        line = next((line for line in drawn.splitlines() if kind.__name__ in line.split()), None)
        assert line is not None, kind
        if kind in STATUSES:
            assert line.split()[-1] in (kind.code, kind.__name__, "task")


@pytest.mark.parametrize("error", [EncoderError("secret"), GpuOutOfMemoryError("secret"), ValueError("secret")])
def test_unlisted_error_is_an_internal_one(error: Exception) -> None:
    response = from_exception(error)
    assert (response.status, response.code) == (500, "internal")
    assert "secret" not in response.body("id").decode()


def test_refused_write_becomes_503_with_its_reason() -> None:
    assert from_exception(disk_full(ROOT)).code == "storage_full"
    assert from_exception(JournalWriteError("disk I/O error", ROOT)).code == "journal_failed"
    assert from_exception(OSError(5, "Input/output error")).code == "internal"


def test_damaged_journal_is_explained() -> None:
    assert damage_notice("tasks.sqlite3.damaged-1", 3) == (
        "The task journal was damaged; a backup was kept as tasks.sqlite3.damaged-1. Recovered tasks: 3. "
        "Any others are lost."
    )


def test_retry_after_is_at_least_one_second() -> None:
    assert from_exception(QueueFullError(1, 0.01)).headers["Retry-After"] == "1"
    response = from_exception(QueueFullError(1, 12.4))
    assert (response.headers["Retry-After"], response.detail) == ("12", "Try again in about 12 s.")


def test_hints_name_only_the_fields_that_help() -> None:
    def hint(*fields: str) -> str | None:
        return describe(TooLongError(10.2, 10, fields))[1]

    assert hint("duration", "inference_steps", "min_resolution") == (
        "Try a shorter duration, fewer inference_steps or a smaller min_resolution."
    )
    assert hint("duration", "min_resolution") == "Try a shorter duration or a smaller min_resolution."
    assert hint("duration") == "Try a shorter duration."
    assert hint() is None
