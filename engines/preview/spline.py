"""Thin-plate splines, r² log r: smooth fields through given values at scattered places."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.preview.shape import Points

SMOOTHING = 1e-4
CHUNK = 2048  # places evaluated at once, to bound memory

Values = NDArray[np.float64]
"""One row per place, one column per field."""


class Spline:
    """Fields through centres (n, 2); each layer may leave out some of the centres."""

    def __init__(self, centres: Points) -> None:
        """Take the places at which values can be given."""
        self._centres = centres

    def evaluate(self, places: Points, layers: list[tuple[NDArray[np.intp], Values]]) -> list[Values]:
        """Values (n, fields) at (n, 2) places, per layer: which centres it uses, and the values at all centres.

        Layers evaluated together share the cost of the distances.
        """
        solved = np.concatenate([self._solve(used, values) for used, values in layers], axis=1).astype(np.float32)
        centres = self._centres.astype(np.float32)
        parts = []
        for first in range(0, len(places), CHUNK):
            part = places[first : first + CHUNK].astype(np.float32)
            terms = np.column_stack([_kernel(part, centres), np.ones(len(part), np.float32), part])
            parts.append(terms @ solved)
        found = np.concatenate(parts).astype(np.float64)
        return np.split(found, np.cumsum([values.shape[1] for _, values in layers])[:-1], axis=1)

    def _solve(self, used: NDArray[np.intp], values: Values) -> Values:
        """Weights of all centres and of the plane (1, x, y); 0 for the centres that are not used."""
        count = len(used)
        centres = self._centres[used]
        plane = np.column_stack([np.ones(count), centres])
        kernel = _kernel(centres, centres) + SMOOTHING * np.eye(count)
        system = np.block([[kernel, plane], [plane.T, np.zeros((3, 3))]])
        weights = np.linalg.solve(system, np.concatenate([values[used], np.zeros((3, values.shape[1]))]))
        solved = np.zeros((len(self._centres) + 3, values.shape[1]))
        solved[used] = weights[:count]
        solved[-3:] = weights[count:]
        return solved


def _kernel(one: NDArray[Any], other: NDArray[Any]) -> NDArray[Any]:
    squared = (one[:, None, 0] - other[None, :, 0]) ** 2 + (one[:, None, 1] - other[None, :, 1]) ** 2
    return np.asarray(0.5 * squared * np.log(np.maximum(squared, 1e-12)), one.dtype)
