"""The contact sheet that the preview is judged by."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from benchmarks import preview_sheet
from benchmarks.preview_sheet import CAPTION, FPS, TILE, Scene, sheet, speaking, strip
from engines.base import Emotion, Image
from engines.preview.face import FaceFinder
from engines.preview.mouth import MouthTracks
from engines.preview.rig import BASES


@pytest.fixture(scope="module")
def spoken(tracks: MouthTracks) -> MouthTracks:
    return tracks.resampled(200, FPS)


def test_a_sheet_shows_every_emotion_with_the_mouth_open(
    portrait: Image, finder: FaceFinder, spoken: MouthTracks
) -> None:
    scene = Scene.of(portrait, finder, spoken)
    for emotion in Emotion:
        poses = scene.poses(emotion, 6.0)
        shown = poses[speaking(spoken, poses)]
        assert shown[BASES.index("jaw")] > np.median(poses[:, BASES.index("jaw")])
        assert shown[BASES.index("blink")] < 0.4


def test_one_portrait_makes_two_rows_of_four(portrait: Image, finder: FaceFinder, spoken: MouthTracks) -> None:
    drawn = sheet({"one": portrait}, finder, spoken, 6.0)
    assert drawn.shape == (2 * (TILE + CAPTION), 4 * TILE, 3)
    tiles = [drawn[y : y + TILE, x : x + TILE] for y in (0, TILE + CAPTION) for x in range(0, 4 * TILE, TILE)]
    for number, tile in enumerate(tiles):
        for other in tiles[:number]:
            assert np.abs(tile.astype(int) - other).max() > 60


def test_a_strip_shows_consecutive_frames(portrait: Image, finder: FaceFinder, spoken: MouthTracks) -> None:
    drawn = strip(portrait, finder, spoken, Emotion.HAPPY, emo_scale=6.0, start=30)
    assert drawn.shape[1] == preview_sheet.STRIP_FRAMES * TILE
    frames = [drawn[:TILE, x : x + TILE].astype(int) for x in range(0, drawn.shape[1], TILE)]
    steps = [np.abs(after - before).mean() for before, after in pairwise(frames)]
    assert min(steps) > 0
    assert max(steps) < 8
