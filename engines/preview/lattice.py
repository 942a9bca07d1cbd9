"""The grid over the moving window on which displacements are kept: 129 x 129 nodes at every size of the window."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from engines.preview.bases import Values, smoothstep
from engines.preview.sampling import look
from engines.preview.shape import FaceShape, Points

NODES = 129  # per side
INVERT_STEPS = (0.55, 0.55, 0.70, 0.55, 0.80, 0.60)  # undamped it diverges where a stretch exceeds 1; these hold

Field = NDArray[np.float32]
"""Displacements in grid steps, shape (NODES, NODES, 2)."""

Area = tuple[slice, slice]
"""Rows and columns of nodes, or of pixels."""

WHOLE: Area = (slice(0, NODES), slice(0, NODES))


@dataclass(frozen=True, slots=True)
class Lattice:
    """The grid over a window of `side` pixels that shows a face."""

    shape: FaceShape
    side: int

    @property
    def step(self) -> float:
        """Pixels from node to node; nodes lie in the middle of their share of the window, as pixels do."""
        return self.side / NODES

    @property
    def places(self) -> Points:
        """The nodes in pixels of the window, (NODES, NODES, 2)."""
        return (grid() + 0.5) * self.step - 0.5

    @property
    def nodes(self) -> Points:
        """The nodes in face units, (NODES, NODES, 2)."""
        return self.shape.to_units(self.places)

    @property
    def from_units(self) -> Points:
        """The (2, 2) matrix that takes (…, 2) displacements in face units to grid steps: `displacements @ matrix`."""
        return np.asarray(self.shape.axes * (self.shape.unit / self.step))

    def distance(self, polygon: Points) -> Values:
        """Distance of every node from a polygon, both in face units; 0 inside."""
        outside = np.ones((self.side, self.side), np.uint8)
        cv2.fillPoly(outside, [np.round(self.shape.to_pixels(polygon)).astype(np.int32)], (0,))
        distance = np.asarray(cv2.distanceTransform(outside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE), np.float32)
        return np.asarray(look(distance, self.places.astype(np.float32)) / self.shape.unit, np.float64)

    def near(self, upper: tuple[int, ...], lower: tuple[int, ...], reach: float) -> Values:
        """1 between two lines of landmarks, fading to 0 at `reach` face units around them."""
        return smoothstep(reach, 0.15 * reach, self.distance(self.shape.points[[*upper, *lower[::-1]]]))

    def around(self, pixels: list[Area]) -> Area:
        """The nodes that have a say in the displacements of rectangles of pixels."""
        low = [min(area[axis].start for area in pixels) / self.step for axis in (0, 1)]
        high = [max(area[axis].stop for area in pixels) / self.step for axis in (0, 1)]
        rows, columns = (slice(max(0, int(a) - 1), min(NODES, int(b) + 2)) for a, b in zip(low, high, strict=True))
        return rows, columns


def grid() -> Points:
    """x and y of every node in grid steps, (NODES, NODES, 2)."""
    index = np.arange(NODES, dtype=np.float64)
    return np.stack(np.meshgrid(index, index), axis=-1)


def rim(share: float) -> Values:
    """0 at the window's rim, 1 from `share` of its side inwards, (NODES, NODES)."""
    inwards = np.minimum(np.arange(NODES), np.arange(NODES)[::-1]) / (NODES - 1)
    ramp = smoothstep(0, share, inwards)
    return np.asarray(np.minimum(ramp[:, None], ramp[None, :]))


def invert(field: Field, area: Area = WHOLE) -> Field:
    """For every node of an area, the displacement back to what moves onto it: y - x where y + field(y) = x."""
    nodes = _NODES[area]
    back = -field[area]
    for damping in INVERT_STEPS:
        back = np.asarray(cv2.addWeighted(back, 1 - damping, look(field, nodes + back), -damping, 0), np.float32)
    return back


def sample(field: Field, places: Points, step: float) -> Points:
    """Displacements (n, 2) in pixels at (n, 2) places in pixels of the window."""
    at = ((places + 0.5) / step - 0.5).astype(np.float32)
    return np.asarray(look(field, at[:, None])[:, 0] * step, np.float64)


_NODES = grid().astype(np.float32)
