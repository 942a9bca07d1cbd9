"""Pictures that are cut, damaged, of other kinds, of impossible sizes, or meant to hurt."""

from __future__ import annotations

import io
import random
import zlib
from collections.abc import Iterator
from functools import partial

import numpy as np
from PIL import Image

from tests.http.odd import png
from tests.http.odd.case import (
    ACCEPTED,
    BAD_IMAGE,
    BAD_KIND,
    NO_FACE,
    TOO_LARGE,
    Case,
    Content,
    Outcome,
    after,
    cut,
    flipped,
    good_audio,
    image_case,
)
from tests.http.odd.pictures import HTML, KINDS, ZIP, drawn, portrait, saved

_CUT = (
    "jpeg", "jpeg, progressive", "jpeg, grey", "jpeg, CMYK", "jpeg, restarts", "jpeg, texts", "jpeg, orientation 6",
    "png", "png, 256 colours", "png, grey of 16 bits", "png, interlaced", "png, palette with alpha",
    "png, in small pieces", "png, texts", "png, half transparent", "png, orientation 8",
)  # fmt: skip
_OTHER_KINDS = ("GIF", "WEBP", "BMP", "TIFF", "JPEG2000", "ICO", "PPM", "TGA", "PDF")
_CUTS, _FLIPS = 14, 16  # of each of these
_MB = 1 << 20


def cases() -> Iterator[Case]:
    """All of them."""
    yield from _cut_and_damaged()
    for name, content in _foreign().items():
        yield image_case(name, content, BAD_KIND)
        yield image_case(f"{name}, after a blank", partial(after, b" ", content), BAD_KIND)
    for name, content, *outcomes in _sizes():
        yield image_case(name, content, *outcomes)
    for name, content, *outcomes in _bombs():
        yield image_case(name, content, *outcomes)


def _cut_and_damaged() -> Iterator[Case]:
    rng = random.Random("cut pictures")
    for name in _CUT:
        kind, width = KINDS[name], rng.choice((150, 200))
        whole = partial(drawn, kind, width)
        for _ in range(_CUTS):
            share = rng.random() * 0.97
            yield image_case(
                f"{name}, cut at {share:.4f}", partial(cut, whole, share),
                BAD_IMAGE, *([BAD_KIND] if share < 0.01 else []),
            )  # fmt: skip
        for number in range(_FLIPS):
            bits = 1 << number % 8
            yield image_case(
                f"{name}, {bits} bits flipped, {number}",
                partial(flipped, whole, f"{name} {number}", bits),
                ACCEPTED, NO_FACE, BAD_IMAGE, BAD_KIND,
            )  # fmt: skip


def _foreign() -> dict[str, Content]:
    """What is neither a JPEG nor a PNG file, whatever it is called."""

    def pillow(kind: str) -> Content:
        return lambda: saved(portrait(150), kind)

    return {
        "nothing": lambda: b"",
        **{kind.lower(): pillow(kind) for kind in _OTHER_KINDS},
        "a WAV": good_audio,
        "an MP3": lambda: b"\xff\xfb\x90\x00" + bytes(2000),
        "a zip": lambda: ZIP,
        "HTML": lambda: HTML,
        "an SVG": lambda: b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>",
        "XML that grows": lambda: b"<!DOCTYPE a [<!ENTITY b 'c'><!ENTITY d '&b;&b;'>]><svg>&d;</svg>",
        "a script": lambda: b"#!/bin/sh\nreboot\n",
        "PostScript": lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\nshowpage",
        "ImageMagick's own": lambda: b"push graphic-context\nimage over 0,0 0,0 'https://example.com/'",
        "an mp4": lambda: b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom" + bytes(99),
        "a HEIC": lambda: b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(99),
        "zeros": lambda: bytes(5000),
        "ones": lambda: b"\xff" * 5000,
        "noise": lambda: random.Random(3).randbytes(5000),
        "a PNG of another time": lambda: b"\x89PNG\n\x1a\n" + bytes(99),
        "a PNG sent as text": lambda: saved(portrait(150), "PNG").replace(b"\r\n", b"\n"),
        "a PNG in base64": lambda: b"data:image/png;base64,iVBORw0KGgo=",
        "a JPEG after a GIF's name": lambda: b"GIF89a" + saved(portrait(150), "JPEG"),
        "a JPEG after a BOM": lambda: b"\xef\xbb\xbf" + saved(portrait(150), "JPEG"),
        "half a name": lambda: b"\xff\xd8",
        "half of another": lambda: png.SIGNATURE[:7],
    }  # fmt: skip


