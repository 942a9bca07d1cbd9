"""The preview engine's targets: `python -m benchmarks.preview` prints what became of them, --save keeps it.

Every case is a process of its own. Speed and memory are measured one after the other on an idle machine; the baseline
of a row is encoding alone: the same number of frames of the unmoved portrait through the same encoder, in the same
process. Lips and pictures are judged two at a time. More voices than the two examples need espeak-ng.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from benchmarks import portraits, preview_score
from benchmarks.machine import machine
from benchmarks.preview_cases import EXAMPLES, ROOT, SCORE_SECONDS, SCORE_SIDE
from benchmarks.preview_score import LIMITS, Score
from engines.base import Emotion

RESULTS = ROOT / "benchmarks" / "results" / "preview.md"

SPEEDS = ((512, 10), (1024, 10), (512, 60), (512, 600))  # short side in pixels, seconds of speech

ENGLISH = (
    "Good morning. A minute ago this was a still photograph. Now it speaks, it blinks, and it moves its head, "
    "because somebody gave it a voice and a feeling."
)
CHINESE = "早上好。一分钟以前，这还只是一张照片。现在它会说话，会眨眼，也会动一动头，因为有人给了它声音和感情。"
VOICES: Mapping[str, str] = MappingProxyType({"en+f3": ENGLISH, "en-us+m3": ENGLISH, "cmn": CHINESE, "cmn+f2": CHINESE})
"""Voices of espeak-ng, and what they say."""

VOICE_EMOTIONS = (Emotion.NEUTRAL, Emotion.HAPPY)
MIN_LOUDNESS_CORRELATION, MAX_SILENCE_GAP, MIN_VOICES = 0.70, 1.0, 4


def report() -> str:
    """Run every case and say what came out."""
    with tempfile.TemporaryDirectory() as directory:
        timings = [_case("speed", *given) for given in SPEEDS]
        recordings = _voices(Path(directory))
        spoken = [(name, emotion) for name in recordings for emotion in VOICE_EMOTIONS]
        drawn = [(name, [*Emotion]) for name in portraits.portraits()]
        with ThreadPoolExecutor(2) as pool:
            heard = list(pool.map(lambda row: _case("voice", str(recordings[row[0]]), row[1]), spoken))
            seen = list(pool.map(lambda row: _case("scores", *row), drawn))
            digests = {found["sha256"] for found in pool.map(lambda _: _case("digest"), range(2))}
    by_voice = dict(zip(spoken, heard, strict=True))
    by_portrait = {name: found for (name, _), found in zip(drawn, seen, strict=True)}
    summary = _summary(timings, by_voice, by_portrait, equal=len(digests) == 1)
    return "\n".join(
        [
            "# Preview engine",
            "",
            f"{machine()}; 25 frames per second. Made by `python -m benchmarks.preview --save`.",
            "",
            *_table(["what", "figure", "target", "met"], summary),
            "## Speed and memory",
            "",
            "The example portrait. Encoding alone: as many frames of the unmoved portrait.",
            "",
            *_table(
                ["short side", "speech", "took", "× real time", "encoding alone", "ratio", "peak memory"],
                [_timing(*row) for row in zip(SPEEDS, timings, strict=True)],
            ),
            "## Lips and voice",
            "",
            "The example portrait at 512 pixels. Correlation of the gap between the lips, as the face mesh finds it in "
            "the decoded frames, with the loudness of the file's own sound; of the pauses, the largest median gap.",
            "",
            *_table(
                ["voice", "emotion", "correlation", "best lag", "gap in pauses", "ends apart"],
                [
                    (
                        name,
                        emotion,
                        f"{found['correlation']:.2f}",
                        f"{found['lag']} frames",
                        _pixels(found["silence"]),
                        f"{1000 * found['ends']:.0f} ms",
                    )
                    for (name, emotion), found in zip(spoken, heard, strict=True)
                ],
            ),
            "## Score",
            "",
            f"The worst of the eight emotions, {SCORE_SECONDS} s at {SCORE_SIDE} pixels; what is measured stands in "
            "`benchmarks/preview_score.py`, the portraits in `benchmarks/portraits.py`. The painted ones have no "
            "target: in flat colours the mesh that measures reads lips worse.",
            "",
            *_table(
                ["portrait", "mouth", "outside", "far", "flicker", "skin", "ends apart", "met"],
                [
                    ("limits", *_figures(LIMITS), ""),
                    *(
                        (
                            name,
                            *_figures(Score(**found)),
                            _verdict(Score(**found)),
                        )
                        for name, found in by_portrait.items()
                    ),
                ],
            ),
        ]
    )


def _summary(
    timings: Sequence[Mapping[str, Any]],
    heard: Mapping[tuple[str, Emotion], Mapping[str, Any]],
    seen: Mapping[str, Mapping[str, Any]],
    *,
    equal: bool,
) -> list[tuple[str, ...]]:
    rates = [seconds / found["seconds"] for (_, seconds), found in zip(SPEEDS, timings, strict=True)]
    minute, ten = timings[2]["peak_mb"], timings[3]["peak_mb"]
    rows = [
        ("10 s at 512 pixels", f"{rates[0]:.1f} × real time", "≥ 3", rates[0] >= 3),
        ("10 s at 1024 pixels", f"{rates[1]:.1f} × real time", "≥ 1.5", rates[1] >= 1.5),
        ("peak memory, 60 s", f"{minute:.0f} MB", "≤ 400 MB", minute <= 400),
        ("peak memory, 600 s", f"{ten:.0f} MB", "no more, within 5 %", ten <= 1.05 * minute),
    ]
    voices = len({name for name, _ in heard})
    for emotion in VOICE_EMOTIONS:
        least = min(found["correlation"] for (_, other), found in heard.items() if other is emotion)
        rows.append(
            (f"lip gap against loudness, worst of {voices} voices, {emotion}", f"{least:.2f}",
             f"≥ {MIN_LOUDNESS_CORRELATION} on {MIN_VOICES} voices",
             least >= MIN_LOUDNESS_CORRELATION and voices >= MIN_VOICES)
        )  # fmt: skip
    pauses = [found["silence"] for (_, emotion), found in heard.items() if emotion is Emotion.NEUTRAL]
    gap = float(np.nanmax(pauses))
    lag = max(abs(found["lag"]) for found in heard.values())
    ends = max(found["ends"] for found in [*heard.values(), *seen.values()])
    photographs = [found for name, found in seen.items() if "painted" not in name]
    good = sum(not preview_score.failures(Score(**found)) for found in photographs)
    rows += [
        (
            "lip gap in pauses, neutral",
            f"{gap:.2f} pixels",
            f"< {MAX_SILENCE_GAP:g} at 512 pixels",
            gap < MAX_SILENCE_GAP,
        ),
        ("lips behind the voice", f"{lag} frames", "0", lag == 0),
        ("sound and picture end apart", f"{1000 * ends:.0f} ms", "within a frame, 40 ms", ends <= LIMITS.ends),
        ("equal input, two processes", "equal bytes" if equal else "different bytes", "equal bytes", equal),
        (
            "photographs within all limits of the score",
            f"{good} of {len(photographs)}",
            "all",
            good == len(photographs),
        ),
    ]
    return [(what, figure, target, "yes" if met else "**no**") for what, figure, target, met in rows]


def _timing(case: tuple[int, int], found: Mapping[str, Any]) -> tuple[str, ...]:
    (resolution, seconds), took, encoding = case, found["seconds"], found["encoding"]
    alone = (f"{encoding:.1f} s", f"{took / encoding:.1f}") if encoding else ("", "")
    return (
        f"{resolution} px", f"{seconds} s", f"{took:.1f} s", f"{seconds / took:.1f}", *alone,
        f"{found['peak_mb']:.0f} MB",
    )  # fmt: skip


def _figures(score: Score) -> tuple[str, ...]:
    return (
        f"{score.mouth:.2f}", f"{score.outside:.1f}", f"{score.far:.1f}", f"{score.flicker:.2f}",
        f"{score.skin:.1f}", f"{1000 * score.ends:.0f} ms",
    )  # fmt: skip


def _verdict(score: Score) -> str:
    wrong = preview_score.failures(score)
    return f"**no**: {', '.join(wrong)}" if wrong else "yes"


def _pixels(gap: float) -> str:
    return "no pause" if np.isnan(gap) else f"{gap:.2f} px"


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [titles, ["---"] * len(titles), *rows]
    return [f"| {' | '.join(line)} |" for line in lines] + [""]


def _voices(directory: Path) -> dict[str, Path]:
    """The example recordings, and more voices where espeak-ng can speak them."""
    found = {"examples/speech_en.wav": EXAMPLES / "speech_en.wav", "examples/speech_zh.mp3": EXAMPLES / "speech_zh.mp3"}
    speaker = shutil.which("espeak-ng")
    if speaker is None:
        print("espeak-ng is not installed: only the two example voices are heard", file=sys.stderr)
        return found
    for name, text in VOICES.items():
        path = directory / f"{name}.wav"
        subprocess.run([speaker, "-v", name, "-s", "150", "-w", str(path), text], check=True, capture_output=True)
        found[f"espeak-ng {name}"] = path
    return found


def _case(name: str, *given: object) -> dict[str, Any]:
    """Run a case in a process of its own."""
    started, case = time.perf_counter(), json.dumps([name, *given])
    command = [sys.executable, "-m", "benchmarks.preview_cases", case]
    ended = subprocess.run(command, cwd=ROOT, check=False, stdout=subprocess.PIPE, text=True)
    if ended.returncode:
        raise SystemExit(f"{case} failed")
    found: dict[str, Any] = json.loads(ended.stdout)
    short = {key: round(value, 3) if isinstance(value, float) else value for key, value in found.items()}
    print(f"{time.perf_counter() - started:6.1f} s  {case}: {short}", file=sys.stderr, flush=True)
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="What became of the preview engine's targets.")
    parser.add_argument("--save", action="store_true", help="write the tables to benchmarks/results/")
    options = parser.parse_args()
    text = report()
    print(text)
    if options.save:
        RESULTS.write_text(text, encoding="utf-8")
