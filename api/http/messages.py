"""English error messages, made from the type and the facts of an error."""

from __future__ import annotations

import math
from collections.abc import Sequence

from api.tasks import errors as task_errors
from media.errors import CodedError

_SHORTER = {
    "duration": "a shorter duration",
    "inference_steps": "fewer inference_steps",
    "min_resolution": "a smaller min_resolution",
}
_MISSING_FILES = {
    "upload": ("A file of the task is missing on the server.", "Upload the files again."),
    "video": ("The video is missing on the server.", None),
}


def describe(error: CodedError) -> tuple[str, str | None]:  # noqa: PLR0911
    """Return the `error` and `detail` texts of an error response."""
    match error:
        case task_errors.TaskNotFoundError():
            return "Task not found.", "Check the task_id. The task may have been deleted, or have expired long ago."
        case task_errors.TaskExpiredError():
            return "The task has expired.", f"Finished tasks are kept for {error.retention_hours:g} hours."
        case task_errors.FileMissingError():
            return _MISSING_FILES[error.kind]
        case task_errors.NotFailedError():
            return "Only a failed task can be retried.", f"The task is {error.status}."
        case task_errors.NotFinishedError():
            return "The video is not ready yet.", f"The task is {error.status}."
        case task_errors.TaskFailedError():
            return "The task failed; there is no video.", str(error)
        case task_errors.TooLongError():
            expected, hints = math.ceil(error.expected), [_SHORTER[name] for name in error.fields]
            return (
                f"The video would take about {expected} s, more than the time limit of {error.allowed:g} s.",
                f"Try {_either(hints)}." if hints else None,
            )
        case task_errors.UnavailableError():
            return headline(error), f"Try again in about {retry_after(error)} s."
        case _:
            return error.template.format_map(error.facts) if error.facts else error.template, None


def headline(error: task_errors.UnavailableError) -> str:  # noqa: PLR0911
    """Return why tasks are not accepted."""
    match error:
        case task_errors.QueueFullError():
            return f"The queue is full: {error.waiting} tasks are queued."
        case task_errors.StartingError():
            return "The engine is still loading."
        case task_errors.SetupFailedError():
            return error.reason or "The engine could not be set up."
        case task_errors.DrainingError():
            return "The service is shutting down; new tasks are rejected."
        case task_errors.GpuUnavailableError():
            return f"{error.reason} The service must be restarted."
        case task_errors.LowDiskSpaceError():
            free, required = error.free / 2**20, error.required / 2**20
            return f"Only {free:.0f} MiB of disk space left; new tasks need at least {required:g} MiB."
        case task_errors.StorageFullError():
            return "No disk space left on the server."
        case task_errors.JournalFailedError():
            reason = "" if error.reason is None else f" ({error.reason})"
            return f"The task journal cannot be written{reason}; new tasks are rejected."
        case _:
            return "The service is not accepting tasks."


def retry_after(error: task_errors.UnavailableError) -> int:
    """The value of the Retry-After header: whole seconds, at least 1."""
    return max(1, round(error.retry_after))


def damage_notice(backup: str, recovered: int) -> str:
    """Return the notice about a recovered journal."""
    return (
        f"The task journal was damaged; a backup was kept as {backup}. Recovered tasks: {recovered}. "
        "Any others are lost."
    )


def _either(words: Sequence[str]) -> str:
    return " or ".join((", ".join(words[:-1]), words[-1]) if len(words) > 1 else words)
