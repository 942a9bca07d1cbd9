"""The bodies of requests and responses: the HTTP contract. Fields may be added, never changed."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from api import VERSION
from api.device import Device
from api.engine import ServiceState
from api.fields import (
    DynamicScale,
    ExpandRatio,
    FramesPerSecond,
    GuidanceScale,
    InferenceSteps,
    Resolution,
    Seconds,
    Seed,
)
from api.records import Task, TaskErrorCode, TaskReport, TaskStatus
from engines.base import Emotion, Stage, SynthesisParams


class StartForm(BaseModel):
    """The text fields of `start`; the defaults of those that may be left out come from the settings."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    emotion: Emotion = Field(description="How the person feels.", examples=["happy"])
    ref_scale: GuidanceScale = Field(description="Identity guidance: how closely to keep to the portrait.")
    emo_scale: GuidanceScale = Field(description="Audio and emotion guidance: how strongly to act.")
    crop: bool = Field(False, description="Crop to a square around the face, with the margin `expand_ratio`.")
    inference_steps: InferenceSteps = Field(description="Denoising steps: more are slower and finer.")
    duration: Seconds | None = Field(None, description="Use only the first seconds of the audio; default: all of it.")
    fps: FramesPerSecond = Field(description="Frames per second of the video.")
    seed: Seed = Field(description="Equal input and equal seed give an equal video.")
    dynamic_scale: DynamicScale = Field(1.0, description="Motion of the head; 1 is natural.")
    min_resolution: Resolution = Field(description="Short side of the video in pixels.")
    expand_ratio: ExpandRatio = Field(description="Margin around the face when cropping, in face sizes.")

    def params(self) -> SynthesisParams:
        """The same values as the engines take them."""
        return SynthesisParams(**dict(self))


class TaskAccepted(BaseModel):
    """202: the task waits for its turn."""

    task_id: str
    status: Literal["PENDING"] = "PENDING"
    message: str
    status_url: str
    download_url: str
    queue_position: int = Field(description="1 is next.")
    warnings: list[str] = Field(description="What the client should know, such as fields the engine cannot honour.")


class TaskView(BaseModel):
    """A task as its client sees it."""

    task_id: str
    status: TaskStatus
    progress: float = Field(ge=0, le=1, description="0 to 1, never falls within an attempt; exactly 1 when COMPLETED.")
    message: str
    created_at: datetime
    updated_at: datetime
    stage: Stage
    queue_position: int | None = Field(description="1 is next; null when the task no longer waits.")
    eta_seconds: float | None = Field(description="Until the video is ready; null when the task has ended.")
    started_at: datetime | None
    completed_at: datetime | None
    expires_at: datetime | None = Field(description="When the task and its video are removed.")
    error_code: TaskErrorCode | None = Field(description="Why the task FAILED.")
    attempt: int = Field(description="How often the task was begun; 2 when it was interrupted once.")
    parameters: SynthesisParams
    engine: str = Field(examples=["preview"])
    warnings: list[str]


class TaskQuery(BaseModel):
    """Which tasks to list. A parameter that is left empty counts as left out."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    status: TaskStatus | None = Field(None, description="Only tasks with this status.")
    limit: int = Field(20, ge=1, le=100, description="At most so many.")
    after: str | None = Field(None, description="Only tasks older than this one: the `last_id` of the page before.")

    @model_validator(mode="before")
    @classmethod
    def _drop_empty(cls, values: Any) -> Any:
        return {name: value for name, value in values.items() if value != ""} if isinstance(values, dict) else values


class TaskList(BaseModel):
    """Tasks, the newest first."""

    data: list[TaskView]
    has_more: bool = Field(description="Whether there are older ones: ask for them with `after=last_id`.")
    first_id: str | None = Field(description="The first of `data`; null where there is none.")
    last_id: str | None = Field(description="The last of `data`; null where there is none.")


class ManifestInput(BaseModel):
    """A file that was sent."""

    sha256: str = Field(description="Of its bytes, as they were sent.")


class ManifestInputs(BaseModel):
    """What was sent."""

    image: ManifestInput
    audio: ManifestInput


class ManifestEngine(BaseModel):
    """What made the video, or will."""

    name: str = Field(examples=["preview"])
    version: str
    checkpoint: str = Field(description="Changes with any of the model files: SHA-256 over all of them.")


class ManifestTimings(BaseModel):
    """When what happened."""

    created_at: datetime
    started_at: datetime | None = Field(description="Of the last attempt.")
    completed_at: datetime | None
    waited_seconds: float | None = Field(description="From the request to the last attempt.")
    worked_seconds: float | None = Field(description="The last attempt; null until the task has ended.")


class ManifestOutput(BaseModel):
    """The video."""

    sha256: str = Field(description="The same as the download's ETag.")
    bytes: int


class Manifest(BaseModel):
    """All it takes to make the same video again, and to know that it is the same."""

    task_id: str
    status: TaskStatus
    inputs: ManifestInputs
    speech_seconds: float = Field(description="How much of the audio is used.")
    parameters: SynthesisParams = Field(description="Every one, those with defaults too, and the seed.")
    engine: ManifestEngine
    service_version: str
    attempt: int = Field(description="How often the task was begun.")
    timings: ManifestTimings
    output: ManifestOutput | None = Field(description="Null until the video is ready.")


class QueueView(BaseModel):
    """How busy the service is."""

    running: int
    waiting: int
    max_workers: int
    max_queue: int


class Health(BaseModel):
    """Always 200; `healthy` means that jobs are taken now."""

    model_config = ConfigDict(protected_namespaces=())

    status: Literal["healthy", "unhealthy"]
    gpu_available: bool
    model_loaded: bool = Field(description="The DICE-Talk networks; false under the preview engine.")
    version: str
    engine: str | None = Field(description="dice_talk or preview; null while that is being decided.")
    state: ServiceState
    reason: str | None = Field(description="Why the service is not healthy, or why this engine was chosen.")
    device: Device | None
    queue: QueueView
    disk_free_bytes: int | None = Field(description="Null when the output directory cannot be read.")


class Probe(BaseModel):
    """For liveness and readiness probes."""

    status: Literal["ok"] = "ok"
    state: ServiceState


def task_view(report: TaskReport) -> TaskView:
    """The body of a task's status."""
    task = report.task
    message = task.message
    if report.queue_position is not None:
        queued = "Queued to run again" if task.attempt else "Queued"
        message = f"{queued}, position {report.queue_position}."
    elif task.cancelled and not task.ended:
        message = "Cancelling."
    return TaskView(
        task_id=task.id,
        status=task.status,
        progress=round(task.progress, 4),
        message=message,
        created_at=_utc(task.created_at),
        updated_at=_utc(task.updated_at),
        stage=task.stage,
        queue_position=report.queue_position,
        eta_seconds=tenths(report.eta_seconds),
        started_at=None if task.started_at is None else _utc(task.started_at),
        completed_at=None if task.completed_at is None else _utc(task.completed_at),
        expires_at=None if task.expires_at is None else _utc(task.expires_at),
        error_code=task.error_code,
        attempt=task.attempt,
        parameters=task.submission.params,
        engine=task.maker.name,
        warnings=list(task.warnings),
    )


def tenths(seconds: float | None) -> float | None:
    """Seconds as clients see them."""
    return None if seconds is None else round(seconds, 1)


def manifest(task: Task) -> Manifest:
    """The body of a task's manifest."""
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
