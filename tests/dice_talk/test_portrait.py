"""The portrait's geometry: the square around the face, the face mask, the size of the video."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from engines.base import FaceBox
from engines.dice_talk.portrait import MASK_AREA, crop_box, cut, mask_rectangle, resized_mask, tensors, video_size

unhurried = settings(deadline=None)
SIDES = st.integers(64, 2000)
RATIOS = st.floats(0.1, 2.0)


@st.composite
def pictures(draw: st.DrawFn, *, inside: bool, largest: int = 2000) -> tuple[int, int, FaceBox]:
    """Width and height of an image, and a face, in quarters of a pixel; its centre lies inside the image or not."""
    width, height = (draw(st.integers(64, largest)) for _ in range(2))
    face_width, face_height = (draw(st.integers(16, 4 * largest)) / 4 for _ in range(2))
    reach = 0 if inside else largest // 2
    x, y = (draw(st.integers(-4 * reach, 4 * (side + reach))) / 4 for side in (width, height))
    return width, height, FaceBox(x - face_width / 2, y - face_height / 2, x + face_width / 2, y + face_height / 2, 0.2)


@unhurried
@given(pictures(inside=True), RATIOS)
@example((100, 100, FaceBox(98, 98, 102, 102)), 0.1)
def test_the_crop_is_a_square_of_the_image_with_the_face_in_it(picture: tuple[int, int, FaceBox], ratio: float) -> None:
    width, height, face = picture
    left, top, right, bottom = crop_box(face, ratio, width, height)
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height
    assert abs((right - left) - (bottom - top)) <= 1
    assert left - 1 <= (face.left + face.right) / 2 <= right + 1
    assert top - 1 <= (face.top + face.bottom) / 2 <= bottom + 1


@unhurried
@given(st.integers(10, 300), st.integers(10, 300), RATIOS)
def test_the_margin_is_a_share_of_the_face_where_there_is_room(width: int, height: int, ratio: float) -> None:
    face = FaceBox(1000 - width / 2, 1200 - height / 2, 1000 + width / 2, 1200 + height / 2)
    left, top, right, bottom = crop_box(face, ratio, 2000, 2400)
    side = (1 + 2 * ratio) * min(width, height)
    assert right - left == pytest.approx(side, abs=1.01)
    assert bottom - top == pytest.approx(side, abs=1.01)
    assert (left + right) / 2 == pytest.approx(1000, abs=1.01)
    assert (top + bottom) / 2 == pytest.approx(1200, abs=1.01)


def test_a_face_at_the_edge_stays_as_near_to_the_middle_as_the_image_allows() -> None:
    assert crop_box(FaceBox(0, 400, 100, 500), 0.5, 1000, 1000) == (0, 375, 150, 525)
    assert crop_box(FaceBox(900, 400, 1000, 500), 0.5, 1000, 1000) == (850, 375, 1000, 525)
    assert crop_box(FaceBox(400, 100, 800, 500), 2.0, 1000, 600) == (300, 0, 900, 600)


@unhurried
@given(pictures(inside=True))
def test_the_mask_lies_in_the_image_and_covers_the_face(picture: tuple[int, int, FaceBox]) -> None:
    width, height, face = picture
    top, bottom, left, right = mask_rectangle(face, width, height)
    assert 0 <= left <= right <= width
    assert 0 <= top <= bottom <= height
    # The centre and the half sides are whole pixels, so up to two of them are lost.
    assert left <= max(face.left - 0.05 * (face.right - face.left), 0) + 2
    assert right >= min(face.right + 0.05 * (face.right - face.left), width) - 2
    assert top <= max(face.top - 0.05 * (face.bottom - face.top), 0) + 2
    assert bottom >= min(face.bottom + 0.05 * (face.bottom - face.top), height) - 2


@unhurried
@given(pictures(inside=False))
def test_a_face_far_outside_has_no_mask(picture: tuple[int, int, FaceBox]) -> None:
    width, height, face = picture
    grown_x, grown_y = 0.05 * (face.right - face.left) + 1, 0.05 * (face.bottom - face.top) + 1
    away = (
        face.right + grown_x <= 0 or face.left - grown_x >= width or
        face.bottom + grown_y <= 0 or face.top - grown_y >= height
    )  # fmt: skip
    assume(away)
    top, bottom, left, right = mask_rectangle(face, width, height)
    assert top >= bottom or left >= right


def coordinates(width: int, height: int) -> NDArray[np.uint8]:
    """A picture whose pixels tell where they are."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([columns % 256, rows % 256, columns // 256 + 16 * (rows // 256)], axis=-1).astype(np.uint8)


