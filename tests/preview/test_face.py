"""Which faces are found, which are refused, and what their owners are told."""

from __future__ import annotations

import math
import threading

import cv2
import numpy as np
import pytest

from engines.base import Image, NoFaceError
from engines.preview.face import FaceFinder
from engines.preview.sampling import look
from engines.preview.spline import Spline


def resized(image: Image, scale: float) -> Image:
    return np.asarray(cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), np.uint8)


def rotated(image: Image, degrees: float) -> Image:
    """The portrait, a little smaller, turned anticlockwise."""
    height, width = image.shape[:2]
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, 0.8)
    return np.asarray(cv2.warpAffine(image, turn, (width, height), borderMode=cv2.BORDER_REPLICATE), np.uint8)


def turned(finder: FaceFinder, image: Image, degrees: float) -> Image:
    """The portrait with its head turned about the vertical, by the depths of its landmarks."""
    points = finder.landmarks(image, finder.inspect(image).face)[:468].astype(np.float64)
    middle, angle = points.mean(axis=0), math.radians(degrees)
    offset = points - middle
    x = middle[0] + offset[:, 0] * math.cos(angle) + offset[:, 2] * math.sin(angle)
    height, width = image.shape[:2]
    places = np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1).reshape(-1, 2)
    spline = Spline(np.stack([x, points[:, 1]], axis=1) / 100)
    (sources,) = spline.evaluate(places / 100, [(np.arange(468), points[:, :2])])
    return look(image, sources.reshape(height, width, 2).astype(np.float32))


def test_finds_the_face_of_the_example(finder: FaceFinder, portrait: Image) -> None:
    found = finder.inspect(portrait)
    assert found.warnings == ()
    assert (found.face.left, found.face.top) == pytest.approx((76, 70), abs=4)
    assert (found.face.right, found.face.bottom) == pytest.approx((167, 179), abs=4)
    assert math.degrees(found.face.roll) == pytest.approx(3.3, abs=1.5)


def test_landmarks_of_the_found_face_lie_in_its_box(finder: FaceFinder, portrait: Image) -> None:
    face = finder.inspect(portrait).face
    points = finder.landmarks(portrait, face)
    assert points.shape == (478, 3)
    assert points[:, 0].min() == pytest.approx(face.left, abs=2)
    assert points[:, 1].max() == pytest.approx(face.bottom, abs=2)
    # The eyes lie above the nose, the nose above the mouth.
    assert points[33, 1] < points[1, 1] < points[13, 1]


@pytest.mark.parametrize("degrees", range(0, 360, 30))
def test_what_is_accepted_can_be_measured_again(finder: FaceFinder, portrait: Image, degrees: int) -> None:
    """A picture is refused at once, or it works in the job too; heads that are nearly upright always do."""
    picture = rotated(portrait, degrees)
    try:
        face = finder.inspect(picture).face
    except NoFaceError:
        assert 60 <= degrees <= 300
    else:
        assert finder.landmarks(picture, face).shape == (478, 3)


def test_roll_follows_the_picture(finder: FaceFinder, portrait: Image) -> None:
    upright = finder.inspect(portrait).face.roll
    leaning = finder.inspect(rotated(portrait, -40)).face.roll
    assert math.degrees(leaning - upright) == pytest.approx(40, abs=4)


@pytest.mark.parametrize("kind", ["noise", "blank"])
def test_no_face_is_an_error(finder: FaceFinder, kind: str) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    picture = noise if kind == "noise" else np.full((300, 400, 3), 128, np.uint8)
    with pytest.raises(NoFaceError, match="photograph"):
        finder.inspect(picture)


def test_of_several_faces_the_largest_is_taken(finder: FaceFinder, portrait: Image) -> None:
    large = resized(portrait, 1.6)
    both = np.full((large.shape[0], portrait.shape[1] + large.shape[1], 3), 128, np.uint8)
    both[: portrait.shape[0], : portrait.shape[1]] = portrait
    both[:, portrait.shape[1] :] = large
    found = finder.inspect(both)
    assert found.face.left > portrait.shape[1]
    assert found.warnings == ("2 faces were found in the picture; the largest one is animated.",)


def test_a_small_face_far_away_is_found(finder: FaceFinder, portrait: Image) -> None:
    scene = np.full((2048, 2048, 3), 90, np.uint8)
    scene[1500 : 1500 + portrait.shape[0], 300 : 300 + portrait.shape[1]] = portrait
    found = finder.inspect(scene)
    assert (found.face.left, found.face.top) == pytest.approx((376, 1570), abs=6)


def test_a_blurred_face_is_warned_about_and_a_tiny_one_refused(finder: FaceFinder, portrait: Image) -> None:
    (warning,) = finder.inspect(resized(portrait, 0.4)).warnings
    assert "small" in warning
    with pytest.raises(NoFaceError, match="too small"):
        finder.inspect(resized(portrait, 0.2))


def test_a_turned_face_is_warned_about_and_a_profile_refused(finder: FaceFinder, portrait: Image) -> None:
    assert finder.inspect(turned(finder, portrait, -15)).warnings == ()
    (warning,) = finder.inspect(turned(finder, portrait, -32)).warnings
    assert "turned by about" in warning
    with pytest.raises(NoFaceError, match="turned away by about"):
        finder.inspect(turned(finder, portrait, -50))


def test_grey_dark_and_huge_pictures_are_fine(finder: FaceFinder, portrait: Image) -> None:
    grey = np.repeat(portrait.mean(axis=2, keepdims=True), 3, axis=2).astype(np.uint8)
    dark = (portrait * 0.15).astype(np.uint8)
    huge = np.asarray(cv2.resize(portrait, (4960, 6200)), np.uint8)
    left = finder.inspect(portrait).face.left
    assert finder.inspect(grey).face.left == pytest.approx(left, abs=4)
    assert finder.inspect(dark).face.left == pytest.approx(left, abs=4)
    assert finder.inspect(huge).face.left / 20 == pytest.approx(left, abs=4)


def test_many_threads_get_the_same_answer(finder: FaceFinder, portrait: Image) -> None:
    answers = []

    def ask() -> None:
        for _ in range(5):
            answers.append(finder.inspect(portrait))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [finder.inspect(portrait)] * 20
