"""A row of teeth seen from the front: from the middle line two incisors, a canine and two premolars to each side."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engines.preview.sampling import look

Plane = NDArray[np.float32]
"""One value per pixel, (height, width)."""

TABLE, TABLE_END = 512, 1.15  # entries over 0..TABLE_END half mouth widths from the middle line
BEVEL = 0.12  # how much darker a tooth is at its sides than in its middle
CONTACT_WIDTH, CONTACT_DEPTH = 0.006, 0.30  # of the dark line between two teeth: face units, share of the brightness
INNER_CORNER, OUTER_CORNER = 0.010, 0.020  # how far the corners of the biting edge are rounded off, face units
PAPILLA = 0.026  # how far the gum comes down between two teeth, face units
TO_THE_SIDES = 0.50  # how much darker the row is at the corners of the mouth, out of the light


@dataclass(frozen=True, slots=True)
class Row:
    """Sizes of the teeth of one jaw, from the middle line outwards."""

    widths: tuple[float, ...]  # half mouth widths, as seen from the front
    lengths: tuple[float, ...]  # face units, from the gum to the biting edge
    back: tuple[float, ...]  # by how much their edges stay behind those of the first, face units
    arch: float  # and further behind, times the square of the distance from the middle line


UPPER = Row((0.29, 0.22, 0.20, 0.14, 0.12), (0.115, 0.100, 0.108, 0.090, 0.085), (0, 0.009, 0.002, 0.014, 0.020), 0.030)
LOWER = Row((0.17, 0.18, 0.20, 0.16, 0.14), (0.085, 0.085, 0.090, 0.080, 0.075), (0, 0.002, 0.000, 0.010, 0.014), 0.025)


class Teeth:
    """One row, measured out for a face."""

    def __init__(self, row: Row, half_width: float, pixel: float) -> None:
        """Lay the row out; half the mouth's width and the size of a pixel are in face units."""
        x = np.linspace(0, TABLE_END, TABLE)
        ends = np.cumsum(row.widths)
        tooth = np.minimum(np.searchsorted(ends, x), len(row.widths) - 1)
        widths, lengths, back = (np.array(sizes)[tooth] for sizes in (row.widths, row.lengths, row.back))
        t = np.clip(2 * (x - ends[tooth]) / widths + 1, -1, 1)  # -1..1 across each tooth, outwards
        corner = np.where(t < 0, INNER_CORNER, OUTER_CORNER) * np.abs(t) ** 4
        edge = -(back + row.arch * x**2 + corner)
        neck = edge + corner - lengths + PAPILLA * np.abs(t) ** 2.5
        # A line finer than a pixel is drawn a pixel wide, and fainter.
        line = max(CONTACT_WIDTH, 0.6 * pixel)
        contact = np.exp(-((np.abs(x[:, None] - ends[:-1]).min(axis=1) * half_width / line) ** 2))
        contact = np.maximum(contact, np.exp(-((x * half_width / line) ** 2)))
        tone = (1 - BEVEL * t**2) * (1 - CONTACT_DEPTH * CONTACT_WIDTH / line * contact)
        tone *= 1 - TO_THE_SIDES * np.minimum(x, 1) ** 2
        tone *= np.clip((ends[-1] - x) / 0.08, 0, 1)
        self._table = np.stack([edge, neck, tone], axis=1).astype(np.float32)[None]
        self._scale = np.float32((TABLE - 1) / TABLE_END / half_width)

    def at(self, u: Plane) -> tuple[Plane, Plane, Plane]:
        """For every u, in face units from the middle line: the biting edge, the gum, and the brightness 0..1.

        Edge and gum are heights in face units, growing outwards from the gum, 0 at the edge of the first teeth.
        """
        places = np.zeros((*u.shape, 2), np.float32)
        np.multiply(np.abs(u), self._scale, out=places[..., 0])
        found = look(self._table, places)
        return found[..., 0], found[..., 1], found[..., 2]
