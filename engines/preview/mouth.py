"""From speech to the movement of the mouth: recognised sounds, mixed with what the spectrum and the loudness say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engines.preview import loudness, phones
from engines.preview.loudness import Levels
from engines.preview.tracks import RATE, Track, at_frames, smooth

PHONE_SHARE = 0.60  # of the shape where a sound was recognised; the spectrum gives the rest
LEAD_SECONDS = 0.020  # lips move ahead of the sound


@dataclass(frozen=True, slots=True)
class MouthTracks:
    """The mouth over time, each about 0..1; at 100 Hz, or one value per video frame after `resampled`."""

    jaw: Track
    lip: Track
    wide: Track
    round: Track
    close: Track  # M, B and P
    bite: Track  # F and V
    loudness: Track  # 0 in silence

    def resampled(self, frames: int, fps: int) -> MouthTracks:
        """The tracks at the centres of video frames."""
        return MouthTracks(**{name: at_frames(getattr(self, name), frames, fps) for name in self.__slots__})


def analyse(
    path: Path,
    seconds: float,
    check: Callable[[], None] = lambda: None,
    progress: Callable[[float], None] = lambda _: None,
) -> MouthTracks:
    """Analyse `seconds` of a speech file in two passes; memory does not grow with the samples.

    `check` is called for every second of audio read and may raise to stop; `progress` gets the share done, 0..1.
    """
    levels = loudness.measure(path, seconds, check)
    shapes, known = phones.recognise(path, seconds, levels, check, progress)
    return _mix(levels, dict(zip(phones.SHAPES, shapes.T, strict=True)), known)


def _mix(levels: Levels, phone: dict[str, Track], known: Track) -> MouthTracks:
    share = PHONE_SHARE * known
    spectral = _spectral(levels)
    shape = {name: share * phone[name] + (1 - share) * spectral[name] for name in ("jaw", "lip", "wide", "round")}
    shape = {name: smooth(_earlier(track), 0.038) for name, track in shape.items()}
    # A closure is short: smoothed like a vowel it would never be reached. The gains are those at which the lips of
    # rendered frames meet; with less than 1.4, and more of the jaw or of rounding left, a slit stayed open.
    close = np.clip(smooth(_earlier(phone["close"]), 0.018) * 1.40, 0, 1)
    bite = np.clip(smooth(_earlier(phone["bite"]), 0.022) * 1.20, 0, 1)
    loud, gate = levels.loudness, levels.gate
    # The quieter a sound, the less the mouth opens for it, whatever the vowel.
    jaw = shape["jaw"] * (0.08 + 0.92 * (1 - close)) * (1 - 0.6 * bite) * 1.10 * loud
    lip = shape["lip"] * (1 - close) * (0.20 + 0.90 * loud)
    rounding = shape["round"] * (1 - 0.7 * close)
    return MouthTracks(
        jaw * gate, lip * gate, shape["wide"] * gate, rounding * gate, close * gate, bite * gate, loud * gate
    )


def _spectral(levels: Levels) -> dict[str, Track]:
    """Shapes by the spectrum alone; it knows no closures, but closes a little in every dip of the loudness."""
    closing = 1 - 0.8 * levels.dip
    jaw = (0.25 + 0.75 * levels.opening) * (1 - 0.75 * levels.hiss) * closing
    lip = (0.30 + 0.15 * levels.hiss) * closing
    wide = np.clip(1.3 * np.clip(levels.front - 0.5, 0, None), 0, 1)
    rounding = np.clip(1.6 * np.clip(0.5 - levels.front, 0, None) * (1 - levels.hiss), 0, 1)
    return {"jaw": jaw, "lip": lip, "wide": wide, "round": rounding}


def _earlier(track: Track) -> Track:
    lead = round(LEAD_SECONDS * RATE)
    return np.append(track[lead:], np.full(min(lead, len(track)), track[-1]))[: len(track)]
