"""An engine that makes real videos, small ones in no time, and can be told to wait in the middle of one."""

from __future__ import annotations

import os
import signal
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
    Portrait,
    Report,
    Stage,
    SynthesisJob,
    SynthesisParams,
)
from media.video import VideoWriter, frame_count

SIDE = 64  # pixels
WAITS, KILLS = 1_000_000, 2_000_000
"""From these seeds on a job waits in its middle as long as `held` is set, or kills the process."""


class ClipEngine:
    """Writes noise through the product's own video writer; equal jobs give equal bytes."""

    name = "preview"
    version = "clip"
    checkpoint = "c1" * 32
    one_at_a_time = False
    ignored_fields: Mapping[str, str] = {}
    stage_weights: Mapping[Stage, float] = {Stage.PREPARING: 0.1, Stage.RENDERING: 0.8, Stage.ENCODING: 0.1}

    def __init__(self, held: threading.Event) -> None:
        self._held = held

    def load(self) -> None:
        pass

    def inspect(self, image: Image) -> Portrait:
        height, width = image.shape[:2]
        return Portrait(FaceBox(0, 0, width, height))

    def estimate(self, params: SynthesisParams, seconds: float, size: tuple[int, int]) -> Estimate:
        return Estimate(seconds, 1 << 20)

    def synthesize(self, job: SynthesisJob, report: Report, cancelled: Cancelled) -> None:
        seed, fps = job.params.seed, job.params.fps
        report(Stage.PREPARING, 1.0, "Prepared")
        random = np.random.default_rng(seed)
        frames = frame_count(job.seconds, fps)
        with VideoWriter(job.output, width=SIDE, height=SIDE, fps=fps, audio=job.audio, seconds=job.seconds) as writer:
            for number in range(1, frames + 1):
                writer.write(_noise(random))
                report(Stage.RENDERING, number / frames, f"Frame {number} of {frames}")
                if seed >= KILLS:
                    os.kill(os.getpid(), signal.SIGKILL)
                if seed >= WAITS:
                    _wait(self._held, cancelled)
                if cancelled():
                    raise JobCancelledError("Cancelled.")
            report(Stage.ENCODING, 0.0, "Finishing the file")

    def close(self) -> None:
        pass


def _noise(random: np.random.Generator) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return random.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)


def _wait(held: threading.Event, cancelled: Cancelled) -> None:
    pause = threading.Event()
    while held.is_set() and not cancelled():
        pause.wait(0.01)
