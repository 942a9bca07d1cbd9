"""Creases and light that come and go with an expression: gains on the portrait's skin, which the rig then moves.

A warped smile has no folds. Every field here is a smooth pattern that darkens creases and lights what bulges, as a
share of the skin's own brightness, so that it suits dark, grey and relit portraits alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import cv2
import numpy as np
from numpy.typing import NDArray

from engines.base import Image
from engines.preview import landmarks as lm
from engines.preview.bases import FACE_BASES, smoothstep
from engines.preview.creases import Grid, Pattern, shifted
from engines.preview.light import LUMA, Light
from engines.preview.shape import FaceShape, Points

GRID_STEP = 0.0125  # face units; never less than a pixel
MARGIN = 0.10  # face units of room around the face's oval
GAIN_RANGE = (-0.45, 0.25)  # the most that all of it may darken or light
SHADOW_TINT = (0.75, 1.05, 1.22)  # of a gain per channel: in its creases skin is redder
OWN_FOLD = 0.75  # share of the drawn fold that a broad smile in the portrait makes up for
OWN_FOLD_SIZES, OWN_FOLD_RANGE = (0.014, 0.10), (-0.38, 0.26)  # face units; logarithm of brightness
DEEPEN, FLATTEN = 0.45, 0.85  # shares of the portrait's own folds that a smile adds, and that its going takes away
LID_LIGHT, LID_SHADOW = 0.7, 0.5  # share of a lid's shadow that goes as it closes; the deepest that counts
SKIN_TOLERANCE = (0.42, 0.68)  # of the logarithm of brightness and of colour, beyond which a place is not skin

Weigh = Callable[[Mapping[str, float]], float]

ACTIVATION: Mapping[str, Weigh] = MappingProxyType(
    {
        "fold_right": lambda w: max(w["smile"], 0) + 0.3 * w["stretch"],
        "fold_left": lambda w: max(w["smile"] + w["smirk"], 0) + 0.3 * w["stretch"],
        "flat_right": lambda w: max(-w["smile"], 0),
        "flat_left": lambda w: max(-w["smile"] - w["smirk"], 0),
        "frown": lambda w: w["frown"],
        "glabella": lambda w: w["brow_down"] + 0.3 * w["brow_in"],
        "forehead": lambda w: w["brow_up"],
        "forehead_middle": lambda w: w["brow_in"],
        "forehead_left": lambda w: w["brow_one"],
        "nose": lambda w: 0.7 * w["nose"] + 0.4 * max(w["upper_lip"], 0),
        "eyes": lambda w: w["squint"],
        "lids": lambda w: w["blink"],
    }
)
"""How strongly a field shows under a pose."""

_INDEX = {name: index for index, name in enumerate(FACE_BASES)}


class Shading:
    """The gains of one face."""

    def __init__(self, shape: FaceShape, picture: Image, light: Light) -> None:
        """Lay all fields out over the face; `picture` is what the shape was measured in."""
        places = shape.to_pixels(shape.points[list(lm.OVAL)])
        reach = MARGIN * shape.unit
        low = np.maximum(places.min(axis=0) - reach, 0).astype(int)
        high = np.minimum(places.max(axis=0) + reach, picture.shape[1::-1]).astype(int)
        self._area = slice(low[1], high[1]), slice(low[0], high[0])
        grid = Grid.over(shape, *self._area, max(1.0, GRID_STEP * shape.unit))
        size = grid.u.shape[::-1]
        part = np.asarray(cv2.resize(picture[self._area], size, interpolation=cv2.INTER_AREA), np.uint8)
        expected = np.asarray(light.level * np.exp(light.across * grid.u + light.down * grid.v), np.float32)
        mask = _skin_mask(shape, grid, part, light, expected)
        own = shape.smile_share
        self._fields = {name: np.asarray(field * mask, np.float32) for name, field in _fields(shape, grid, own).items()}
        for side, detail in _own_folds(shape, grid, part).items():
            self._fields[f"fold_{side}"] += DEEPEN * detail * mask
            self._fields[f"flat_{side}"] -= FLATTEN * own * detail * mask
        self._fields["lids"] += _lids_in_the_light(shape, grid, part, expected)
        tint = 1 + light.saturation * (np.array(SHADOW_TINT) - 1)
        self._to_gain = np.stack([tint, np.ones(3)], axis=1)
        self._skin = np.ascontiguousarray(picture[self._area])
        self._picture = picture.copy()

    def apply(self, weights: NDArray[np.float32]) -> Image:
        """The portrait shaded for a pose, one weight per basis; the array is used again by the next call."""
        by_name = {name: float(weights[index]) for name, index in _INDEX.items()}
        total: NDArray[np.float32] | None = None
        for name, field in self._fields.items():
            amount = ACTIVATION[name](by_name)
            if amount:
                total = np.zeros_like(field) if total is None else total
                cv2.scaleAdd(field, amount, total, total)
        part = self._picture[self._area]
        if total is None:
            part[:] = self._skin
            return self._picture
        gain = cv2.transform(np.clip(total, *GAIN_RANGE, out=total), self._to_gain)
        height, width = part.shape[:2]
        cv2.multiply(self._skin, cv2.resize(gain, (width, height)), part, dtype=cv2.CV_8U)
        return self._picture


def _fields(shape: FaceShape, grid: Grid, own: float) -> dict[str, Pattern]:
    """Every field at full strength; `own` 0..1 is how broadly the portrait smiles."""
    points = shape.points
    found: dict[str, Pattern] = {name: np.zeros_like(grid.u) for name in ACTIVATION}
    middle = float(points[168, 0])
    for side, name, fold, cheek, wing in zip((-1, 1), ("right", "left"), lm.FOLDS, lm.CHEEKS, (129, 358), strict=True):
        line = points[list(fold)]
        outward = -side
        lit = 0.08 * grid.crease(shifted(line, 0.06 * outward), 0.040, (0.3, 0.4))
        apple = 0.07 * grid.bulge(points[list(cheek)].mean(axis=0), (0.13, 0.10))
        shade = _fold(grid, line, 0.22, 0.017, (0.25, 0.45))
        found[f"fold_{name}"] += (1 - OWN_FOLD * own) * (lit - shade) + (1 - 0.4 * own) * apple
        found[f"flat_{name}"] -= 0.8 * own * apple

        corner = points[291 if side > 0 else 61]
        marionette = corner + np.array([(0.02, -0.03), (0.055, 0.07), (0.08, 0.18), (0.085, 0.30), (0.07, 0.38)]) * (
            side,
            1,
        )
        found["frown"] -= _fold(grid, marionette, 0.15, 0.018, (0.25, 0.7))
        found["frown"] -= 0.06 * grid.crease(line, 0.025, (0.3, 0.5))

        upper = np.array([points[wing], (points[wing] + points[fold[1]]) / 2, points[fold[1]], points[fold[2]]])
        found["nose"] -= _fold(grid, upper, 0.19, 0.017, (0.15, 0.6))
        found["nose"] += 0.05 * grid.crease(shifted(upper, 0.055 * outward), 0.04)
        root = np.array([middle, points[6, 1]])
        for drop in (0.0, 0.07):
            wrinkle = root + np.array([(0.030, drop), (0.075, drop + 0.02), (0.125, drop + 0.085)]) * (side, 1)
            found["nose"] -= 0.12 * grid.crease(wrinkle, 0.013, (0.4, 0.5))

        brow = points[55 if side < 0 else 285]
        between = np.array([middle + 0.45 * (brow[0] - middle), brow[1]])
        vertical = between + np.array([(0.015 * side, -0.25), (0.0, -0.09), (-0.015 * side, 0.07)])
        found["glabella"] -= _fold(grid, vertical, 0.13, 0.018, (0.5, 0.5))
        found["glabella"] -= 0.06 * grid.bulge(between - (0, 0.02), (0.06, 0.07))
    _add_forehead(found, shape, grid)
    _add_chin(found, shape, grid)
    _add_eyes(found, shape, grid)
    return found


def _fold(grid: Grid, line: Points, depth: float, width: float, fade: tuple[float, float]) -> Pattern:
    """How much darker a fold is: a fine line in a wide shade."""
    return np.asarray(depth * (grid.crease(line, width, fade) + 0.4 * grid.crease(line, 3 * width, fade)), np.float32)


def _add_forehead(found: dict[str, Pattern], shape: FaceShape, grid: Grid) -> None:
    middle = shape.points[9]
    room = middle[1] - shape.points[lm.FOREHEAD, 1]
    for share in (0.30, 0.52, 0.74):
        arch = np.array([(-0.46, 0.02), (-0.26, -0.025), (-0.10, 0.0), (0.10, 0.0), (0.26, -0.025), (0.46, 0.02)])
        line = middle - (0, share * room) + arch
        found["forehead"] -= 0.11 * grid.crease(line, 0.016, (0.4, 0.4))
        found["forehead"] += 0.05 * grid.crease(np.add(line, (0, 0.04)), 0.025, (0.4, 0.4))
        found["forehead_left"] -= 0.10 * grid.crease(line[3:], 0.016, (0.4, 0.4))
    for share in (0.28, 0.46):
        arch = np.array([(-0.22, 0.05), (-0.10, 0.012), (0.0, 0.0), (0.10, 0.012), (0.22, 0.05)])
        line = middle - (0, share * room) + arch
        found["forehead_middle"] -= 0.12 * grid.crease(line, 0.017, (0.45, 0.45))
        found["forehead_middle"] += 0.05 * grid.crease(np.add(line, (0, 0.04)), 0.025, (0.45, 0.45))


def _add_chin(found: dict[str, Pattern], shape: FaceShape, grid: Grid) -> None:
    lip, chin = shape.points[17, 1], shape.chin_depth
    depth = lip + 0.36 * (chin - lip)
    arch = np.array([(-0.17, 0.05), (-0.09, 0.01), (0.0, 0.0), (0.09, 0.01), (0.17, 0.05)])
    found["frown"] -= 0.13 * grid.crease(np.add(arch, (0, depth)), 0.026, (0.45, 0.45))
    found["frown"] += 0.06 * grid.bulge(np.array([0.0, depth + 0.35 * (chin - depth)]), (0.10, 0.06))


def _add_eyes(found: dict[str, Pattern], shape: FaceShape, grid: Grid) -> None:
    points = shape.points
    for side, (lid, _), fold, under in zip((-1, 1), lm.EYES, lm.LID_CREASES, lm.UNDER_EYES, strict=True):
        bag = points[list(under)]
        found["eyes"] -= 0.13 * grid.crease(bag - (0, 0.02), 0.016, (0.4, 0.5))
        found["eyes"] += 0.06 * grid.crease(bag - (0, 0.055), 0.018, (0.4, 0.5))
        outer = points[lid[-1] if side > 0 else lid[0]]
        for rise in (-0.55, -0.05, 0.40):
            ray = outer + np.array([(0.05, 0.05 * rise), (0.11, 0.12 * rise), (0.19, 0.22 * rise)]) * (side, 1)
            found["eyes"] -= 0.11 * grid.crease(ray, 0.010, (0.4, 0.6))
        lash, top = points[list(lid)], points[list(fold)]
        found["lids"] -= 0.14 * grid.crease(top, 0.013, (0.3, 0.3))
        found["lids"] -= 0.12 * grid.crease(lash - (0, 0.010), 0.012, (0.15, 0.15))


def _own_folds(shape: FaceShape, grid: Grid, part: Image) -> dict[str, Pattern]:
    """How the portrait's own folds differ from the skin around them, as a share of its brightness; by side."""
    grey = np.log(np.maximum(part.astype(np.float32) @ LUMA.astype(np.float32), 4))
    fine, coarse = (cv2.GaussianBlur(grey, (0, 0), size / grid.node) for size in OWN_FOLD_SIZES)
    found = {}
    for name, fold in zip(("right", "left"), lm.FOLDS, strict=True):
        around = grid.crease(shape.points[list(fold)], 0.055, (0.30, 0.25))
        found[name] = np.asarray(around * np.clip(fine - coarse, *OWN_FOLD_RANGE), np.float32)
    return found


