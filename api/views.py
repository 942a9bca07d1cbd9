"""From records to the bodies of answers."""

from __future__ import annotations

from datetime import UTC, datetime

from api.models import TaskView
from api.tasks import TaskReport


def task_view(report: TaskReport) -> TaskView:
    """A task as its client sees it."""
    task = report.task
    message = task.message
    if report.queue_position is not None:
        message = f"Waiting, number {report.queue_position} in the queue."
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
        parameters=task.job.params,
        engine=task.engine,
        warnings=list(task.warnings),
    )


def _utc(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
