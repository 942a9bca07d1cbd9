"""What the task manager promises, as plain as it can be said: beside the real one it tells what must have come out.

No threads, no files, no journal: only what the manager's and the tasks' documentation says.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from api.records import TaskErrorCode, TaskStatus
from engines.base import Stage
from tests.stepped import SteppedEngine

WEIGHTS = SteppedEngine.stage_weights


@dataclass(frozen=True)
class Asked:
    """What makes requests equal: portrait, recording and seed."""

    picture: str
    speech: str
    seed: int


@dataclass
class ModelTask:
    """A task that was accepted and not yet forgotten."""

    id: str
    asked: Asked
    idempotency_key: str | None
    maker: str  # the engine's version
    made_with: str  # the engine's version that equal requests share
    status: TaskStatus = TaskStatus.PENDING
    attempt: int = 0
    progress: float | None = 0.0  # None: any, as the journal does not know it
    cancelled: bool = False
    deleted: bool = False
    expires_at: float | None = None
    error_code: TaskErrorCode | None = None
    video: str | None = None

    @property
    def key(self) -> tuple[Asked, str]:
        return self.asked, self.made_with

    @property
    def ended(self) -> bool:
        return self.status in (TaskStatus.COMPLETED, TaskStatus.FAILED)

    def expired(self, now: float) -> bool:
        return self.expires_at is not None and self.expires_at <= now


@dataclass
class ModelJob:
    """A worker that works on a task."""

    task_id: str
    video: str
    inspecting: bool
    told: float  # when it was last heard of
    since: float | None  # when it began to work, unless it waits for its turn
    worked: float = 0.0  # seconds before
    stop: TaskErrorCode | None = None
    left_behind: bool = False

    def seconds(self, now: float) -> float:
        return self.worked + (0.0 if self.since is None else now - self.since)


@dataclass
class Model:
    """All tasks, and who works on them. Times in seconds."""

    now: float
    workers: int
    max_queue: int
    max_attempts: int
    retention: float
    timeout: float
    stall: float
    version: str = "1"  # of the engine
    resumed: bool = True
    refusal: str | None = None
    tasks: dict[str, ModelTask] = field(default_factory=dict)  # in the order of acceptance
    gone: dict[str, float] = field(default_factory=dict)
    known: list[str] = field(default_factory=list)  # all ids that were ever given
    running: dict[tuple[Asked, str], ModelJob] = field(default_factory=dict)
    jobs: list[ModelJob] = field(default_factory=list)  # in the order of starting, of this process
    """Those that ended are not among them."""
    started: list[str] = field(default_factory=list)  # ids in the order in which this process's workers got them

    # -- what can be seen ------------------------------------------------------------------------------------------

    @property
    def waiting(self) -> list[ModelTask]:
        return [task for task in self.tasks.values() if task.status is TaskStatus.PENDING]

    @property
    def visible(self) -> list[ModelTask]:
        """Newest first."""
        return [task for task in reversed(self.tasks.values()) if not task.deleted and not task.expired(self.now)]

    def answer(self, task_id: str) -> int:
        """The status code for a question about a task."""
        task = self.tasks.get(task_id)
        if task is not None and not task.deleted:
            return 410 if task.expired(self.now) else 200
        return 410 if self.now < self.gone.get(task_id, 0.0) else 404

    def of_request(self, idempotency_key: str) -> ModelTask | None:
        """The task that a request with this key made last, if it is still there."""
        made = [task for task in self.tasks.values() if task.idempotency_key == idempotency_key]
        return made[-1] if made and self.answer(made[-1].id) == 200 else None

    def uploads(self) -> set[str]:
        return {name for task in self.tasks.values() for name in (task.asked.picture, task.asked.speech)}

    def videos(self) -> set[str]:
        return {task.video for task in self.tasks.values() if task.video is not None}

    def refuses(self) -> str | None:
        return self.refusal or ("queue_full" if len(self.waiting) >= self.max_queue else None)

    # -- what users do ---------------------------------------------------------------------------------------------

    def accept(self, task_id: str, asked: Asked, idempotency_key: str | None, maker: str) -> None:
        self.tasks[task_id] = ModelTask(task_id, asked, idempotency_key, maker, self.version)
        self.known.append(task_id)
        self._dispatch()

    def cancel(self, task_id: str) -> None:
        task = self.tasks[task_id]
        if task.status is TaskStatus.PENDING:
            self._fail(task, TaskErrorCode.CANCELLED)
        elif task.status is TaskStatus.PROCESSING:
            task.cancelled = True
            job = self.running[task.key]
            job.stop = job.stop or TaskErrorCode.CANCELLED

    def delete(self, task_id: str) -> None:
        task = self.tasks[task_id]
        if task.status is TaskStatus.PROCESSING:
            task.deleted = True
            self.cancel(task_id)
        else:
            del self.tasks[task_id]

    def sweep(self) -> None:
        for task in [task for task in self.tasks.values() if task.expired(self.now)]:
            del self.tasks[task.id]
            self.gone[task.id] = (task.expires_at or 0.0) + self.retention
        self.gone = {task_id: until for task_id, until in self.gone.items() if self.now < until}

    # -- what workers do -------------------------------------------------------------------------------------------

    def inspect(self, job: ModelJob, faceless: set[str]) -> None:
        """The worker has looked for the face, as another engine had accepted the task."""
        job.inspecting = False
        task = self.tasks.get(job.task_id)
        if task is not None and self.version == "2" and task.asked.picture in faceless:
            self.end(job, TaskErrorCode.NO_FACE)
        elif task is None:  # forgotten meanwhile
            self.end(job, TaskErrorCode.INTERNAL)
        elif not task.ended:
            task.maker = self.version

    def ask(self, job: ModelJob) -> None:
        job.told = self.now
        if job.seconds(self.now) > self.timeout:
            job.stop = job.stop or TaskErrorCode.TIMEOUT
        if job.stop is not None:
            self.end(job, job.stop)

    def tell(self, job: ModelJob, stage: Stage, fraction: float) -> None:
        job.told = self.now
        job.worked = job.seconds(self.now)
        job.since = None if stage is Stage.QUEUED else self.now
        before = sum(list(WEIGHTS.values())[: list(WEIGHTS).index(stage)]) if stage in WEIGHTS else 0.0
        done = before + WEIGHTS.get(stage, 0.0) * min(max(fraction, 0.0), 1.0)
        if not job.left_behind:
            task = self.tasks[job.task_id]
            task.progress = min(max(task.progress or 0.0, done), 0.999)

    def end(self, job: ModelJob, failure: TaskErrorCode | None) -> None:
        """A worker has ended; without a failure there is a video."""
        self.jobs.remove(job)
        if not job.left_behind:
            self._finish(job, failure)
            self._dispatch()

    def watch(self) -> None:
        """Whoever has not been heard of for too long is given up; when those are too many, the service ends."""
        silent = [job for job in self.running.values() if self.now - job.told > self.stall]
        for job in silent:
            job.stop = job.stop or TaskErrorCode.STALLED
            self._finish(job, TaskErrorCode.STALLED)
            job.left_behind = True
        if silent and sum(job.left_behind for job in self.jobs) > self.workers:
            self.interrupt()
            self.refusal = self.refusal or "gpu_failed"
        self._dispatch()

    # -- the life of the process -----------------------------------------------------------------------------------

    def interrupt(self) -> None:
        """Tell all that run to stop."""
        for job in self.running.values():
            job.stop = job.stop or TaskErrorCode.INTERRUPTED

    def leave(self) -> None:
        """The service ends, whatever still runs."""
        for job in list(self.running.values()):
            self._finish(job, TaskErrorCode.INTERRUPTED)
            job.left_behind = True

    def restart(self) -> None:
        """Another process reads the journal."""
        self.resumed, self.refusal = False, None
        self.running.clear()
        self.jobs.clear()
        self.started.clear()
        for task in list(self.tasks.values()):
            if task.status is TaskStatus.PROCESSING:
                task.progress = None
            if task.deleted:
                del self.tasks[task.id]
            elif task.status is TaskStatus.PROCESSING and task.cancelled:
                self._fail(task, TaskErrorCode.CANCELLED)
            elif task.status is TaskStatus.PROCESSING:
                self._wait_again(task)

    def resume(self, version: str) -> None:
        """The engine is there."""
        self.resumed, self.version = True, version
        for task in self.waiting:
            if task.maker != version and version == "3" and speech_seconds(task.asked.speech) > SteppedEngine.room:
                self._fail(task, TaskErrorCode.TOO_LARGE)
            else:
                task.made_with = version
        self._dispatch()

    # -- the rest --------------------------------------------------------------------------------------------------

    def _dispatch(self) -> None:
        if not self.resumed or self.refusal is not None:
            return
        for task in self.waiting:
            video = self._video(task.key)
            if video is None and (len(self.running) >= self.workers or task.key in self.running):
                continue
            task.status = TaskStatus.PROCESSING
            task.attempt += 1
            if video is not None:  # an equal task has made it
                task.maker = self.version
                self._complete(task, video)
                continue
            name = f"{task.id}-{task.attempt}.mp4"
            job = ModelJob(task.id, name, task.maker != self.version, self.now, self.now)
            self.running[task.key] = job
            self.jobs.append(job)
            self.started.append(task.id)

    def _video(self, key: tuple[Asked, str]) -> str | None:
        names = {task.video for task in self.tasks.values() if task.key == key and task.video is not None}
        assert len(names) <= 1, "equal tasks share one video"
        return names.pop() if names else None

    def _finish(self, job: ModelJob, failure: TaskErrorCode | None) -> None:
        task = self.tasks[job.task_id]
        del self.running[task.key]
        if failure is TaskErrorCode.GPU_FAILED:
            self.interrupt()
            self.refusal = self.refusal or "gpu_failed"
        if task.deleted:
            del self.tasks[task.id]
        elif task.cancelled:
            self._fail(task, TaskErrorCode.CANCELLED)
        elif failure is None:
            self._complete(task, job.video)
        elif failure is TaskErrorCode.INTERRUPTED:
            self._wait_again(task)
        else:
            self._fail(task, failure)

    def _complete(self, task: ModelTask, video: str) -> None:
        task.status, task.progress, task.video = TaskStatus.COMPLETED, 1.0, video
        task.expires_at = self.now + self.retention

    def _fail(self, task: ModelTask, code: TaskErrorCode) -> None:
        task.status, task.error_code = TaskStatus.FAILED, code
        task.expires_at = self.now + self.retention

    def _wait_again(self, task: ModelTask) -> None:
        if task.attempt >= self.max_attempts:
            self._fail(task, TaskErrorCode.INTERRUPTED)
        else:
            task.status = TaskStatus.PENDING
            task.progress = 0.0


def speech_seconds(name: str) -> float:
    """How long a recording is: those of the tests tell it by their names."""
    return 10.0 if name.startswith("e") else 1.0
