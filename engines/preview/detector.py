"""BlazeFace: quick proposals of where faces may be."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from engines.base import Image

SIZE = 128  # side of the network's input
MIN_SCORE, MIN_TILE_SCORE = 0.5, 0.6
OVERLAP = 0.3  # intersection over union above which two boxes are the same face

Box = tuple[float, float, float, float]
"""Left, top, right, bottom in pixels."""


@dataclass(frozen=True, slots=True)
class Detection:
    """What BlazeFace saw: a box, the tilt of the eye line, a score 0..1."""

    box: Box
    roll: float
    score: float


class FaceDetector:
    """The network behind a lock: a cv2.dnn.Net is for one thread at a time, and a call takes milliseconds."""

    def __init__(self, network: bytes) -> None:
        """Load the TFLite network. Raises cv2.error."""
        self._lock = threading.Lock()
        self._network = cv2.dnn.readNetFromTFLite(np.frombuffer(network, np.uint8))
        self._anchors = _anchors()

    def detect(self, image: Image, divisor: int) -> list[Detection]:
        """Faces in a picture, seen whole (divisor 1) or in half-overlapping tiles of 1/divisor of its long side.

        Small faces show only in tiles: seen whole, one narrower than 9 % of the picture is missed.
        """
        return _suppress(list(self._in_tiles(image, divisor)))

    def _in_tiles(self, image: Image, divisor: int) -> Iterator[Detection]:
        height, width = image.shape[:2]
        if divisor == 1:
            yield from self._detect(image, 0, 0, MIN_SCORE)
            return
        side = max(height, width) // divisor
        if side < SIZE // 2:
            return
        for top in _tile_starts(height, side):
            for left in _tile_starts(width, side):
                tile = image[top : top + side, left : left + side]
                yield from self._detect(tile, left, top, MIN_TILE_SCORE)

    def _detect(self, image: Image, left: int, top: int, threshold: float) -> list[Detection]:
        """Run the network on one picture whose corner lies at (left, top) of the whole one."""
        height, width = image.shape[:2]
        scale = SIZE / max(height, width)
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        small = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
        pad_x, pad_y = (SIZE - size[0]) // 2, (SIZE - size[1]) // 2
        square = np.zeros((SIZE, SIZE, 3), np.float32)
        square[pad_y : pad_y + size[1], pad_x : pad_x + size[0]] = small
        blob = np.ascontiguousarray((square / 127.5 - 1).transpose(2, 0, 1)[None])
        with self._lock:
            self._network.setInput(blob)
            # Copied: the outputs are the network's own memory, and the next call overwrites them.
            logits, raw = (np.array(blob) for blob in self._network.forward(["classificators", "regressors"]))
        scores, values = sigmoid(logits.reshape(-1)), raw.reshape(-1, 16)
        kept = np.flatnonzero(scores > threshold)
        # Rows of a box: centre, size, six key points; all but the size are relative to the anchor.
        points = values[kept].reshape(-1, 8, 2).astype(np.float64)
        placed = [0, 2, 3, 4, 5, 6, 7]
        points[:, placed] += self._anchors[kept, None] * SIZE - (pad_x, pad_y)
        points /= scale
        points[:, placed] += (left, top)
        found = []
        for (centre, extent, eye, other_eye, *_), score in zip(points, scores[kept], strict=True):
            low, high = centre - extent / 2, centre + extent / 2
            roll = math.atan2(other_eye[1] - eye[1], other_eye[0] - eye[0])
            found.append(Detection((low[0], low[1], high[0], high[1]), roll, float(score)))
        return found


def _anchors() -> NDArray[np.float64]:
    """Centres of BlazeFace's 896 anchors, (896, 2) in 0..1: a 16 x 16 grid twice, then an 8 x 8 grid six times."""
    grids = []
    for cells, repeats in ((16, 2), (8, 6)):
        y, x = np.mgrid[:cells, :cells]
        centres = np.stack([x, y], axis=-1).reshape(-1, 2)
        grids.append(np.repeat((centres + 0.5) / cells, repeats, axis=0))
    return np.concatenate(grids)


def sigmoid(logits: NDArray[Any]) -> NDArray[np.float64]:
    """Probabilities of logits, in doubles: single floats overflow here."""
    return np.asarray(1 / (1 + np.exp(-np.clip(logits.astype(np.float64), -100, 100))))


def _tile_starts(length: int, side: int) -> list[int]:
    if length <= side:
        return [0]
    steps = math.ceil((length - side) / (side / 2))
    return [round(i * (length - side) / steps) for i in range(steps + 1)]


def _suppress(found: list[Detection]) -> list[Detection]:
    """Weighted non-maximum suppression: overlapping boxes become their mean, weighted by score."""
    rest = sorted(found, key=lambda detection: -detection.score)
    kept = []
    while rest:
        best = rest[0]
        group = [other for other in rest if overlap(best.box, other.box) > OVERLAP]
        weights = [other.score for other in group]
        left, top, right, bottom = np.average([other.box for other in group], axis=0, weights=weights)
        kept.append(Detection((left, top, right, bottom), best.roll, best.score))
        rest = [other for other in rest if other is not best and other not in group]
    return kept


def overlap(one: Box, other: Box) -> float:
    """Intersection over union of two boxes."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    area = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return width * height / (area - width * height)
