"""Whether a found face can be animated, and what its owner should know about the result.

The thresholds were measured on nine photographs of different people, on the variants of two of them in
`benchmarks/portraits.py`, and on all of them darkened, recompressed, resized, blurred, posterised and given drawn
sunglasses.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from engines.base import Image
from engines.preview import landmarks as lm
from engines.preview.landmarks import Landmarks

MAX_ROLL = math.radians(60)
MAX_YAW, WARN_YAW = math.radians(40), math.radians(25)
MIN_EYE_RATIO = 0.27  # eye distance / face height: frontal faces have 0.34-0.41, a profile 0.22
MIN_EYE_PIXELS, WARN_EYE_PIXELS = 12, 24
VIDEO_SIDE = 512  # pixels: the short side of a video unless the client asks for another
VIDEO_EYE_PIXELS = 24  # in such a video; with less the mouth is 15 pixels wide

# Brightness of the lit quarter of the skin, 0..255: photographs 130-220, with a fifth of their light 36-44, with a
# twentieth 9-11, of which a video could show ten shades.
MIN_SKIN, WARN_SKIN = 12, 40

# Share of a window around the eye that is darker than half the cheek below it; sunglasses cover both windows. Eyes have
# 0.02-0.5, under glasses, relit or small too; deep eye sockets in a photograph of high contrast 0.8 on one side and 0.7
# on the other. Dark lenses have 0.86-1, those that let half of the light through 0.5-1, mirrors 0.
LENS_SHADE, LENS_SHARE = 0.50, 0.84
EYE_WINDOW = (1.0, 0.30)  # width in lengths of the eye, height in distances of the eyes
CHEEKS = ((50, 117, 118, 205), (280, 346, 347, 425))  # skin below each eye, the image's left one first
CHEEK_REACH = 0.05  # eye distances around those landmarks

# How far the histogram of a colour stands out of its own smoothed shape: photographs have 0.05-0.28 however they were
# compressed, blurred, lit or darkened, with a palette of 256 colours up to 0.30. Posters and comics of up to 16 colours
# have 0.31-0.75 in lossless files, 0.24-0.60 in JPEG ones: heavy compression hides them, and so do soft brushes.
POSTER_PEAKS = 0.34
POSTER_BINS, POSTER_BLUR = 32, 2.0  # bins over 0..255, sigma in bins
POSTER_MEDIAN = 5  # pixels: takes away what JPEG adds around edges
POSTER_MIN_RANGE = 40  # shades: where a picture is darker than that, they are few for another reason

SAMPLED_EYE_PIXELS = 60  # larger faces are looked at in every second, third, ... pixel


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a face cannot be animated, and what to do; `reason` continues "The face"."""

    reason: str
    advice: str

    def __str__(self) -> str:
        """The sentences for the owner of the picture."""
        return f"The face in the picture {self.reason}. {self.advice}"


TURN_UPRIGHT = "Please turn the photograph upright."
UPSIDE_DOWN = Refusal("is upside down", TURN_UPRIGHT)
UNCLEAR = Refusal(
    "is turned too far away, covered or unclear",
    "Please use a photograph in which the face looks at the camera.",
)


@dataclass(frozen=True, slots=True)
class FaceView:
    """A face with what is around it cut away, thinned out to a bounded number of pixels."""

    picture: Image
    points: NDArray[np.float64]  # (478, 2) landmarks in its pixels
    skin: NDArray[np.bool_]  # inside the oval of the face


def refusal(image: Image, points: Landmarks) -> Refusal | None:
    """Why the face with these landmarks cannot be animated; None if it can."""
    turned = _turned(points)
    if turned is not None:
        return turned
    eye_pixels = _eye_distance(points)
    if eye_pixels < MIN_EYE_PIXELS:
        return Refusal(
            f"is too small: its eyes are {eye_pixels:.1f} pixels apart, at least {MIN_EYE_PIXELS} are needed",
            "Please use a closer or larger photograph.",
        )
    height, width = image.shape[:2]
    features = points[list(lm.FEATURES), :2]
    if (features < 0).any() or (features >= (width, height)).any():
        return Refusal(
            "is cut off by the edge of the picture",
            "Please use a photograph that shows both eyes and the whole mouth.",
        )
    if _brightness(_view(image, points)) < MIN_SKIN:
        return Refusal("is nearly black", "Please use a photograph taken in better light.")
    return None


def _turned(points: Landmarks) -> Refusal | None:
    roll, yaw, _, eye_ratio = _pose(points)
    if abs(roll) > MAX_ROLL:
        return Refusal(f"is tilted by about {abs(math.degrees(roll)):.0f} degrees", TURN_UPRIGHT)
    if abs(yaw) > MAX_YAW:
        return Refusal(
            f"is turned away by about {abs(math.degrees(yaw)):.0f} degrees",
            "Please use a photograph in which the face looks at the camera.",
        )
    return UNCLEAR if eye_ratio < MIN_EYE_RATIO else None


def warnings(image: Image, points: Landmarks) -> list[str]:
    """What the owner of a usable face should know: a sentence each."""
    _, yaw, eye_pixels, _ = _pose(points)
    in_video = eye_pixels * VIDEO_SIDE / min(image.shape[:2])
    view = _view(image, points)
    found = {
        f"The face is turned by about {abs(math.degrees(yaw)):.0f} degrees; a frontal one moves more naturally.": (
            abs(yaw) > WARN_YAW
        ),
        f"The face is small (eyes {eye_pixels:.0f} pixels apart); the video will be blurred.": (
            eye_pixels < WARN_EYE_PIXELS
        ),
        f"The face takes up little of the picture: without crop, and at a min_resolution of {VIDEO_SIDE}, its eyes are "
        f"about {in_video:.0f} pixels apart in the video.": in_video < VIDEO_EYE_PIXELS,
        "The face is dark; a photograph taken in better light gives a clearer video.": _brightness(view) < WARN_SKIN,
        "The eyes seem to be covered by sunglasses; a blink will look drawn on the glass.": _wears_sunglasses(view),
        "The picture looks painted or reduced to a few colours; a photograph moves more naturally.": _is_poster(view),
    }
    return [sentence for sentence, applies in found.items() if applies]


