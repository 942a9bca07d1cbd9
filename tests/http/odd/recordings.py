"""Recordings that are odd but valid, and those that are not."""

from __future__ import annotations

import itertools
import random
import struct
from collections.abc import Iterator, Mapping
from functools import partial

import numpy as np
from numpy.typing import NDArray

from tests.http.odd.case import ACCEPTED, Case, Content, audio_case, in_memory, wav_of
from tests.media.speech import tone, write_mp3

RATES = (8000, 11025, 16000, 22050, 32000, 44100, 48000, 96000, 192_000)
CHANNELS = (1, 2, 3, 6, 8)
DEPTHS: Mapping[str, dict[str, object]] = {
    "8 bits": {"bits": 8},
    "16 bits": {},
    "24 bits": {"bits": 24},
    "32 bits": {"bits": 32},
    "floats": {"bits": 32, "floating": True},
    "doubles": {"bits": 64, "floating": True},
}
MP3_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
ENCODERS: Mapping[str, Mapping[str, str]] = {
    "8 kbps": {"b": "8000"},
    "32 kbps": {"b": "32000"},
    "64 kbps": {"b": "64000"},
    "320 kbps": {"b": "320000"},
    "variable, good": {"flags": "+qscale", "global_quality": "118"},
    "variable, bad": {"flags": "+qscale", "global_quality": "1062"},
    "average": {"abr": "1", "b": "48000"},
}
PCM, FLOAT, A_LAW, MU_LAW, EXTENSIBLE = 1, 3, 6, 7, 0xFFFE
_GUID = b"\0\0\0\0\x10\0\x80\0\0\xaa\0\x38\x9b\x71"


def chunk(name: bytes, data: bytes) -> bytes:
    return name + struct.pack("<I", len(data)) + data + bytes(len(data) % 2)


