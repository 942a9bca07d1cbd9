"""Finding the face: an opaque TorchScript network, its input and its output (specification, section 2.1)."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_SHORT_SIDE = 416
_STRIDES = (8, 16, 32)
_MIN_CONFIDENCE = 0.5
_MAX_OVERLAP = 0.45
_BOX, _OBJECTNESS, _LANDMARKS, _CLASS = slice(0, 4), 4, slice(5, 15), 15  # columns of the network's rows


@dataclass(frozen=True, slots=True)
class Faces:
    """What was found, the surest first: boxes (n, 4) as x, y, width, height, and landmarks (n, 5, 2), in pixels of
    the image, not clipped to it; scores (n,).
    """

    boxes: NDArray[np.float64]
    landmarks: NDArray[np.float64]
    scores: NDArray[np.float64]

    def largest(self) -> int | None:
        """The face with the largest area."""
        return int(np.argmax(self.boxes[:, 2] * self.boxes[:, 3])) if len(self.boxes) else None


class FaceDetector:
    """Runs the network, on the CPU: pictures are checked while the GPU is busy with videos."""

    def __init__(self, network: Any) -> None:
        """`network`: a TorchScript module, called as network(picture, grids)."""
        self._network = network
        self._lock = threading.Lock()

    def find(self, image: NDArray[np.uint8]) -> Faces:
        """All faces of an RGB picture (height, width, 3)."""
        height, width = image.shape[:2]
        size = network_size(height, width)
        with self._lock, torch.inference_mode():
            rows = self._network(network_input(image, size), [grid(size, stride) for stride in _STRIDES])
        return faces(rows[0].numpy(), size, (height, width))


def network_size(height: int, width: int) -> tuple[int, int]:
    """Height and width of the network's picture: each the next multiple of 32, so the aspect changes a little."""
    ratio = _SHORT_SIDE / min(height, width)
    return (int(height * ratio) + 31) // 32 * 32, (int(width * ratio) + 31) // 32 * 32


def network_input(image: NDArray[np.uint8], size: tuple[int, int]) -> Tensor:
    """RGB (h, w, 3) → (1, 3, height, width) in 0..1."""
    resized = cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)
    return torch.from_numpy(resized).permute(2, 0, 1).float()[None] / 255


def grid(size: tuple[int, int], stride: int) -> Tensor:
    """The (x, y) of every cell: (1, 1, rows, columns, 2)."""
    rows, columns = size[0] // stride, size[1] // stride
    x, y = torch.meshgrid(torch.arange(columns), torch.arange(rows), indexing="xy")
    return torch.stack([x, y], dim=-1).float()[None, None]


def faces(rows: NDArray[np.float32], network: tuple[int, int], image: tuple[int, int]) -> Faces:
    """The network's rows (M, 16) as faces; the sizes are (height, width)."""
    rows = rows[rows[:, _OBJECTNESS] > _MIN_CONFIDENCE].astype(np.float64)
    confidence = np.multiply(rows[:, _OBJECTNESS], rows[:, _CLASS], dtype=np.float64)
    rows, confidence = rows[confidence > _MIN_CONFIDENCE], confidence[confidence > _MIN_CONFIDENCE]
    order = np.argsort(-confidence, kind="stable")
    rows, confidence = rows[order], confidence[order]
    scale = np.array([image[1] / network[1], image[0] / network[0]])
    corners = np.concatenate([rows[:, :2] - rows[:, 2:4] / 2, rows[:, :2] + rows[:, 2:4] / 2], axis=1)
    kept = _suppress(corners)
    corners = corners[kept] * np.tile(scale, 2)
    return Faces(
        boxes=np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1),
        landmarks=rows[kept, _LANDMARKS].reshape(-1, 5, 2) * scale,
        scores=confidence[kept],
    )


def _suppress(corners: NDArray[np.float64]) -> list[int]:
    """Greedy: of boxes that overlap too much the first stays. Indices of those that stay."""
    kept: list[int] = []
    areas = (corners[:, 2:] - corners[:, :2]).prod(axis=1)
    for candidate, box in enumerate(corners):
        others = corners[kept]
        overlap = np.clip(np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2]), 0, None).prod(axis=1)
        if np.all(overlap <= _MAX_OVERLAP * (areas[candidate] + areas[kept] - overlap)):
            kept.append(candidate)
    return kept
