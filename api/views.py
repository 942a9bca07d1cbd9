"""From records to the bodies of answers."""

from __future__ import annotations

from datetime import UTC, datetime

from api.models import (
    VERSION,
    Manifest,
    ManifestEngine,
    ManifestInput,
    ManifestInputs,
    ManifestOutput,
    ManifestTimings,
    TaskView,
)
from api.records import Task, TaskReport


def task_view(report: TaskReport) -> TaskView:
    """A task as its client sees it."""
    task = report.task
    message = task.message
    if report.queue_position is not None:
        waiting = "Waiting to run again" if task.attempt else "Waiting"  # the service was stopped meanwhile
        message = f"{waiting}, number {report.queue_position} in the queue."
    elif task.cancelled and not task.ended:
        message = "Being cancelled."
    return TaskView(
        task_id=task.id,
        status=task.status,
        progress=round(task.progress, 4),
        message=message,
        created_at=_utc(task.created_at),
        updated_at=_utc(task.updated_at),
        stage=task.stage,
        queue_position=report.queue_position,
        eta_seconds=None if report.eta_seconds is None else round(report.eta_seconds, 1),
        started_at=None if task.started_at is None else _utc(task.started_at),
        completed_at=None if task.completed_at is None else _utc(task.completed_at),
        expires_at=None if task.expires_at is None else _utc(task.expires_at),
        error_code=task.error_code,
        attempt=task.attempt,
        parameters=task.submission.params,
        engine=task.maker.name,
        warnings=list(task.warnings),
    )


def manifest(task: Task) -> Manifest:
    """What was sent, what made the video, and what came out."""
    submission, result = task.submission, task.result
    worked = None
    if task.started_at is not None and task.completed_at is not None:
        worked = round(task.completed_at - task.started_at, 3)
    return Manifest(
        task_id=task.id,
        status=task.status,
        inputs=ManifestInputs(
            image=ManifestInput(sha256=submission.image), audio=ManifestInput(sha256=submission.audio)
        ),
        speech_seconds=submission.seconds,
        parameters=submission.params,
        engine=ManifestEngine(name=task.maker.name, version=task.maker.version, checkpoint=task.maker.checkpoint),
        service_version=VERSION,
        attempt=task.attempt,
        timings=ManifestTimings(
            created_at=_utc(task.created_at),
            started_at=None if task.started_at is None else _utc(task.started_at),
            completed_at=None if task.completed_at is None else _utc(task.completed_at),
            waited_seconds=None if task.started_at is None else round(task.started_at - task.created_at, 3),
            worked_seconds=worked,
        ),
        output=None if result is None else ManifestOutput(sha256=result.sha256, bytes=result.size),
    )


def _utc(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
