"""Creases and light: where the expression puts them, in proportion to the skin, and nowhere without one."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from engines.base import Image
from engines.preview import landmarks as lm
from engines.preview import light
from engines.preview.frame import Still
from engines.preview.lattice import sample
from engines.preview.light import LUMA
from engines.preview.render import Renderer
from engines.preview.rig import Rig
from engines.preview.shading import Shading
from engines.preview.shape import FaceShape, Points
from tests.preview.conftest import pose


def shading(shape: FaceShape, picture: Image) -> Shading:
    return Shading(shape, picture, light.measure(shape, picture))


def gain(shape: FaceShape, picture: Image, **weights: float) -> NDArray[np.float64]:
    """How much brighter every place of a picture is drawn under a pose."""
    drawn = shading(shape, picture).apply(pose(**weights)) @ LUMA
    return np.asarray((drawn + 1) / (picture @ LUMA + 1))


def at(shape: FaceShape, plane: NDArray[np.float64], points: Points, reach: float = 0.02) -> float:
    """The mean of a plane around points in face units."""
    smooth = cv2.blur(plane, (2 * round(reach * shape.unit) + 1,) * 2)
    x, y = shape.to_pixels(points).round().astype(int).T
    return float(smooth[y, x].mean())


def fold(shape: FaceShape) -> Points:
    """The middle of both nasolabial folds."""
    lines = shape.points[[line[1:3] for line in lm.FOLDS]]
    return np.asarray(lines.mean(axis=1))


def cheeks(shape: FaceShape) -> Points:
    return np.asarray(shape.points[[*lm.CHEEKS[0], *lm.CHEEKS[1]]])


@pytest.fixture(scope="module")
def plain(still: Still) -> Image:
    """Even skin with the example's landmarks on it."""
    side = still.window.side
    return np.full((side, side, 3), (200, 160, 138), np.uint8)


@pytest.fixture(scope="module")
def serious(rig: Rig) -> FaceShape:
    """The example's face without the smile: its corners of the mouth are taken down."""
    points = rig.shape.points.copy()
    points[[61, 291, 78, 308], 1] += rig.shape.smile
    return replace(rig.shape, points=points)


def test_a_smile_darkens_the_folds_and_lights_the_cheeks(serious: FaceShape, plain: Image) -> None:
    found = gain(serious, plain, smile=1)
    assert at(serious, found, fold(serious)) < 0.88
    assert at(serious, found, cheeks(serious)) > 1.03
    assert found.min() > 0.6  # a fold, not a stroke of charcoal


def test_a_smile_in_the_portrait_is_not_creased_twice(rig: Rig, serious: FaceShape, plain: Image) -> None:
    smiling = at(rig.shape, gain(rig.shape, plain, smile=1), fold(rig.shape))
    assert smiling > 1 - 0.5 * (1 - at(serious, gain(serious, plain, smile=1), fold(serious)))


def test_the_light_moves_with_the_skin(renderer: Renderer, rig: Rig, still: Still) -> None:
    """In finished frames the cheeks are lit where the smile has pushed them."""
    weights = pose(smile=1, close=1)
    frame, portrait = (still.window.of(picture) @ LUMA for picture in (renderer.frame(weights), still.picture))
    places = rig.shape.to_pixels(cheeks(rig.shape))
    moved = rig.shape.to_units(places + sample(rig.displace(weights).upper, places, rig.lattice.step))
    assert np.abs(moved - cheeks(rig.shape)).max() > 0.03
    assert at(rig.shape, frame, moved) > 1.02 * at(rig.shape, portrait, cheeks(rig.shape))


def test_every_expression_has_its_creases(serious: FaceShape, plain: Image) -> None:
    points = serious.points
    corners, brows = points[[61, 291]], points[[55, 285]].mean(axis=0)
    places = {
        "frown": corners + np.array([(-0.06, 0.10), (0.06, 0.10)]),
        "brow_down": brows + np.array([(-0.085, -0.05), (0.085, -0.05)]),
        "brow_in": points[[9]] - (0, 0.28 * (points[9, 1] - points[lm.FOREHEAD, 1])),
        "brow_up": points[[9]] - (0, 0.30 * (points[9, 1] - points[lm.FOREHEAD, 1])),
        "nose": (points[[129, 358]] + points[[206, 426]]) / 2,
        "squint": points[[line[3] for line in lm.UNDER_EYES]] - (0, 0.02),
        "blink": points[[line[3] for line in lm.LID_CREASES]],
    }
    for name, where in places.items():
        assert at(serious, gain(serious, plain, **{name: 1.0}), where, 0.01) < 0.95, name


