"""First pass over the speech: how loud it is and what its spectrum says about the mouth, in flat memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engines.preview.tracks import RATE, Track, follow, mean_around, smooth
from media.audio import read_blocks

SAMPLE_RATE = 16000
HOP = SAMPLE_RATE // RATE
FRAME = 400  # 25 ms
FFT = 512
SILENCE_DB = -100.0
SPEECH_RANGE_DB = 24.0  # from the loudest speech down to where the mouth barely moves

# Edges in Hz of the bands whose powers tell vowels and hisses apart.
BANDS = {
    "low": (150, 450),
    "first_formant": (550, 1100),
    "back": (600, 1300),
    "front": (1600, 3200),
    "hiss": (3500, 8000),
    "all": (80, 8000),
}


@dataclass(frozen=True, slots=True)
class Levels:
    """What the first pass found; every track has one value per hundredth of a second."""

    peak: float  # of the samples, 0..1
    loudness: Track  # 0..1.15, 1 near the loudest speech
    gate: Track  # 0..1, 0 in silence and steady noise
    opening: Track  # 0..1, how open the vowel sounds
    front: Track  # 0..1, from "oo" to "ee"
    hiss: Track  # 0..1, s and its like
    dip: Track  # 0..1, short falls in loudness, as between syllables


def measure(path: Path, seconds: float, check: Callable[[], None]) -> Levels:
    """Read `seconds` of a speech file; `check` is called for every second read and may raise."""
    db, bands, peak = [], [], 0.0
    for samples in _frames_of(read_blocks(path, SAMPLE_RATE, seconds=seconds)):
        check()
        peak = max(peak, float(np.abs(samples).max(initial=0.0)))
        powers, level = _analyse(samples)
        bands.append(powers)
        db.append(level)
    wanted = max(1, round(seconds * RATE))
    level = _fit(np.concatenate(db)[:, None] if db else np.empty((0, 1)), wanted, SILENCE_DB)[:, 0]
    power = _fit(np.concatenate(bands) if bands else np.empty((0, len(BANDS))), wanted, 1e-9)
    return _levels(level, dict(zip(BANDS, power.T, strict=True)), peak)


def _frames_of(blocks: Iterator[NDArray[np.float32]]) -> Iterator[NDArray[np.float32]]:
    """Regroup blocks so that each yields whole analysis frames, centred on the middles of the hundredths."""
    lead = (FRAME - HOP) // 2
    held = np.zeros(lead, np.float32)
    for block in blocks:
        held = np.concatenate([held, block])
        count = (len(held) - FRAME) // HOP + 1
        if count > 0:
            yield held[: (count - 1) * HOP + FRAME]
            held = held[count * HOP :]
    # The last frames look past the end of the recording, into silence.
    rest = (len(held) - lead + HOP - 1) // HOP
    if rest > 0:
        yield np.pad(held, (0, max(0, (rest - 1) * HOP + FRAME - len(held))))[: (rest - 1) * HOP + FRAME]


def _analyse(samples: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Band powers (frames, bands) and level in dB below full scale (frames,)."""
    frames = np.lib.stride_tricks.sliding_window_view(samples, FRAME)[::HOP]
    level = 10 * np.log10(np.mean(frames.astype(np.float64) ** 2, axis=1) + 1e-10)
    spectrum = np.abs(np.fft.rfft(frames * np.hanning(FRAME).astype(np.float32), FFT, axis=1)) ** 2
    hertz = np.fft.rfftfreq(FFT, 1 / SAMPLE_RATE)
    powers = [spectrum[:, (hertz >= low) & (hertz < high)].sum(axis=1) for low, high in BANDS.values()]
    return np.stack(powers, axis=1) + 1e-9, level


def _fit(values: NDArray[np.float64], count: int, fill: float) -> NDArray[np.float64]:
    """Cut or pad to `count` rows."""
    short = max(0, count - len(values))
    return np.pad(values[:count], ((0, short), (0, 0)), constant_values=fill)


def _levels(db: Track, power: dict[str, Track], peak: float) -> Levels:
    p95, p5 = np.percentile(db, 95), np.percentile(db, 5)
    # Silence, and steady noise well below speech, must not move the lips.
    speechless = p95 < -45 or (p95 - p5 < 6 and p95 < -30)
    if speechless:
        gate = np.zeros(len(db))
    else:
        is_open = db > max(p95 - 30, min(p5 + 8, p95 - 14))
        gate = follow(_widen(is_open, ahead=4), up=0.015, down=0.025)
    loudness = smooth(np.clip((db - (p95 - SPEECH_RANGE_DB)) / SPEECH_RANGE_DB, 0, 1.15), 0.030)
    opening = _sigmoid(1.1 * (np.log(power["first_formant"] / power["low"]) + 0.6))
    front = _sigmoid(0.9 * (np.log(power["front"] / power["back"]) + 1.2))
    hiss = np.clip((power["hiss"] / power["all"] - 0.25) / 0.4, 0, 1)
    dip = np.clip((mean_around(db, 0.120) - db - 1) / 6, 0, 1)
    return Levels(peak, loudness, gate, opening, front, hiss, dip)


def _widen(is_open: NDArray[np.bool_], ahead: int) -> Track:
    """Open `ahead` hundredths early: lips part before the voice is heard."""
    padded = np.pad(is_open, (0, ahead))
    return np.asarray(np.lib.stride_tricks.sliding_window_view(padded, ahead + 1).max(axis=1), np.float64)


def _sigmoid(x: Track) -> Track:
    return np.asarray(1 / (1 + np.exp(-np.clip(x, -50, 50))))
