"""A task manager with its engine, its files, and a clock that tests turn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from api.records import Submission, TaskReport
from api.service import build_task_manager
from api.settings import TaskSettings
from api.storage.files import FileStore
from api.storage.journal import Journal
from api.storage.workspaces import Workspaces
from api.tasks.events import EventHub
from api.tasks.scheduler import Clocks
from engines.base import (
    Emotion,
    FaceBox,
    SynthesisParams,
)
from tests.scripted_engine import ScriptedEngine
from tests.server import wait_for

PARAMS = SynthesisParams(Emotion.HAPPY, 3.0, 6.0, False, 25, None, 25, 1, 1.0, 512, 0.5)
HOUR = 3600.0


class World:
    """A manager, its engine, its files and a clock that tests turn."""

    def __init__(self, directory: Path, *, resume: bool = True, **settings: float) -> None:
        self.now = 1_000_000.0
        self.engine = ScriptedEngine()
        self.uploads = FileStore(directory / "uploads")
        self.outputs = FileStore(directory / "outputs")
        self.journal = Journal(directory / "data")
        self.manager = build_task_manager(
            lambda: self.engine,
            TaskSettings.model_validate({"max_workers": 1, **settings}),
            journal=self.journal,
            uploads=self.uploads,
            outputs=self.outputs,
            workspaces=Workspaces(directory / "workspaces"),
            listener=EventHub(lambda event: b""),
            clocks=Clocks(lambda: self.now, lambda: self.now),
        )
        self.directory, self._settings = directory, settings
        if resume:
            self.manager.resume()

    def next(self) -> World:
        """The next service in the same directory, once this one has been stopped; not resumed yet."""
        for part in (self.journal, self.uploads, self.outputs):
            part.close()
        return World(self.directory, resume=False, **self._settings)

    def submit(self, seed: int = 1, image: str = "a" * 64) -> str:
        for name in (image, "b" * 64):
            part = self.directory / "new.part"
            part.write_text(name)
            self.uploads.adopt(part, name)
        submission = Submission(image, "b" * 64, 10.0, (64, 64), FaceBox(0, 0, 1, 1), replace(PARAMS, seed=seed))
        return self.manager.submit(submission).task.id

    def get(self, task_id: str) -> TaskReport:
        return self.manager.get(task_id)

    def status(self, *task_ids: str) -> list[str]:
        return [self.get(task_id).task.status.value for task_id in task_ids]

    def until(self, condition: Callable[[], bool]) -> None:
        """Wait until a condition that a worker brings about holds."""
        wait_for(condition, 10)

    def finish(self, *task_ids: str) -> None:
        self.until(lambda: all(self.get(task_id).task.ended for task_id in task_ids))
