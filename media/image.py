"""Decode JPEG and PNG portraits to upright RGB arrays. Limits are checked before large buffers are allocated."""

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
MAX_SEGMENTS = 50_000  # JPEG segments or PNG chunks
# Encoders write up to about 10 scans.
MAX_SCANS = 32

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_KEPT_CHUNKS = (b"IHDR", b"PLTE", b"tRNS", b"eXIf", b"IDAT", b"IEND")

# A marker may be preceded by any number of fill bytes, including 0xFF.
_JPEG_MARKER = re.compile(rb"\xff([\x01-\xfe])")
_JPEG_SOS, _JPEG_EOI = b"\xda", b"\xd9"
# TEM, RST0 to RST7 and SOI: markers without a segment.
_JPEG_STANDALONE_MARKERS = [bytes([code]) for code in (0x01, *range(0xD0, 0xD9))]
# Frame headers, Huffman, arithmetic and quantization tables, restart interval, APP0 (JFIF), APP14 (Adobe).
_JPEG_KEPT_MARKERS = [bytes([code]) for code in (*range(0xC0, 0xD0), 0xDB, 0xDD, 0xE0, 0xEE)]

_ORIENTATION_TAG = 0x0112
_BAND_ROWS = 256
_SIXTEEN_BIT_MODES = {"I", "I;16", "I;16B", "I;16L", "I;16N"}
_BACKGROUND = (255, 255, 255)  # RGB, behind transparent pixels


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """Image properties from the file header.

    `format` is JPEG or PNG. `width` and `height` are in pixels, before EXIF rotation.
    """

    format: str
    width: int
    height: int


def probe(path: Path) -> ImageInfo:
    """Read the header; check the file type and the image size. Raises UnsupportedMediaError, InvalidImageError."""
    with _open(path) as image:
        _check_size(*image.size)
        return ImageInfo(image.format or "", *image.size)


def load(path: Path) -> NDArray[np.uint8]:
    """Decode the image to upright RGB, uint8, (height, width, 3). Raises UnsupportedMediaError, InvalidImageError."""
    with _open(path) as image:
        # Checked first, because decoding allocates buffers of the declared size.
        _check_size(*image.size)
        return _decode(image)


def _decode(image: ImageFile) -> NDArray[np.uint8]:
    """Decode to upright RGB, uint8, (height, width, 3). Raises InvalidImageError."""
    with _translate_decoder_errors():
        image.load()
        width, height = image.size
        pixels = np.empty((height, width, 3), np.uint8)
        # Converting in bands of rows avoids a second full-size copy of the image.
        for top in range(0, height, _BAND_ROWS):
            bottom = min(top + _BAND_ROWS, height)
            pixels[top:bottom] = _to_rgb(image.crop((0, top, width, bottom)))
        orientation = _read_orientation(image)
    return np.ascontiguousarray(_apply_orientation(pixels, orientation))


@contextmanager
def _open(path: Path) -> Iterator[ImageFile]:
    """Open the image without decoding its pixels. Raises UnsupportedMediaError, InvalidImageError."""
    with path.open("rb") as file:
        signature = file.read(8)
        file.seek(0)
        # The plugins are called directly: Image.open would try other formats, and warn at its own pixel limit.
        if signature.startswith(b"\xff\xd8\xff"):
            with _translate_decoder_errors():
                image: ImageFile = JpegImageFile(io.BytesIO(_strip_jpeg_metadata(file.read())))
        elif signature == _PNG_SIGNATURE:
            with _translate_decoder_errors():
                image = PngImageFile(io.BytesIO(_strip_png_metadata(file.read())))
        else:
            raise UnsupportedMediaError("The image is neither a JPEG nor a PNG file.")
        yield image


@contextmanager
def _translate_decoder_errors() -> Iterator[None]:
    """Re-raise any exception as InvalidImageError, except MemoryError and MediaError."""
    try:
        yield
    except (MemoryError, MediaError):
        raise
    # Pillow raises OSError, ValueError, SyntaxError, struct.error and others for damaged data.
    except Exception as error:
        raise InvalidImageError("The image is damaged or truncated and cannot be decoded.") from error


