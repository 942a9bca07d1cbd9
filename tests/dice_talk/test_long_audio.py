"""Memory that does not grow with the audio: the peak of a process that makes a short video, and then a long one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import av
import numpy as np

from tests.dice_talk.conftest import ROOT, SPEECH
from tests.media.speech import write_wav

_PROGRAM = """
import resource, sys
from dataclasses import replace
from pathlib import Path

from engines.base import SynthesisJob
from tests.jobs import make_job
from engines.dice_talk.engine import DiceTalkEngine
from media import image, video
from tests.dice_talk.conftest import PARAMS, PORTRAIT, quiet

checkpoint, audio, directory = map(Path, sys.argv[1:4])
engine = DiceTalkEngine(checkpoint, device_id=-1, dtype="auto", low_vram="auto", interpolate=True)
engine.load()
face = engine.inspect(image.load(PORTRAIT)).face
for seconds in map(float, sys.argv[4:]):
    output = directory / f"{seconds}.mp4"
    job = make_job(PORTRAIT, audio, output, seconds, face, replace(PARAMS, inference_steps=1))
    engine.synthesize(job, quiet, lambda: False)
    assert video.probe(output).frames == round(25 * seconds)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


def peaks(checkpoint: Path, audio: Path, directory: Path, *lengths: float) -> list[int]:
    """Bytes, after a video of each length."""
    command = [sys.executable, "-c", _PROGRAM, *map(str, (checkpoint, audio, directory, *lengths))]
    one_heap = os.environ | {"MALLOC_ARENA_MAX": "1"}  # less left to chance
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env=one_heap, check=True)
    return [int(line) for line in done.stdout.splitlines()]


def test_a_long_video_takes_no_more_memory(checkpoint: Path, tmp_path: Path) -> None:
    with av.open(str(SPEECH)) as container:
        rate = container.streams.audio[0].rate
        samples = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)]) / 32768
    audio = write_wav(tmp_path / "long.wav", np.tile(samples, 5), rate)
    # At ten seconds every queue and buffer has been full once.
    short, long = peaks(checkpoint, audio, tmp_path, 10, 30)
    frames = 250  # that the long one has more, of 64 × 64 pixels
    decoded = frames * 64 * 64 * 3 * 4
    # Their latents may stay, and the allocator has its whims; keeping the pictures would cost more.
    assert long - short < 3 * frames * 8 * 8 * 4 * 4 + 8 * 2**20 < decoded
