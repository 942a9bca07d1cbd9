"""PNG files of every description, made by hand where libraries write too few of them."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

SIGNATURE = b"\x89PNG\r\n\x1a\n"
COLOURS = {"grey": 0, "rgb": 2, "palette": 3, "grey+alpha": 4, "rgba": 6}
CHANNELS = {"grey": 1, "rgb": 3, "palette": 1, "grey+alpha": 2, "rgba": 4}
_ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
"""First row and column, and the steps between them, of each pass."""


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def header(width: int, height: int, depth: int = 8, colour: str = "rgb", *, interlaced: bool = False) -> bytes:
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, COLOURS[colour], 0, 0, interlaced))


def write(
    pixels: NDArray[np.uint8],
    colour: str,
    depth: int = 8,
    *,
    interlaced: bool = False,
    subtract: bool = False,
    before: Sequence[bytes] = (),
    piece: int = 1 << 20,
) -> bytes:
    """`pixels` are (height, width, channels) of 0..255; `before` are chunks, `piece` is the most bytes of an IDAT."""
    height, width, channels = pixels.shape
    assert channels == CHANNELS[colour]
    passes = _ADAM7 if interlaced else ((0, 0, 1, 1),)
    raw = b"".join(_rows(pixels[top::down, left::right], depth, subtract) for top, left, down, right in passes)
    data = zlib.compress(raw, 1)
    pieces = (chunk(b"IDAT", data[start : start + piece]) for start in range(0, len(data), piece))
    return b"".join((SIGNATURE, header(width, height, depth, colour, interlaced=interlaced), *before, *pieces)) + chunk(
        b"IEND", b""
    )


def _rows(pixels: NDArray[np.uint8], depth: int, subtract: bool) -> bytes:
    """Each with its filter: none, or (of whole bytes) the difference to the row above."""
    height, width, _ = pixels.shape
    if not pixels.size:
        return b""
    if depth == 16:
        rows = np.repeat(pixels.reshape(height, -1), 2, axis=1)  # 0x8080 is 0x80 in eight bits
    elif depth == 8:
        rows = pixels.reshape(height, -1)
    else:
        levels = (pixels.reshape(height, width) >> (8 - depth)).astype(np.uint8)
        bits = np.unpackbits(levels[..., np.newaxis], axis=2)[:, :, 8 - depth :]
        rows = np.packbits(bits.reshape(height, -1), axis=1)
    if subtract:
        rows = np.diff(rows, axis=0, prepend=np.zeros_like(rows[:1]))
    filters = np.full((height, 1), 2 if subtract else 0, np.uint8)
    return np.hstack([filters, rows]).tobytes()