def form(kind: int = PCM, channels: int = 1, rate: int = 8000, bits: int = 16, **lies: int) -> bytes:
    """A `fmt ` chunk's data; `lies` are of `per_second` and `align`."""
    align = lies.get("align", channels * bits // 8)
    return struct.pack("<HHIIHH", kind, channels, rate, lies.get("per_second", rate * align), align, bits)


def riff(*chunks: bytes, name: bytes = b"RIFF", size: int | None = None) -> bytes:
    content = b"WAVE" + b"".join(chunks)
    return name + struct.pack("<I", len(content) if size is None else size) + content


def speech(seconds: float = 0.3, rate: int = 8000, level: float = 0.5) -> NDArray[np.float64]:
    """Something like a vowel."""
    return tone(seconds, rate, 140, level) * (1 + tone(seconds, rate, 5, 1)) / 2


def samples(seconds: float = 0.3, rate: int = 8000) -> bytes:
    return (speech(seconds, rate) * 32767).astype("<i2").tobytes()


def plain(data: bytes | None = None, *, before: bytes = b"", after: bytes = b"", **options: int) -> bytes:
    """A WAV of 16 bits."""
    return riff(chunk(b"fmt ", form(**options)), before, chunk(b"data", samples() if data is None else data), after)


def extensible(kind: int, channels: int, bits: int, valid: int, mask: int, data: bytes) -> bytes:
    described = form(EXTENSIBLE, channels, 8000, bits) + struct.pack("<HHIH", 22, valid, mask, kind) + _GUID
    return riff(chunk(b"fmt ", described), chunk(b"data", data))


def mp3(seconds: float = 0.5, rate: int = 16000, **options: object) -> bytes:
    return in_memory(lambda path: write_mp3(path, speech(seconds, rate), rate, **options))  # type: ignore[arg-type]


def id3(content: bytes, *, version: int = 3, flags: int = 0) -> bytes:
    size = bytes(len(content) >> shift & 0x7F for shift in (21, 14, 7, 0))
    return b"ID3" + bytes([version, 0, flags]) + size + content


def cover(size: int) -> bytes:
    """An ID3 frame with a picture."""
    data = b"\0image/jpeg\0\x03\0\xff\xd8\xff" + random.Random(1).randbytes(size)
    return b"APIC" + struct.pack(">IH", len(data), 0) + data


def titles(count: int) -> bytes:
    return b"".join(b"TXXX\0\0\0\x0b\0\0\0" + b"%07d\0ab" % number for number in range(count))


def info(count: int) -> bytes:
    tags = (struct.pack(">II", 0x41414141 + number, 0x02000000) + b"a\0" for number in range(count))
    return chunk(b"LIST", b"INFO" + b"".join(tags))


def _floats(*values: float, code: str = "<f4") -> bytes:
    """A WAV of 0.3 s in which some samples have these values."""
    data = speech().astype(code)
    for place, value in enumerate(values, 100):
        data[place : place + 500 : 7] = value
    return plain(data.tobytes(), kind=FLOAT, bits=data.dtype.itemsize * 8)


def _rf64(data: bytes) -> bytes:
    sizes = chunk(b"ds64", struct.pack("<QQQI", len(data) + 72, len(data), len(data) // 2, 0))
    return riff(sizes, chunk(b"fmt ", form()), b"data" + b"\xff" * 4 + data, name=b"RF64", size=0xFFFFFFFF)


def _stated(data_size: int, riff_size: int | None = None) -> bytes:
    """A WAV whose header says these sizes."""
    return riff(chunk(b"fmt ", form()), b"data" + struct.pack("<I", data_size) + samples(), size=riff_size)


def _law(kind: int, channels: int = 1) -> bytes:
    return plain(random.Random(2).randbytes(2400 * channels), kind=kind, channels=channels, bits=8)


ODD: Mapping[str, Content] = {
    "A-law": partial(_law, A_LAW),
    "A-law in stereo": partial(_law, A_LAW, 2),
    "mu-law": partial(_law, MU_LAW),
    "extensible, 16 bits": lambda: extensible(PCM, 1, 16, 16, 4, samples()),
    "extensible, 20 of 24 bits": lambda: extensible(PCM, 2, 24, 20, 3, bytes(6 * 2400)),
    "extensible, 24 of 32 bits": lambda: extensible(PCM, 1, 32, 24, 0, bytes(4 * 2400)),
    "extensible, floats": lambda: extensible(FLOAT, 1, 32, 32, 4, speech().astype("<f4").tobytes()),
    "extensible, six speakers": lambda: extensible(PCM, 6, 16, 16, 0x3F, bytes(12 * 2400)),
    "extensible, speakers nowhere": lambda: extensible(PCM, 8, 16, 16, 0xFFFFFFFF, bytes(16 * 2400)),
    "RF64": lambda: _rf64(samples()),
    "RF64 without its sizes": lambda: _rf64(samples()).replace(b"ds64", b"JUNK"),
    "a list before": lambda: plain(before=chunk(b"LIST", b"INFO" + chunk(b"INAM", b"name"))),
    "a list after": lambda: plain(after=chunk(b"LIST", b"INFO" + chunk(b"IART", "Grüße".encode("latin-1")))),
    "a list of lies": lambda: plain(before=chunk(b"LIST", b"INFO" + b"INAM\xff\xff\xff\xff")),
    "a hundred thousand titles": lambda: plain(before=info(100_000), after=info(100_000)),
    "JUNK, bext, cue": lambda: plain(
        before=chunk(b"JUNK", bytes(28)) + chunk(b"bext", bytes(602)) + chunk(b"cue ", bytes(4))
    ),
    "fact": lambda: plain(before=chunk(b"fact", bytes(4))),
    "ID3 in a chunk": lambda: plain(after=chunk(b"id3 ", id3(titles(9)))),
    "data before format": lambda: riff(chunk(b"data", samples()), chunk(b"fmt ", form())),
    "two formats": lambda: plain(before=chunk(b"fmt ", form(rate=16000))),
    "two lots of data": lambda: plain(after=chunk(b"data", samples())),
    "an odd chunk": lambda: plain(before=chunk(b"odd ", bytes(5))),
    "an odd chunk without padding": lambda: plain(before=chunk(b"odd ", bytes(5))[:-1]),
    "a format with more": lambda: riff(chunk(b"fmt ", form() + b"\0\0"), chunk(b"data", samples())),
    "a byte too many": lambda: plain(samples() + b"\1"),
    "zeros after": lambda: plain(after=bytes(5000)),
    "noise after": lambda: plain(after=random.Random(4).randbytes(5000)),
    "a zip after": lambda: plain(after=b"PK\x05\x06" + bytes(18)),
    "no RIFF size": lambda: _stated(4800, 0),
    "a RIFF size too small": lambda: _stated(4800, 9),
    "a RIFF size too large": lambda: _stated(4800, 0xFFFFFFFF),
    "no data size": lambda: _stated(0),
    "data of 4 GB, it says": lambda: _stated(0xFFFFFFFF),
    "data of 2 GB, it says": lambda: _stated(0x7FFFFFFF),
    "a wrong rate of bytes": lambda: plain(per_second=1),
    "no rate of bytes": lambda: plain(per_second=0),
    "not a number": lambda: _floats(np.nan),
    "infinity": lambda: _floats(np.inf, -np.inf),
    "doubles of infinity": lambda: _floats(np.inf, np.nan, code="<f8"),
    "too loud by far": lambda: _floats(3e38, -3e38),
    "doubles too loud by far": lambda: _floats(1e300, -1e300, code="<f8"),
    "too quiet by far": lambda: _floats(1e-40, code="<f4"),
    "silence": lambda: plain(bytes(4800)),
    "silence of 8 bits": lambda: plain(b"\x80" * 2400, bits=8),
    "all at the limit": lambda: plain(b"\xff\x7f" * 2400),
    "a square": lambda: plain((b"\xff\x7f" * 20 + b"\0\x80" * 20) * 60),
    "noise": lambda: plain(random.Random(5).randbytes(4800)),
    "0.1 seconds": lambda: plain(samples(0.1)),
    "4000 Hz": lambda: plain(samples(0.3, 4000), rate=4000),
    "8001 Hz": lambda: plain(rate=8001),
    "768 kHz": lambda: plain(samples(0.2, 768_000), rate=768_000),
    "64 channels": lambda: plain(bytes(128 * 2400), channels=64),
    "mp3, no count of frames": lambda: mp3(xing=False),
    "mp3, ID3v2.2": lambda: id3(b"TT2\0\0\x05\0name", version=2) + mp3(),
    "mp3, ID3v2.3, a small cover": lambda: id3(cover(5000)) + mp3(),
    "mp3, a cover of 2 MB": lambda: id3(cover(2 << 20)) + mp3(),
    "mp3, a cover of 45 MB": lambda: id3(cover(45 << 20)) + mp3(),
    "mp3, ID3v2.4 with a footer": lambda: id3(titles(2), version=4, flags=0x10) + b"3DI\4\0\x10\0\0\0\0" + mp3(),
    "mp3, ID3 with other flags": lambda: id3(titles(2), flags=0xE0) + mp3(),
    "mp3, ID3 of an unknown version": lambda: id3(titles(2), version=9) + mp3(),
    "mp3, an empty ID3": lambda: id3(b"") + mp3(),
    "mp3, several ID3": lambda: id3(titles(3)) * 9 + mp3(),
    "mp3, ID3 of zeros": lambda: id3(bytes(100_000)) + mp3(),
    "mp3, ID3 of noise": lambda: id3(random.Random(6).randbytes(100_000)) + mp3(),
    "mp3, a hundred thousand titles": lambda: id3(titles(100_000)) + mp3(),
    "mp3, titles in Chinese": lambda: id3(b"TIT2\0\0\0\x07\0\0\1\xff\xfe" + "名字".encode("utf-16-le")) + mp3(),
    "mp3, ID3v1": lambda: mp3() + b"TAG" + b"\xff" * 125,
    "mp3, an APE tag": lambda: mp3() + b"APETAGEX" + struct.pack("<IIII", 2000, 32, 0, 0) + bytes(8),
    "mp3, zeros after": lambda: mp3(1) + bytes(3000),
    "mp3, a zip after": lambda: mp3(1) + b"PK\x05\x06" + bytes(18),
    "mp3, two in one": lambda: mp3(xing=False) + mp3(xing=False),
    "mp3, two of different rates": lambda: mp3(xing=False) + mp3(rate=44100, layout="stereo", xing=False),
    "mp3, silence": lambda: in_memory(lambda path: write_mp3(path, np.zeros(16000), 16000)),
    "mp3, its first frame gone": lambda: without_frames(mp3(1, xing=False), 1),
    "mp3, two frames gone": lambda: without_frames(mp3(1, xing=False), 2),
}  # fmt: skip
"""Each is taken, and some are rendered."""


def without_frames(content: bytes, count: int) -> bytes:
    """An MP3 of 16 kHz and without Xing header that begins so many frames later, as one cut out of a stream does."""
    sync = b"\xff\xf3"
    start = content.index(sync)
    for _ in range(count):
        start = content.index(sync, start + 4)
    return content[start:]


def _depths() -> Iterator[tuple[str, Content]]:
    for (depth, options), rate, channels in itertools.product(DEPTHS.items(), RATES, CHANNELS):
        make = partial(wav_of, speech(0.2, rate), rate, channels=channels, **options)
        yield f"{depth}, {rate} Hz, {channels} channels", make


def _mp3s() -> Iterator[tuple[str, Content]]:
    for rate, layout, (name, encoder) in itertools.product(MP3_RATES, ("mono", "stereo"), ENCODERS.items()):
        yield f"mp3, {rate} Hz, {layout}, {name}", partial(mp3, rate=rate, layout=layout, encoder=encoder)


def cases() -> Iterator[Case]:
    """All that are valid."""
    for number, (name, content) in enumerate(ODD.items()):
        yield audio_case(name, content, ACCEPTED, rendered=number % 3 == 0)
    for name, content in (*_depths(), *_mp3s()):
        yield audio_case(name, content, ACCEPTED)
