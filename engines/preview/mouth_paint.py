"""What is seen between open lips: the portrait's own teeth where it shows them, else drawn teeth, tongue and throat."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from engines.preview.light import LUMA, Light
from engines.preview.shape import FaceShape
from engines.preview.teeth import LOWER, UPPER, Plane, Teeth

THROAT, CHEEK, TONGUE = (46, 18, 18), (92, 42, 40), (158, 80, 78)  # RGB under good light
GUM, TEETH = (182, 104, 100), (234, 225, 210)
GOOD_LIGHT = 168.0  # brightness of skin under which they look like that
TEETH_LEVEL = (0.68, 0.92)  # teeth are at least and at most as bright as these shares of the face's highlights

# Lengths in face units.
UPPER_EDGE = 0.050  # where the upper incisors end, below the line of the closed lips
LOWER_EDGE = 0.036  # and how far the lower ones stand out above the lower lip
LOWER_TEETH_LIGHT = 0.78  # they lie in the shadow of the upper ones
LOWER_TEETH_GAP = (0.10, 0.26)  # they come out of the dark as the lips part this far
NARROWED = 0.25  # share of the width of the rows that rounded lips hide
TONGUE_WIDTH, TONGUE_HEIGHT = 0.68, 0.17  # half mouth widths, face units
LIP_SHADE, LIP_SHADE_DEPTH = 0.62, 0.05  # how bright it is right under the upper lip, and how deep that shadow reaches
SLIT_SHADE, SLIT = 0.78, 0.10  # lips that are hardly apart let little light in
SOFT = 0.008  # edges of the things inside the mouth; never less than a pixel


class MouthInterior:
    """Draws the inside of one face's mouth."""

    def __init__(self, shape: FaceShape, light: Light) -> None:
        """Measure the teeth out, and see them in the light that is on the face."""
        self._half = shape.mouth_half_width
        self._soft = max(SOFT, 1 / shape.unit)
        self._upper = None if shape.mouth_open else Teeth(UPPER, self._half, 1 / shape.unit)
        self._lower = Teeth(LOWER, self._half, 1 / shape.unit)
        # Teeth have the same colour on every face: skin says how bright the light is, highlights what it may look like.
        least, most = (share * light.highlight / float(np.array(TEETH) @ LUMA) for share in TEETH_LEVEL)
        self._level, self._most = float(np.clip(light.level / GOOD_LIGHT, least, most)), most
        self._slope = np.float32(light.across), np.float32(light.down)
        tint = light.tint / (light.tint @ LUMA)
        grey = np.outer(np.ones(3), LUMA)
        to_light = grey + light.saturation * (np.diag(tint) - grey)  # a black and white portrait stays one
        self._to_light = np.asarray(to_light.T, np.float32)

    def draw(
        self, u: Plane, v: Plane, *, upper: Plane, lower: Plane, skull_u: Plane, skull_v: Plane, rounding: float
    ) -> NDArray[np.float32]:
        """Colours (height, width, 3) for pixels at `u`, `v` between lip edges at `upper` and `lower` (face units).

        `skull_u` and `skull_v` are where the pixels lie on the head at rest: the upper teeth are fixed to it.
        `rounding` 0..1 narrows the rows of teeth.
        """
        sides = _ramp(0.45 * self._half, self._half, np.abs(u))[..., None]
        colour = np.array(THROAT, np.float32) + sides * np.subtract(CHEEK, THROAT).astype(np.float32)
        gap = lower - upper
        spread = np.float32(1 / (1 - NARROWED * rounding))

        across, up = u / np.float32(TONGUE_WIDTH * self._half), (v - lower) / np.float32(TONGUE_HEIGHT)
        tongue = np.sqrt(across**2 + up**2)
        rounded = (0.55 + 0.45 * _ramp(-1.0, -0.3, up))[..., None] * np.array(TONGUE, np.float32)
        _lay(colour, rounded, 0.90 * _ramp(1.0, 0.70, tongue))

        seen = _ramp(*LOWER_TEETH_GAP, gap)
        self._row(colour, self._lower, u * spread, (lower - v) - LOWER_EDGE, light=LOWER_TEETH_LIGHT, alpha=0.85 * seen)
        if self._upper is not None:
            self._row(colour, self._upper, skull_u * spread, skull_v - UPPER_EDGE, light=1.0, alpha=1.0)

        shade = LIP_SHADE + (1 - LIP_SHADE) * _ramp(0, LIP_SHADE_DEPTH, v - upper)
        shade *= SLIT_SHADE + (1 - SLIT_SHADE) * _ramp(0, SLIT, gap)
        light = self._level * np.exp(self._slope[0] * u + self._slope[1] * v)
        colour *= (shade * np.minimum(light, self._most))[..., None]
        return np.asarray(np.clip(colour @ self._to_light, 0, 255), np.float32)

    def _row(
        self, colour: NDArray[np.float32], teeth: Teeth, u: Plane, depth: Plane, *, light: float, alpha: Plane | float
    ) -> None:
        """A row of teeth and its gum; `depth` grows from the gum to the biting edge, where it is 0."""
        edge, neck, tone = teeth.at(u)
        soft = self._soft
        tooth = _ramp(0, 2 * soft, depth - neck)
        paint = np.array(GUM, np.float32) + tooth[..., None] * np.subtract(TEETH, GUM).astype(np.float32)
        inside = np.clip((edge - depth) / np.float32(soft) + np.float32(0.5), 0, 1) * np.minimum(tone * 4, 1)
        _lay(colour, paint * (np.float32(light) * tone)[..., None], alpha * inside)


def _lay(colour: NDArray[np.float32], paint: ArrayLike, alpha: Plane) -> None:
    colour += alpha[..., None] * np.subtract(paint, colour)


def _ramp(low: float, high: float, x: Plane) -> Plane:
    return np.asarray(np.clip((x - np.float32(low)) * np.float32(1 / (high - low)), 0, 1), np.float32)
