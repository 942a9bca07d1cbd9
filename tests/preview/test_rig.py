"""The rig moves what it should, smoothly, and nothing at the rim of its window."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from engines.base import Emotion
from engines.preview import landmarks as lm
from engines.preview.lattice import NODES, Field, grid, invert, sample
from engines.preview.motion import perform
from engines.preview.mouth import MouthTracks
from engines.preview.rig import BASES, Rig
from tests.preview.conftest import PARAMS, pose


def moved(rig: Rig, field: Field, *points: int) -> NDArray[np.float64]:
    """Mean displacement of landmarks in face units, (u, v)."""
    places = rig.shape.to_pixels(rig.shape.points[list(points)])
    displaced = places + sample(field, places, rig.lattice.step)
    return np.asarray((rig.shape.to_units(displaced) - rig.shape.points[list(points)]).mean(axis=0))


def test_no_pose_moves_nothing(rig: Rig) -> None:
    still = rig.displace(pose())
    for field in (still.upper, still.lower, still.skull, still.eyes):
        assert not field.any()
        assert not invert(field).any()


@pytest.mark.parametrize("name", BASES)
def test_every_basis_moves_the_face_but_not_the_rim(rig: Rig, name: str) -> None:
    moving = rig.displace(pose(**{name: 0.5}))
    for field in (moving.upper, moving.lower):
        assert np.abs(field).max() > 0.05
        for edge in (field[0], field[-1], field[:, 0], field[:, -1]):
            assert not edge.any()


def test_lips_and_lids_part(rig: Rig) -> None:
    jaw = rig.displace(pose(jaw=1))
    assert moved(rig, jaw.lower, 14)[1] == pytest.approx(0.26, abs=0.03)
    assert abs(moved(rig, jaw.upper, 13)[1]) < 0.02
    assert moved(rig, jaw.upper, lm.CHIN)[1] == pytest.approx(0.24, abs=0.04)
    blink = rig.displace(pose(blink=1))
    for upper, lower in lm.EYES:
        middle = len(upper) // 2
        aperture = rig.shape.points[lower[middle], 1] - rig.shape.points[upper[middle], 1]
        lid = moved(rig, blink.upper, upper[middle])[1]
        rim = moved(rig, blink.lower, lower[middle])[1]
        assert lid - rim == pytest.approx(aperture, rel=0.15)


def test_closing_shuts_an_open_mouth(rig: Rig) -> None:
    assert rig.shape.mouth_open
    shut = rig.displace(pose(close=1))
    gap = rig.shape.points[14, 1] - rig.shape.points[13, 1]
    assert moved(rig, shut.upper, 13)[1] - moved(rig, shut.lower, 14)[1] == pytest.approx(gap, abs=0.012)


def test_expressions_go_where_they_should(rig: Rig) -> None:
    corners, brows = (61, 291), (107, 336)
    assert moved(rig, rig.displace(pose(smile=1)).upper, *corners)[1] < -0.05
    assert moved(rig, rig.displace(pose(frown=1)).upper, *corners)[1] > 0.04
    assert moved(rig, rig.displace(pose(brow_up=1)).upper, *brows)[1] < -0.08
    assert moved(rig, rig.displace(pose(brow_down=1)).upper, *brows)[1] > 0.06
    smirk = rig.displace(pose(smirk=1)).upper
    assert moved(rig, smirk, 291)[1] < -0.05  # the subject's left
    assert abs(moved(rig, smirk, 61)[1]) < 0.02


def test_yaw_moves_the_nose_and_hardly_the_ears(rig: Rig) -> None:
    turned = rig.displace(pose(yaw=0.1)).skull
    nose = moved(rig, turned, 1)[0]
    assert nose > 0.03
    assert abs(moved(rig, turned, lm.EAR_LEFT, lm.EAR_RIGHT)[0]) < 0.5 * nose


def test_inversion_finds_the_way_back(rig: Rig) -> None:
    field = rig.displace(pose(jaw=0.4, smile=0.6, yaw=0.05)).upper
    back = invert(field)
    places = (grid() + back).reshape(-1, 2)
    residual = np.abs(sample(field, places, 1.0) + back.reshape(-1, 2))
    assert np.median(residual) * rig.lattice.step < 0.1
    assert np.percentile(residual, 99.5) * rig.lattice.step < 1.5


@pytest.mark.parametrize("extreme", [False, True], ids=["default", "extreme"])
@pytest.mark.parametrize("emotion", list(Emotion))
def test_no_emotion_folds_the_skin(rig: Rig, tracks: MouthTracks, emotion: Emotion, extreme: bool) -> None:
    frames = 100
    params = replace(PARAMS, emotion=emotion)
    if extreme:
        params = replace(params, emo_scale=10.0, ref_scale=0.0, dynamic_scale=3.0)
    poses = perform(tracks.resampled(frames, 25), rig.shape, params, frames)
    parts = np.zeros((NODES, NODES), bool)  # lips and eyes, where the layers overlap instead
    for upper, lower, margin in [(lm.UPPER_OUTER, lm.LOWER_OUTER, 0.12), *((*eye, 0.10) for eye in lm.EYES)]:
        places = rig.shape.to_pixels(rig.shape.points[[*upper, *lower]]) / rig.lattice.step
        reach = margin * rig.shape.unit / rig.lattice.step
        low, high = (places.min(axis=0) - reach).astype(int), (places.max(axis=0) + reach).astype(int) + 2
        parts[low[1] : high[1], low[0] : high[0]] = True
    for number in range(10, frames, 6):
        back = grid() + invert(rig.displace(poses[number]).upper)
        across, down = np.diff(back, axis=1)[:-1], np.diff(back, axis=0)[:, :-1]
        jacobian = across[..., 0] * down[..., 1] - across[..., 1] * down[..., 0]
        assert jacobian[~parts[:-1, :-1]].min() > (0.1 if extreme else 0.3)
