"""Portraits that are hard to animate: what their owners are told, and that good photographs are left in peace."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import pytest

from benchmarks import portraits
from engines.base import Image, NoFaceError
from engines.preview import face as face_module
from engines.preview.face import FaceFinder
from tests.preview.test_face import resized, rotated, turned

SMALL = "The face is small (eyes {} pixels apart); the video will be blurred."
DARK = "The face is dark; a photograph taken in better light gives a clearer video."
SUNGLASSES = "The eyes seem to be covered by sunglasses; a blink will look drawn on the glass."
PAINTED = "The picture looks painted or reduced to a few colours; a photograph moves more naturally."


@pytest.fixture(scope="module")
def sources() -> dict[str, Image]:
    return portraits.sources()


def darkened(image: Image, share: float) -> Image:
    return (image * share).astype(np.uint8)


def contrasty(image: Image) -> Image:
    """Dark skin and deep eye sockets: what is dark becomes much darker, what is light hardly."""
    return (255 * (image / 255.0) ** 2).astype(np.uint8)


def recompressed(image: Image, quality: int) -> Image:
    _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)


def with_glasses(finder: FaceFinder, image: Image, shade: int, opacity: float = 1.0) -> Image:
    """Round lenses before the eyes, and a bridge between them."""
    points = finder.landmarks(image, finder.inspect(image).face)[:, :2]
    right, left = points[[33, 133]].mean(axis=0), points[[263, 362]].mean(axis=0)
    distance = float(np.linalg.norm(left - right))
    lenses = np.zeros(image.shape[:2], np.float32)
    for x, y in (right, left):
        cv2.ellipse(lenses, ((float(x), float(y)), (0.66 * distance, 0.5 * distance), 0), opacity, -1)
    start, end = (tuple(map(int, eye)) for eye in (right, left))
    cv2.line(lenses, start, end, opacity, max(1, round(0.06 * distance)))
    return np.round(image * (1 - lenses[..., None]) + shade * lenses[..., None]).astype(np.uint8)


def beside(*pictures: Image) -> Image:
    """Pictures in a row, on grey."""
    height = max(picture.shape[0] for picture in pictures)
    padded = [np.pad(one, ((0, height - one.shape[0]), (0, 0), (0, 0)), constant_values=128) for one in pictures]
    return np.concatenate(padded, axis=1)


@pytest.mark.parametrize("source", ["example", "hopper"])
@pytest.mark.parametrize("name", ["plain", "relit", "mirrored", "grey", "tilted"])
def test_good_photographs_get_no_warning(finder: FaceFinder, sources: dict[str, Image], source: str, name: str) -> None:
    assert finder.inspect(portraits.VARIANTS[name](sources[source])).warnings == ()


@pytest.mark.parametrize("source", ["example", "hopper"])
@pytest.mark.parametrize(
    "change",
    [
        lambda image: recompressed(image, 30),
        lambda image: recompressed(image, 75),
        lambda image: cv2.GaussianBlur(image, (0, 0), 2),
        lambda image: cv2.resize(image, None, fx=3, fy=3, interpolation=cv2.INTER_NEAREST),
        lambda image: resized(image, 0.65),
        lambda image: cv2.bilateralFilter(image, 7, 30, 5),
        lambda image: darkened(image, 0.4),
        contrasty,
    ],
    ids=["jpeg 30", "jpeg 75", "blurred", "enlarged", "reduced", "smoothed", "darker", "contrasty"],
)
def test_neither_do_their_copies(
    finder: FaceFinder, sources: dict[str, Image], source: str, change: Callable[[Image], Image]
) -> None:
    assert finder.inspect(np.asarray(change(sources[source]))).warnings == ()


@pytest.mark.parametrize("source", ["example", "hopper"])
def test_a_dark_face_is_warned_about_and_a_black_one_refused(
    finder: FaceFinder, sources: dict[str, Image], source: str
) -> None:
    assert finder.inspect(darkened(sources[source], 0.15)).warnings == (DARK,)
    with pytest.raises(NoFaceError, match=r"The face in the picture is nearly black\. .*better light"):
        finder.inspect(darkened(sources[source], 0.045))
    with pytest.raises(NoFaceError, match=r"picture is nearly black\. .*better light"):
        finder.inspect(darkened(sources[source], 0.01))


@pytest.mark.parametrize("side", ["left", "bottom"])
def test_a_face_that_the_picture_cuts_off_is_refused(finder: FaceFinder, portrait: Image, side: str) -> None:
    face = finder.inspect(portrait).face
    left, bottom = int(0.6 * face.left + 0.4 * face.right), int(0.4 * face.top + 0.6 * face.bottom)
    cut = portrait[:, left:] if side == "left" else portrait[:bottom]
    with pytest.raises(NoFaceError, match=r"cut off by the edge of the picture\. .*both eyes and the whole mouth"):
        finder.inspect(np.ascontiguousarray(cut))


@pytest.mark.parametrize("source", ["example", "hopper"])
@pytest.mark.parametrize(("shade", "opacity"), [(14, 1.0), (40, 1.0), (14, 0.75)], ids=["black", "brown", "tinted"])
def test_sunglasses_are_warned_about(
    finder: FaceFinder, sources: dict[str, Image], source: str, shade: int, opacity: float
) -> None:
    assert finder.inspect(with_glasses(finder, sources[source], shade, opacity)).warnings == (SUNGLASSES,)


def test_sunglasses_are_seen_on_a_tilted_head_and_on_dark_skin(finder: FaceFinder, portrait: Image) -> None:
    worn = with_glasses(finder, portrait, 10)
    assert finder.inspect(rotated(worn, 25)).warnings == (SUNGLASSES,)
    assert finder.inspect(contrasty(worn)).warnings == (SUNGLASSES,)


@pytest.mark.parametrize("source", ["example", "hopper"])
@pytest.mark.parametrize(
    "change",
    [
        portraits.painted,
        lambda image: resized(portraits.painted(image), 0.7),
        lambda image: cv2.resize(portraits.painted(image), None, fx=2, fy=2),
    ],
    ids=["poster", "smaller", "larger"],
)
def test_a_painted_picture_is_warned_about(
    finder: FaceFinder, sources: dict[str, Image], source: str, change: Callable[[Image], Image]
) -> None:
    assert finder.inspect(np.asarray(change(sources[source]))).warnings == (PAINTED,)


@pytest.mark.parametrize(
    ("source", "degrees"), [("example", 90), ("example", 150), ("example", 180), ("hopper", 180), ("hopper", 225)]
)
def test_a_photograph_that_is_not_upright_is_to_be_turned(
    finder: FaceFinder, sources: dict[str, Image], source: str, degrees: int
) -> None:
    with pytest.raises(NoFaceError, match=r"(tilted by about|upside down).*Please turn the photograph upright\."):
        finder.inspect(rotated(sources[source], degrees))


def test_a_face_upside_down_in_a_large_picture_is_seen_as_such(finder: FaceFinder, portrait: Image) -> None:
    scene = np.full((1400, 1400, 3), 90, np.uint8)
    scene[700 : 700 + portrait.shape[0], 200 : 200 + portrait.shape[1]] = rotated(portrait, 180)
    with pytest.raises(NoFaceError, match=r"upside down\. Please turn the photograph upright\."):
        finder.inspect(scene)


def test_a_face_that_would_be_tiny_in_the_video_is_better_cropped(finder: FaceFinder, portrait: Image) -> None:
    scene = np.full((1400, 1400, 3), 90, np.uint8)
    scene[700 : 700 + portrait.shape[0], 200 : 200 + portrait.shape[1]] = portrait
    assert finder.inspect(scene).warnings == (
        "The face takes up little of the picture: without crop, and at a min_resolution of 512, its eyes are about 15 "
        "pixels apart in the video.",
    )


def test_a_smaller_face_is_taken_where_the_largest_is_turned_away(finder: FaceFinder, portrait: Image) -> None:
    profile = turned(finder, resized(portrait, 1.5), -50)
    found = finder.inspect(beside(profile, portrait))
    assert found.face.left > profile.shape[1]
    assert len(found.warnings) == 1
    assert found.warnings[0].startswith("2 faces were found in the picture; the largest one is turned away by about ")
    assert found.warnings[0].endswith(" degrees, so another one is animated.")


def test_a_smaller_face_is_taken_where_the_largest_lies_on_its_side(finder: FaceFinder, portrait: Image) -> None:
    lying = rotated(resized(portrait, 1.5), 80)
    found = finder.inspect(beside(lying, portrait))
    assert found.face.left > lying.shape[1]
    assert "the largest one is tilted by about " in found.warnings[0]


def test_a_crowd_of_unclear_faces_is_turned_round_once_for_each_scale(
    finder: FaceFinder, portrait: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each look costs as much as finding all faces."""
    turned_round = []
    turn = face_module._upside_down

    def counted(image: Image) -> Image:
        turned_round.append(image.shape)
        return turn(image)

    monkeypatch.setattr(face_module, "_upside_down", counted)
    profile = turned(finder, portrait, -50)
    with pytest.raises(NoFaceError):
        finder.inspect(beside(*[profile] * 4))
    assert 1 <= len(turned_round) <= len(face_module.DIVISORS)


def test_where_no_face_is_usable_the_largest_is_spoken_of(finder: FaceFinder, portrait: Image) -> None:
    profile = turned(finder, portrait, -50)
    with pytest.raises(NoFaceError, match="turned away by about"):
        finder.inspect(beside(profile, resized(portrait, 0.2)))


def test_a_small_face_keeps_its_warning(finder: FaceFinder, portrait: Image) -> None:
    assert finder.inspect(portraits.small(portrait)).warnings == (SMALL.format(19),)
