"""An objective score of the preview engine's videos, measured on the decoded file.

Do the lips open as far as the pose asks; does everything far from mouth, eyes and brows stay what it was but for the
motion of the head; does nothing flicker; do sound and picture end together and move together.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import cv2
import numpy as np
from av.audio.resampler import AudioResampler
from numpy.typing import NDArray
from PIL import Image as PillowImage

from engines.base import Image, SynthesisParams
from engines.preview import frame, motion, mouth, rig
from engines.preview import landmarks as lm
from engines.preview.badge import Badge
from engines.preview.bases import FACE_BASES
from engines.preview.engine import PreviewEngine
from engines.preview.face import FaceFinder
from engines.preview.lattice import sample
from engines.preview.motion import Poses
from engines.preview.render import Renderer
from media import video
from tests.jobs import make_job

Series = NDArray[np.float64]
"""One value per video frame."""

MIDDLES = (4, 5, 6)  # of the eleven points of each inner lip: those in the middle of the mouth
NEAR, EDGE = 0.14, 0.12  # face units of skin around mouth, eyes and brows, and along the oval, that do not count
FAR = 0.30  # face units outside the oval of the face: hair, ears, what is behind them
BLOCK = 8  # pixels: differences are averaged over such squares, which takes out what the encoder scatters
SAMPLE_RATE = 16000
LEVEL_SECONDS, LEVEL_RANGE_DB = 0.025, 24.0
QUIET = 0.02  # of the loudness
EASE = 8  # frames at the start, in which the portrait becomes the pose


@dataclass(frozen=True, slots=True)
class Take:
    """A finished video, and what it was meant to show."""

    path: Path
    still: frame.Still
    puppet: rig.Rig
    poses: Poses


@dataclass(frozen=True, slots=True)
class Score:
    """How well a video came out; differences are in shades, 0..255."""

    mouth: float  # correlation of the opening of the lips with the one the poses ask for
    outside: float  # largest difference from the portrait outside the moving window, averaged over a block
    far: float  # the same inside it, far from what a face moves, from the portrait moved by the head alone
    flicker: float  # largest mean jump there from frame to frame and back
    skin: float  # the same of the skin of the face, averaged over blocks; its motion is part of it
    ends: float  # seconds between the ends of picture and sound


LIMITS = Score(mouth=0.90, outside=6.0, far=9.0, flicker=1.2, skin=6.0, ends=0.040)
"""The least correlation, and the most of everything else.

Motion alone gives the skin 1.7-4.2; light that goes to and fro by 1.5 % gives 11.2-12.7.
The encoder alone leaves 2.1-4.5 outside, 3.3-6.6 far and 0.2-0.8 of flicker, most in the pictures with most detail.
"""

MOST = ("outside", "far", "flicker", "skin", "ends")


def make(
    engine: PreviewEngine,
    finder: FaceFinder,
    picture: Image,
    *,
    speech: Path,
    seconds: float,
    params: SynthesisParams,
    directory: Path,
) -> Take:
    """Let the engine make the video, and work out anew what it should show."""
    source, path = directory / "portrait.png", directory / "result.mp4"
    PillowImage.fromarray(picture).save(source, compress_level=1)
    face = engine.inspect(picture).face
    engine.synthesize(make_job(source, speech, path, seconds, face, params), lambda *_: None, lambda: False)
    still = frame.make_still(picture, face, finder.landmarks(picture, face), params)
    puppet = rig.build(still)
    frames = video.frame_count(seconds, params.fps)
    tracks = mouth.analyse(speech, seconds).resampled(frames, params.fps)
    return Take(path, still, puppet, motion.perform(tracks, puppet.shape, params, frames))


def score(finder: FaceFinder, take: Take) -> Score:
    """Measure a finished video."""
    frames = list(decode(take.path))
    still_mask, far_mask = regions(take)
    skin_mask = skin(take)
    renderer = Renderer(take.still, take.puppet)
    outside = far = flicker = jumps = 0.0
    rests: list[NDArray[np.float32]] = []
    faces: list[NDArray[np.float32]] = []
    for shown, pose in zip(frames, take.poses, strict=True):
        head_only = np.concatenate([np.zeros(len(FACE_BASES), np.float32), pose[len(FACE_BASES) :]])
        rest = _luma(shown) - _luma(renderer.frame(head_only))
        blocks = np.abs(cv2.blur(rest, (BLOCK, BLOCK)))
        outside = max(outside, float(blocks[still_mask].max(initial=0)))
        far = max(far, float(blocks[far_mask].max(initial=0)))
        rests = [*rests[-2:], rest]
        faces = [*faces[-2:], np.asarray(cv2.blur(_luma(shown), (BLOCK, BLOCK)), np.float32)]
        if len(rests) == 3:
            flicker = max(flicker, _jump(rests, still_mask | far_mask))
            jumps = max(jumps, _jump(faces, skin_mask))
    return Score(
        mouth=correlation(lip_gaps(finder, frames)[EASE:], wanted_gaps(take)[EASE:]),
        outside=outside,
        far=far,
        flicker=flicker,
        skin=jumps,
        ends=ends_apart(take.path),
    )


def worst(scores: Sequence[Score]) -> Score:
    """The worst of every figure."""
    most = {name: max(getattr(found, name) for found in scores) for name in MOST}
    return Score(mouth=min(found.mouth for found in scores), **most)


def failures(found: Score) -> list[str]:
    """The names of the figures beyond their limits."""
    wrong = ["mouth"] if not found.mouth >= LIMITS.mouth else []
    return wrong + [name for name in MOST if not getattr(found, name) <= getattr(LIMITS, name)]


def ends_apart(path: Path) -> float:
    """Seconds between the ends of a video's picture and sound."""
    info = video.probe(path)
    return abs(info.video_seconds - info.audio_seconds)