def _lids_in_the_light(shape: FaceShape, grid: Grid, part: Image, expected: Pattern) -> Pattern:
    """How much brighter the upper lids are when they come down out of the shadow of the brow."""
    luma = cv2.GaussianBlur(part, (0, 0), 0.012 / grid.node).astype(np.float32) @ LUMA.astype(np.float32)
    shadow = np.clip(np.log(expected / np.maximum(luma, 1)), 0, LID_SHADOW)
    found = np.zeros_like(grid.u)
    for (lid, _), fold in zip(lm.EYES, lm.LID_CREASES, strict=True):
        lash, top = shape.points[list(lid)], shape.points[list(fold)]
        middle = np.interp(lash[:, 0], *top[top[:, 0].argsort()].T) * 0.5 + lash[:, 1] * 0.5
        found += LID_LIGHT * shadow * grid.crease(np.stack([lash[:, 0], middle], axis=1), 0.026, (0.25, 0.25))
    return found


def _skin_mask(shape: FaceShape, grid: Grid, part: Image, light: Light, expected: Pattern) -> Pattern:
    """1 on skin, 0 on lips, hair, glasses and whatever else is not as bright and of the colour that skin has there."""
    colour = cv2.GaussianBlur(part.astype(np.float32), (0, 0), 1.5)
    luma = np.maximum(colour @ LUMA.astype(np.float32), 1)
    brightness = np.abs(np.log(luma / np.maximum(expected, 1)))
    skin = light.skin / max(float(light.skin @ LUMA), 1)
    tint = 1.3 * np.abs(colour / luma[..., None] - skin).max(axis=-1)
    like_skin = smoothstep(SKIN_TOLERANCE[1], SKIN_TOLERANCE[0], np.maximum(brightness, tint).astype(np.float64))
    lips = np.zeros(part.shape[:2], np.uint8)
    ring = shape.points[[*lm.UPPER_OUTER, *lm.LOWER_OUTER[::-1]]]
    cv2.fillPoly(lips, [grid.to_index(ring).round().astype(np.int32)], (255,))
    rim = np.minimum(np.arange(part.shape[0]), np.arange(part.shape[0])[::-1])[:, None]
    rim = np.minimum(rim, np.minimum(np.arange(part.shape[1]), np.arange(part.shape[1])[::-1])[None])
    off_lips = 1 - cv2.GaussianBlur(lips, (0, 0), 1.2).astype(np.float64) / 255
    return np.asarray(cv2.GaussianBlur(like_skin, (0, 0), 1.5) * off_lips * np.clip(rim / 6, 0, 1), np.float32)
