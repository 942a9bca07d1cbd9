"""Portraits as they come: every mode decodes upright to RGB, everything broken or too large is refused in words."""

from __future__ import annotations

import io
import struct
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from media import image
from media.errors import InvalidImageError, UnsupportedMediaError

RED = (200, 30, 40)


def save(path: Path, picture: Image.Image, kind: str = "PNG", **options: object) -> Path:
    picture.save(path, kind, **options)
    return path


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1", "CMYK", "I;16"])
def test_modes_become_rgb(tmp_path: Path, mode: str) -> None:
    kind = "JPEG" if mode == "CMYK" else "PNG"
    if mode == "I;16":
        picture = Image.fromarray(np.full((80, 70), 128 * 256, np.uint16))
    else:
        grey = Image.new("RGB", (70, 80), (128, 128, 128))
        picture = grey.quantize(2) if mode == "P" else grey.convert(mode)
    pixels = image.load(save(tmp_path / "p", picture, kind))
    assert pixels.shape == (80, 70, 3)
    assert pixels.dtype == np.uint8
    if mode != "1":  # black and white dithers the grey
        assert np.abs(pixels.astype(int) - 128).max() <= 3


def test_transparent_pixels_lie_on_white(tmp_path: Path) -> None:
    picture = Image.new("RGBA", (64, 64), (*RED, 0))
    picture.paste((*RED, 255), (0, 0, 32, 64))
    pixels = image.load(save(tmp_path / "p", picture))
    assert tuple(pixels[5, 5]) == RED
    assert tuple(pixels[5, 60]) == (255, 255, 255)


def test_palette_with_transparency(tmp_path: Path) -> None:
    picture = Image.new("P", (64, 64), 0)
    picture.putpalette([0, 0, 0, *RED])
    pixels = image.load(save(tmp_path / "p", picture, transparency=0))
    assert tuple(pixels[0, 0]) == (255, 255, 255)


def test_exif_rotation_is_honoured(tmp_path: Path) -> None:
    picture = Image.new("RGB", (100, 70), (0, 0, 0))
    picture.paste(RED, (0, 0, 50, 70))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90° clockwise to see it upright
    path = save(tmp_path / "p", picture, "JPEG", exif=exif, quality=95, subsampling=0)
    info = image.probe(path)
    assert (info.format, info.width, info.height) == ("JPEG", 100, 70)
    pixels = image.load(path).astype(int)
    assert pixels.shape == (100, 70, 3)
    assert np.abs(pixels[10, 35] - RED).max() < 12
    assert pixels[90, 35].max() < 12


@pytest.mark.parametrize("content", [b"", b"hello", b"GIF89a" + bytes(100), b"%PDF-1.4", b"RIFF0000WEBPVP8 "])
def test_other_kinds_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "p.png"
    path.write_bytes(content)
    with pytest.raises(UnsupportedMediaError, match="neither a JPEG nor a PNG"):
        image.load(path)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_truncated_files_are_refused(tmp_path: Path, kind: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8)
    path = save(tmp_path / "p", Image.fromarray(noise), kind)
    whole = path.read_bytes()
    for share in (0.02, 0.3, 0.9):
        path.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(InvalidImageError, match="damaged or cut short"):
            image.load(path)


@pytest.mark.parametrize(
    ("size", "says"),
    [((63, 80), "63×80"), ((8193, 4000), "8193×4000"), ((64, 193), "3 times"), ((8000, 7000), "50 million")],
)
def test_sizes_out_of_range_are_refused(tmp_path: Path, size: tuple[int, int], says: str) -> None:
    path = save(tmp_path / "p", Image.new("1", size))
    with pytest.raises(InvalidImageError, match=says):
        image.probe(path)


def test_the_largest_and_the_narrowest_are_taken(tmp_path: Path) -> None:
    for size in ((64, 64), (64, 192), (8192, 6103)):
        assert image.load(save(tmp_path / "p", Image.new("1", size))).shape == (size[1], size[0], 3)


def test_a_bomb_is_refused_by_its_header(tmp_path: Path) -> None:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    path = tmp_path / "p"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b""))
    with pytest.raises(InvalidImageError, match="60000×60000"):
        image.load(path)


@settings(max_examples=150, deadline=None)
@given(place=st.floats(0, 1), value=st.integers(0, 255), kind=st.sampled_from(["JPEG", "PNG"]))
def test_damage_never_escapes_as_another_error(
    tmp_path_factory: pytest.TempPathFactory, place: float, value: int, kind: str
) -> None:
    buffer = io.BytesIO()
    Image.linear_gradient("L").resize((90, 80)).save(buffer, kind)
    content = bytearray(buffer.getvalue())
    content[int(place * (len(content) - 1))] = value
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(content)
    with suppress(InvalidImageError, UnsupportedMediaError):  # said in words; anything else fails the test
        assert image.load(path).ndim == 3
