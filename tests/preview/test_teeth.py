"""Teeth that look like teeth, under the light that is on the face."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.portraits import grey, sources
from engines.base import Image
from engines.preview import landmarks as lm
from engines.preview import light
from engines.preview.face import FaceFinder
from engines.preview.frame import Still, make_still
from engines.preview.lattice import sample
from engines.preview.light import LUMA
from engines.preview.render import Renderer
from engines.preview.rig import Rig, build
from engines.preview.teeth import UPPER, Teeth
from tests.preview.conftest import PARAMS, pose

SPEAKING = pose(jaw=0.35, lip=0.5, upper_lip=0.3)
HALF, PIXEL = 0.34, 1 / 400


@pytest.fixture(scope="module")
def closed(finder: FaceFinder) -> tuple[Still, Rig]:
    """A portrait with closed lips, whose teeth must all be drawn."""
    picture = sources()["hopper"]
    face = finder.inspect(picture).face
    still = make_still(picture, face, finder.landmarks(picture, face), replace(PARAMS, min_resolution=512))
    return still, build(still)


def teeth_of(closed: tuple[Still, Rig], picture: Image) -> NDArray[np.float64]:
    """The pixels of the front teeth, (rows, columns, 3), when the portrait under another light speaks."""
    still, rig = closed
    assert not rig.shape.mouth_open
    frame = Renderer(replace(still, picture=picture), rig).frame(SPEAKING)
    x, y = rig.shape.to_pixels(np.array([0.0, 0.015])) + window_corner(still)
    reach, height = round(0.20 * rig.shape.unit), round(0.015 * rig.shape.unit)
    part = frame[round(y) - height : round(y) + height + 1, round(x) - reach : round(x) + reach + 1]
    return part.astype(np.float64)


def window_corner(still: Still) -> NDArray[np.intp]:
    """The corner of the moving window in the frame."""
    return np.array([still.window.left, still.window.top])


def brightness(pixels: NDArray[np.float64]) -> float:
    return float(np.percentile(pixels @ LUMA, 75))


def test_the_front_teeth_are_the_widest_and_their_edges_are_round() -> None:
    u = np.linspace(0, HALF, 800, dtype=np.float32)[None]
    edge, neck, tone = (plane[0] for plane in Teeth(UPPER, HALF, PIXEL).at(u))
    between = np.flatnonzero((tone[1:-1] < tone[:-2]) & (tone[1:-1] <= tone[2:]))
    assert len(between) >= 3
    widths = np.diff([0, *u[0, between]])
    assert widths[0] > widths[1]
    assert 1.15 < widths[0] / widths[1] < 1.6
    first = edge[: between[0]]
    assert first.max() - first[-1] > 0.008  # the corner towards the next tooth
    assert first.max() - first[0] > 0.004  # and at the middle line
    assert (edge - neck)[: between[0]].max() > 0.09


def test_both_sides_of_the_row_are_alike_and_its_ends_are_dark() -> None:
    u = np.linspace(-HALF, HALF, 401, dtype=np.float32)[None]
    _, _, tone = Teeth(UPPER, HALF, PIXEL).at(u)
    np.testing.assert_allclose(tone[0], tone[0, ::-1], atol=1e-5)
    assert tone[0, 10:40].max() < 0.7 * tone.max()


def test_lines_between_teeth_fade_where_pixels_are_coarse() -> None:
    u = np.linspace(-0.02, 0.02, 41, dtype=np.float32)[None]
    fine, coarse = (1 - Teeth(UPPER, HALF, pixel).at(u)[2].min() for pixel in (1 / 400, 1 / 40))
    assert fine > 0.25
    assert coarse < 0.65 * fine


def test_teeth_are_seen_between_the_lips(closed: tuple[Still, Rig]) -> None:
    still, rig = closed
    drawn = teeth_of(closed, still.picture)
    lips = np.median(still.window.of(still.picture)[tuple(rig.shape.to_pixels(rig.shape.points[17]).astype(int)[::-1])])
    assert brightness(drawn) > lips + 30
    assert np.ptp(np.median(drawn, axis=(0, 1))) < 90  # no lip is as pale


def test_nothing_of_the_mouth_is_drawn_beyond_its_corners(
    closed: tuple[Still, Rig], monkeypatch: pytest.MonkeyPatch
) -> None:
    still, rig = closed
    wide = pose(jaw=0.8, lip=0.4)
    renderer = Renderer(still, rig)
    opened = still.window.of(renderer.frame(wide)).astype(int)
    monkeypatch.setattr(Renderer, "_show_mouth", lambda self, *_, **__: None)
    drawn = np.abs(still.window.of(renderer.frame(wide)) - opened).max(axis=2) > 2
    assert drawn.sum() > 500
    moved = rig.displace(wide)
    places = rig.shape.to_pixels(rig.shape.points[[78, 308]])
    left, right = rig.shape.to_units(places + sample(moved.upper, places, rig.lattice.step))[:, 0]
    u = rig.shape.planes(np.argwhere(drawn)[:, ::-1].astype(np.float32))[0]
    assert u.min() > left - 1.5 / rig.shape.unit
    assert u.max() < right + 1.5 / rig.shape.unit


def test_teeth_follow_the_brightness_of_the_face(closed: tuple[Still, Rig]) -> None:
    still, _ = closed
    usual = brightness(teeth_of(closed, still.picture))
    for share in (0.35, 0.6):
        dark = np.asarray(still.picture * share, np.uint8)
        assert brightness(teeth_of(closed, dark)) == pytest.approx(share * usual, rel=0.12)


@pytest.mark.parametrize("towards", [-1, 1], ids=["from the left", "from the right"])
def test_teeth_are_brighter_on_the_side_of_the_light(closed: tuple[Still, Rig], towards: int) -> None:
    still, rig = closed
    u = rig.shape.planes(np.stack(np.meshgrid(*map(np.arange, still.picture.shape[1::-1])), -1).astype(np.float32))[0]
    u -= u[0, round(rig.shape.origin[0] + still.window.left)]
    lit = np.clip(still.picture * np.exp(0.8 * towards * u)[..., None] * 0.7, 0, 255).astype(np.uint8)
    drawn = teeth_of(closed, lit)
    third = drawn.shape[1] // 3
    left, right = brightness(drawn[:, :third]), brightness(drawn[:, -third:])
    assert (right / left) ** towards > 1.1
    even = teeth_of(closed, still.picture)
    assert brightness(even[:, :third]) == pytest.approx(brightness(even[:, -third:]), rel=0.08)


def test_teeth_are_never_brighter_than_the_highlights(closed: tuple[Still, Rig]) -> None:
    still, rig = closed
    for picture in (still.picture, np.asarray(still.picture * 0.3, np.uint8), np.asarray(still.picture // 2 + 127)):
        found = light.measure(rig.shape, np.ascontiguousarray(still.window.of(picture)))
        assert (teeth_of(closed, picture) @ LUMA).max() <= found.highlight


def test_grey_portraits_have_grey_teeth(closed: tuple[Still, Rig]) -> None:
    still, _ = closed
    assert np.ptp(teeth_of(closed, grey(still.picture)), axis=2).max() <= 2


def test_the_light_is_measured_on_the_skin(closed: tuple[Still, Rig]) -> None:
    still, rig = closed
    picture = np.ascontiguousarray(still.window.of(still.picture))
    usual = light.measure(rig.shape, picture)
    u, v = rig.shape.planes(np.stack(np.meshgrid(*map(np.arange, picture.shape[1::-1])), -1).astype(np.float32))
    turned = np.clip(picture * (0.6 * np.exp(0.5 * u - 0.3 * v))[..., None], 0, 255).astype(np.uint8)
    found = light.measure(rig.shape, turned)
    assert found.level == pytest.approx(0.6 * usual.level, rel=0.08)
    assert found.across - usual.across == pytest.approx(0.5, abs=0.15)
    assert found.down - usual.down == pytest.approx(-0.3, abs=0.15)
    cheek = rig.shape.to_pixels(rig.shape.points[lm.CHEEKS[0][0]]).astype(int)
    assert found.highlight > picture[cheek[1], cheek[0]] @ LUMA * 0.4
