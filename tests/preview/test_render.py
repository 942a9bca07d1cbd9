"""Frames: the portrait where nothing moves, the badge always, lips and lids where the pose puts them."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from engines.base import Image
from engines.preview.badge import Badge
from engines.preview.face import FaceFinder
from engines.preview.frame import Still
from engines.preview.render import Renderer
from engines.preview.rig import Rig, build
from tests.preview.conftest import pose

LIVELY = pose(jaw=0.5, lip=0.3, close=1, smile=0.6, brow_up=0.5, yaw=0.08, pitch=-0.05, roll=0.04, shift_x=0.02)


def without_badge(image: Image) -> Image:
    cleared = image.copy()
    cleared[Badge(image.shape[1], image.shape[0]).area] = 0
    return cleared


def gap(finder: FaceFinder, rig: Rig, frame: Image) -> float:
    """Opening of the lips in face units, measured on the picture by the face mesh."""
    face = finder.inspect(frame).face
    points = finder.landmarks(frame, face)
    return float(np.linalg.norm(points[13, :2] - points[14, :2])) / rig.shape.unit


def test_the_zero_pose_is_the_portrait(renderer: Renderer, still: Still) -> None:
    assert np.array_equal(without_badge(renderer.frame(pose())), without_badge(still.picture))


def test_a_pose_that_moves_nothing_draws_the_portrait(renderer: Renderer, still: Still) -> None:
    """Through the whole drawing: warps, lids and the inside of the open mouth add nothing of their own."""
    drawn = without_badge(renderer.frame(pose(yaw=1e-6))).astype(int)
    assert np.abs(drawn - without_badge(still.picture)).max() <= 2


def test_outside_and_on_the_rim_of_the_window_nothing_changes(renderer: Renderer, still: Still) -> None:
    drawn, picture = without_badge(renderer.frame(LIVELY)), without_badge(still.picture)
    window, side = still.window, still.window.side
    inner = (slice(window.top + 2, window.top + side - 2), slice(window.left + 2, window.left + side - 2))
    assert (drawn[inner] != picture[inner]).mean() > 0.1
    drawn[inner] = picture[inner]
    assert np.array_equal(drawn, picture)


def test_there_is_no_step_anywhere(renderer: Renderer, still: Still) -> None:
    """A seam would be an edge in the moved picture where the portrait has none, a black border a dark line."""
    drawn = still.window.of(without_badge(renderer.frame(LIVELY)))
    picture = still.window.of(without_badge(still.picture))
    for offset in range(3, 12):
        ring = [drawn[offset], drawn[-1 - offset], drawn[:, offset], drawn[:, -1 - offset]]
        same = [picture[offset], picture[-1 - offset], picture[:, offset], picture[:, -1 - offset]]
        for one, other in zip(ring, same, strict=True):
            assert np.abs(one.astype(int) - other).mean() < 4


@pytest.mark.parametrize("size", [(256, 256), (512, 640), (1024, 1536)])
def test_the_badge_is_readable_on_black_and_white(size: tuple[int, int]) -> None:
    width, height = size
    badge = Badge(width, height)
    for shade in (0, 255):
        frame = np.full((height, width, 3), shade, np.uint8)
        badge.stamp(frame)
        rows, columns = badge.area
        assert rows.stop <= height
        assert columns.stop <= width
        plate = frame[badge.area]
        assert plate.shape[0] == pytest.approx(0.045 * min(size), abs=1)
        assert int(plate.max()) - int(plate.min()) > 80
        outside = frame.copy()
        outside[badge.area] = shade
        assert (outside == shade).all()


def test_every_frame_carries_the_badge(renderer: Renderer, still: Still) -> None:
    area = Badge(still.picture.shape[1], still.picture.shape[0]).area
    for weights in (pose(), LIVELY):
        assert (renderer.frame(weights)[area] != still.picture[area]).mean() > 0.9


def test_frames_depend_on_their_pose_alone(renderer: Renderer) -> None:
    first = renderer.frame(LIVELY)
    renderer.frame(pose(blink=1))
    assert np.array_equal(renderer.frame(LIVELY), first)


def test_the_lips_go_where_the_pose_puts_them(renderer: Renderer, rig: Rig, finder: FaceFinder) -> None:
    shut = gap(finder, rig, renderer.frame(pose(close=1)))
    ajar = gap(finder, rig, renderer.frame(pose(close=1, jaw=0.25)))
    wide = gap(finder, rig, renderer.frame(pose(close=1, jaw=0.7, lip=0.3)))
    assert shut < 0.015
    assert 0.02 < ajar < wide
    assert wide > 0.12


def test_a_blink_hides_the_eyes(renderer: Renderer, still: Still, rig: Rig) -> None:
    """The dark irises vanish behind the lids."""
    open_eyes, shut = renderer.frame(pose()), renderer.frame(pose(blink=1))
    for iris in (468, 473):
        x, y = still.landmarks[iris, :2].round().astype(int)
        reach = round(0.03 * rig.shape.unit)
        here = (slice(y - reach, y + reach + 1), slice(x - reach, x + reach + 1))
        assert shut[here].mean() > open_eyes[here].mean() + 40


def test_a_black_and_white_portrait_stays_one(still: Still) -> None:
    grey = np.repeat(cv2.cvtColor(still.picture, cv2.COLOR_RGB2GRAY)[..., np.newaxis], 3, axis=2)
    colourless = replace(still, picture=np.asarray(grey, np.uint8))
    frame = Renderer(colourless, build(colourless)).frame(pose(close=1, jaw=0.9, lip=0.3)).astype(int)
    assert np.ptp(frame, axis=2).max() <= 2


def test_an_open_mouth_is_dark_or_teeth_inside(renderer: Renderer, rig: Rig, still: Still) -> None:
    frame = renderer.frame(pose(close=1, jaw=0.9, lip=0.3))
    corner = np.array([still.window.left, still.window.top])
    lips = rig.shape.to_pixels(rig.shape.points[[13, 14]]) + corner
    x = int(lips[:, 0].mean())
    column = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)[int(lips[0, 1]) : int(lips[1, 1] + 0.2 * rig.shape.unit), x]
    assert column.max() > 150  # teeth
    assert column.min() < 70  # throat
