"""The contact sheet that the preview is judged by."""

from __future__ import annotations

import numpy as np

from benchmarks import preview_sheet
from benchmarks.preview_sheet import CAPTION, FPS, TILE, Scene, sheet, speaking, strip
from engines.base import Emotion, Image
from engines.preview.face import FaceFinder
from engines.preview.mouth import MouthTracks
from engines.preview.rig import BASES


def test_a_sheet_shows_every_emotion_with_the_mouth_open(
    portrait: Image, finder: FaceFinder, tracks: MouthTracks
) -> None:
    spoken = tracks.resampled(200, FPS)
    scene = Scene.of(portrait, finder, spoken)
    for emotion in Emotion:
        poses = scene.poses(emotion, 6.0)
        shown = poses[speaking(spoken, poses)]
        assert shown[BASES.index("jaw")] > np.median(poses[:, BASES.index("jaw")])
        assert shown[BASES.index("blink")] < 0.4


def test_one_portrait_makes_two_rows_of_four(portrait: Image, finder: FaceFinder) -> None:
    drawn = sheet({"one": portrait}, finder, 6.0)
    assert drawn.shape == (2 * (TILE + CAPTION), 4 * TILE, 3)
    tiles = [drawn[y : y + TILE, x : x + TILE] for y in (0, TILE + CAPTION) for x in range(0, 4 * TILE, TILE)]
    for number, tile in enumerate(tiles):
        for other in tiles[:number]:
            assert np.abs(tile.astype(int) - other).max() > 60


def test_a_strip_shows_consecutive_frames(portrait: Image, finder: FaceFinder) -> None:
    drawn = strip(portrait, finder, Emotion.HAPPY, 6.0, 30)
    assert drawn.shape[1] == preview_sheet.STRIP_FRAMES * TILE
    frames = [drawn[:TILE, x : x + TILE].astype(int) for x in range(0, drawn.shape[1], TILE)]
    steps = [np.abs(after - before).mean() for before, after in zip(frames[:-1], frames[1:], strict=True)]
    assert 0 < min(steps)
    assert max(steps) < 8
