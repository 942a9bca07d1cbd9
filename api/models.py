"""Request and response models of the HTTP API. Fields may be added, but never changed or removed."""

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
    """Form fields of a new task. The defaults of most optional fields come from the settings."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    emotion: Emotion = Field(description="Emotion to express.", examples=["happy"])
    ref_scale: GuidanceScale = Field(description="Identity guidance: higher values stay closer to the portrait.")
    emo_scale: GuidanceScale = Field(description="Audio and emotion guidance: higher values give stronger expressions.")
    crop: bool = Field(False, description="Crop to a square around the face with the margin `expand_ratio`.")
    inference_steps: InferenceSteps = Field(description="Denoising steps: more give finer results but take longer.")
    duration: Seconds | None = Field(None, description="Seconds of audio to use, from its start; default: all.")
    fps: FramesPerSecond = Field(description="Frames per second of the video.")
    seed: Seed = Field(description="Random seed: the same inputs and seed give the same video.")
    dynamic_scale: DynamicScale = Field(1.0, description="Amount of head motion; 1 is natural.")
    min_resolution: Resolution = Field(description="Short side of the video in pixels.")
    expand_ratio: ExpandRatio = Field(description="Margin around the face when cropping, relative to the face size.")

    def params(self) -> SynthesisParams:
        """Convert to the parameters of an engine job."""
        return SynthesisParams(**dict(self))


class TaskAccepted(BaseModel):
    """An accepted task."""

    task_id: str
    status: Literal["PENDING"] = "PENDING"
    message: str
    status_url: str
    download_url: str
    queue_position: int = Field(description="Position in the queue; 1 is next.")
    warnings: list[str] = Field(description="Warnings, such as fields that the engine ignores.")


class TaskView(BaseModel):
    """The current state of a task."""

    task_id: str
    status: TaskStatus
    progress: float = Field(ge=0, le=1, description="0 to 1; never decreases within an attempt; 1 if COMPLETED.")
    message: str
    created_at: datetime
    updated_at: datetime
    stage: Stage
    queue_position: int | None = Field(description="Position in the queue, 1 is next; null if not queued.")
    eta_seconds: float | None = Field(description="Estimated seconds until the video is ready; null once ended.")
    started_at: datetime | None
    completed_at: datetime | None
    expires_at: datetime | None = Field(description="When the task and its video are deleted; null until finished.")
    error_code: TaskErrorCode | None = Field(description="Why the task failed; null unless FAILED.")
    attempt: int = Field(description="Number of times the task was started; above 1 after an interruption.")
    parameters: SynthesisParams
    engine: str = Field(examples=["preview"])
    warnings: list[str]


class TaskQuery(BaseModel):
    """Filter and pagination of the task list. Empty parameters count as omitted."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    status: TaskStatus | None = Field(None, description="Return only tasks with this status.")
    limit: int = Field(20, ge=1, le=100, description="Page size.")
    after: str | None = Field(None, description="Return only older tasks; pass the `last_id` of the previous page.")

    @model_validator(mode="before")
    @classmethod
    def _drop_empty(cls, values: Any) -> Any:
        return {name: value for name, value in values.items() if value != ""} if isinstance(values, dict) else values


class TaskList(BaseModel):
    """A page of tasks, newest first."""

    data: list[TaskView]
    has_more: bool = Field(description="Whether there are older tasks; get them with `after=last_id`.")
    first_id: str | None = Field(description="ID of the first task in `data`; null if it is empty.")
    last_id: str | None = Field(description="ID of the last task in `data`; null if it is empty.")


class ManifestInput(BaseModel):
    """An uploaded file."""

    sha256: str = Field(description="SHA-256 of the uploaded bytes.")


class ManifestInputs(BaseModel):
    """The uploaded files."""

    image: ManifestInput
    audio: ManifestInput


class ManifestEngine(BaseModel):
    """The engine that generates the video."""

    name: str = Field(examples=["preview"])
    version: str
    checkpoint: str = Field(description="SHA-256 over the names and contents of the weights that the engine uses.")


class ManifestTimings(BaseModel):
    """Timestamps and durations."""

    created_at: datetime
    started_at: datetime | None = Field(description="Start of the last attempt.")
    completed_at: datetime | None
    waited_seconds: float | None = Field(description="Seconds from the request to the start of the last attempt.")
    worked_seconds: float | None = Field(description="Seconds the last attempt took; null unless started and finished.")


class ManifestOutput(BaseModel):
    """The generated video."""

    sha256: str = Field(description="SHA-256 of the video; also the ETag of the download.")
    bytes: int


class Manifest(BaseModel):
    """Everything needed to reproduce the video and to verify the result."""

    task_id: str
    status: TaskStatus
    inputs: ManifestInputs
    speech_seconds: float = Field(description="Length of the audio that is used, in seconds.")
    parameters: SynthesisParams = Field(description="All parameters, including defaults and the seed.")
    engine: ManifestEngine
    service_version: str
    attempt: int = Field(description="Number of times the task was started.")
    timings: ManifestTimings
    output: ManifestOutput | None = Field(description="The video; null until it is ready.")


class QueueView(BaseModel):
    """Load and capacity of the service."""

    running: int
    waiting: int
    max_workers: int
    max_queue: int


class Health(BaseModel):
    """Health of the service; `healthy` means that it accepts tasks."""

    model_config = ConfigDict(protected_namespaces=())

    status: Literal["healthy", "unhealthy"]
    gpu_available: bool
    model_loaded: bool = Field(description="Whether the DICE-Talk networks are loaded; false with the preview engine.")
    version: str
    engine: str | None = Field(description="dice_talk or preview; null until the engine is selected.")
    state: ServiceState
    reason: str | None = Field(
        description="Why the service is unhealthy or this engine was selected, or what a damaged journal lost."
    )
    device: Device | None
    queue: QueueView
    disk_free_bytes: int | None = Field(description="Free bytes on the disk of the output directory; null if unknown.")


class Probe(BaseModel):
    """Response of the liveness and readiness probes."""

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
    """Round to tenths of a second, as in API responses."""
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
