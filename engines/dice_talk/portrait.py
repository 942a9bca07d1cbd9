"""The portrait as the networks take it: crop, face mask, size, tensors (specification, sections 2.2 and 2.3).

Boxes are those of the face detector, in pixels of the upright image.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from engines.base import FaceBox

MASK_AREA = 1.1  # the face mask is the box, larger by this factor
_CLIP_SIZE = 224
_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
_CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True, slots=True)
class PortraitTensors:
    """All fp32: the portrait (3, H, W) in -1..1, the face mask (H, W) in 0..1, the picture for CLIP (3, 224, 224)."""

    reference: Tensor
    mask: Tensor
    clip: Tensor


def crop_box(box: FaceBox, ratio: float, width: int, height: int) -> tuple[int, int, int, int]:
    """The square around the face with a margin of `ratio` face sizes: left, top, right, bottom.

    The box grows by the margin inside the image; of the longer side of what came out, the part nearest to the face
    is kept.
    """
    margin_x, margin_y = ratio * (box.right - box.left), ratio * (box.bottom - box.top)
    left, right = max(box.left - margin_x, 0), min(box.right + margin_x, width)
    top, bottom = max(box.top - margin_y, 0), min(box.bottom + margin_y, height)
    side = min(bottom - top, right - left)
    centre_x, centre_y = (left + right) / 2, (top + bottom) / 2
    slack = abs((bottom - top) - (right - left)) / 2
    if right - left < bottom - top:
        centre_y += _towards((box.top + box.bottom) / 2 - centre_y, slack)
    else:
        centre_x += _towards((box.left + box.right) / 2 - centre_x, slack)
    # The order of these roundings is part of the model's preprocessing.
    left, top, right, bottom = centre_x - side / 2, centre_y - side / 2, centre_x + side / 2, centre_y + side / 2
    side = min(right - left, bottom - top)
    centre_x, centre_y = (left + right) / 2, (top + bottom) / 2
    return (
        round(centre_x - side / 2), round(centre_y - side / 2), round(centre_x + side / 2), round(centre_y + side / 2)
    )  # fmt: skip


def _towards(distance: float, limit: float) -> float:
    return min(limit, abs(distance)) * (1 if distance > 0 else -1)


def cut(image: NDArray[np.uint8], box: FaceBox, ratio: float) -> tuple[NDArray[np.uint8], FaceBox]:
    """The square of `crop_box` out of the image, and the face in it."""
    height, width = image.shape[:2]
    left, top, right, bottom = crop_box(box, ratio, width, height)
    moved = FaceBox(box.left - left, box.top - top, box.right - left, box.bottom - top, box.roll)
    return image[top:bottom, left:right], moved


def mask_rectangle(box: FaceBox, width: int, height: int, area: float = MASK_AREA) -> tuple[int, int, int, int]:
    """The rows and columns that the face mask covers: top, bottom, left, right."""
    centre_x, centre_y = (box.right + box.left) // 2, (box.bottom + box.top) // 2
    half_width, half_height = (box.right - box.left) * area // 2, (box.bottom - box.top) * area // 2
    return (
        int(max(centre_y - half_height, 0)), int(min(centre_y + half_height, height)),
        int(max(centre_x - half_width, 0)), int(min(centre_x + half_width, width)),
    )  # fmt: skip


def video_size(width: int, height: int, short_side: int) -> tuple[int, int]:
    """Width and height of the video: multiples of 64, each side rounded by itself."""
    scale = short_side / min(width, height)
    return round(width * scale / 64) * 64, round(height * scale / 64) * 64


def resized_mask(rectangle: tuple[int, int, int, int], size: tuple[int, int], target: tuple[int, int]) -> Image.Image:
    """The mask of an image of `size` (width, height) at `target` size, grey, with the soft edges of the resizing."""
    top, bottom, left, right = rectangle
    mask = np.zeros((size[1], size[0]), np.uint8)
    mask[top:bottom, left:right] = 255
    return _resized(Image.fromarray(mask), target)


def tensors(image: NDArray[np.uint8], box: FaceBox, short_side: int, area: float = MASK_AREA) -> PortraitTensors:
    """Resize the portrait and draw its mask."""
    height, width = image.shape[:2]
    target = video_size(width, height, short_side)
    picture = _resized(Image.fromarray(image), target)
    mask = resized_mask(mask_rectangle(box, width, height, area), (width, height), target)
    clip = picture.resize((_CLIP_SIZE, _CLIP_SIZE), Image.Resampling.LANCZOS)
    mean, std = (torch.tensor(values)[:, None, None] for values in (_CLIP_MEAN, _CLIP_STD))
    return PortraitTensors(
        reference=(_unit(picture).permute(2, 0, 1) - 0.5) / 0.5,
        mask=_unit(mask),
        clip=(_unit(clip).permute(2, 0, 1) - mean) / std,
    )


def _resized(image: Image.Image, target: tuple[int, int]) -> Image.Image:
    return image if image.size == target else image.resize(target, Image.Resampling.LANCZOS)


def _unit(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).float() / 255