def test_without_an_expression_nothing_is_shaded(rig: Rig, still: Still) -> None:
    picture = np.ascontiguousarray(still.window.of(still.picture))
    shade = shading(rig.shape, picture)
    assert (shade.apply(pose(smile=1, frown=1)) != picture).any()
    for weights in (pose(), pose(yaw=0.2, jaw=1)):
        assert np.array_equal(shade.apply(weights), picture)


def test_a_smile_creases_both_sides_alike_and_a_smirk_one(serious: FaceShape, plain: Image) -> None:
    right, left = fold(serious)[:1], fold(serious)[1:]
    smile, smirk = gain(serious, plain, smile=1), gain(serious, plain, smirk=1)
    assert at(serious, smile, right) == pytest.approx(at(serious, smile, left), abs=0.04)
    assert at(serious, smirk, left) == pytest.approx(at(serious, smile, left), abs=0.005)
    assert at(serious, smirk, right) == 1


def test_a_dark_portrait_is_shaded_in_proportion(rig: Rig, still: Still) -> None:
    picture = np.ascontiguousarray(still.window.of(still.picture))
    dark = np.asarray(picture * 0.4, np.uint8)
    for name in ("smile", "frown", "brow_down"):
        bright_gain, dark_gain = (gain(rig.shape, source, **{name: 1.0}) for source in (picture, dark))
        changed = np.abs(bright_gain - 1) > 0.05
        assert changed.sum() > 50
        assert np.abs(bright_gain - dark_gain)[changed].mean() < 0.02


def test_a_grey_portrait_is_shaded_in_grey(rig: Rig, still: Still) -> None:
    grey = cv2.cvtColor(still.window.of(still.picture), cv2.COLOR_RGB2GRAY)
    drawn = shading(rig.shape, np.ascontiguousarray(np.repeat(grey[..., None], 3, axis=2))).apply(
        pose(smile=1, frown=1, brow_down=1)
    )
    assert (drawn[..., 0] != grey).any()
    assert np.ptp(drawn.astype(int), axis=2).max() <= 1


def test_when_a_smile_goes_its_folds_go_too(rig: Rig, still: Still) -> None:
    """How much darker the fold is than the skin to both sides of it, before and after."""
    picture = np.ascontiguousarray(still.window.of(still.picture))
    line = rig.shape.points[list(lm.FOLDS[0])][1:3]
    places = np.linspace(line[0], line[1], 9)

    def depth(image: Image) -> float:
        luma = cv2.GaussianBlur(image @ LUMA, (0, 0), 0.012 * rig.shape.unit)
        beside = [at(rig.shape, luma, np.add(places, (shift, 0)), 0.0) for shift in (-0.09, 0.09)]
        return max(beside) - at(rig.shape, luma, places, 0.0)

    assert depth(picture) > 15
    assert depth(shading(rig.shape, picture).apply(pose(smile=-1))) < 0.6 * depth(picture)


def test_hair_is_not_creased(rig: Rig, still: Still) -> None:
    """The example's forehead lies under a fringe."""
    picture = np.ascontiguousarray(still.window.of(still.picture))
    found = np.abs(gain(rig.shape, picture, brow_up=1, brow_in=1) - 1)
    (left, top), (right, _), (_, brow) = rig.shape.to_pixels(rig.shape.points[[109, 284, 334]]).astype(int)
    forehead = (slice(top, brow), slice(left, right))
    hair = picture[forehead] @ LUMA < 100
    assert hair.sum() > 1000
    assert found[forehead][hair].mean() < 0.003
    assert found[forehead][~hair].mean() > 0.003
