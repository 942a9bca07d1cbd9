"""An engine that does what a test tells it, so that the life of a task can be tested without making video."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import numpy as np

from engines.base import (
    Cancelled,
    Estimate,
    FaceBox,
    Image,
    JobCancelledError,
    NoFaceError,
    Portrait,
    Report,
    SetupError,
    Stage,
    SynthesisJob,
    SynthesisParams,
    TooLargeError,
)


class ScriptedEngine:
    """Runs through its stages in `steps`, waiting before each while `hold()` is in force.

    `failures` are raised by the next jobs, one each. A portrait that is all one colour has no face. A second of speech
    is estimated at `cost` seconds of work; more than `room` seconds of speech are too large. With `waits`, a job says
    until `go_on()` that it waits for another.
    """

    name = "preview"
    version = "scripted"
    checkpoint = "5c" * 32
    one_at_a_time = False
    ignored_fields: Mapping[str, str] = {"inference_steps": "inference_steps has no effect here."}
    stage_weights: Mapping[Stage, float] = {Stage.PREPARING: 0.2, Stage.RENDERING: 0.7, Stage.ENCODING: 0.1}

    def __init__(self, steps: int = 4, load_error: str | None = None) -> None:
        self.steps = steps
        self.load_error = load_error
        self.cost, self.room = 1.0, 600.0
        self.waits = False
        self.failures: list[Exception] = []
        self.jobs: list[SynthesisJob] = []
        self.closed = False
        self.loading = threading.Event()
        self.loading.set()
        self._open = threading.Event()
        self._open.set()
        self._begun = threading.Semaphore(0)

    def hold(self) -> None:
        self._open.clear()

    def go_on(self) -> None:
        self._open.set()

    def wait_begun(self) -> None:
        """Wait until one more job has begun."""
        assert self._begun.acquire(timeout=10), "no job has begun"

    def load(self) -> None:
        self.loading.wait(10)
        if self.load_error is not None:
            raise SetupError(self.load_error)

    def inspect(self, image: Image) -> Portrait:
        if image.min() == image.max():
            raise NoFaceError("No face was found in the portrait.")
        height, width = image.shape[:2]
        return Portrait(FaceBox(0, 0, width, height), ("Two faces.",) if width > height else ())

    def estimate(self, params: SynthesisParams, seconds: float, size: tuple[int, int]) -> Estimate:
        if seconds > self.room:
            raise TooLargeError(f"{seconds:g} s do not fit; at most {self.room:g} s do.")
        return Estimate(self.cost * seconds, 1 << 20)

    def synthesize(self, job: SynthesisJob, report: Report, cancelled: Cancelled) -> None:
        self.jobs.append(job)
        if self.waits:
            report(Stage.QUEUED, 1.0, "Waiting for another job")
        self._begun.release()
        failure = self.failures.pop(0) if self.failures else None
        for stage in self.stage_weights:
            for step in range(self.steps):
                while not self._open.wait(0.01):
                    if cancelled():
                        raise JobCancelledError("Cancelled.")
                report(stage, (step + 1) / self.steps, f"Step {step + 1} of {self.steps}")
        if failure is not None:
            raise failure
        job.output.write_bytes(repr(job.params).encode() + job.image.read_bytes() + job.audio.read_bytes())

    def close(self) -> None:
        self.closed = True


def noise_picture(width: int = 64, height: int = 80, seed: int = 0) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """A picture in which the scripted engine finds a face."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
