"""Bilinear look-up of arrays at places between their pixels."""

from __future__ import annotations

from typing import Any, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

T = TypeVar("T", bound=np.generic)


def look(values: NDArray[T], places: NDArray[np.float32], out: NDArray[T] | None = None) -> NDArray[T]:
    """`values` (height, width[, channels]) at `places` (rows, columns, 2) of x, y; beyond its edges they repeat.

    Written into `out` where it is given; that may be a part of a larger array.
    """
    source: Any = values  # OpenCV's type stubs know neither generic arrays nor an absent second map
    nothing: Any = None
    target: Any = out
    return np.asarray(cv2.remap(source, places, nothing, cv2.INTER_LINEAR, target, cv2.BORDER_REPLICATE), values.dtype)
