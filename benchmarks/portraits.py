"""Portraits to judge the preview engine by: the example and Grace Hopper, and harder variants of both.

All variants are pure functions of the picture, so that every run sees the same pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from media import image as images

Image = NDArray[np.uint8]

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "portrait.jpg"

SIDE_LIGHT = 0.75  # brightness on the lit side is 1 + this, on the other 1 - this
PAINT_LEVELS = 6  # shades per channel of the posterised variant
SMALL_SCALE = 0.45
TILT_DEGREES = 15.0


def sources() -> dict[str, Image]:
    """The two photographs as RGB pictures: an open smile in 248 x 310 pixels; glasses and closed lips in 512 x 600."""
    import matplotlib.cbook  # noqa: PLC0415 - only its sample picture is wanted

    hopper = Path(matplotlib.cbook.get_sample_data("grace_hopper.jpg", asfileobj=False))
    return {"example": images.load(EXAMPLE), "hopper": images.load(hopper)}


def relit(picture: Image) -> Image:
    """A strong light from the picture's left; the other side of the face falls into shadow."""
    ramp = np.linspace(1 + SIDE_LIGHT, 1 - SIDE_LIGHT, picture.shape[1])[None, :, None]
    return _bytes(picture * ramp)


def mirrored(picture: Image) -> Image:
    """Left and right exchanged."""
    return np.ascontiguousarray(picture[:, ::-1])


def grey(picture: Image) -> Image:
    """Without colour."""
    return np.repeat(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2).astype(np.uint8)


def painted(picture: Image) -> Image:
    """Smoothed, then reduced to a few shades per channel, like a poster."""
    smooth = cv2.bilateralFilter(picture, 7, 40, 5)
    step = 255 / (PAINT_LEVELS - 1)
    return _bytes(np.round(smooth / step) * step)


def small(picture: Image) -> Image:
    """Less than half the size: few pixels for the face, enlarged again by the video."""
    return np.asarray(cv2.resize(picture, None, fx=SMALL_SCALE, fy=SMALL_SCALE, interpolation=cv2.INTER_AREA), np.uint8)


def tilted(picture: Image) -> Image:
    """The head leans to one side; the border is repeated into the corners."""
    height, width = picture.shape[:2]
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), TILT_DEGREES, 1.0)
    return np.asarray(cv2.warpAffine(picture, turn, (width, height), borderMode=cv2.BORDER_REPLICATE), np.uint8)


VARIANTS: Mapping[str, Callable[[Image], Image]] = MappingProxyType(
    {
        "plain": lambda picture: picture,
        "relit": relit,
        "mirrored": mirrored,
        "grey": grey,
        "painted": painted,
        "small": small,
        "tilted": tilted,
    }
)


def portraits() -> dict[str, Image]:
    """Every variant of both photographs, by names such as `hopper-relit`."""
    return {
        f"{source}-{name}": vary(picture) for source, picture in sources().items() for name, vary in VARIANTS.items()
    }


def _bytes(values: NDArray[np.floating[Any]]) -> Image:
    return np.clip(np.round(values), 0, 255).astype(np.uint8)
