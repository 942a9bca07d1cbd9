"""What the face mesh sees in finished frames of a smiling portrait: the emotions change its mouth as they should."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from engines.base import Emotion
from engines.preview.face import FaceFinder
from engines.preview.motion import perform
from engines.preview.mouth import MouthTracks
from engines.preview.render import Renderer
from engines.preview.rig import Rig
from tests.preview.conftest import PARAMS

HELD = 20  # a frame at which the expression is there and no blink has begun


@pytest.fixture(scope="module")
def corners(finder: FaceFinder, renderer: Renderer, rig: Rig) -> dict[Emotion, tuple[float, float]]:
    """How far the corners of the mouth, the subject's right and left, lie below the nose in silence; face units."""
    silence = MouthTracks(*(np.zeros(HELD + 1) for _ in MouthTracks.__slots__))
    found = {}
    for emotion in (Emotion.NEUTRAL, Emotion.HAPPY, Emotion.SAD, Emotion.CONTEMPT):
        poses = perform(silence, rig.shape, replace(PARAMS, emotion=emotion), HELD + 1)
        frame = renderer.frame(poses[HELD])
        points = finder.landmarks(frame, finder.inspect(frame).face)[:, :2].astype(np.float64)
        across = points[263] - points[33]
        down = np.array([-across[1], across[0]]) / np.linalg.norm(across) / rig.shape.unit
        right, left = (points[[61, 291]] - points[2]) @ down
        found[emotion] = float(right), float(left)
    return found


def test_contempt_is_one_sided(corners: dict[Emotion, tuple[float, float]]) -> None:
    right, left = corners[Emotion.CONTEMPT]
    assert right - left > 0.05
    assert abs(np.subtract(*corners[Emotion.NEUTRAL])) < 0.025
    assert right > corners[Emotion.NEUTRAL][0] + 0.04  # the smile is gone on that side


def test_sadness_takes_the_corners_down(corners: dict[Emotion, tuple[float, float]]) -> None:
    for sad, neutral in zip(corners[Emotion.SAD], corners[Emotion.NEUTRAL], strict=True):
        assert sad - neutral > 0.06


def test_happiness_takes_them_up(corners: dict[Emotion, tuple[float, float]]) -> None:
    assert np.mean(corners[Emotion.HAPPY]) < np.mean(corners[Emotion.NEUTRAL]) - 0.015