@unhurried
@given(pictures(inside=False, largest=400), RATIOS)
@example((400, 300, FaceBox(-150, 80, 20, 240)), 0.1)
@example((400, 300, FaceBox(-200, 80, -2, 240)), 0.1)
def test_the_face_moves_with_the_crop(picture: tuple[int, int, FaceBox], ratio: float) -> None:
    width, height, face = picture
    top, bottom, left, right = mask_rectangle(face, width, height)
    assume(top < bottom and left < right)  # others are refused before
    image = coordinates(width, height)
    square, moved = cut(image, face, ratio)
    x, y = face.left - moved.left, face.top - moved.top
    assert (face.right - moved.right, face.bottom - moved.bottom, moved.roll) == (x, y, face.roll)
    assert (x % 1, y % 1) == (0, 0)
    side_y, side_x = square.shape[:2]
    assert min(side_x, side_y) >= 1
    assert np.array_equal(square, image[int(y) : int(y) + side_y, int(x) : int(x) + side_x])
    # The mask is the same part of the picture, as far as the square shows it, and it does show some of it.
    inside = np.zeros((height, width), np.uint8)
    inside[top:bottom, left:right] = 1
    rows, columns = mask_rectangle(moved, side_x, side_y)[:2], mask_rectangle(moved, side_x, side_y)[2:]
    mask = np.zeros((side_y, side_x), np.uint8)
    mask[slice(*rows), slice(*columns)] = 1
    assert np.array_equal(mask, inside[int(y) : int(y) + side_y, int(x) : int(x) + side_x])
    assert mask.any()


@unhurried
@given(SIDES, st.floats(1 / 3, 3), st.integers(4, 16).map(lambda count: 64 * count))
def test_the_video_has_the_short_side_asked_for_and_nearly_the_aspect(width: int, aspect: float, short: int) -> None:
    height = round(width * aspect)
    assume(height >= 64)
    size = video_size(width, height, short)
    assert all(side % 64 == 0 for side in size)
    assert min(size) == short
    assert size[0 if width < height else 1] == short
    assert max(size) == pytest.approx(short * max(width, height) / min(width, height), abs=32 + 1e-6)


def test_a_short_side_between_two_multiples_becomes_the_nearest() -> None:
    assert video_size(500, 500, 300) == (320, 320)
    assert video_size(1000, 500, 350) == (704, 320)


def test_a_picture_of_the_right_size_is_not_resampled() -> None:
    image = coordinates(256, 320)
    face = FaceBox(64, 64, 164, 224)
    found = tensors(image, face, 256)
    assert torch.equal(((found.reference + 1) / 2 * 255).round().byte().permute(1, 2, 0), torch.from_numpy(image))
    expected = torch.zeros(320, 256)
    top, bottom, left, right = mask_rectangle(face, 256, 320)
    expected[top:bottom, left:right] = 1
    assert torch.equal(found.mask, expected)
    assert (top, bottom, left, right) == (56, 232, 59, 169), "a tenth larger"
    assert torch.equal(tensors(image, face, 256, area=MASK_AREA).mask, found.mask)


@unhurried
@given(st.integers(64, 400), st.integers(64, 400))
@example(64, 192)
def test_all_pictures_have_their_sizes_and_ranges(width: int, height: int) -> None:
    assume(max(width, height) <= 3 * min(width, height))
    image = coordinates(width, height)
    found = tensors(image, FaceBox(width * 0.3, height * 0.3, width * 0.7, height * 0.6), 256)
    columns, rows = video_size(width, height, 256)
    assert found.reference.shape == (3, rows, columns)
    assert found.mask.shape == (rows, columns)
    assert found.clip.shape == (3, 224, 224)
    assert {tensor.dtype for tensor in (found.reference, found.mask, found.clip)} == {torch.float32}
    assert -1 <= found.reference.min() < found.reference.max() <= 1
    assert 0 <= found.mask.min() < found.mask.max() <= 1
    assert found.mask[rows * 9 // 20, columns // 2] == 1
    assert found.mask[0, 0] == found.mask[-1, -1] == 0


def test_the_resized_mask_is_where_the_rectangle_was() -> None:
    mask = np.array(resized_mask((25, 75, 50, 150), (200, 100), (128, 64)))
    assert mask.shape == (64, 128)
    solid = mask > 127
    assert np.flatnonzero(solid.any(axis=1))[[0, -1]].tolist() == [16, 47]
    assert np.flatnonzero(solid.any(axis=0))[[0, -1]].tolist() == [32, 95]
