"""Portraits as they come: every mode decodes upright to RGB, everything broken or too large is refused in words."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo

from media import image
from media.errors import InvalidImageError, UnsupportedMediaError

RED = (200, 30, 40)
ROOT = Path(__file__).resolve().parents[2]


def save(path: Path, picture: Image.Image, kind: str = "PNG", **options: Any) -> Path:
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


def marked() -> Image.Image:
    """Red above, green to the left, on black: no two orientations look alike."""
    picture = Image.new("RGB", (100, 70), (0, 0, 0))
    picture.paste((0, 200, 0), (0, 0, 25, 70))
    picture.paste(RED, (0, 0, 100, 20))
    return picture


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_honoured(tmp_path: Path, orientation: int, kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 95, "subsampling": 0} if kind == "JPEG" else {}
    path = save(tmp_path / "p", marked(), kind, exif=exif, **options)
    with Image.open(path) as opened:
        expected = np.asarray(ImageOps.exif_transpose(opened).convert("RGB"))
    assert np.array_equal(image.load(path), expected)
    assert (image.probe(path).width, image.probe(path).height) == (100, 70)


@pytest.mark.filterwarnings("ignore:.*(EXIF|Tag data)")
def test_a_broken_exif_block_is_no_reason_to_refuse(tmp_path: Path) -> None:
    broken = b"Exif\x00\x00II*\x00\x08\x00\x00\x00\xff\xff" + b"\x12\x01\x02\x00\xff\xff\xff\x7f\x00\x00\x00\x7f" * 3
    path = save(tmp_path / "p", marked(), "JPEG", exif=broken)
    assert image.load(path).shape == (70, 100, 3)


def test_texts_and_profiles_of_a_png_do_not_matter(tmp_path: Path) -> None:
    texts = PngInfo()
    texts.add_text("workflow", "x" * 3_000_000, zip=True)
    path = save(tmp_path / "p", marked(), pnginfo=texts, icc_profile=b"no profile")
    content = bytearray(path.read_bytes())
    content[content.index(b"zTXt") + 20] ^= 0xFF  # its checksum is wrong now
    path.write_bytes(content)
    assert np.array_equal(image.load(path), np.asarray(marked()))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "I;16"])
def test_memory_for_the_largest_portrait(tmp_path: Path, mode: str) -> None:
    """Of 50 million pixels: Pillow's picture (4 bytes a pixel), ours (3) and little else."""
    size = (8192, 6103)
    picture = Image.fromarray(np.zeros(size[::-1], np.uint16)) if mode == "I;16" else Image.new(mode, size)
    path = save(tmp_path / "p", picture, compress_level=1)
    program = (
        "import resource, sys; from pathlib import Path; from media import image\n"
        "rss = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        f"before = rss(); image.load(Path({str(path)!r})); print(rss() - before)"
    )
    ended = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, cwd=ROOT)
    assert int(ended.stdout) / 1024 < 430


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
        with pytest.raises(InvalidImageError, match="damaged or truncated"):
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


@pytest.mark.parametrize("tail", [b"\0", bytes(5), bytes(1001), b"PK\x03\x04", b"\x89PNG\r\n\x1a\n"])
def test_what_follows_a_png_does_not_matter(tmp_path: Path, tail: bytes) -> None:
    path = save(tmp_path / "p", marked())
    path.write_bytes(path.read_bytes() + tail)
    assert np.array_equal(image.load(path), np.asarray(marked()))


def png_of_pieces(name: bytes, count: int) -> bytes:
    buffer = io.BytesIO()
    marked().save(buffer, "PNG")
    content = buffer.getvalue()
    piece = bytes(4) + name + struct.pack(">I", zlib.crc32(name))
    return content[:33] + piece * count + content[33:]


def jpeg_of_scans(count: int) -> bytes:
    """A grey picture whose last progressive scan comes again and again."""
    buffer = io.BytesIO()
    marked().convert("L").save(buffer, "JPEG", progressive=True)
    content = buffer.getvalue()
    last = content.rindex(b"\xff\xda")
    return content[:last] + content[last:-2] * (count - content.count(b"\xff\xda") + 1) + content[-2:]


def test_many_pieces_of_a_picture_are_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "p"
    for content in (png_of_pieces(b"IDAT", 800_000), png_of_pieces(b"eXIf", 60_000)):
        path.write_bytes(content)
        with pytest.raises(InvalidImageError, match="more than 50000 chunks"):
            image.load(path)
    path.write_bytes(png_of_pieces(b"IDAT", 5000))
    assert np.array_equal(image.load(path), np.asarray(marked()))


def test_many_progressive_scans_are_refused(tmp_path: Path) -> None:
    """Of 50 million pixels, each takes 70 ms."""
    path = tmp_path / "p"
    path.write_bytes(jpeg_of_scans(32))
    assert image.load(path).shape == (70, 100, 3)
    path.write_bytes(jpeg_of_scans(33))
    with pytest.raises(InvalidImageError, match="more than 32 progressive scans"):
        image.load(path)


def test_what_else_is_in_a_jpeg_does_not_matter(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    content = save(tmp_path / "p", marked(), "JPEG", exif=exif, quality=95, subsampling=0).read_bytes()
    expected = image.load(tmp_path / "p")
    comment, profile = b"\xff\xfe\x00\x02", b"\xff\xe2\xff\xff" + b"\xff\xda" * 32767 + b"\0"
    film = b"ftypisom" + b"\xff\xda" * 1000
    second = b"\xff\xe1\x00\x08Exif\0\0"
    for odd in (
        content[:2] + comment * 40_000 + content[2:],
        content[:2] + profile * 100 + content[2:],
        content[:2] + b"\xff" * 9_000_000 + content[2:],
        content[:2] + b"\xff\xd8\xff\x01" + content[2:],
        content + film,
    ):
        (tmp_path / "p").write_bytes(odd)
        assert np.array_equal(image.load(tmp_path / "p"), expected)
    (tmp_path / "p").write_bytes(content[:2] + second * 40_000 + content[2:])
    assert image.load(tmp_path / "p").shape == expected.shape
    (tmp_path / "p").write_bytes(content[:2] + comment * 60_000 + content[2:])
    with pytest.raises(InvalidImageError, match="more than 50000 segments"):
        image.load(tmp_path / "p")


@pytest.mark.parametrize(
    "content",
    [b"\xff\xd8\xff", b"\xff\xd8\xff\xd9", b"\xff\xd8\xff\xe0\x00\x00" * 3, b"\xff\xd8" + b"\xff" * 9_000_000],
    ids=["a beginning", "no segment", "empty segments", "fill bytes"],
)
def test_a_jpeg_without_a_picture(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "p"
    path.write_bytes(content)
    with pytest.raises(InvalidImageError, match="damaged or truncated"):
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
