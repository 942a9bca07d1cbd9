"""Portraits: JPEG and PNG files, probed before anything large is allocated, decoded upright to RGB."""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from media.errors import InvalidImageError, MediaError, UnsupportedMediaError

MIN_SIDE = 64
MAX_SIDE = 8192
MAX_PIXELS = 50_000_000
MAX_ASPECT = 3.0

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_KEPT = (b"IHDR", b"PLTE", b"tRNS", b"eXIf", b"IDAT", b"IEND")
_JPEG_MARKER = re.compile(rb"\xff([\x01-\xfe])")  # any number of fill bytes, \xff too, may stand before it
_JPEG_SCAN, _JPEG_END = b"\xda", b"\xd9"
_JPEG_ALONE = [bytes([code]) for code in (0x01, *range(0xD0, 0xD9))]  # no segment follows
_JPEG_KEPT = [bytes([code]) for code in (*range(0xC0, 0xD0), 0xDB, 0xDD, 0xE0, 0xEE)]  # frames, tables, JFIF, Adobe
_MAX_PIECES = 50_000
_MAX_SCANS = 32  # usual are up to 10
_TOO_MANY_PIECES = f"The image is made of more than {_MAX_PIECES} pieces."
_ORIENTATION_TAG = 0x0112
_BAND = 256  # rows
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
    with _open(path) as image:
        _check_size(*image.size)  # before anything of that size is allocated
        return _decode(image)


def _decode(image: ImageFile) -> NDArray[np.uint8]:
    with _damaged_means_invalid():
        image.load()
        width, height = image.size
        pixels = np.empty((height, width, 3), np.uint8)
        for top in range(0, height, _BAND):  # in bands: conversions never hold a second whole picture
            bottom = min(top + _BAND, height)
            pixels[top:bottom] = _to_rgb(image.crop((0, top, width, bottom)))
        orientation = _orientation(image)
    return np.ascontiguousarray(_upright(pixels, orientation))


@contextmanager
def _open(path: Path) -> Iterator[ImageFile]:
    with path.open("rb") as file:
        head = file.read(8)
        file.seek(0)
        # The plugins are called directly: Image.open would try others, and warn at a pixel count of its own.
        if head.startswith(b"\xff\xd8\xff"):
            with _damaged_means_invalid():
                image: ImageFile = JpegImageFile(io.BytesIO(_jpeg_essentials(file.read())))
        elif head == _PNG:
            with _damaged_means_invalid():
                image = PngImageFile(io.BytesIO(_png_essentials(file.read())))
        else:
            raise UnsupportedMediaError("The image is neither a JPEG nor a PNG file.")
        yield image


@contextmanager
def _damaged_means_invalid() -> Iterator[None]:
    try:
        yield
    except (MemoryError, MediaError):
        raise
    except Exception as error:  # Pillow raises OSError, ValueError, SyntaxError, struct.error, ... on damaged data
        raise InvalidImageError("The image is damaged or cut short and cannot be decoded.") from error


def _png_essentials(content: bytes) -> bytes:
    """The file without its texts, profiles and times, which may be huge or broken in a picture that is sound."""
    kept = [content[:8]]
    position = 8
    name = b""
    while position < len(content) and name != b"IEND":  # what follows that is no part of the picture
        if len(kept) > _MAX_PIECES:
            raise InvalidImageError(_TOO_MANY_PIECES)
        (size,) = struct.unpack(">I", content[position : position + 4])
        end = position + 12 + size
        name = content[position + 4 : position + 8]
        if name in _PNG_KEPT:
            kept.append(content[position:end])
        position = end
    return b"".join(kept)


def _jpeg_essentials(content: bytes) -> bytes:
    """The file without its texts, profiles and thumbnails, and without what follows its end.

    Phones append films, and a hostile file holds a million empty comments, which Pillow reads one by one.
    """
    kept = [content[:2]]
    position, exif = 2, False
    for _ in range(_MAX_PIECES):
        marker = _JPEG_MARKER.search(content, position)
        if marker is None or marker[1] == _JPEG_END:
            raise InvalidImageError("The image is damaged or cut short: it holds no picture.")
        if marker[1] == _JPEG_SCAN:
            end = content.find(b"\xff" + _JPEG_END, marker.end())
            picture = content[marker.end() - 2 : end + 2 if end >= 0 else len(content)]
            if picture.count(b"\xff" + _JPEG_SCAN) > _MAX_SCANS:  # libjpeg goes over the whole picture once for each
                raise InvalidImageError(f"The image has more than {_MAX_SCANS} progressive scans.")
            return b"".join((*kept, picture))
        position = marker.end()
        if marker[1] in _JPEG_ALONE:
            continue
        (size,) = struct.unpack(">H", content[position : position + 2])
        segment = content[position : position + size]
        first_exif = marker[1] == b"\xe1" and segment[2:6] == b"Exif" and not exif
        if marker[1] in _JPEG_KEPT or first_exif:
            kept.append(b"\xff" + marker[1] + segment)
            exif = exif or first_exif
        position += size
    raise InvalidImageError(_TOO_MANY_PIECES)


def _orientation(image: ImageFile) -> int:
    """EXIF's 1 to 8; a broken EXIF block counts as none."""
    try:
        return int(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:  # the block is decoded by hand, and raises whatever it meets
        return 1


def _upright(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    if orientation in (5, 6, 7, 8):
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels


def _check_size(width: int, height: int) -> None:
    size = f"The image is {width}×{height} pixels"
    if min(width, height) < MIN_SIDE or max(width, height) > MAX_SIDE:
        raise InvalidImageError(f"{size}; each side must be {MIN_SIDE} to {MAX_SIDE}.")
    if width * height > MAX_PIXELS:
        raise InvalidImageError(f"{size}; at most {MAX_PIXELS // 10**6} million pixels are allowed.")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise InvalidImageError(f"{size}; one side may be at most {MAX_ASPECT:g} times the other.")


def _to_rgb(band: Image.Image) -> NDArray[np.uint8]:
    if band.mode in _SIXTEEN_BIT:  # Pillow's own conversion clips instead of scaling
        grey = (np.asarray(band) >> 8).clip(0, 255).astype(np.uint8)
        return np.repeat(grey[..., np.newaxis], 3, axis=2)
    if band.has_transparency_data:
        rgba = band.convert("RGBA")
        opaque = Image.new("RGB", rgba.size, _BACKGROUND)
        opaque.paste(rgba, mask=rgba.getchannel("A"))
        return np.asarray(opaque)
    return np.asarray(band.convert("RGB"))
