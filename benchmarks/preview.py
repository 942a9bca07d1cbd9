"""Speed and memory of the preview engine: `python -m benchmarks.preview` prints a table, --save keeps it.

Each row is a process of its own. The baseline of a row is encoding alone: the same number of frames of the unmoved
portrait through the same encoder, in the same process.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CASES = ((512, 10), (512, 60), (512, 600), (1024, 10))  # short side in pixels, seconds of speech
RESULTS = ROOT / "benchmarks" / "results" / "preview.md"


def measure(resolution: int, seconds: float) -> dict[str, float]:
    """Render the example once; seconds of wall clock, and the peak of this process's memory in MB."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    import cv2  # noqa: PLC0415

    from engines.base import Emotion, SynthesisJob, SynthesisParams  # noqa: PLC0415
    from engines.preview.engine import PreviewEngine  # noqa: PLC0415
    from engines.preview.frame import video_size  # noqa: PLC0415
    from media import image  # noqa: PLC0415
    from media.video import VideoWriter, frame_count  # noqa: PLC0415

    params = SynthesisParams(Emotion.HAPPY, 3.0, 6.0, False, 25, None, 25, 1, 1.0, resolution, 0.5)
    engine = PreviewEngine(ROOT / "checkpoints" / "preview")
    engine.load()
    portrait = image.load(ROOT / "examples" / "portrait.jpg")
    width, height = video_size(params, (portrait.shape[1], portrait.shape[0]))
    with tempfile.TemporaryDirectory() as directory:
        speech = _repeated_speech(Path(directory) / "speech.wav", seconds)
        output = Path(directory) / "out.mp4"

        def encode_only() -> None:
            still = cv2.resize(portrait, (width, height))
            with VideoWriter(output, width=width, height=height, fps=25, audio=speech, seconds=seconds) as writer:
                for _ in range(frame_count(seconds, 25)):
                    writer.write(still)  # type: ignore[arg-type]

        face = engine.inspect(portrait).face
        job = SynthesisJob(ROOT / "examples" / "portrait.jpg", speech, output, seconds, face, params)
        took = _timed(lambda: engine.synthesize(job, lambda *_: None, lambda: False))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        return {"seconds": took, "encoding": _timed(encode_only), "peak_mb": peak}


def _repeated_speech(path: Path, seconds: float) -> Path:
    import wave  # noqa: PLC0415

    with wave.open(str(ROOT / "examples" / "speech_en.wav"), "rb") as source, wave.open(str(path), "wb") as target:
        target.setparams(source.getparams())
        samples = source.readframes(source.getnframes())
        wanted = round(seconds * source.getframerate()) * 2
        target.writeframes((samples * (wanted // len(samples) + 1))[:wanted])
    return path


def _timed(work: Callable[[], None]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def table() -> str:
    """Run every case and say what came out."""
    lines = [
        "# Preview engine: speed and memory",
        "",
        f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, {_processor()}, Python {platform.python_version()}; "
        "the example portrait, 25 frames per second. Made by `python -m benchmarks.preview --save`.",
        "",
        "| short side | speech | took | × real time | encoding alone | ratio | peak memory |",
        "|---|---|---|---|---|---|---|",
    ]
    for resolution, seconds in CASES:
        command = [sys.executable, "-m", "benchmarks.preview", "--case", str(resolution), str(seconds)]
        ended = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
        found = json.loads(ended.stdout)
        lines.append(
            f"| {resolution} px | {seconds} s | {found['seconds']:.1f} s | {seconds / found['seconds']:.1f} "
            f"| {found['encoding']:.1f} s | {found['seconds'] / found['encoding']:.1f} | {found['peak_mb']:.0f} MB |"
        )
    return "\n".join(lines) + "\n"


def _processor() -> str:
    names = [line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
             if line.startswith("model name")]  # fmt: skip
    return names[0] if names else platform.machine()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Speed and memory of the preview engine.")
    parser.add_argument("--save", action="store_true", help="write the table to benchmarks/results/")
    parser.add_argument("--case", nargs=2, type=int, metavar=("PIXELS", "SECONDS"), help="one row, as JSON")
    options = parser.parse_args()
    if options.case:
        print(json.dumps(measure(*options.case)))
    else:
        text = table()
        print(text)
        if options.save:
            RESULTS.write_text(text)
