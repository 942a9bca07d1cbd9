"""What the preview engine's tests share: the real face model, the example portrait and speech, one rig, one clip."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from engines.base import Emotion, Image, Stage, SynthesisParams
from engines.preview import model
from engines.preview.engine import PreviewEngine
from engines.preview.face import FaceFinder
from engines.preview.frame import Still, make_still
from engines.preview.mouth import MouthTracks, analyse
from engines.preview.render import Renderer
from engines.preview.rig import BASES, Rig, build
from media import image as images
from tests.jobs import make_job

ROOT = Path(__file__).parents[2]
PORTRAIT = ROOT / "examples" / "portrait.jpg"
SPEECH = ROOT / "examples" / "speech_en.wav"
MODEL_DIR = ROOT / "checkpoints" / "preview"

PARAMS = SynthesisParams(
    emotion=Emotion.NEUTRAL,
    ref_scale=3.0,
    emo_scale=6.0,
    crop=False,
    inference_steps=25,
    duration=None,
    fps=25,
    seed=72589,
    dynamic_scale=1.0,
    min_resolution=256,
    expand_ratio=0.5,
)
"""The product's defaults, at a size that keeps the tests quick."""


def pose(**weights: float) -> NDArray[np.float32]:
    """The weights of a pose, by the names of its bases."""
    values = np.zeros(len(BASES), np.float32)
    for name, weight in weights.items():
        values[BASES.index(name)] = weight
    return values


@dataclass(frozen=True)
class Clip:
    """A decoded video."""

    frames: NDArray[np.uint8]  # (frames, height, width, 3)
    fps: float
    comment: str
    reports: tuple[tuple[Stage, float, str], ...]


MakeClip = Callable[..., Clip]


def decode(path: Path) -> tuple[NDArray[np.uint8], float, str]:
    with av.open(str(path)) as container:
        rate = float(container.streams.video[0].average_rate or 0)
        comment = container.metadata.get("comment", "")
        frames = [np.asarray(frame.to_ndarray(format="rgb24"), np.uint8) for frame in container.decode(video=0)]
    return np.stack(frames), rate, comment


@pytest.fixture(scope="session")
def finder() -> FaceFinder:
    return FaceFinder(model.read(MODEL_DIR / model.FILE_NAME))


@pytest.fixture(scope="session")
def portrait() -> Image:
    return images.load(PORTRAIT)


@pytest.fixture(scope="session")
def still(finder: FaceFinder, portrait: Image) -> Still:
    """The example portrait at the size the product uses by default."""
    face = finder.inspect(portrait).face
    return make_still(portrait, face, finder.landmarks(portrait, face), replace(PARAMS, min_resolution=512))


@pytest.fixture(scope="session")
def rig(still: Still) -> Rig:
    return build(still)


@pytest.fixture(scope="session")
def renderer(still: Still, rig: Rig) -> Renderer:
    return Renderer(still, rig)


@pytest.fixture(scope="session")
def tracks() -> MouthTracks:
    """The mouth over the example speech, at 100 Hz."""
    return analyse(SPEECH, 8.0)


@pytest.fixture(scope="session")
def engine() -> PreviewEngine:
    engine = PreviewEngine(MODEL_DIR)
    engine.load()
    return engine


@pytest.fixture(scope="session")
def make_clip(engine: PreviewEngine, portrait: Image, tmp_path_factory: pytest.TempPathFactory) -> MakeClip:
    """Make a video with the engine and decode it; takes parameters by name, and `seconds`."""
    face = engine.inspect(portrait).face

    def make(seconds: float = 1.2, *, audio: Path = SPEECH, **changes: object) -> Clip:
        output = tmp_path_factory.mktemp("clip") / "result.mp4"
        reports: list[tuple[Stage, float, str]] = []
        job = make_job(PORTRAIT, audio, output, seconds, face, replace(PARAMS, **changes))  # type: ignore[arg-type]
        engine.synthesize(job, lambda *report: reports.append(report), lambda: False)
        return Clip(*decode(output), tuple(reports))

    return make


@pytest.fixture(scope="session")
def clip(make_clip: MakeClip) -> Clip:
    """1.2 s of the example with all defaults."""
    return make_clip()
