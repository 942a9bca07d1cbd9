"""Which frames each window of a denoising step works on (specification, section 8, item 8).

The N frames of the video and a window's length of padding frames lie on a circle. A step cuts it into windows; from
step to step the cuts move on, so that every pair of neighbours is seen together.
"""

from __future__ import annotations

WINDOW = 25  # frames
SHIFT = 7  # frames that the cuts move from step to step


def windows(frames: int, step: int) -> list[list[int]]:
    """The windows of one step: indices into the `frames` on the circle, padding included.

    When `frames` is no multiple of WINDOW the last window runs into the first, and some frames are in two.
    """
    shift = SHIFT * step % WINDOW
    return [[(start - shift + offset) % frames for offset in range(WINDOW)] for start in range(0, frames, WINDOW)]
