"""Sizes of the video and the place of the face in it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from engines.base import FaceBox, Image
from engines.preview.face import FaceFinder
from engines.preview.frame import make_still, video_size
from tests.preview.conftest import PARAMS


@pytest.mark.parametrize(
    ("size", "short", "expected"),
    [
        ((248, 310), 512, (512, 640)),
        ((310, 248), 512, (640, 512)),
        ((1000, 1000), 256, (256, 256)),
        ((101, 300), 256, (256, 760)),
        ((333, 500), 1024, (1024, 1538)),
    ],
)
def test_whole_portraits_keep_their_aspect_and_have_even_sides(
    size: tuple[int, int], short: int, expected: tuple[int, int]
) -> None:
    assert video_size(replace(PARAMS, min_resolution=short), size) == expected


def test_crops_are_square() -> None:
    assert video_size(replace(PARAMS, crop=True, min_resolution=320), (300, 900)) == (320, 320)


def test_expand_ratio_is_the_margin_around_the_face(finder: FaceFinder, portrait: Image) -> None:
    face = finder.inspect(portrait).face
    points = finder.landmarks(portrait, face)
    for ratio in (0.1, 0.3):
        still = make_still(portrait, face, points, replace(PARAMS, crop=True, expand_ratio=ratio))
        share = np.ptp(still.landmarks[:, 1]) / still.picture.shape[0]
        assert share == pytest.approx(1 / (1 + 2 * ratio), rel=0.03)
        assert still.landmarks[:, 1].min() == pytest.approx(256 * ratio / (1 + 2 * ratio), abs=3)


def test_crop_and_window_stay_inside_the_picture(portrait: Image, finder: FaceFinder) -> None:
    face = finder.inspect(portrait).face
    points = finder.landmarks(portrait, face)
    cut = np.ascontiguousarray(portrait[65:190, 72:175])  # hardly more than the face
    moved = FaceBox(face.left - 72, face.top - 65, face.right - 72, face.bottom - 65, face.roll)
    points = points - np.array([72, 65, 0], np.float32)
    for crop in (False, True):
        still = make_still(cut, moved, points, replace(PARAMS, crop=crop, expand_ratio=2.0))
        height, width = still.picture.shape[:2]
        window = still.window
        assert window.left >= 0
        assert window.top >= 0
        assert window.left + window.side <= width
        assert window.top + window.side <= height
        assert window.of(still.picture).shape == (window.side, window.side, 3)
