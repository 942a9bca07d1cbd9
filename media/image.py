"""Portraits: JPEG and PNG files, probed before anything large is allocated, decoded upright to RGB."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from media.errors import InvalidImageError, UnsupportedMediaError

MIN_SIDE = 64
MAX_SIDE = 8192
MAX_PIXELS = 50_000_000
MAX_ASPECT = 3.0

# The plugins are called directly: Image.open would try others, and warn at a pixel count of its own.
_KINDS = {b"\xff\xd8\xff": JpegImageFile, b"\x89PNG\r\n\x1a\n": PngImageFile}
_SIXTEEN_BIT = {"I", "I;16", "I;16B", "I;16L", "I;16N"}
_BACKGROUND = (255, 255, 255)  # behind transparent pixels


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """What the header says: `format` is JPEG or PNG, the size is that before any EXIF rotation."""

    format: str
    width: int
    height: int


def probe(path: Path) -> ImageInfo:
    """Read the header and check kind and size. Raises UnsupportedMediaError, InvalidImageError."""
    with _open(path) as image:
        _check_size(*image.size)
        return ImageInfo(image.format or "", *image.size)


def load(path: Path) -> NDArray[np.uint8]:
    """Decode the whole picture: upright RGB (height, width, 3). Raises UnsupportedMediaError, InvalidImageError."""
    probe(path)
    with _open(path) as image, _damaged_means_invalid():
        return np.asarray(_to_rgb(ImageOps.exif_transpose(image)))


@contextmanager
def _open(path: Path) -> Iterator[ImageFile]:
    with path.open("rb") as file:
        head = file.read(8)
        file.seek(0)
        kind = next((kind for signature, kind in _KINDS.items() if head.startswith(signature)), None)
        if kind is None:
            raise UnsupportedMediaError("The image is neither a JPEG nor a PNG file.")
        with _damaged_means_invalid():
            image = kind(file)
        yield image


@contextmanager
def _damaged_means_invalid() -> Iterator[None]:
    try:
        yield
    except Exception as error:  # Pillow raises OSError, ValueError, SyntaxError, struct.error, ... on damaged data
        raise InvalidImageError("The image is damaged or cut short and cannot be decoded.") from error


def _check_size(width: int, height: int) -> None:
    size = f"The image is {width}×{height} pixels"
    if min(width, height) < MIN_SIDE or max(width, height) > MAX_SIDE:
        raise InvalidImageError(f"{size}; each side must be {MIN_SIDE} to {MAX_SIDE}.")
    if width * height > MAX_PIXELS:
        raise InvalidImageError(f"{size}; at most {MAX_PIXELS // 10**6} million pixels are allowed.")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise InvalidImageError(f"{size}; one side may be at most {MAX_ASPECT:g} times the other.")


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in _SIXTEEN_BIT:  # Pillow's own conversion clips instead of scaling
        grey = np.asarray(image).astype(np.int64) >> 8
        return Image.fromarray(grey.clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        opaque = Image.new("RGB", rgba.size, _BACKGROUND)
        opaque.paste(rgba, mask=rgba.getchannel("A"))
        return opaque
    return image.convert("RGB")
