"""What is seen between open lips: the portrait's own teeth where it shows them, else drawn teeth, tongue and throat."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from engines.base import Image
from engines.preview import landmarks as lm
from engines.preview.shape import FaceShape

Plane = NDArray[np.float32]
"""One value per pixel, (height, width)."""

THROAT, TONGUE, TEETH = (52, 20, 20), (150, 70, 68), (236, 226, 212)  # RGB under good light
USUAL_SKIN = (205, 165, 143)  # whose tint counts as white light
LUMA = np.array([0.299, 0.587, 0.114])
FULL_COLOUR = 24  # between the strongest and the weakest channel of skin in a colour photograph, at the least

# Lengths in face units, widths in half mouth widths.
UPPER_TEETH_RISE, UPPER_TEETH_HEIGHT, UPPER_TEETH_WIDTH = 0.035, 0.115, 0.80
LOWER_TEETH_RISE, LOWER_TEETH_HEIGHT, LOWER_TEETH_WIDTH = 0.055, 0.085, 0.82
LOWER_TEETH_LIGHT = 0.72  # they lie in the shadow of the upper ones
LOWER_TEETH_GAP = (0.10, 0.26)  # they come out of the dark as the lips part this far
TONGUE_WIDTH, TONGUE_HEIGHT = 0.62, 0.095
SHADE_DEPTH = 0.04
TOOTH_STEP = 0.235  # of the arch of teeth, in radians per tooth
SOFT = 0.010  # edges of the things inside the mouth


class MouthInterior:
    """Draws the inside of one face's mouth."""

    def __init__(self, shape: FaceShape, picture: Image) -> None:
        """Measure the light on the skin; `picture` is what the shape was measured in."""
        self._half = shape.mouth_half_width
        skin = _skin(shape, picture)
        self._light = _light_on(skin)
        self._saturation = min(1.0, float(np.ptp(skin)) / FULL_COLOUR)  # a black and white portrait stays one
        self._own_teeth = shape.mouth_open

    def draw(
        self, u: Plane, v: Plane, *, upper: Plane, lower: Plane, skull_u: Plane, skull_v: Plane, rounding: float
    ) -> NDArray[np.float32]:
        """Colours (height, width, 3) for pixels at `u`, `v` between lip edges at `upper` and `lower` (face units).

        `skull_u` and `skull_v` are where the pixels lie on the head at rest: the upper teeth are fixed to it.
        `rounding` 0..1 narrows the row of teeth.
        """
        colour = np.empty((*u.shape, 3), np.float32)
        colour[:] = THROAT
        tongue = np.hypot(u / (TONGUE_WIDTH * self._half), (v - lower) / TONGUE_HEIGHT)
        _lay(colour, TONGUE, 0.75 * _ramp(1.0, 0.6, tongue))

        across = u / (LOWER_TEETH_WIDTH * self._half * (1 - 0.25 * rounding))
        top = lower - LOWER_TEETH_RISE + 0.03 * across**2
        seen = 0.75 * _ramp(*LOWER_TEETH_GAP, lower - upper)
        self._teeth(colour, across, v - top, height=LOWER_TEETH_HEIGHT, light=LOWER_TEETH_LIGHT, alpha=seen)

        if not self._own_teeth:
            across = skull_u / (UPPER_TEETH_WIDTH * self._half * (1 - 0.25 * rounding))
            height = UPPER_TEETH_HEIGHT * (1 - 0.22 * np.minimum(across**2, 1.5))
            self._teeth(colour, across, skull_v + UPPER_TEETH_RISE, height=height, light=1.0, alpha=0.95)
        shade = 0.62 + 0.38 * _ramp(0, SHADE_DEPTH, v - upper)
        lit = colour * shade[..., None] * self._light
        grey = (lit @ LUMA)[..., None]
        return np.asarray(np.clip(grey + self._saturation * (lit - grey), 0, 255), np.float32)

    def _teeth(
        self,
        colour: NDArray[np.float32],
        across: Plane,
        depth: Plane,
        *,
        height: Plane | float,
        light: float,
        alpha: Plane | float,
    ) -> None:
        """A row of teeth: `across` -1..1 along it, `depth` below its upper edge."""
        angle = np.arcsin(np.clip(across * 0.92, -1, 1))
        gap = np.abs(np.mod(angle / TOOTH_STEP + 0.5, 1) - 0.5)  # 0 between the teeth, first at the middle line
        tone = light * (1 - 0.6 * np.minimum(np.abs(across), 1) ** 1.8)
        tone *= 1 - 0.09 * _ramp(0.12, 0.0, gap)
        edge = height - 0.010 * _ramp(0.20, 0.0, gap)  # rounded corners
        inside = _ramp(0, SOFT, depth) * _ramp(edge, edge - SOFT, depth) * _ramp(1.0, 0.88, np.abs(across))
        _lay(colour, tone[..., None] * np.array(TEETH, np.float32), alpha * inside)


def _lay(colour: NDArray[np.float32], paint: ArrayLike, alpha: Plane) -> None:
    colour += alpha[..., None] * np.subtract(paint, colour)


def _ramp(low: ArrayLike, high: ArrayLike, x: ArrayLike) -> Plane:
    return np.asarray(np.clip(np.subtract(x, low) / np.subtract(high, low), 0, 1), np.float32)


def _skin(shape: FaceShape, picture: Image) -> NDArray[np.float64]:
    """The colour (3,) of the skin."""
    height, width = picture.shape[:2]
    places = shape.to_pixels(shape.points[list(lm.SKIN_SAMPLES)]).round().astype(int)
    inside = ((places >= 0) & (places < (width, height))).all(axis=1)
    if not inside.any():
        return np.array(USUAL_SKIN, np.float64)
    return np.asarray(np.median(picture[places[inside, 1], places[inside, 0]].astype(np.float64), axis=0))


def _light_on(skin: NDArray[np.float64]) -> NDArray[np.float32]:
    """The light on the face as factors (3,) for colours under good light: how bright, 0.5..1, and of what tint."""
    usual = np.array(USUAL_SKIN, np.float64)
    tint = (np.maximum(skin, 1) / max(skin @ LUMA, 1)) / (usual / (usual @ LUMA))
    factors = np.clip(skin @ LUMA / 160, 0.5, 1.0) * np.clip(tint**0.6, 0.75, 1.25)
    return np.asarray(factors, np.float32)