def decode(path: Path) -> Iterator[Image]:
    """The frames of a video, RGB."""
    with av.open(str(path)) as container:
        for shown in container.decode(video=0):
            yield np.asarray(shown.to_ndarray(format="rgb24"), np.uint8)


def lip_gaps(finder: FaceFinder, frames: Iterable[Image]) -> Series:
    """How far apart the face mesh finds the lips in every frame, in pixels."""
    gaps: list[float] = []
    face = None
    for shown in frames:
        face = face or finder.inspect(shown).face
        points = finder.landmarks(shown, face)[:, :2]
        gaps.append(float(np.mean([np.linalg.norm(points[upper] - points[lower]) for upper, lower in _pairs()])))
    return np.array(gaps)


def wanted_gaps(take: Take) -> Series:
    """How far apart the poses put the lips, in pixels."""
    shape, step = take.puppet.shape, take.puppet.lattice.step
    upper, lower = (shape.to_pixels(shape.points[list(line)]) for line in zip(*_pairs(), strict=True))
    gaps = []
    for pose in take.poses:
        moved = take.puppet.displace(pose)
        below, above = (lower + sample(moved.lower, lower, step)), (upper + sample(moved.upper, upper, step))
        gaps.append(float(np.maximum((below - above) @ shape.axes[1], 0).mean()))
    return np.array(gaps)


def loudness(path: Path, frames: int, fps: float) -> Series:
    """How loud a file sounds at every video frame: 0 at 24 dB below its loudest parts and under, 1 at those."""
    blocks = []
    with av.open(str(path)) as container:
        resampler = AudioResampler(format="flt", layout="mono", rate=SAMPLE_RATE)
        for piece in container.decode(audio=0):
            blocks += [part.to_ndarray()[0] for part in resampler.resample(piece)]
        blocks += [part.to_ndarray()[0] for part in resampler.resample(None)]
    samples = np.concatenate(blocks).astype(np.float64)
    reach = round(LEVEL_SECONDS * SAMPLE_RATE / 2)
    power = np.cumsum(np.pad(samples**2, (1, 0)))
    centres = ((np.arange(frames)[:, None] + [0.125, 0.375, 0.625, 0.875]) / fps * SAMPLE_RATE).astype(np.intp)
    low, high = (np.clip(centres + side * reach, 0, len(samples)) for side in (-1, 1))
    level = 10 * np.log10((power[high] - power[low]) / np.maximum(high - low, 1) + 1e-10)
    top = np.percentile(level, 95)
    return np.asarray(np.clip((level - (top - LEVEL_RANGE_DB)) / LEVEL_RANGE_DB, 0, 1.15).mean(axis=1))


