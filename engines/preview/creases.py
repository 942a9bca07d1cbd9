"""Where skin creases and bulges: smooth patterns over the face, each 0 almost everywhere and 1 at its deepest."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engines.preview.bases import smoothstep
from engines.preview.shape import FaceShape, Points

Pattern = NDArray[np.float32]
"""One value per place of a grid, (height, width)."""

SAMPLES = 48  # along a line
REACH = 2.6  # widths, beyond which a crease ends


@dataclass(frozen=True, slots=True)
class Grid:
    """Places over a rectangle of a picture, (rows, columns) of them, each in the middle of its share."""

    u: Pattern  # face units
    v: Pattern
    origin: Points  # (2,) the first place, face units
    steps: Points  # (2, 2) from column to column and from row to row, face units

    @classmethod
    def over(cls, shape: FaceShape, rows: slice, columns: slice, step: float) -> Grid:
        """A grid over rows and columns of the picture a shape was measured in, about `step` pixels apart."""
        left, top = columns.start, rows.start
        width, height = columns.stop - left, rows.stop - top
        across, down = (max(2, round(size / step)) for size in (width, height))
        x = left + (np.arange(across) + 0.5) * width / across - 0.5
        y = top + (np.arange(down) + 0.5) * height / down - 0.5
        places = shape.to_units(np.stack(np.meshgrid(x, y), axis=-1))
        steps = np.array([places[0, 1] - places[0, 0], places[1, 0] - places[0, 0]])
        u, v = (np.ascontiguousarray(plane, np.float32) for plane in np.moveaxis(places, -1, 0))
        return cls(u, v, places[0, 0], steps)

    @property
    def node(self) -> float:
        """The distance between places, in face units."""
        return float(np.linalg.norm(self.steps, axis=1).mean())

    def to_index(self, points: Points) -> Points:
        """Column and row, with fractions, of (n, 2) points in face units."""
        return np.asarray((points - self.origin) @ np.linalg.inv(self.steps))

    def crease(self, line: Points, width: float, fade: tuple[float, float] = (0.25, 0.35)) -> Pattern:
        """A soft line of `width` through points (n, 2), both in face units; it begins and ends over shares `fade`."""
        path = _even(line)
        share = np.linspace(0, 1, SAMPLES)
        strength = smoothstep(0, fade[0], share) * smoothstep(1, 1 - fade[1], share)
        found = np.zeros_like(self.u)
        at, reach = self.to_index(path), REACH * width / self.node
        low, high = np.maximum(at.min(axis=0) - reach, 0).astype(int), (at.max(axis=0) + reach).astype(int) + 1
        here = slice(low[1], max(high[1], low[1])), slice(low[0], max(high[0], low[0]))
        near_u, near_v = path.astype(np.float32).T
        squared = (self.u[here][..., None] - near_u) ** 2 + (self.v[here][..., None] - near_v) ** 2
        nearest = squared.argmin(axis=-1)
        least = np.take_along_axis(squared, nearest[..., None], axis=-1)[..., 0]
        found[here] = np.exp(least * np.float32(-0.5 / width**2)) * strength.astype(np.float32)[nearest]
        return found

    def bulge(self, centre: Points, size: tuple[float, float]) -> Pattern:
        """A bell around a place (2,), as wide and as high as `size` says."""
        across = (self.u - np.float32(centre[0])) / np.float32(size[0])
        down = (self.v - np.float32(centre[1])) / np.float32(size[1])
        return np.asarray(np.exp(-(across * across + down * down) / 2), np.float32)


def shifted(line: Points, distance: float) -> Points:
    """A line (n, 2) moved sideways, to the right hand of who walks along it on the picture."""
    along = np.gradient(line, axis=0)
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    return np.asarray(line + distance * np.stack([-along[:, 1], along[:, 0]], axis=1))


def _even(line: Points) -> Points:
    """SAMPLES points evenly along a line, its corners rounded."""
    length = np.append(0, np.cumsum(np.linalg.norm(np.diff(line, axis=0), axis=1)))
    at = np.linspace(0, length[-1], SAMPLES)
    path = np.stack([np.interp(at, length, line[:, axis]) for axis in (0, 1)], axis=1)
    for _ in range(6):
        path[1:-1] = path[:-2] / 4 + path[1:-1] / 2 + path[2:] / 4
    return path
