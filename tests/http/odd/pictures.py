"""Portraits that are odd but valid: all show the same face, upright."""

from __future__ import annotations

import functools
import io
import random
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from tests.http.odd import png
from tests.http.odd.case import ACCEPTED, NO_FACE, PORTRAIT, Case, image_case

WIDTHS = (150, 200, 248, 300, 400)
VARIANTS = 4  # of each kind, in different sizes
Kind = Callable[[Image.Image], bytes]

_ORIENTATION = 0x0112
_TURNED = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
"""How a camera stores the picture for each orientation: what undoes EXIF's."""


@functools.cache
def portrait(width: int) -> Image.Image:
    """The example."""
    with Image.open(PORTRAIT) as opened:
        whole = opened.convert("RGB")
    return whole.resize((width, round(width * whole.height / whole.width)), Image.Resampling.LANCZOS)


def drawn(kind: Kind, width: int) -> bytes:
    """The portrait as a file of this kind."""
    return kind(portrait(width))


def saved(picture: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def _jpeg(mode: str = "RGB", **options: Any) -> Kind:
    return lambda picture: saved(picture.convert(mode), "JPEG", **options)


def _png(mode: str = "RGB", **options: Any) -> Kind:
    return lambda picture: saved(picture.convert(mode), "PNG", **{"compress_level": 1, **options})


def _own(colour: str, depth: int = 8, **options: Any) -> Kind:
    def make(picture: Image.Image) -> bytes:
        mode = {"grey": "L", "rgb": "RGB", "grey+alpha": "LA", "rgba": "RGBA"}[colour]
        pixels = np.asarray(picture.convert(mode)).reshape(picture.height, picture.width, -1)
        return png.write(pixels, colour, depth, **options)

    return make


def _palette(depth: int, *, interlaced: bool = False, transparent: bool = False) -> Kind:
    def make(picture: Image.Image) -> bytes:
        drawn = picture.quantize(2**depth)
        colours = bytes(drawn.getpalette() or b"")[: 3 * 2**depth]
        before = [png.chunk(b"PLTE", colours)]
        if transparent:
            before.append(png.chunk(b"tRNS", bytes([0] + [255] * (len(colours) // 3 - 1))))
        pixels = (np.asarray(drawn)[..., np.newaxis] << (8 - depth)).astype(np.uint8)
        return png.write(pixels, "palette", depth, interlaced=interlaced, before=before)

    return make


def _turned(kind: str, orientation: int) -> Kind:
    def make(picture: Image.Image) -> bytes:
        turn = _TURNED[orientation]
        exif = Image.Exif()
        exif[_ORIENTATION] = orientation
        return saved(picture if turn is None else picture.transpose(turn), kind, exif=exif)

    return make


def _sampled(factor: int) -> Kind:
    def make(picture: Image.Image) -> bytes:
        bgr = np.asarray(picture)[..., ::-1]
        return cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, factor])[1].tobytes()

    return make


def _vignette(picture: Image.Image) -> bytes:
    rows, columns = np.mgrid[-1 : 1 : picture.height * 1j, -1 : 1 : picture.width * 1j]
    alpha = (255 * np.clip(1.6 - np.hypot(rows, columns), 0, 1)).astype(np.uint8)
    return saved(Image.fromarray(np.dstack([np.asarray(picture), alpha])), "PNG", compress_level=1)


def _animated(kind: str) -> Kind:
    def make(picture: Image.Image) -> bytes:
        others = [Image.new("RGB", picture.size, colour) for colour in ("red", "green")]
        return saved(picture, kind, save_all=True, append_images=others)

    return make


def _thumbnail(picture: Image.Image) -> bytes:
    small = picture.copy()
    small.thumbnail((64, 64))
    return _with_segments(picture, [(0xE1, b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0" + saved(small, "JPEG"))])


def _with_segments(picture: Image.Image, segments: list[tuple[int, bytes]], **options: Any) -> bytes:
    """A JPEG with these (marker, data) at its beginning."""
    content = saved(picture, "JPEG", **options)
    heads = (b"\xff" + bytes([marker]) + (len(data) + 2).to_bytes(2, "big") + data for marker, data in segments)
    return content[:2] + b"".join(heads) + content[2:]


def _segments(*segments: tuple[int, bytes]) -> Kind:
    return lambda picture: _with_segments(picture, list(segments))


def _chunks(*chunks: bytes) -> Kind:
    return lambda picture: png.write(np.asarray(picture), "rgb", before=chunks)


def _followed(kind: Kind, tail: bytes) -> Kind:
    return lambda picture: kind(picture) + tail


def _texts(picture: Image.Image) -> bytes:
    texts = PngInfo()
    texts.add_itxt("XML:com.adobe.xmp", "<x:xmpmeta>" + "é" * 400_000, zip=True)
    texts.add_text("prompt", "portrait " * 50_000)
    return saved(picture, "PNG", pnginfo=texts, compress_level=1)


def _posters(picture: Image.Image) -> NDArray[np.uint8]:
    return (np.asarray(picture) // 64 * 85).astype(np.uint8)


HTML = b"<!DOCTYPE html><script>alert(1)</script>"
ZIP = b"PK\x03\x04" + bytes(26) + b"PK\x05\x06" + bytes(18)
EXIF = b"Exif\0\0II*\0\x08\0\0\0"
_BIG = zlib.compress(bytes(30 << 20), 9)

KINDS: dict[str, Kind] = {
    "jpeg": _jpeg(),
    "jpeg, quality 30": _jpeg(quality=30),
    "jpeg, quality 100": _jpeg(quality=100, subsampling=0),
    "jpeg, progressive": _jpeg(progressive=True),
    "jpeg, progressive, 4:4:4": _jpeg(progressive=True, subsampling=0, optimize=True),
    "jpeg, progressive grey": _jpeg("L", progressive=True),
    "jpeg, grey": _jpeg("L"),
    "jpeg, CMYK": _jpeg("CMYK"),
    "jpeg, progressive CMYK": _jpeg("CMYK", progressive=True),
    "jpeg, RGB as it is": _jpeg(keep_rgb=True),
    "jpeg, 4:2:2": _jpeg(subsampling=1),
    "jpeg, 4:4:0": _sampled(cv2.IMWRITE_JPEG_SAMPLING_FACTOR_440),
    "jpeg, 4:1:1": _sampled(cv2.IMWRITE_JPEG_SAMPLING_FACTOR_411),
    "jpeg, restarts": _jpeg(restart_marker_blocks=3),
    "jpeg, restarts, progressive": _jpeg(restart_marker_rows=1, progressive=True),
    "jpeg, with a thumbnail": _thumbnail,
    "jpeg, huge EXIF": _segments((0xE1, EXIF + b"\xff" * 65000)),
    "jpeg, EXIF of lies": _segments((0xE1, EXIF + b"\xff\xff" + b"\x12\x01\x02\0\xff\xff\xff\x7f" * 99)),
    "jpeg, EXIF in a circle": _segments((0xE1, EXIF + b"\0\0\x08\0\0\0")),
    "jpeg, profile of a megabyte": _jpeg(icc_profile=bytes(1 << 20)),
    "jpeg, a broken profile": _segments((0xE2, b"ICC_PROFILE\0\x09\x02broken")),
    "jpeg, texts": _segments(*((0xFE, b"comment " * 8000) for _ in range(20))),
    "jpeg, Photoshop's own": _segments((0xED, b"Photoshop 3.0\x008BIM\x04\x04\0\0\xff\xff\xff\xff")),
    "jpeg, HTML in a comment": _segments((0xFE, HTML)),
    "jpeg, fill bytes": lambda picture: _jpeg()(picture).replace(b"\xff\xdb", b"\xff" * 500 + b"\xdb", 1),
    "jpeg, several pictures": _animated("MPO"),
    "jpeg, then a film": _followed(_jpeg(), b"\0\0\0\x18ftypmp42" + b"\xff\xda" * 100_000),
    "jpeg, then a zip": _followed(_jpeg(), ZIP),
    "jpeg, then HTML": _followed(_jpeg(), HTML),
    "png": _png(),
    "png, best compression": _png(compress_level=9),
    "png, no compression": _png(compress_level=0),
    "png, half transparent": _vignette,
    "png, opaque alpha": _png("RGBA"),
    "png, grey": _png("L"),
    "png, grey and alpha": _png("LA"),
    "png, 256 colours": _png("P"),
    "png, 16 colours": _palette(4),
    "png, palette with alpha": _palette(8, transparent=True),
    "png, interlaced palette with alpha": _palette(8, interlaced=True, transparent=True),
    "png, colour for transparent": _chunks(png.chunk(b"tRNS", bytes(6))),
    "png, grey of 4 bits": _own("grey", 4),
    "png, grey of 16 bits": _own("grey", 16),
    "png, 16 bits": _own("rgb", 16),
    "png, 16 bits and alpha": _own("rgba", 16),
    "png, grey and alpha of 16 bits": _own("grey+alpha", 16),
    "png, interlaced": _own("rgb", interlaced=True),
    "png, interlaced grey": _own("grey", interlaced=True),
    "png, interlaced grey and alpha": _own("grey+alpha", interlaced=True),
    "png, interlaced, 16 bits and alpha": _own("rgba", 16, interlaced=True),
    "png, filtered": _own("rgb", subtract=True),
    "png, filtered, interlaced": _own("rgb", subtract=True, interlaced=True),
    "png, in small pieces": _own("rgb", piece=100),
    "png, animated": _animated("PNG"),
    "png, texts": _texts,
    "png, a bomb for a text": _chunks(png.chunk(b"zTXt", b"a\0\0" + _BIG), png.chunk(b"iTXt", b"b\0\1\0\0\0" + _BIG)),
    "png, a bomb for a profile": _chunks(png.chunk(b"iCCP", b"a\0\0" + _BIG)),
    "png, a broken profile": _png(icc_profile=b"no profile"),
    "png, broken EXIF": _chunks(png.chunk(b"eXIf", b"MM\0*\xff\xff\xff\xff")),
    "png, odd colours": _chunks(png.chunk(b"gAMA", bytes(4)), png.chunk(b"cHRM", bytes(32))),
    "png, unknown chunks": _chunks(png.chunk(b"prVt", bytes(9)), png.chunk(b"CgBI", bytes(4))),
    "png, then a zip": _followed(_png(), ZIP),
    "png, then HTML": _followed(_png(), HTML),
    "png, then another": lambda picture: _png()(picture) * 2,
    **{f"jpeg, orientation {number}": _turned("JPEG", number) for number in _TURNED},
    **{f"png, orientation {number}": _turned("PNG", number) for number in _TURNED},
}  # fmt: skip
"""Each with a face that is to be found, and rendered."""

ROUGH: dict[str, Kind] = {
    "jpeg, quality 1": _jpeg(quality=1),
    "png, 1 bit": _png("1"),
    "png, interlaced, 1 bit": _own("grey", 1, interlaced=True),
    "png, grey of 2 bits": _own("grey", 2),
    "png, 4 colours": _palette(2),
    "png, 2 colours": _palette(1),
    "png, a poster": lambda picture: saved(Image.fromarray(_posters(picture)), "PNG"),
}
"""Valid too, but a face need not be found."""


def cases() -> Iterator[Case]:
    """All of them."""
    rng = random.Random("pictures")
    for name, kind in KINDS.items():
        for variant, width in enumerate(rng.sample(WIDTHS, VARIANTS)):
            yield image_case(
                f"{name}, {width} px", partial(drawn, kind, width),
                ACCEPTED, rendered=variant == 0,
            )  # fmt: skip
    for name, kind in ROUGH.items():
        for width in rng.sample(WIDTHS, VARIANTS):
            yield image_case(f"{name}, {width} px", partial(drawn, kind, width), ACCEPTED, NO_FACE)
