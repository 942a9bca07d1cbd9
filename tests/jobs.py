"""Jobs for engines that run without the service."""

from __future__ import annotations

from pathlib import Path

from engines.base import FaceBox, SynthesisJob, SynthesisParams

TASK_ID = "f0" * 16


def make_job(
    image: Path, audio: Path, output: Path, seconds: float, face: FaceBox, params: SynthesisParams
) -> SynthesisJob:
    """A first attempt; its workspace is the directory of its output."""
    return SynthesisJob(image, audio, output, seconds, face, params, TASK_ID, 1, output.parent)
