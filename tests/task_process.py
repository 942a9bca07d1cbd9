"""One life of the service after another, as the test of the task machine leads them, and who watches all its tasks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2

from api.records import Idempotency, Submission, Task, TaskReport, TaskStatus
from api.service import build_task_manager
from api.settings import TaskSettings
from api.storage.files import FileStore
from api.storage.journal import Journal
from api.storage.workspaces import Workspaces
from api.tasks.events import EventHub
from api.tasks.scheduler import Clocks
from engines.base import FaceBox
from tests.records import HOUR, PARAMS
from tests.scripted_engine import noise_picture
from tests.stepped import Command, SteppedEngine, SteppedExecutor, Worker
from tests.task_model import Asked, Model, speech_seconds

FACELESS = "c" * 64  # to version 2 of the engine
PICTURES = {"a" * 64: 64, FACELESS: SteppedEngine.faceless}  # their widths in pixels
STEPS = {  # state → those that may follow
    None: {TaskStatus.PENDING},
    TaskStatus.PENDING: {TaskStatus.PENDING, TaskStatus.PROCESSING, TaskStatus.FAILED},
    TaskStatus.PROCESSING: set(TaskStatus),  # PENDING: the service has ended meanwhile
    TaskStatus.COMPLETED: {TaskStatus.COMPLETED},
    TaskStatus.FAILED: {TaskStatus.FAILED},
}


class Witness:
    """Sees every step of every task, whichever service it runs in, and tells what must not have been."""

    def __init__(self, max_attempts: int) -> None:
        self._max_attempts = max_attempts
        self._last: dict[str, Task] = {}
        self.faults: list[str] = []

    def see_end_of_process(self) -> None:
        """The journal knows no progress."""
        self._last = {
            task_id: task if task.ended else replace(task, progress=0.0) for task_id, task in self._last.items()
        }

    def see(self, task: Task) -> None:
        before = self._last.get(task.id)
        self._last[task.id] = task
        self.faults += [f"{fault}: {before} → {task}" for fault in self._faults(before, task)]

    def _faults(self, before: Task | None, after: Task) -> Iterator[str]:
        if after.status not in STEPS[None if before is None else before.status]:
            yield "no such step"
        if (after.progress == 1.0) != (after.status is TaskStatus.COMPLETED):
            yield "progress and state do not agree"
        if after.attempt > self._max_attempts:
            yield "too many attempts"
        if before is None:
            return
        if before.ended and after != before:
            yield "it had ended"
        begun = before.status is TaskStatus.PENDING and after.status is TaskStatus.PROCESSING
        if after.attempt != before.attempt + begun:
            yield "attempts are not counted"
        if after.status is not TaskStatus.PENDING and after.progress < before.progress:
            yield "progress fell"
        if after.updated_at < before.updated_at:
            yield "time fell"


class WatchedHub(EventHub):
    """Shows what is published to a witness."""

    def __init__(self, witness: Witness) -> None:
        super().__init__(lambda event: b"")
        self._witness = witness
        self.dropped: set[str] = set()
        self.dead = False

    def changed(self, report: TaskReport) -> None:
        if self.dead:
            return
        super().changed(report)
        self._witness.see(report.task)
        if report.task.id in self.dropped:
            self._witness.faults.append(f"told of a task that was deleted: {report.task}")

    def forgotten(self, task_id: str) -> None:
        super().forgotten(task_id)
        self.dropped.add(task_id)


class Process:
    """One life of the service, on what the one before has left."""

    def __init__(self, directory: Path, model: Model, witness: Witness, ids: Iterator[str]) -> None:
        self.directory = directory
        self.engine: SteppedEngine | None = None
        self.workers: list[Worker] = []
        self.uploads = FileStore(directory / "uploads")
        self.outputs = FileStore(directory / "outputs")
        self.journal = Journal(directory / "data")
        self.hub = WatchedHub(witness)
        self.manager = build_task_manager(
            self._engine,
            TaskSettings(
                max_workers=model.workers,
                max_queue=model.max_queue,
                retention_hours=model.retention / HOUR,
                timeout_seconds=model.timeout,
                stall_seconds=model.stall,
                max_attempts=model.max_attempts,
            ),
            journal=self.journal,
            uploads=self.uploads,
            outputs=self.outputs,
            workspaces=Workspaces(directory / "workspaces"),
            listener=self.hub,
            clocks=Clocks(lambda: model.now, lambda: model.now),
            new_id=lambda: next(ids),
            new_executor=lambda size: SteppedExecutor(self.workers),
        )
        for store in (self.uploads, self.outputs):  # as the service does
            store.remove_leftovers(0)

    def _engine(self) -> SteppedEngine:
        assert self.engine is not None
        return self.engine

    def resume(self, version: str) -> None:
        self.engine = SteppedEngine(version)
        self.manager.resume()
        self.settle()

    def settle(self) -> None:
        """Let those who were given work come to where the engine works."""
        while new := [worker for worker in self.workers if not worker.begun]:
            new[0].begin()

    def go(self, worker: Worker, command: Command) -> None:
        worker.go(command)
        self.settle()

    def live(self) -> list[Worker]:
        return [worker for worker in self.workers if not worker.ended]

    def receive(self, what: Asked) -> None:
        """Take the files of a request, as one who holds them."""
        for name in (what.picture, what.speech):
            part = self.directory / "new.part"
            part.write_bytes(content(name))
            self.uploads.adopt(part, name)

    def die(self, *, written: bool = False) -> None:
        """End the process as the system does, perhaps just as the workers had made their videos.

        A thread cannot be killed: what its manager does when its engine breaks off must not reach anybody.
        """
        outputs = self.outputs.directory
        limbo = self.directory / "limbo"
        limbo.mkdir(exist_ok=True)
        self.hub.dead = True
        self.journal.close()
        for store in (self.uploads, self.outputs):
            store.close()
            store.directory = limbo
        for worker in self.live():
            worker.kill()
            if written:
                (outputs / worker.attempt.output).write_bytes(b"video")


def content(name: str, made: dict[str, bytes] = {}) -> bytes:  # noqa: B006  made once
    """Of an upload: a picture, or any bytes."""
    if name not in made:
        width = PICTURES.get(name)
        made[name] = b"speech" if width is None else cv2.imencode(".png", noise_picture(width, 80))[1].tobytes()
    return made[name]


def submission_of(what: Asked, idempotency_key: str | None) -> Submission:
    return Submission(
        image=what.picture,
        audio=what.speech,
        seconds=speech_seconds(what.speech),
        size=(PICTURES[what.picture], 80),
        face=FaceBox(0, 0, 1, 1),
        params=replace(PARAMS, seed=what.seed),
        idempotency=None if idempotency_key is None else Idempotency(idempotency_key, repr(what)),
    )