Row = tuple[str, Content, Outcome] | tuple[str, Content, Outcome, Outcome]


def _plain(kind: str, width: int, height: int) -> Content:
    return lambda: saved(Image.new("L" if kind == "JPEG" else "1", (width, height)), kind)


def _declared(width: int, height: int, depth: int = 8, colour: str = "rgb") -> Content:
    """A PNG that holds a thousand bytes and says that it is large."""
    data = png.chunk(b"IDAT", zlib.compress(bytes(1000))) + png.chunk(b"IEND", b"")
    return lambda: png.SIGNATURE + png.header(width, height, depth, colour) + data


def _jpeg_of_size(width: int, height: int) -> Content:
    def make() -> bytes:
        content = saved(portrait(150), "JPEG")
        frame = content.index(b"\xff\xc0") + 5
        return content[:frame] + height.to_bytes(2, "big") + width.to_bytes(2, "big") + content[frame + 4 :]

    return make


def _sizes() -> Iterator[Row]:
    for kind in ("PNG", "JPEG"):
        for size in ((1, 1), (2, 3), (1, 200), (63, 64), (64, 63), (64, 193), (300, 64), (63, 8000), (9000, 3000)):
            yield f"{kind}, {size[0]}×{size[1]}", _plain(kind, *size), BAD_IMAGE
        for size in ((64, 64), (64, 192), (300, 100), (1000, 2999), (7000, 7000)):
            yield f"{kind}, {size[0]}×{size[1]}", _plain(kind, *size), NO_FACE
    for side in (8193, 30_000, 65_535, 100_000, 2**31 - 1):
        yield f"a PNG that says {side}²", _declared(side, side), BAD_IMAGE
        yield f"a PNG that says {side}×8000", _declared(side, 8000, 1, "grey"), BAD_IMAGE
    for width, height in ((0, 0), (0, 100), (100, 0), (2**32 - 1, 2**32 - 1), (2**31, 100), (8192, 8192), (8000, 6000)):
        yield f"a PNG that says {width}×{height}", _declared(width, height), BAD_IMAGE
    for depth, colour in ((3, "grey"), (0, "rgb"), (16, "palette"), (1, "rgba"), (32, "rgb"), (255, "grey")):
        yield f"a PNG of {depth} bits in {colour}", _declared(100, 100, depth, colour), BAD_IMAGE
    for width, height in ((0, 0), (0, 99), (99, 0), (65_535, 65_535), (65_500, 65_500), (8192, 8192), (8193, 5000)):
        yield f"a JPEG that says {width}×{height}", _jpeg_of_size(width, height), BAD_IMAGE
    yield "a JPEG of one colour that says 8000×6000", _jpeg_of_size(8000, 6000), NO_FACE, BAD_IMAGE


def _after_header(piece: bytes) -> bytes:
    """A PNG with this after its header."""
    content = saved(portrait(150), "PNG")
    return content[:33] + piece + content[33:]


def _with_chunks(name: bytes, count: int, size: int = 0) -> Content:
    return lambda: _after_header(png.chunk(name, bytes(size)) * count)


def _in_jpeg(piece: bytes) -> Content:
    def make() -> bytes:
        content = saved(portrait(150), "JPEG")
        return content[:2] + piece + content[2:]

    return make


def _scans(side: int, count: int) -> Content:
    def make() -> bytes:
        content = saved(Image.new("L", (side, side), 77), "JPEG", progressive=True)
        last = content.rindex(b"\xff\xda")
        return content[:last] + content[last:-2] * count + content[-2:]

    return make


def _changed(kind: str, old: bytes, new: bytes) -> Content:
    return lambda: KINDS[kind](portrait(150)).replace(old, new, 1)


