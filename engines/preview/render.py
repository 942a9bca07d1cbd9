"""From a pose to a frame: the portrait's pixels moved, lids and lips parted, the inside of the mouth drawn."""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from engines.base import Image
from engines.preview import landmarks as lm
from engines.preview import light
from engines.preview.badge import Badge
from engines.preview.bases import FACE_BASES
from engines.preview.frame import Still
from engines.preview.lattice import Field, invert, sample
from engines.preview.mouth_paint import MouthInterior
from engines.preview.patch import Patch, Plane, Table
from engines.preview.rig import Rig
from engines.preview.sampling import look
from engines.preview.shading import Shading
from engines.preview.shape import Points

EYE_MARGIN, MOUTH_MARGIN = 0.16, 0.40  # face units around lids and lips
LIP_FEATHER = 0.007  # face units
MIN_GAP_PIXELS = 0.4  # lips closer than this are closed
OWN_SHADE = 0.35  # brightness of the portrait's own teeth behind lips that almost meet
OWN_RISE = 0.06  # face units by which those teeth are drawn out upwards under a lip that rises
LINE_PIXELS = 1.5  # width over which one layer becomes another
ROUND = FACE_BASES.index("round")


class Renderer:
    """Draws the frames of one video; for one thread at a time. Frames are functions of their pose alone."""

    def __init__(self, still: Still, rig: Rig) -> None:
        """Prepare what all frames share."""
        self._still, self._rig, self._shape = still, rig, rig.shape
        self._source = self._shaded = np.ascontiguousarray(still.window.of(still.picture))
        shine = light.measure(rig.shape, self._source)
        self._shading = Shading(rig.shape, self._source, shine)
        self._badge = Badge(still.picture.shape[1], still.picture.shape[0])
        shape, side = rig.shape, rig.lattice.side
        self._pixel = 1 / shape.unit
        self._places = rig.lattice.places.astype(np.float32)
        rim = math.ceil((rig.lattice.step - 1) / 2)  # beyond the outermost nodes nothing moves
        self._inner = slice(rim, side - rim), slice(rim, side - rim)
        self._eyes = [Patch.around(shape, shape.points[[*upper, *lower]], EYE_MARGIN, side) for upper, lower in lm.EYES]
        lips = shape.points[[*lm.UPPER_OUTER, *lm.LOWER_OUTER]]
        self._mouth = Patch.around(shape, lips, MOUTH_MARGIN, side)
        self._own_lips = [self._mouth.table(shape.points[list(ring)]) for ring in (lm.UPPER_INNER, lm.LOWER_INNER)]
        self._near = rig.lattice.around([patch.area for patch in (*self._eyes, self._mouth)])
        self._interior = MouthInterior(shape, shine)

    def frame(self, weights: NDArray[np.float32]) -> Image:
        """The frame (height, width, 3) of a pose, one weight per basis; of the zero pose, the portrait itself."""
        frame = self._still.picture.copy()
        if weights.any():
            self._pose(weights, self._still.window.of(frame))
        self._badge.stamp(frame)
        return frame

    def _pose(self, weights: NDArray[np.float32], picture: Image) -> None:
        """Draw the window under a pose that is not zero, in place."""
        self._shaded = self._shading.apply(weights)
        moved = self._rig.displace(weights)
        back = invert(moved.upper)
        lower_back, skull_back = self._beside(moved.lower, back), self._beside(moved.skull, back)
        eyes_back = skull_back if moved.eyes is moved.skull else self._beside(moved.eyes, back)
        self._warp(picture, back)
        for patch, (lid, rim) in zip(self._eyes, lm.EYES, strict=True):
            lid_line, rim_line = self._moved(lid, moved.upper), self._moved(rim, moved.lower)
            upper, lower = patch.table(lid_line), patch.table(rim_line)
            self._part(picture, patch.below(self._shape, rim_line), lower, lower_back)
            eye = patch.cut(self._shape, np.concatenate([lid_line, rim_line]))
            lids = eye.look_up([np.minimum(upper, lower), lower])
            self._show_eyeball(picture, eye, lids, lid_line[[0, -1], 0], eyes_back)
        patch = self._mouth
        lips = self._moved(lm.UPPER_INNER, moved.upper), self._moved(lm.LOWER_INNER, moved.lower)
        upper, lower = patch.table(lips[0]), patch.table(lips[1])
        middle = (upper + lower) / np.float32(2)
        self._part(picture, patch.below(self._shape, np.stack([patch.at, middle], axis=1)), middle, lower_back)
        if (lower - upper).max() >= MIN_GAP_PIXELS * self._pixel:
            part = patch.cut(self._shape, np.concatenate(lips))
            opening = part.look_up([upper, lower])
            rounding = float(np.clip(weights[ROUND], 0, 1))
            self._show_mouth(picture, part, opening, lips[0][[0, -1], 0], skull_back, rounding=rounding)

    def _beside(self, field: Field, back: Field) -> Field:
        """A field's way back around eyes and mouth; elsewhere it is not looked at, and another field's does."""
        other = back.copy()
        other[self._near] = invert(field, self._near)
        return other

    def _warp(self, picture: Image, back: Field) -> None:
        """Draw the upper layer over the whole window, in place."""
        side, step = self._rig.lattice.side, self._rig.lattice.step
        sources = cv2.resize(cv2.scaleAdd(back, step, self._places), (side, side))
        look(self._shaded, np.asarray(sources[self._inner], np.float32), picture[self._inner])

    def _moved(self, line: tuple[int, ...], field: Field) -> Points:
        """Where a line of landmarks lies under a field, in face units."""
        places = self._shape.to_pixels(self._shape.points[list(line)])
        return self._shape.to_units(places + sample(field, places, self._rig.lattice.step))

    def _part(self, picture: Image, patch: Patch, line: Table, lower_back: Field) -> None:
        """Replace what lies below a line by the lower layer, in place."""
        below = _edge(patch.v - patch.look_up([line])[..., 0], LINE_PIXELS * self._pixel)
        skin = look(self._shaded, patch.sources(lower_back, self._rig.lattice.step))
        picture[patch.area] = _blend(skin, picture[patch.area], below)

    def _show_eyeball(self, picture: Image, patch: Patch, lids: Plane, corners: Points, eyes_back: Field) -> None:
        """Draw the eyeball between the lids and between the u of the corners of the eye, in place."""
        lid, rim = lids[..., 0], lids[..., 1]
        width = LINE_PIXELS * self._pixel
        inside = _edge(patch.v - lid, width) * _edge(rim - patch.v, width)
        inside *= np.clip((rim - lid) / (2 * self._pixel), 0, 1)
        inside *= _edge(patch.u - corners[0], width) * _edge(corners[1] - patch.u, width)
        eyeball = look(self._source, patch.sources(eyes_back, self._rig.lattice.step))
        picture[patch.area] = _blend(eyeball, picture[patch.area], inside)

    def _show_mouth(
        self, picture: Image, patch: Patch, lips: Plane, corners: Points, skull_back: Field, *, rounding: float
    ) -> None:
        """Draw the inside of the mouth where the lips are apart, between the u of its corners, in place."""
        pixel, step = self._pixel, self._rig.lattice.step
        upper, lower = lips[..., 0], lips[..., 1]
        feather = max(LIP_FEATHER, pixel)
        alpha = np.clip((patch.v - upper) / feather, 0, 1) * np.clip((lower - patch.v) / feather, 0, 1)
        alpha *= np.clip((lower - upper - MIN_GAP_PIXELS * pixel) / (2 * pixel), 0, 1)
        alpha *= _edge(patch.u - corners[0], LINE_PIXELS * pixel) * _edge(corners[1] - patch.u, LINE_PIXELS * pixel)
        sources = patch.sources(skull_back, step)
        skull_u, skull_v = self._shape.planes(sources)
        drawn = self._interior.draw(
            patch.u, patch.v, upper=upper, lower=lower, skull_u=skull_u, skull_v=skull_v, rounding=rounding
        )
        if self._shape.mouth_open:
            inside, opening, hidden = self._own_mouth(patch, skull_u, skull_v, feather)
            down = (self._shape.axes[1] * self._shape.unit).astype(np.float32)
            own = look(self._source, sources + hidden[..., None] * down)
            # Lips that are nearly shut keep the light out.
            light = OWN_SHADE + (1 - OWN_SHADE) * np.clip((lower - upper) / opening, 0, 1)
            drawn += inside[..., None] * (light[..., None] * own - drawn)
        below = picture[patch.area].astype(np.float32)
        picture[patch.area] = (below + alpha[..., None] * (drawn - below) + 0.5).astype(np.uint8)

    def _own_mouth(self, patch: Patch, u: Plane, v: Plane, feather: float) -> tuple[Plane, Plane, Plane]:
        """The portrait's own open mouth at places of the head.

        1 where they lie between its lips or a little above; a third of the gap there; and how far above they lie: a
        lip that rises shows more of the teeth than the portrait has.
        """
        points = self._shape.points
        lines = patch.look_up(self._own_lips, u)
        upper, lower = lines[..., 0], lines[..., 1]
        inside = np.clip(1 + (v - upper + OWN_RISE) / feather, 0, 1) * np.clip(1 + (lower - v) / feather, 0, 1)
        inside *= (u > points[78, 0]) & (u < points[308, 0])
        return inside, np.maximum((lower - upper) / 3, 1e-3), np.clip(upper - v, 0, OWN_RISE)


def _edge(distance: NDArray[Any], width: float) -> Plane:
    """0 to 1 across a line, over `width`."""
    return np.asarray(np.clip(distance / width + 0.5, 0, 1), np.float32)


def _blend(over: Image, under: Image, alpha: Plane) -> Image:
    alpha = np.ascontiguousarray(alpha, np.float32)
    return np.asarray(cv2.blendLinear(over, np.ascontiguousarray(under), alpha, 1 - alpha), np.uint8)
