"""The movements a face is made of: for each, where its landmarks go when the movement is at full strength.

A basis is an array (478, 2) of displacements in face units; the pose of a face is a weighted sum of them. Sizes of the
movements are those that look natural on measured faces; every weight of 1 is a strong but possible expression.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engines.preview import landmarks as lm
from engines.preview.shape import FaceShape, Points

Values = NDArray[np.float64]

FACE_BASES = (
    *("jaw", "lip", "wide", "round", "press", "bite", "close"),
    *("smile", "frown", "smirk", "stretch", "upper_lip", "nose"),
    *("brow_up", "brow_in", "brow_down", "brow_one", "lid_raise", "squint", "blink"),
)
"""Movements of the skin. `bite` is F and V; `close` shuts a mouth that is open in the portrait."""

HEAD_BASES = ("yaw", "pitch", "roll", "shift_x", "shift_y")
"""Movements of the head, per radian or face unit."""

GAIN = {
    "jaw": 0.26,
    "lip": 0.085,
    "wide": 0.085,
    "round": 0.088,
    "press": 0.05,
    "bite": 0.085,
    "close": 1.0,
    "smile": 0.115,
    "frown": 0.085,
    "smirk": 0.12,
    "stretch": 0.09,
    "upper_lip": 0.075,
    "nose": 0.10,
    "brow_up": 0.13,
    "brow_in": 0.11,
    "brow_down": 0.10,
    "brow_one": 0.10,
    "lid_raise": 1.0,
    "squint": 1.0,
    "blink": 1.0,
}
"""Length of a displacement of 1 in face units; 1.0 where a basis measures itself by an opening of the face."""

CLOSE_UPPER = 0.35  # share of an open mouth's gap that the upper lip closes, the lower lip does the rest


def smoothstep(low: float, high: float, x: Values) -> Values:
    """0 below `low`, 1 above `high`, smooth between; `low` may be the greater one."""
    t = np.clip((x - low) / (high - low), 0, 1)
    return np.asarray(t * t * (3 - 2 * t))


def face_bases(shape: FaceShape) -> dict[str, Points]:
    """All FACE_BASES of a face."""
    mouth = _mouth_bases(shape)
    found = mouth | _expression_bases(shape, _Mouth.of(shape)) | _brow_bases(shape) | _lid_bases(shape)
    return {name: GAIN[name] * found[name] for name in FACE_BASES}


@dataclass(frozen=True, slots=True)
class _Mouth:
    """Weights about the mouth, one value per landmark."""

    side: Values  # u over the mouth's half width, by the corner of its own side: -1..1 across each ring of the lips
    upper: Values  # 1 on the upper lip, 0 elsewhere
    lower: Values
    outer: Values  # 0 at the inner edge of the lips, 1 at the outer edge
    arch: Values  # 1 in the middle of the lips, 0 at the corners
    above: Values  # how far the skin above the mouth follows the upper lip
    below: Values  # how far the skin below the mouth follows the lower lip
    corner: Values  # 1 at the corners, fading into the cheeks

    @classmethod
    def of(cls, shape: FaceShape) -> _Mouth:
        u, v = shape.points.T
        side = np.where(u < 0, u / -shape.mouth_left, u / shape.mouth_right)
        upper, lower, outer = np.zeros(lm.COUNT), np.zeros(lm.COUNT), np.zeros(lm.COUNT)
        for rings, mark in ((lm.UPPER_LIP_RINGS, upper), (lm.LOWER_LIP_RINGS, lower)):
            for depth, ring in enumerate(rings):
                index = list(ring)
                side[index] = np.where(u[index] < 0, u[index] / -u[ring[0]], u[index] / u[ring[-1]])
                mark[index] = 1
                outer[index] = 1 - depth / (len(rings) - 1)
        lips = (upper + lower) > 0
        arch = _arch(side)
        wide_arch = _arch(side / 1.25)
        top, bottom = (_line(shape, ring, u) for ring in (lm.UPPER_OUTER, lm.LOWER_OUTER))
        is_skin = ~lips & (np.arange(lm.COUNT) < lm.SKIN_COUNT)
        above = np.where(is_skin & (v < (top + bottom) / 2), wide_arch * smoothstep(0.30, 0, top - v), 0)
        below = np.where(is_skin & (v > (top + bottom) / 2), wide_arch * smoothstep(0.40, 0, v - bottom), 0)
        corners = shape.points[[61, 291]]
        distance = np.linalg.norm(shape.points[:, None] - corners, axis=-1).min(axis=1)
        corner = np.where(lips, np.abs(side) ** 1.7, np.exp(-((distance / 0.30) ** 2)))
        return cls(side, upper, lower, outer, arch, above, below, corner)


def _arch(side: Values) -> Values:
    return np.asarray(np.clip(1 - side**2, 0, 1) ** 0.65)


def _line(shape: FaceShape, ring: tuple[int, ...], u: Values) -> Values:
    """v of a line of landmarks at each u; a line listed from right to left is turned round."""
    points = shape.points[list(ring)]
    order = points[:, 0].argsort()
    return np.asarray(np.interp(u, points[order, 0], points[order, 1]))


def _stack(du: Values | float, dv: Values | float) -> Points:
    return np.stack([np.broadcast_to(du, lm.COUNT), np.broadcast_to(dv, lm.COUNT)], axis=1).astype(np.float64)


def _mouth_bases(shape: FaceShape) -> dict[str, Points]:
    u, v = shape.points.T
    m = _Mouth.of(shape)
    lips = np.maximum(m.upper, m.lower)
    chin = shape.chin_depth

    # The chin moves as a whole, the skin between it and the lips a little less; the sides of the face stay.
    face_half = (shape.points[lm.EAR_LEFT, 0] - shape.points[lm.EAR_RIGHT, 0]) / 2
    lateral = smoothstep(1.05, 0.35, np.abs(u) / face_half)
    skin = np.maximum(smoothstep(0, 0.8 * chin, v) * lateral, 0.88 * np.where(m.below > 0, _arch(m.side / 1.25), 0))
    skin = np.where(v > _line(shape, lm.LOWER_OUTER, u), skin, 0)
    jaw_lower = 0.20 + 0.80 * m.arch
    jaw_upper = 0.02 * m.arch + 0.20 * np.abs(m.side) ** 6
    jaw_v = np.where(m.lower > 0, jaw_lower, np.where(m.upper > 0, jaw_upper, skin))
    corners = (m.upper * m.lower) > 0
    jaw_v = np.where(corners, 0.20, jaw_v)
    # The dip that the upper lip presses into a closed lower lip goes as they part.
    line = shape.points[list(lm.LOWER_INNER)]
    bow = np.polyval(np.polyfit(line[:, 0], line[:, 1], 2), u) - _line(shape, lm.LOWER_INNER, u)
    if not shape.mouth_open:
        jaw_v = jaw_v + 1.2 / GAIN["jaw"] * bow * m.arch * m.lower * (1 - 0.7 * m.outer)
    jaw_u = -0.06 * np.clip(m.side, -1, 1) * lips

    # In all of these the outer edge of a lip moves a little less than the inner one, or the lip thickens.
    ease = 1 - 0.25 * m.outer
    lip_v = (0.62 * m.lower - 0.38 * m.upper) * m.arch * ease + 0.46 * m.below - 0.28 * m.above

    radius = np.hypot(u, v) / shape.mouth_half_width
    stretch = np.clip(m.side, -1.6, 1.6) * smoothstep(2.3, 0.95, radius)
    thicken = ((0.22 + 0.10 * m.outer) * m.lower - (0.10 + 0.12 * m.outer) * m.upper) * m.arch
    thicken += 0.32 * m.below - 0.22 * m.above

    press_v = (0.5 * m.upper - 0.6 * m.lower) * m.arch * m.outer + 0.5 * m.above - 0.6 * m.below
    bite_v = (-(0.28 + 0.27 * m.outer) * m.lower - 0.15 * m.upper) * m.arch - 0.45 * m.below - 0.12 * m.above

    gap = np.zeros(lm.COUNT)
    if shape.mouth_open:
        gap = np.clip(_line(shape, lm.LOWER_INNER, u) - _line(shape, lm.UPPER_INNER, u), 0, None)
        gap = np.where(np.abs(m.side) < 1, gap, 0)
    middle_gap = shape.lip_gap if shape.mouth_open else 0.0
    follow = middle_gap * (CLOSE_UPPER * 0.8 * m.above - (1 - CLOSE_UPPER) * 0.8 * m.below)
    close_v = gap * (CLOSE_UPPER * m.upper - (1 - CLOSE_UPPER) * m.lower) * (1 - 0.15 * m.outer) + follow
    return {
        "jaw": _stack(jaw_u, jaw_v),
        "lip": _stack(0, np.where(corners, 0, lip_v)),
        "wide": _stack(stretch, 0),
        "round": _stack(-stretch, np.where(corners, 0, thicken)),
        "press": _stack(0, np.where(corners, 0, press_v)),
        "bite": _stack(0, np.where(corners, 0, bite_v)),
        "close": _stack(0, np.where(corners, 0, close_v)),
    }


def _expression_bases(shape: FaceShape, m: _Mouth) -> dict[str, Points]:
    u = shape.points[:, 0]
    outward = np.sign(u)
    lips = np.maximum(m.upper, m.lower)

    cheek = sum(_bump(shape, x, -0.38, 0.28) for x in (-0.60, 0.60))
    smile_u, smile_v = 0.75 * outward * m.corner, -0.85 * m.corner - np.where(lips > 0, 0, 0.35 * cheek)
    left_half = smoothstep(-0.05, 0.20, u)

    boss = _bump(shape, 0, 0.65 * shape.chin_depth, 0.20)
    frown_v = 0.85 * m.corner - 0.20 * np.where(lips > 0, m.arch, m.above + m.below) - np.where(lips > 0, 0, 0.2 * boss)

    raised = 0.55 + 0.35 * np.exp(-(((np.abs(m.side) - 0.5) / 0.25) ** 2))
    upper_v = -raised * (m.upper * m.arch + 0.9 * m.above)
    upper_v = np.where((m.upper * m.lower) > 0, 0, upper_v)

    wings = shape.points[[lm.NOSTRIL_RIGHT, lm.NOSTRIL_LEFT]]
    near = np.exp(-((np.linalg.norm(shape.points[:, None] - wings, axis=-1).min(axis=1) / 0.17) ** 2))
    lateral = 0.4 + 0.6 * np.clip(np.abs(u - wings[:, 0].mean()) / (np.ptp(wings[:, 0]) / 2), 0, 1)
    nose_v = -0.5 * near * lateral * np.where(lips > 0, 0.4, 1)
    return {
        "smile": _stack(smile_u, smile_v),
        "frown": _stack(0, frown_v),
        "smirk": _stack(smile_u * left_half, smile_v * left_half),
        "stretch": _stack(0.95 * outward * m.corner, 0.22 * m.corner),
        "upper_lip": _stack(0, upper_v),
        "nose": _stack(0, nose_v),
    }


def _bump(shape: FaceShape, u: float, v: float, sigma: float) -> Values:
    """A bell around a place of the face."""
    return np.asarray(np.exp(-((shape.points - (u, v)) ** 2).sum(axis=1) / (2 * sigma**2)))


def _brow_bases(shape: FaceShape) -> dict[str, Points]:
    u, v = shape.points.T
    bases = {name: np.zeros((lm.COUNT, 2)) for name in ("brow_up", "brow_in", "brow_down", "brow_one")}
    centre = float(shape.points[168, 0])
    for (upper, lower), (lid, _) in zip(lm.BROWS, lm.EYES, strict=True):
        inner, outer = shape.points[upper[-1], 0], shape.points[upper[0], 0]
        here = (u - centre) * np.sign(outer - centre) >= 0
        along = np.clip((u - inner) / (outer - inner), 0, 1)  # 0 at the inner end, 1 at the outer
        top, bottom, eye = (_line(shape, line, u) for line in (upper, lower, lid))
        rising = smoothstep(0.62, 0, top - v)
        falling = np.clip((eye - v) / np.maximum(eye - bottom, 0.05), 0, 1)
        beyond = np.clip((u - outer) * np.sign(outer - inner), 0, None)
        weight = np.where(v < bottom, rising, falling) * smoothstep(0.30, 0, beyond) * here
        toward = np.sign(inner - outer) * np.clip((u - centre) / (inner - centre), 0, 1) * (1 - along)
        bases["brow_up"][:, 1] -= weight
        bases["brow_up"][list(lid[1:-1]), 1] -= 0.10
        bases["brow_in"] += weight[:, None] * np.stack([0.30 * toward, -1.0 + 1.35 * along], axis=1)
        bases["brow_down"] += weight[:, None] * np.stack([0.55 * toward, 1.1 - 0.75 * along], axis=1)
        if outer > inner:
            bases["brow_one"][:, 1] -= weight * smoothstep(0, 0.12, np.abs(u - centre))
    return bases


def _lid_bases(shape: FaceShape) -> dict[str, Points]:
    u, v = shape.points.T
    bases = {name: np.zeros((lm.COUNT, 2)) for name in ("lid_raise", "squint", "blink")}
    for (upper, lower), (_, brow) in zip(lm.EYES, lm.BROWS, strict=True):
        lid, rim, brow_edge = (_line(shape, line, u) for line in (upper, lower, brow))
        inside = (u > shape.points[upper[0], 0]) & (u < shape.points[upper[-1], 0])
        aperture = np.where(inside, np.clip(rim - lid, 0, None), 0)
        on_upper, on_lower = np.zeros(lm.COUNT), np.zeros(lm.COUNT)
        on_upper[list(upper[1:-1])] = 1
        on_lower[list(lower[1:-1])] = 1
        edge = (on_upper + on_lower) > 0
        fold = np.clip(1 - (lid - v) / np.maximum(lid - brow_edge, 0.05), 0, 1)  # linear from the lid to the brow
        bag = smoothstep(0.22, 0, v - rim)
        follow_up = np.where(edge, on_upper, np.where(v < lid, fold, 0))
        follow_down = np.where(edge, on_lower, np.where(v > rim, bag, 0))
        for name, up, down in (("lid_raise", -0.22, 0.06), ("squint", 0.10, -0.35), ("blink", 0.92, -0.08)):
            bases[name][: lm.SKIN_COUNT, 1] += (aperture * (up * follow_up + down * follow_down))[: lm.SKIN_COUNT]
    return bases
