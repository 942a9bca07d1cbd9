"""The engine on the small checkpoint, and a job that is quick on it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from engines.base import Emotion, FaceBox, Stage, SynthesisParams
from engines.dice_talk.engine import DiceTalkEngine
from media import image

ROOT = Path(__file__).parents[2]
PORTRAIT, SPEECH = ROOT / "examples" / "portrait.jpg", ROOT / "examples" / "speech_en.wav"
# The service asks for at least 256 pixels and 8 steps; the engine itself does not mind less, which is quicker.
PARAMS = SynthesisParams(Emotion.HAPPY, 3.0, 6.0, False, 2, None, 25, 7, 1.0, 64, 0.5)


@pytest.fixture(scope="session")
def engine(checkpoint: Path) -> Iterator[DiceTalkEngine]:
    """Loaded; tests leave it as it was."""
    engine = DiceTalkEngine(checkpoint, device_id=-1, dtype="auto", low_vram="auto", interpolate=True)
    engine.load()
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def face(engine: DiceTalkEngine) -> FaceBox:
    """Of the example portrait."""
    return engine.inspect(image.load(PORTRAIT)).face


def frames_of(path: Path) -> Any:
    """All pictures of a video: (frames, height, width, 3)."""
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def quiet(stage: Stage, fraction: float, message: str, remaining: float | None = None, *_: object) -> None:
    """A report that nobody reads."""