def roll_of(points: Landmarks) -> float:
    """Tilt of the line of the eyes in radians, clockwise."""
    across = points[lm.EYE_OUTER_LEFT, :2] - points[lm.EYE_OUTER_RIGHT, :2]
    return math.atan2(across[1], across[0])


def _pose(points: Landmarks) -> tuple[float, float, float, float]:
    """Roll and yaw in radians, distance of the eye centres in pixels, and that distance over the face's height."""
    ears = points[lm.EAR_LEFT] - points[lm.EAR_RIGHT]
    yaw = math.atan2(float(ears[2]), float(np.hypot(ears[0], ears[1])))
    eyes = _eye_distance(points)
    height = float(np.linalg.norm(points[lm.FOREHEAD, :2] - points[lm.CHIN, :2]))
    return roll_of(points), yaw, eyes, eyes / max(height, 1e-6)


def _eye_centres(points: NDArray[np.floating]) -> NDArray[np.floating]:
    corners = points[[lm.EYE_OUTER_RIGHT, lm.EYE_INNER_RIGHT, lm.EYE_INNER_LEFT, lm.EYE_OUTER_LEFT], :2]
    return np.asarray(corners.reshape(2, 2, 2).mean(axis=1))


def _eye_distance(points: NDArray[np.floating]) -> float:
    right, left = _eye_centres(points)
    return float(np.linalg.norm(left - right))


def _view(image: Image, points: Landmarks) -> FaceView:
    step = max(1, int(_eye_distance(points) / SAMPLED_EYE_PIXELS))
    low, high = points[:, :2].min(axis=0), points[:, :2].max(axis=0)
    height, width = image.shape[:2]
    left, top = (min(max(0, int(value)), limit - 1) for value, limit in zip(low, (width, height), strict=True))
    right, bottom = (max(0, math.ceil(value)) for value in high)
    # Single pixels, not means: these would make a poster's few colours many.
    picture = image[top : bottom + 1 : step, left : right + 1 : step]
    placed = (points[:, :2].astype(np.float64) - (left, top)) / step
    oval = np.zeros(picture.shape[:2], np.uint8)
    cv2.fillPoly(oval, [placed[list(lm.OVAL)].round().astype(np.int32)], 1)
    return FaceView(picture, placed, oval > 0)


def _brightness(view: FaceView) -> float:
    """Brightness 0..255 that a quarter of the face exceeds: shadows on one side do not make it dark."""
    shades = _grey(view)[view.skin]
    return float(np.percentile(shades, 75)) if len(shades) else 255.0


def _wears_sunglasses(view: FaceView) -> bool:
    """Whether the windows around both eyes are dark all over, compared with the cheek of the same side."""
    grey = _grey(view)
    distance = _eye_distance(view.points)
    tilt = math.degrees(math.atan2(*(view.points[lm.EYE_OUTER_LEFT] - view.points[lm.EYE_OUTER_RIGHT])[::-1]))
    corners = (
        (lm.EYE_OUTER_RIGHT, lm.EYE_INNER_RIGHT),
        (lm.EYE_INNER_LEFT, lm.EYE_OUTER_LEFT),
    )
    for centre, (start, end), cheek in zip(_eye_centres(view.points), corners, CHEEKS, strict=True):
        width = float(np.linalg.norm(view.points[start] - view.points[end]))
        window, skin = np.zeros(grey.shape, np.uint8), np.zeros(grey.shape, np.uint8)
        middle = (float(centre[0]), float(centre[1]))
        cv2.ellipse(window, (middle, (EYE_WINDOW[0] * width, EYE_WINDOW[1] * distance), tilt), 1, -1)
        for x, y in view.points[list(cheek)]:
            cv2.circle(skin, (round(x), round(y)), max(1, round(CHEEK_REACH * distance)), 1, -1)
        eye, beside = grey[window > 0], grey[skin > 0]
        if not len(eye) or not len(beside) or np.mean(eye < LENS_SHADE * np.median(beside)) < LENS_SHARE:
            return False
    return True


def _is_poster(view: FaceView) -> bool:
    """Whether the colours of the face fall into a few sharp heaps."""
    heaps = []
    picture = np.asarray(cv2.medianBlur(np.ascontiguousarray(view.picture), POSTER_MEDIAN))
    for shades in picture[view.skin].T:
        if len(shades) == 0:
            continue
        low, high = np.percentile(shades, [2, 98])
        if high - low < POSTER_MIN_RANGE:
            continue
        width = 256 / POSTER_BINS
        counts = np.histogram(shades, POSTER_BINS, (0, 256))[0][int(low / width) : int(high / width) + 1]
        shares = (counts / counts.sum()).astype(np.float32)
        smooth = cv2.GaussianBlur(shares[None], (0, 0), POSTER_BLUR, borderType=cv2.BORDER_REFLECT)[0]
        heaps.append(float(np.clip(shares - smooth, 0, None).sum()))
    return bool(heaps) and float(np.median(heaps)) > POSTER_PEAKS


def _grey(view: FaceView) -> NDArray[np.uint8]:
    return np.asarray(cv2.cvtColor(np.ascontiguousarray(view.picture), cv2.COLOR_RGB2GRAY), np.uint8)
