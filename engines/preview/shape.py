"""The face in its own axes: landmarks in face units about the mouth, independent of size and tilt."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from engines.base import Image
from engines.preview import landmarks as lm
from engines.preview.landmarks import Landmarks
from engines.preview.sampling import look

Points = NDArray[np.float64]
"""Shape (n, 2)."""

CLOSED_GAP = 0.03  # an inner-lip gap below this, in face units, is a closed mouth
LIP_OVERLAP = 0.001  # where the inner lips of a closed mouth are put, off the line between them


@dataclass(frozen=True, slots=True)
class FaceShape:
    """A face measured in face units (U): the distance of the eye centres, or half the face's height where that is more.

    `u` runs along the line of the eyes to the image's right, `v` from brow to chin, both from the middle of the mouth.
    """

    unit: float  # pixels per face unit
    origin: Points  # (2,) the middle of the mouth, pixels
    axes: Points  # (2, 2) rows: directions of u and v in the image
    points: Points  # (478, 2) u, v
    depth: NDArray[np.float64]  # (478,) smaller is nearer, 0 at the ears

    def to_pixels(self, points: Points) -> Points:
        """Positions in pixels of (…, 2) positions in face units."""
        return np.asarray(self.origin + (points @ self.axes) * self.unit)

    def to_units(self, pixels: Points) -> Points:
        """Positions in face units of (…, 2) positions in pixels."""
        return np.asarray((pixels - self.origin) @ self.axes.T / self.unit)

    def planes(self, pixels: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """u and v of (height, width, 2) positions in pixels, each (height, width)."""
        offset = pixels - self.origin.astype(np.float32)
        across, down = (self.axes / self.unit).astype(np.float32)
        return offset[..., 0] * across[0] + offset[..., 1] * across[1], offset[..., 0] * down[0] + offset[
            ..., 1
        ] * down[1]

    @property
    def mouth_left(self) -> float:
        """u of the mouth's corner on the image's left; negative."""
        return float(self.points[61, 0])

    @property
    def mouth_right(self) -> float:
        """u of the mouth's corner on the image's right; positive."""
        return float(self.points[291, 0])

    @property
    def mouth_half_width(self) -> float:
        """Half the distance between the corners of the mouth; 0.24-0.36 on measured faces."""
        return (self.mouth_right - self.mouth_left) / 2

    @property
    def chin_depth(self) -> float:
        """v of the chin."""
        return float(self.points[lm.CHIN, 1])

    @property
    def lip_gap(self) -> float:
        """The widest opening between the inner lips of the portrait; 0.002 when they are closed."""
        upper, lower = self.points[list(lm.UPPER_INNER)], self.points[list(lm.LOWER_INNER)]
        return float((lower[:, 1] - upper[:, 1]).max())

    @property
    def mouth_open(self) -> bool:
        """Whether the portrait shows teeth or a dark gap between the lips."""
        return self.lip_gap >= CLOSED_GAP

    @property
    def smile(self) -> float:
        """How much higher the corners of the mouth lie than its middle; a broad smile has 0.1."""
        corners = self.points[[78, 308], 1].mean()
        return float(self.points[[13, 14], 1].mean() - corners)

    @property
    def smile_share(self) -> float:
        """`smile` from 0, none, to 1, a broad one."""
        return min(max((self.smile - 0.015) / 0.085, 0.0), 1.0)


def measure(landmarks: Landmarks, picture: Image) -> FaceShape:
    """Measure the face whose landmarks are given in pixels of `picture` (height, width, 3)."""
    pixels = landmarks[:, :2].astype(np.float64)
    across = pixels[lm.EYE_OUTER_LEFT] - pixels[lm.EYE_OUTER_RIGHT]
    across /= np.linalg.norm(across)
    axes = np.stack([across, [-across[1], across[0]]])
    eye_right = (pixels[lm.EYE_OUTER_RIGHT] + pixels[lm.EYE_INNER_RIGHT]) / 2
    eye_left = (pixels[lm.EYE_OUTER_LEFT] + pixels[lm.EYE_INNER_LEFT]) / 2
    height = np.linalg.norm(pixels[lm.FOREHEAD] - pixels[lm.CHIN])
    unit = float(max(np.linalg.norm(eye_left - eye_right), height / 2))
    corners, middle = (pixels[78] + pixels[308]) / 2, (pixels[13] + pixels[14]) / 2
    origin = corners + axes[1] * ((middle - corners) @ axes[1])
    depth = (landmarks[:, 2].astype(np.float64) - landmarks[[lm.EAR_RIGHT, lm.EAR_LEFT], 2].mean()) / unit
    shape = FaceShape(unit, origin, axes, np.empty((0, 2)), depth)
    shape = replace(shape, points=shape.to_units(pixels))
    return shape if shape.mouth_open else _with_lip_line(shape, picture)


def _with_lip_line(shape: FaceShape, picture: Image) -> FaceShape:
    """Put the inner lips of a closed mouth on the dark line between them, which the mesh misses by a pixel or two."""
    upper, lower = list(lm.UPPER_INNER), list(lm.LOWER_INNER)
    middle = (shape.points[upper] + shape.points[lower]) / 2
    columns, steps, reach = 41, 45, 0.055
    u = np.linspace(middle[0, 0], middle[-1, 0], columns)
    guess = np.interp(u, middle[:, 0], middle[:, 1])
    offsets = np.linspace(-reach, reach, steps)
    strip = np.stack(np.broadcast_arrays(u[:, None], guess[:, None] + offsets), axis=-1)
    where = shape.to_pixels(strip).astype(np.float32)
    grey = cv2.GaussianBlur(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), (0, 0), max(0.3, 0.006 * shape.unit))
    dark = look(np.asarray(grey, np.uint8), where) / 255
    path = _cheapest_path(dark + 0.25 * (offsets / reach) ** 2 * dark.std())
    line = guess + offsets[path]
    points = shape.points.copy()
    for ring, side in ((upper[1:-1], -LIP_OVERLAP), (lower[1:-1], LIP_OVERLAP)):
        points[ring, 1] = np.interp(points[ring, 0], u, line) + side
    return replace(shape, points=points)


def _cheapest_path(cost: NDArray[np.float64]) -> NDArray[np.intp]:
    """The path through (columns, steps) with the least cost, where a jump of n steps costs 0.012 n²."""
    columns, steps = cost.shape
    index = np.arange(steps)
    jump = 0.012 * (index[:, None] - index[None, :]) ** 2
    total = cost[0]
    came_from = np.zeros((columns, steps), np.intp)
    for column in range(1, columns):
        through = total[:, None] + jump
        came_from[column] = through.argmin(axis=0)
        total = through.min(axis=0) + cost[column]
    path = np.empty(columns, np.intp)
    path[-1] = total.argmin()
    for column in range(columns - 1, 0, -1):
        path[column - 1] = came_from[column, path[column]]
    return path
