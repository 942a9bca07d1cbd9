"""The mark on every frame that says what made it."""

from __future__ import annotations

import cv2
import numpy as np

from engines.base import Image

TEXT = "PREVIEW"
HEIGHT_SHARE = 0.045  # of the frame's short side
PLATE, INK = 32, 236  # light text alone would vanish on a bright picture
PLATE_ALPHA = 0.62


class Badge:
    """A dark plate with light text in the lower right corner, sized to the frame."""

    def __init__(self, width: int, height: int) -> None:
        """Draw the badge for frames of a size in pixels."""
        tall = max(11, round(HEIGHT_SHARE * min(width, height)))
        font, detail = cv2.FONT_HERSHEY_SIMPLEX, 8  # drawn large, then shrunk: clean edges at every size
        (text_width, text_height), _ = cv2.getTextSize(TEXT, font, detail, 2 * detail)
        pad = round(0.55 * text_height)
        big = np.zeros((text_height + 2 * pad, text_width + 2 * pad), np.uint8)
        cv2.putText(big, TEXT, (pad, pad + text_height), font, detail, 255, 2 * detail, cv2.LINE_AA)
        wide = round(tall * big.shape[1] / big.shape[0])
        ink = cv2.resize(big, (wide, tall), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
        cover = PLATE_ALPHA + (1 - PLATE_ALPHA) * ink
        self._keep = (1 - cover)[..., None]
        self._add = (PLATE * PLATE_ALPHA * (1 - ink) + INK * ink)[..., None]
        margin = max(2, round(0.012 * min(width, height)))
        self.area = (
            slice(max(0, height - margin - tall), height - margin),
            slice(max(0, width - margin - wide), width - margin),
        )
        """Rows and columns of the frame that the badge covers."""

    def stamp(self, frame: Image) -> None:
        """Put the badge on a frame, in place."""
        under = frame[self.area]
        rows, columns = under.shape[:2]
        mixed = under * self._keep[-rows:, -columns:] + self._add[-rows:, -columns:]
        frame[self.area] = (mixed + 0.5).astype(np.uint8)