def _bombs() -> Iterator[Row]:
    small = png.SIGNATURE + png.header(100, 100)
    end = png.chunk(b"IEND", b"")

    def deflated(size: int) -> bytes:
        return png.chunk(b"IDAT", zlib.compress(bytes(size), 9))

    yield "a picture with 100 MB more in it", lambda: small + deflated(100 * _MB) + end, NO_FACE
    yield "a picture with a byte too few", lambda: small + deflated(100 * 301 - 1) + end, BAD_IMAGE
    yield "no picture", lambda: small + end, BAD_IMAGE
    yield "an empty picture", lambda: small + png.chunk(b"IDAT", b"") + end, BAD_IMAGE
    yield "a picture that is not deflated", lambda: small + png.chunk(b"IDAT", b"x" * 9999) + end, BAD_IMAGE
    yield "a palette without its colours", lambda: (
        png.SIGNATURE + png.header(100, 100, 8, "palette") + deflated(100 * 101) + end
    ), NO_FACE, BAD_IMAGE  # fmt: skip
    for name in (b"IDAT", b"eXIf", b"tRNS"):
        yield f"800000 empty {name.decode()}", _with_chunks(name, 800_000), BAD_IMAGE
    for name in (b"tEXt", b"fdAT", b"acTL", b"iCCP"):
        yield f"800000 empty {name.decode()}", _with_chunks(name, 800_000), ACCEPTED
    for name in (b"tEXt", b"iCCP", b"eXIf"):
        yield f"9 MB of {name.decode()}", _with_chunks(name, 1, 9 * _MB), ACCEPTED
        yield f"a {name.decode()} of 2 GB, it says", partial(_after_header, b"\x7f\xff\xff\xff" + name), BAD_IMAGE
    yield "2.4 million comments", _in_jpeg(b"\xff\xfe\0\x02" * 2_400_000), BAD_IMAGE
    yield "9 MB of fill bytes", _in_jpeg(b"\xff" * 9 * _MB), ACCEPTED
    yield "9 MB of profiles", _in_jpeg((b"\xff\xe2\xff\xff" + b"\xff\xda" * 32766 + b"\0") * 140), ACCEPTED
    yield "9 MB of EXIF", _in_jpeg((b"\xff\xe1\xff\xffExif\0\0" + bytes(65527)) * 140), ACCEPTED
    yield "40000 EXIF", _in_jpeg(b"\xff\xe1\0\x08Exif\0\0" * 40_000), ACCEPTED
    yield "a segment of no length", _in_jpeg(b"\xff\xfe\0\0"), ACCEPTED, BAD_IMAGE
    yield "9 MB of ones after a name", lambda: b"\xff\xd8" + b"\xff" * 9 * _MB, BAD_IMAGE
    yield "nine million zeros after a name", lambda: b"\xff\xd8\xff" + bytes(9 * _MB), BAD_IMAGE
    for count in (100, 10_000):
        yield f"{count} scans", _scans(6000, count), BAD_IMAGE
    yield "25 scans", _scans(3000, 25), NO_FACE
    yield "arithmetic coding, it says", _changed("jpeg", b"\xff\xc0", b"\xff\xc9"), ACCEPTED, NO_FACE, BAD_IMAGE  # type: ignore[misc]
    for frame in (0xC1, 0xC2, 0xC3, 0xC5, 0xC7, 0xCA, 0xCB, 0xCF):
        yield (
            f"a frame of kind {frame:X}, it says",
            _changed("jpeg", b"\xff\xc0", bytes([0xFF, frame])),
            BAD_IMAGE,
            ACCEPTED,
        )
    yield "samples of 12 bits", _changed("jpeg", b"\xff\xc0\0\x11\x08", b"\xff\xc0\0\x11\x0c"), BAD_IMAGE
    yield "no tables", _changed("jpeg", b"\xff\xc4", b"\xff\xfe"), ACCEPTED, BAD_IMAGE
    yield "a megabyte too much", lambda: saved(portrait(150), "PNG") + bytes(10 * _MB), TOO_LARGE
    yield "11 MB of nothing", lambda: bytes(11 * _MB), TOO_LARGE
    yield "just 10 MB", lambda: (content := saved(portrait(150), "PNG")) + bytes(10 * _MB - len(content)), ACCEPTED
    yield "a photograph of 24 million pixels", lambda: _large(4000, {}), ACCEPTED
    yield "a progressive one", lambda: _large(4000, {"progressive": True, "subsampling": 0}), ACCEPTED


def _large(width: int, options: dict[str, object]) -> bytes:
    picture = portrait(400).resize((width, round(width * 1.5)), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(-4, 5, (300, 200, 3))  # so that it is not all smooth
    tiled = np.tile(noise, (picture.height // 300 + 1, picture.width // 200 + 1, 1))[: picture.height, : picture.width]
    pixels = (np.asarray(picture, np.int16) + tiled.astype(np.int16)).clip(0, 255).astype(np.uint8)
    Image.fromarray(pixels).save(buffer, "JPEG", quality=70, **options)
    return buffer.getvalue()
