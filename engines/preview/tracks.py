"""Small tools for tracks: series of one value per hundredth of a second."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Track = NDArray[np.float64]
"""One value per hundredth of a second, shape (n,); value i stands for the time (i + 0.5) / 100 s."""

RATE = 100  # values per second


def smooth(track: Track, sigma: float) -> Track:
    """Gaussian smoothing with `sigma` in seconds; the ends are held."""
    width = sigma * RATE
    reach = math.ceil(3 * width)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / width) ** 2)
    padded = np.pad(track, reach, mode="edge")
    return np.convolve(padded, kernel / kernel.sum(), mode="valid")


def mean_around(track: Track, seconds: float) -> Track:
    """Moving average over `seconds`; the ends are held."""
    reach = max(1, round(seconds * RATE / 2))
    padded = np.pad(track, reach, mode="edge")
    return np.convolve(padded, np.full(2 * reach + 1, 1 / (2 * reach + 1)), mode="valid")


def follow(target: Track, up: float, down: float, rate: float = RATE) -> Track:
    """A value that runs after `target`, with time constants in seconds for rising and for falling."""
    rise, fall = 1 - math.exp(-1 / (up * rate)), 1 - math.exp(-1 / (down * rate))
    value, out = 0.0, np.empty(len(target))
    for index, goal in enumerate(target.tolist()):
        value += (goal - value) * (rise if goal > value else fall)
        out[index] = value
    return out


def at_frames(track: Track, frames: int, fps: int) -> Track:
    """The track at the centres of `frames` video frames."""
    times = (np.arange(frames) + 0.5) / fps
    return np.interp(times * RATE - 0.5, np.arange(len(track)), smooth(track, 0.012))
