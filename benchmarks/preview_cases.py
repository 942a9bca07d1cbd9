"""The cases of benchmarks.preview, each for a process of its own that prints what it measured as JSON.

For example `python -m benchmarks.preview_cases '["speed", 512, 10]'`.
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import sys
import tempfile
import time
import wave
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import MappingProxyType

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before numpy reads it

import cv2
import numpy as np

from benchmarks import portraits, preview_score
from engines.base import Emotion, SynthesisParams
from engines.preview import model
from engines.preview.engine import PreviewEngine
from engines.preview.face import FaceFinder
from engines.preview.frame import video_size
from media import audio, image
from media.video import VideoWriter, frame_count
from tests.jobs import make_job

ROOT = Path(__file__).resolve().parent.parent
MODELS = ROOT / "checkpoints" / "preview"
EXAMPLES = ROOT / "examples"

PARAMS = SynthesisParams(Emotion.NEUTRAL, 3.0, 6.0, False, 25, None, 25, 72589, 1.0, 512, 0.5)
LONGEST_ENCODED = 60  # seconds: the baseline of a longer clip says nothing new
VOICE_SECONDS = 7.93  # no whole number of frames
SCORE_SECONDS, SCORE_SIDE = 2.4, 384


def speed(resolution: int, seconds: float) -> dict[str, float]:
    """Render the example once: seconds of wall clock, and the peak of this process's memory in MB."""
    params = replace(PARAMS, emotion=Emotion.HAPPY, min_resolution=resolution)
    engine = _engine()
    portrait = image.load(portraits.EXAMPLE)
    width, height = video_size(params, (portrait.shape[1], portrait.shape[0]))
    with tempfile.TemporaryDirectory() as directory:
        speech = _repeated_speech(Path(directory) / "speech.wav", seconds)
        output = Path(directory) / "out.mp4"

        def encode_only() -> None:
            still = np.asarray(cv2.resize(portrait, (width, height)), np.uint8)
            with VideoWriter(output, width=width, height=height, fps=25, audio=speech, seconds=seconds) as writer:
                for _ in range(frame_count(seconds, 25)):
                    writer.write(still)

        job = make_job(portraits.EXAMPLE, speech, output, seconds, engine.inspect(portrait).face, params)
        took = _timed(lambda: engine.synthesize(job, lambda *_: None, lambda: False))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        encoding = _timed(encode_only) if seconds <= LONGEST_ENCODED else 0.0
        return {"seconds": took, "encoding": encoding, "peak_mb": peak}


def voice(speech: str, emotion: str) -> dict[str, float]:
    """How the lips of the example follow a recording, and whether sound and picture end together."""
    engine, finder = _engine(), _finder()
    seconds = min(VOICE_SECONDS, audio.probe(Path(speech)).seconds)
    with tempfile.TemporaryDirectory() as directory:
        take = preview_score.make(
            engine,
            finder,
            image.load(portraits.EXAMPLE),
            speech=Path(speech),
            seconds=seconds,
            params=replace(PARAMS, emotion=Emotion(emotion)),
            directory=Path(directory),
        )
        gaps = preview_score.lip_gaps(finder, preview_score.decode(take.path))[preview_score.EASE :]
        loud = preview_score.loudness(take.path, len(take.poses), 25)[preview_score.EASE :]
        return {
            "correlation": preview_score.correlation(gaps, loud),
            "lag": preview_score.best_lag(gaps, loud),
            "silence": preview_score.silence_gap(gaps, loud),
            "ends": preview_score.ends_apart(take.path),
        }


def scores(portrait: str, emotions: Sequence[str]) -> dict[str, float]:
    """The worst score of a portrait over some emotions."""
    engine, finder = _engine(), _finder()
    picture = portraits.portraits()[portrait]
    found = [
        preview_score.measured(
            engine,
            finder,
            picture,
            speech=EXAMPLES / "speech_en.wav",
            seconds=SCORE_SECONDS,
            params=replace(PARAMS, emotion=Emotion(emotion), min_resolution=SCORE_SIDE),
        )
        for emotion in emotions
    ]
    return asdict(preview_score.worst(found))


def digest(seconds: float = 3.0) -> dict[str, str]:
    """The sha256 of `seconds` of video of the example."""
    engine, finder = _engine(), _finder()
    with tempfile.TemporaryDirectory() as directory:
        take = preview_score.make(
            engine,
            finder,
            image.load(portraits.EXAMPLE),
            speech=EXAMPLES / "speech_en.wav",
            seconds=seconds,
            params=replace(PARAMS, emotion=Emotion.HAPPY),
            directory=Path(directory),
        )
        return {"sha256": hashlib.sha256(take.path.read_bytes()).hexdigest()}


def _engine() -> PreviewEngine:
    engine = PreviewEngine(MODELS)
    engine.load()
    return engine


def _finder() -> FaceFinder:
    return FaceFinder(model.read(MODELS / model.FILE_NAME))


def _repeated_speech(path: Path, seconds: float) -> Path:
    with wave.open(str(EXAMPLES / "speech_en.wav"), "rb") as source, wave.open(str(path), "wb") as target:
        target.setparams(source.getparams())
        samples = source.readframes(source.getnframes())
        wanted = round(seconds * source.getframerate()) * 2
        target.writeframes((samples * (wanted // len(samples) + 1))[:wanted])
    return path


def _timed(work: Callable[[], None]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


CASES: Mapping[str, Callable[..., Mapping[str, float | str]]] = MappingProxyType(
    {"speed": speed, "voice": voice, "scores": scores, "digest": digest}
)


if __name__ == "__main__":
    wanted, *given = json.loads(sys.argv[1])
    print(json.dumps(CASES[wanted](*given)))
