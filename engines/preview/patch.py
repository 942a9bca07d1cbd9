"""A rectangle of the moving window in which eyelids or lips are drawn, and its pixels in face units."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from engines.preview.lattice import Field
from engines.preview.sampling import look
from engines.preview.shape import FaceShape, Points

Plane = NDArray[np.float32]
"""One value per pixel, (height, width)."""

Table = NDArray[np.float32]
"""v of a line across a patch, for evenly spaced u, shape (TABLE,)."""

TABLE = 256  # entries of a line looked up per pixel


@dataclass(frozen=True, slots=True)
class Patch:
    """A rectangle of the window and the face coordinates of its pixels."""

    left: int
    top: int
    u: Plane
    v: Plane
    pixels: NDArray[np.float32]  # (height, width, 2) x, y in the window
    low: float  # u at the first entry of a table
    high: float  # u at the last

    @classmethod
    def around(cls, shape: FaceShape, points: Points, margin: float, side: int) -> Patch:
        """The rectangle around (n, 2) points in face units, with a margin in face units, inside the window."""
        places = shape.to_pixels(points)
        low = np.clip(np.floor(places.min(axis=0) - margin * shape.unit), 0, side - 1).astype(int)
        high = np.clip(np.ceil(places.max(axis=0) + margin * shape.unit), low + 1, side).astype(int)
        x, y = np.meshgrid(np.arange(low[0], high[0]), np.arange(low[1], high[1]))
        pixels = np.stack([x, y], axis=-1)
        u, v = np.moveaxis(shape.to_units(pixels), -1, 0).astype(np.float32)
        return cls(
            int(low[0]), int(low[1]), np.ascontiguousarray(u), np.ascontiguousarray(v), pixels.astype(np.float32),
            float(u.min()), float(u.max()),
        )  # fmt: skip

    @property
    def area(self) -> tuple[slice, slice]:
        """Rows and columns of the window that the patch covers."""
        height, width = self.u.shape
        return slice(self.top, self.top + height), slice(self.left, self.left + width)

    def cut(self, shape: FaceShape, points: Points) -> Patch:
        """The part of the patch around (n, 2) points in face units."""
        places = shape.to_pixels(points) - (self.left, self.top)
        limit = np.array(self.u.shape[::-1])
        low = np.clip(np.floor(places.min(axis=0)) - 2, 0, limit - 1).astype(int)
        high = np.clip(np.ceil(places.max(axis=0)) + 3, low + 1, limit).astype(int)
        rows, columns = slice(low[1], high[1]), slice(low[0], high[0])
        u, v = (np.ascontiguousarray(plane[rows, columns]) for plane in (self.u, self.v))
        return Patch(
            self.left + int(low[0]), self.top + int(low[1]), u, v, np.ascontiguousarray(self.pixels[rows, columns]),
            self.low, self.high,
        )  # fmt: skip

    def table(self, line: Points) -> Table:
        """v of a line of points (face units) for evenly spaced u across the patch, smooth between the points."""
        order = line[:, 0].argsort()
        u, v = line[order].T
        at = np.clip(np.linspace(self.low, self.high, TABLE), u[0], u[-1])
        # Cubic Hermite pieces: corners of a polyline would show on large lips.
        left = np.clip(np.searchsorted(u, at, side="right") - 1, 0, len(u) - 2)
        width = np.maximum(u[left + 1] - u[left], 1e-6)
        t = (at - u[left]) / width
        slope = np.gradient(v, np.maximum.accumulate(u + 1e-9 * np.arange(len(u))))
        start, end = v[left], v[left + 1]
        bend = t * (1 - t) * width * ((1 - t) * slope[left] - t * slope[left + 1])
        return np.asarray(start + (end - start) * (3 - 2 * t) * t * t + bend, np.float32)

    def look_up(self, tables: list[Table], u: Plane | None = None) -> NDArray[np.float32]:
        """The entries of n tables at each pixel's u, (height, width, n)."""
        at = ((self.u if u is None else u) - self.low) * ((TABLE - 1) / max(self.high - self.low, 1e-6))
        places = np.asarray(cv2.merge([at, np.zeros_like(at)]), np.float32)
        return look(np.stack(tables, axis=1)[None], places).reshape(*at.shape, -1)

    def sources(self, back: Field, step: float) -> NDArray[np.float32]:
        """Where in the window each pixel comes from, (height, width, 2), by displacements on the grid."""
        height, width = self.u.shape
        to_grid = np.array([[1 / step, 0, self.left / step], [0, 1 / step, self.top / step]])
        moved = cv2.warpAffine(back, to_grid, (width, height), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
        return np.asarray(cv2.scaleAdd(moved, step, self.pixels), np.float32)