def correlation(one: Series, other: Series, lag: int = 0) -> float:
    """Pearson's, of `one` with `other` as it was `lag` frames before; 0 where one of them never changes."""
    count = len(one) - abs(lag)
    one, other = one[max(lag, 0) :][:count], other[max(-lag, 0) :][:count]
    if np.ptp(one) == 0 or np.ptp(other) == 0:
        return 0.0
    return float(np.corrcoef(one, other)[0, 1])


def best_lag(one: Series, other: Series, reach: int = 5) -> int:
    """By how many frames `one` comes after `other`."""
    return max(range(-reach, reach + 1), key=lambda lag: correlation(one, other, lag))


def silence_gap(gaps: Series, loud: Series) -> float:
    """The opening of the lips in pauses: the median of each, and of these the largest; NaN where there are none.

    A pause begins and ends three frames from the voice. The median, because a blink shakes the mesh by half a pixel.
    """
    quiet = np.lib.stride_tricks.sliding_window_view(np.pad(loud, 3, mode="edge"), 7).max(axis=1) < QUIET
    edges = np.flatnonzero(np.diff(np.concatenate([[False], quiet, [False]])))
    pauses = [gaps[start:end] for start, end in zip(edges[::2], edges[1::2], strict=True)]
    return max((float(np.median(pause)) for pause in pauses), default=float("nan"))


def regions(take: Take) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Where nothing may change, and where only the head may move anything, (height, width) each.

    The second is beside and above the face; below it the neck gives way to the jaw.
    """
    still, shape = take.still, take.puppet.shape
    height, width = still.picture.shape[:2]
    free = np.ones((height, width), bool)
    free[Badge(width, height).area] = False
    window = np.zeros((height, width), bool)
    side, corner = still.window.side, np.array([still.window.left, still.window.top])
    window[corner[1] : corner[1] + side, corner[0] : corner[0] + side] = True

    oval = shape.to_pixels(shape.points[list(lm.OVAL)]) + corner
    away = np.ones((height, width), np.uint8)
    cv2.fillPoly(away, [oval.round().astype(np.int32)], (0,))
    distance = np.asarray(cv2.distanceTransform(away, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)) / shape.unit
    pixels = np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1).astype(np.float32)
    _, v = shape.planes(pixels - corner.astype(np.float32))
    return free & ~window, free & window & (distance > FAR) & (v < 0)


def skin(take: Take) -> NDArray[np.bool_]:
    """Where the face shows skin that neither parts nor carries hair, (height, width)."""
    still, shape = take.still, take.puppet.shape
    corner = np.array([still.window.left, still.window.top])

    def distance(polygons: Iterable[Sequence[int]], inside: int) -> NDArray[np.float32]:
        """Of every pixel in face units, from what lies outside the polygons (inside=1) or from them (inside=0)."""
        mask = np.full(still.picture.shape[:2], 1 - inside, np.uint8)
        for polygon in polygons:
            places = shape.to_pixels(shape.points[list(polygon)]) + corner
            cv2.fillPoly(mask, [cv2.convexHull(places.round().astype(np.int32))], (inside,))
        return np.asarray(cv2.distanceTransform(mask, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) / shape.unit, np.float32)

    features = [(*upper, *lower) for upper, lower in (*lm.EYES, *lm.BROWS, (lm.UPPER_OUTER, lm.LOWER_OUTER))]
    return (distance([lm.OVAL], 1) > EDGE) & (distance(features, 0) > NEAR)


def measured(
    engine: PreviewEngine, finder: FaceFinder, picture: Image, *, speech: Path, seconds: float, params: SynthesisParams
) -> Score:
    """Make a video in a directory of its own, and score it."""
    with tempfile.TemporaryDirectory() as directory:
        take = make(engine, finder, picture, speech=speech, seconds=seconds, params=params, directory=Path(directory))
        return score(finder, take)


def _pairs() -> list[tuple[int, int]]:
    return [(lm.UPPER_INNER[middle], lm.LOWER_INNER[middle]) for middle in MIDDLES]


def _jump(three: Sequence[NDArray[np.float32]], where: NDArray[np.bool_]) -> float:
    """How far the middle one of three frames is off the mean of its neighbours, twice, on average."""
    before, now, after = three
    return float(np.abs((before - 2 * now + after)[where]).mean())


def _luma(picture: Image) -> NDArray[np.float32]:
    return np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), np.float32)
