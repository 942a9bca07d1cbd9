"""Geometry of the video: which part of the portrait it shows, how large, and where in it the face moves."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from engines.base import FaceBox, Image, SynthesisParams
from engines.preview import landmarks as lm
from engines.preview.landmarks import Landmarks

WINDOW_FACES = 2.1  # side of the moving window, in face sizes
WINDOW_RAISE = 0.10  # its centre lies this much of the face's height above the face's


@dataclass(frozen=True, slots=True)
class Window:
    """The square of the frame in which the face moves, in whole pixels; nothing outside it ever changes."""

    left: int
    top: int
    side: int

    def of(self, frame: Image) -> Image:
        """The view of a frame that the window covers, (side, side, 3)."""
        return frame[self.top : self.top + self.side, self.left : self.left + self.side]


@dataclass(frozen=True, slots=True)
class Still:
    """The portrait as the first frame of the video, with the face's landmarks in its pixels."""

    picture: Image
    landmarks: Landmarks
    window: Window


def video_size(params: SynthesisParams, size: tuple[int, int]) -> tuple[int, int]:
    """Width and height of the video of a portrait of `size` (width, height); both are even."""
    short = _even(params.min_resolution)
    if params.crop:
        return short, short
    width, height = size
    scale = params.min_resolution / min(width, height)
    return (short, _even(height * scale)) if width <= height else (_even(width * scale), short)


def make_still(image: Image, face: FaceBox, landmarks: Landmarks, params: SynthesisParams) -> Still:
    """Cut and resize the portrait; `face` and `landmarks` are in pixels of `image`."""
    height, width = image.shape[:2]
    left, top, part_width, part_height = 0, 0, width, height
    if params.crop:
        left, top, part_width = _crop(face, params.expand_ratio, width, height)
        part_height = part_width
    part = image[top : top + part_height, left : left + part_width]
    size = video_size(params, (width, height))
    scale = np.array([size[0] / part_width, size[1] / part_height])
    picture = np.asarray(
        cv2.resize(part, size, interpolation=cv2.INTER_AREA if scale.min() < 1 else cv2.INTER_CUBIC), np.uint8
    )
    placed = landmarks.copy()
    placed[:, :2] = (landmarks[:, :2] - (left, top) + 0.5) * scale - 0.5
    placed[:, 2] = landmarks[:, 2] * scale.mean()
    return Still(picture, placed, _window(placed, size))


def _even(length: float) -> int:
    return max(2, 2 * round(length / 2))


def _crop(face: FaceBox, expand_ratio: float, width: int, height: int) -> tuple[int, int, int]:
    """Left, top and side of the square around the face, moved and shrunk as needed to stay inside the image."""
    wanted = max(face.right - face.left, face.bottom - face.top) * (1 + 2 * expand_ratio)
    side = max(2, min(round(wanted), width, height))
    left = _inside((face.left + face.right - side) / 2, width - side)
    top = _inside((face.top + face.bottom - side) / 2, height - side)
    return left, top, side


def _window(points: Landmarks, size: tuple[int, int]) -> Window:
    face_height = float(np.linalg.norm(points[lm.FOREHEAD, :2] - points[lm.CHIN, :2]))
    face_width = float(np.linalg.norm(points[lm.EAR_LEFT, :2] - points[lm.EAR_RIGHT, :2]))
    side = max(2, min(math.ceil(WINDOW_FACES * max(face_height, face_width)), *size))
    centre: NDArray[np.float32] = (points[:, :2].min(axis=0) + points[:, :2].max(axis=0)) / 2
    left = _inside(float(centre[0]) - side / 2, size[0] - side)
    top = _inside(float(centre[1]) - WINDOW_RAISE * face_height - side / 2, size[1] - side)
    return Window(left, top, side)


def _inside(start: float, limit: int) -> int:
    return min(max(round(start), 0), limit)
