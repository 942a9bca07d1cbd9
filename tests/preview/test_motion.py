"""The performance: seeded, different for every emotion, and obedient to the scales."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from numpy.typing import NDArray

from engines.base import Emotion
from engines.preview.bases import HEAD_BASES
from engines.preview.motion import expression_gain, perform
from engines.preview.mouth import MouthTracks
from engines.preview.rig import BASES, Rig
from tests.preview.conftest import PARAMS

Act = Callable[..., NDArray[np.float32]]

FRAMES = 200
HEAD = [BASES.index(name) for name in HEAD_BASES]


@pytest.fixture
def act(tracks: MouthTracks, rig: Rig) -> Act:
    def perform_with(**changes: object) -> NDArray[np.float32]:
        changed = replace(PARAMS, **changes)  # type: ignore[arg-type]
        return perform(tracks.resampled(FRAMES, changed.fps), rig.shape, changed, FRAMES)

    return perform_with


def column(poses: NDArray[np.float32], name: str) -> NDArray[np.float32]:
    return poses[:, BASES.index(name)]


def test_the_first_pose_is_the_portrait(act: Act) -> None:
    for emotion in Emotion:
        assert not act(emotion=emotion)[0].any()


def test_a_seed_is_repeatable_and_another_differs(act: Act) -> None:
    assert np.array_equal(act(seed=5), act(seed=5))
    one, other = act(seed=0), act(seed=2**32 - 1)
    assert np.abs(one[:, HEAD] - other[:, HEAD]).max() > 0.01
    assert not np.array_equal(column(one, "blink"), column(other, "blink"))


def test_dynamic_scale_scales_the_head_and_only_the_head(act: Act) -> None:
    calm, lively = act(dynamic_scale=0.5), act(dynamic_scale=2.0)
    np.testing.assert_allclose(lively[:, HEAD], 4 * calm[:, HEAD], rtol=1e-4, atol=1e-7)
    rest = [index for index in range(len(BASES)) if index not in HEAD]
    assert np.array_equal(lively[:, rest], calm[:, rest])


def test_every_emotion_is_a_pose_of_its_own(act: Act) -> None:
    held = {emotion: act(emotion=emotion)[30:].mean(axis=0) for emotion in Emotion}
    for one, other in combinations(Emotion, 2):
        assert np.abs(held[one] - held[other]).max() > 0.15, (one, other)


def test_emo_scale_and_ref_scale_pull_against_each_other(act: Act) -> None:
    def smile(**scales: float) -> float:
        return float(column(act(emotion=Emotion.HAPPY, **scales), "smile")[30:].mean())

    assert smile(emo_scale=0.0) == 0
    assert smile(emo_scale=3.0) < smile() < smile(emo_scale=9.0)
    assert smile(ref_scale=8.0) < smile() < smile(ref_scale=0.0)
    assert expression_gain(replace(PARAMS, emo_scale=10.0, ref_scale=0.0)) <= 1.4


def test_the_scales_act_on_a_neutral_face_too(act: Act) -> None:
    assert (
        column(act(emo_scale=9.0), "jaw").max() > column(act(), "jaw").max() > column(act(emo_scale=2.0), "jaw").max()
    )
    assert column(act(ref_scale=0.0), "jaw").max() > column(act(ref_scale=9.0), "jaw").max()


def test_eyes_blink_and_open_again(act: Act) -> None:
    blink = column(act(), "blink")
    assert blink.max() > 0.9
    shut = blink > 0.5
    assert 2 <= np.count_nonzero(np.diff(shut.astype(int)) == 1) <= 4  # in 8 s
    assert shut.mean() < 0.1


def test_lids_that_squint_do_not_blink_past_each_other(act: Act) -> None:
    poses = act(emotion=Emotion.HAPPY)
    assert (column(poses, "blink") + 0.45 * column(poses, "squint")).max() < 1.05


def test_lips_meet_under_every_emotion(act: Act, tracks: MouthTracks) -> None:
    closed = tracks.resampled(FRAMES, 25).close > 0.9
    closed[:15] = False
    for emotion in Emotion:
        poses = act(emotion=emotion)
        assert column(poses, "jaw")[closed].max() < 0.15, emotion


@pytest.mark.parametrize("fps", [8, 60])
def test_motion_is_the_same_at_every_frame_rate(rig: Rig, tracks: MouthTracks, fps: int) -> None:
    params = replace(PARAMS, emotion=Emotion.SURPRISED)
    usual = perform(tracks.resampled(200, 25), rig.shape, params, 200)
    other = perform(tracks.resampled(8 * fps, fps), rig.shape, replace(params, fps=fps), 8 * fps)
    for second in (2, 4, 6):
        for name in ("yaw", "roll", "brow_up"):
            assert column(other, name)[second * fps] == pytest.approx(column(usual, name)[second * 25], abs=0.05)