def _strip_png_metadata(content: bytes) -> bytes:
    """Return the PNG without text, color profile and timestamp chunks, and without data after IEND.

    Such chunks may be huge or damaged in an otherwise valid image. Raises InvalidImageError, struct.error.
    """
    kept = [content[:8]]
    position = 8
    name = b""
    while position < len(content) and name != b"IEND":
        if len(kept) > MAX_SEGMENTS:
            raise InvalidImageError(
                "The PNG file has more than {max_chunks} chunks. Save it again with an image editor.",
                max_chunks=MAX_SEGMENTS,
            )
        (size,) = struct.unpack(">I", content[position : position + 4])
        end = position + 12 + size
        name = content[position + 4 : position + 8]
        if name in _PNG_KEPT_CHUNKS:
            kept.append(content[position:end])
        position = end
    return b"".join(kept)


def _strip_jpeg_metadata(content: bytes) -> bytes:
    """Return the JPEG without comments, color profiles and thumbnails, and without data after the end of the image.

    Phones append video clips, and a malicious file may contain a million empty comments, which Pillow parses one by
    one. The first EXIF segment is kept for the orientation. Raises InvalidImageError, struct.error.
    """
    kept = [content[:2]]
    position, has_exif = 2, False
    for _ in range(MAX_SEGMENTS):
        marker = _JPEG_MARKER.search(content, position)
        if marker is None or marker[1] == _JPEG_EOI:
            raise InvalidImageError("The image is damaged or truncated: it contains no image data.")
        if marker[1] == _JPEG_SOS:
            end = content.find(b"\xff" + _JPEG_EOI, marker.end())
            scans = content[marker.end() - 2 : end + 2 if end >= 0 else len(content)]
            # libjpeg makes a pass over the whole image for each scan.
            if scans.count(b"\xff" + _JPEG_SOS) > MAX_SCANS:
                raise InvalidImageError(
                    "The JPEG file has more than {max_scans} progressive scans. Save it again as a baseline JPEG.",
                    max_scans=MAX_SCANS,
                )
            return b"".join((*kept, scans))
        position = marker.end()
        if marker[1] in _JPEG_STANDALONE_MARKERS:
            continue
        (size,) = struct.unpack(">H", content[position : position + 2])
        segment = content[position : position + size]
        is_first_exif = marker[1] == b"\xe1" and segment[2:6] == b"Exif" and not has_exif
        if marker[1] in _JPEG_KEPT_MARKERS or is_first_exif:
            kept.append(b"\xff" + marker[1] + segment)
            has_exif = has_exif or is_first_exif
        position += size
    raise InvalidImageError(
        "The JPEG file has more than {max_segments} segments. Save it again with an image editor.",
        max_segments=MAX_SEGMENTS,
    )


def _read_orientation(image: ImageFile) -> int:
    """Return the EXIF orientation (1 to 8 if valid); 1 if there is no EXIF data or it is damaged."""
    try:
        return int(image.getexif().get(_ORIENTATION_TAG, 1))
    # Pillow's EXIF parser raises many types of exceptions for damaged data.
    except Exception:
        return 1


def _apply_orientation(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Return a view of `pixels`, (height, width, 3), turned upright."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels


def _check_size(width: int, height: int) -> None:
    """Raises InvalidImageError if the image is too small, too large or too elongated."""
    if min(width, height) < MIN_SIDE or max(width, height) > MAX_SIDE:
        raise InvalidImageError(
            "The image is {width}×{height} pixels; each side must be between {min_side} and {max_side} pixels.",
            width=width,
            height=height,
            min_side=MIN_SIDE,
            max_side=MAX_SIDE,
        )
    if width * height > MAX_PIXELS:
        raise InvalidImageError(
            "The image is {width}×{height} pixels; at most {max_megapixels} million pixels are allowed.",
            width=width,
            height=height,
            max_megapixels=MAX_PIXELS // 10**6,
        )
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise InvalidImageError(
            "The image is {width}×{height} pixels; the longer side may be at most {max_aspect:g} times the shorter.",
            width=width,
            height=height,
            max_aspect=MAX_ASPECT,
        )


def _to_rgb(band: Image.Image) -> NDArray[np.uint8]:
    """Convert an image of any mode to RGB, uint8, (height, width, 3); transparent pixels are blended with white."""
    # Pillow's own conversion clips 16-bit values instead of scaling them.
    if band.mode in _SIXTEEN_BIT_MODES:
        gray = (np.asarray(band) >> 8).clip(0, 255).astype(np.uint8)
        return np.repeat(gray[..., np.newaxis], 3, axis=2)
    if band.has_transparency_data:
        rgba = band.convert("RGBA")
        opaque = Image.new("RGB", rgba.size, _BACKGROUND)
        opaque.paste(rgba, mask=rgba.getchannel("A"))
        return np.asarray(opaque)
    return np.asarray(band.convert("RGB"))
