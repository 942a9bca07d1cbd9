"""A rectangle of the moving window in which eyelids or lips are drawn, and its pixels in face units."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from engines.preview.lattice import Area, Field
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
    columns: NDArray[np.float32]  # (height, width, 2) place of the pixel's u in a table, and 0
    at: NDArray[np.float64]  # u of the entries of a table, shape (TABLE,)

    @classmethod
    def around(cls, shape: FaceShape, points: Points, margin: float, side: int) -> Patch:
        """The rectangle around (n, 2) points in face units, with a margin in face units, inside the window."""
        places = shape.to_pixels(points)
        low = np.clip(np.floor(places.min(axis=0) - margin * shape.unit), 0, side - 1).astype(int)
        high = np.clip(np.ceil(places.max(axis=0) + margin * shape.unit), low + 1, side).astype(int)
        x, y = np.meshgrid(np.arange(low[0], high[0]), np.arange(low[1], high[1]))
        pixels = np.stack([x, y], axis=-1)
        u, v = (np.ascontiguousarray(plane, np.float32) for plane in np.moveaxis(shape.to_units(pixels), -1, 0))
        at = np.linspace(u.min(), u.max(), TABLE, dtype=np.float64)
        return cls(int(low[0]), int(low[1]), u, v, pixels.astype(np.float32), _columns(u, at), at)

    @property
    def area(self) -> Area:
        """Rows and columns of the window that the patch covers."""
        height, width = self.u.shape
        return slice(self.top, self.top + height), slice(self.left, self.left + width)

    def cut(self, shape: FaceShape, points: Points) -> Patch:
        """The part of the patch around (n, 2) points in face units."""
        places = shape.to_pixels(points) - (self.left, self.top)
        limit = np.array(self.u.shape[::-1])
        low = np.clip(np.floor(places.min(axis=0)) - 2, 0, limit - 1).astype(int)
        high = np.clip(np.ceil(places.max(axis=0)) + 3, low + 1, limit).astype(int)
        here = slice(low[1], high[1]), slice(low[0], high[0])
        left, top = self.left + int(low[0]), self.top + int(low[1])
        return Patch(left, top, self.u[here], self.v[here], self.pixels[here], self.columns[here], self.at)

    def below(self, shape: FaceShape, line: Points) -> Patch:
        """The part of the patch that may lie below a line, which goes on level beyond its ends."""
        left, right = (float(self.at[0]), line[0, 1]), (float(self.at[-1]), line[-1, 1])
        height, width = self.u.shape
        bottom = shape.to_units(np.array([[self.left, self.top + height], [self.left + width, self.top + height]]))
        return self.cut(shape, np.concatenate([line, [left, right], bottom]))

    def table(self, line: Points) -> Table:
        """v of a line of points (face units) for evenly spaced u across the patch, smooth between the points."""
        order = line[:, 0].argsort()
        u, v = line[order].T
        at = np.clip(self.at, u[0], u[-1])
        # Cubic Hermite pieces: corners of a polyline would show on large lips.
        width = np.maximum(np.diff(u), 1e-6)
        chord = np.diff(v) / width
        between = (chord[:-1] * width[1:] + chord[1:] * width[:-1]) / (width[1:] + width[:-1])
        slope = np.concatenate([chord[:1], between, chord[-1:]])
        left = np.clip(u.searchsorted(at, side="right") - 1, 0, len(u) - 2)
        length = width[left]
        t = (at - u[left]) / length
        rest = 1 - t
        start = v[left]
        bend = t * rest * length * (rest * slope[left] - t * slope[left + 1])
        return np.asarray(start + (v[left + 1] - start) * (3 - 2 * t) * t * t + bend, np.float32)

    def look_up(self, tables: list[Table], u: Plane | None = None) -> NDArray[np.float32]:
        """The entries of n tables at each pixel's u, (height, width, n); `u` may differ from the patch's own."""
        columns = self.columns if u is None else _columns(u, self.at)
        return look(np.stack(tables, axis=1)[None], columns).reshape(*columns.shape[:2], -1)

    def sources(self, back: Field, step: float) -> NDArray[np.float32]:
        """Where in the window each pixel comes from, (height, width, 2), by displacements on the grid."""
        height, width = self.u.shape
        to_grid = np.array(
            [[1 / step, 0, (self.left + 0.5) / step - 0.5], [0, 1 / step, (self.top + 0.5) / step - 0.5]]
        )
        moved = cv2.warpAffine(back, to_grid, (width, height), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
        return np.asarray(cv2.scaleAdd(moved, step, self.pixels), np.float32)


def _columns(u: Plane, at: NDArray[np.float64]) -> NDArray[np.float32]:
    scale = (TABLE - 1) / max(at[-1] - at[0], 1e-6)
    place = ((u - np.float32(at[0])) * np.float32(scale)).astype(np.float32)
    return np.asarray(cv2.merge([place, np.zeros_like(place)]), np.float32)
