"""Recordings that are cut, damaged, of other kinds, of impossible formats, or meant to hurt."""

from __future__ import annotations

import io
import random
import struct
from collections.abc import Iterator
from functools import partial
from typing import Any

import av
import numpy as np
from PIL import Image

from tests.http.odd.case import (
    ACCEPTED,
    BAD_AUDIO,
    BAD_KIND,
    TOO_LARGE,
    Case,
    Content,
    Outcome,
    after,
    audio_case,
    cut,
    flipped,
    good_image,
    wav_of,
)
from tests.http.odd.recordings import chunk, form, id3, mp3, plain, riff, samples, speech, titles, without_frames
from tests.media.speech import tone

_MB = 1 << 20
_CUTS, _FLIPS = 12, 20  # of each of these
_CUT: dict[str, Content] = {
    "wav": lambda: plain(samples(4)),
    "wav of 24 bits in stereo": lambda: wav_of(speech(3), 8000, bits=24, channels=2),
    "wav of floats": lambda: wav_of(speech(3), 8000, bits=32, floating=True),
    "wav with a list": lambda: plain(samples(3), before=chunk(b"LIST", b"INFO" + chunk(b"INAM", b"name" * 50))),
    "mp3": lambda: mp3(4),
    "mp3 in stereo": lambda: mp3(4, 44100, layout="stereo"),
    "mp3 of variable rate": lambda: mp3(4, encoder={"flags": "+qscale", "global_quality": "600"}),
}
_FLIPPED: dict[str, Content] = {
    **_CUT,
    "mp3 without a count": lambda: mp3(1, xing=False),
    "mp3 with titles": lambda: id3(titles(40)) + mp3(1),
    "wav, extensible": lambda: riff(
        chunk(b"fmt ", form(0xFFFE) + struct.pack("<HHIH", 22, 16, 4, 1) + bytes(14)), chunk(b"data", samples(1))
    ),
}


def cases() -> Iterator[Case]:
    """All of them."""
    yield from _cut_and_damaged()
    for name, content in _foreign().items():
        yield audio_case(name, content, BAD_KIND)
        yield audio_case(f"{name}, after a blank", partial(after, b" ", content), BAD_KIND)
        yield audio_case(f"{name}, after an ID3", partial(after, id3(b""), content), BAD_AUDIO)
    for name, content, *outcomes in _impossible():
        yield audio_case(name, content, *outcomes)
    for name, content, *outcomes in _bombs():
        yield audio_case(name, content, *outcomes)


def _cut_and_damaged() -> Iterator[Case]:
    rng = random.Random("cut recordings")
    for name, whole in _CUT.items():
        for _ in range(_CUTS):
            share = rng.random() * 0.85
            yield audio_case(
                f"{name}, cut at {share:.4f}", partial(cut, whole, share),
                BAD_AUDIO, *([BAD_KIND] if share < 0.01 else []),
            )  # fmt: skip
    for name, whole in _FLIPPED.items():
        for number in range(_FLIPS):
            bits = 1 << number % 8
            yield audio_case(
                f"{name}, {bits} bits flipped, {number}",
                partial(flipped, whole, f"{name} {number}", bits),
                ACCEPTED, BAD_AUDIO, BAD_KIND,
            )  # fmt: skip


def _encoded(kind: str, codec: str) -> Content:
    def make() -> bytes:
        buffer: Any = io.BytesIO()
        with av.open(buffer, "w", format=kind) as container:
            stream: Any = container.add_stream(codec, rate=48000, layout="mono")
            for start in range(0, 48000, 960):
                block = tone(1, 48000)[np.newaxis, start : start + 960].astype(np.float32)
                frame = av.AudioFrame.from_ndarray(block, format="fltp", layout="mono")
                frame.sample_rate, frame.pts = 48000, start
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        return bytes(buffer.getvalue())

    return make


def _picture(kind: str) -> Content:
    def make() -> bytes:
        buffer = io.BytesIO()
        Image.new("RGB", (64, 64)).save(buffer, kind)
        return buffer.getvalue()

    return make


def _foreign() -> dict[str, Content]:
    """What is neither a WAV nor an MP3 file, whatever it is called."""
    return {
        "nothing": lambda: b"",
        "a portrait": good_image,
        "png": _picture("PNG"),
        "webp": _picture("WEBP"),
        "ogg": _encoded("ogg", "flac"),
        "opus": _encoded("ogg", "libopus"),
        "flac": _encoded("flac", "flac"),
        "m4a": _encoded("ipod", "aac"),
        "aac": _encoded("adts", "aac"),
        "mp2": _encoded("mp2", "mp2"),
        "aiff": _encoded("aiff", "pcm_s16be"),
        "au": _encoded("au", "pcm_s16be"),
        "caf": _encoded("caf", "pcm_s16le"),
        "w64": _encoded("w64", "pcm_s16le"),
        "avi": _encoded("avi", "pcm_s16le"),
        "matroska": _encoded("matroska", "libopus"),
        "amr, it says": lambda: b"#!AMR\n" + bytes(99),
        "midi": lambda: b"MThd\0\0\0\x06\0\0\0\1\0\x60MTrk\0\0\0\0",
        "a playlist": lambda: b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n",
        "a list for FFmpeg": lambda: b"ffconcat version 1.0\nfile '/etc/passwd'\n",
        "HTML": lambda: b"<audio src='file:///etc/passwd'>",
        "big-endian WAV": lambda: plain().replace(b"RIFF", b"RIFX", 1),
        "RIFF of another kind": lambda: plain().replace(b"WAVE", b"RMID", 1),
        "text": lambda: b"hello, this is a recording",
        "zeros": lambda: bytes(5000),
        "ones": lambda: b"\xff" * 5000,
        "half a name": lambda: b"RIFF\0\0\0\0WAV",
    }


Row = tuple[str, Content, Outcome] | tuple[str, Content, Outcome, Outcome]


def _of_seconds(seconds: float, rate: int) -> bytes:
    return plain(samples(seconds, rate), rate=rate)


def _by_ds64(size: int) -> bytes:
    sizes = chunk(b"ds64", struct.pack("<QQQI", size, size, size, 0))
    return riff(sizes, chunk(b"fmt ", form()), b"data\xff\xff\xff\xff" + samples(), name=b"RF64")


def _impossible() -> Iterator[Row]:
    for seconds in (0, 0.001, 0.05, 0.09):
        yield f"wav of {seconds} s", partial(_of_seconds, seconds, 8000), BAD_AUDIO
        yield f"wav of {seconds} s at 192 kHz", partial(_of_seconds, seconds, 192_000), BAD_AUDIO
    yield "mp3 of 0.05 s", lambda: mp3(0.05), BAD_AUDIO
    for rate in (0, 1, 100, 3999, 768_001, 2**31 - 1, 2**32 - 1):
        yield f"{rate} Hz", partial(plain, rate=rate, align=2, per_second=9), BAD_AUDIO
    for channels in (0, 65, 255, 1000, 65_535):
        yield f"{channels} channels", partial(plain, channels=channels, align=2, per_second=9), BAD_AUDIO
    for bits in (0, 1, 7, 12, 20, 40, 65_535):
        yield f"{bits} bits", partial(plain, bits=bits, align=2), BAD_AUDIO, ACCEPTED
    for align in (0, 1, 3, 5, 65_535):
        yield f"blocks of {align}", partial(plain, align=align), BAD_AUDIO, ACCEPTED
    for kind in (0, 2, 0x11, 0x31, 0x50, 0x55, 0xFF, 0x161, 0x674F, 0xF1AC, 0xFFFF):
        yield f"sound of kind {kind:X}", partial(plain, kind=kind), BAD_AUDIO
    yield "no format", lambda: riff(chunk(b"data", samples())), BAD_AUDIO
    yield "no data", lambda: riff(chunk(b"fmt ", form())), BAD_AUDIO
    yield "an empty format", lambda: riff(chunk(b"fmt ", b""), chunk(b"data", samples())), BAD_AUDIO
    yield "half a format", lambda: riff(chunk(b"fmt ", form()[:7]), chunk(b"data", samples())), BAD_AUDIO
    yield "only a name", lambda: b"RIFF\0\0\0\0WAVE", BAD_AUDIO
    yield "only a name of 64 bits", lambda: b"RF64\xff\xff\xff\xffWAVE", BAD_AUDIO
    yield "data to come", lambda: plain(samples(3))[:44], BAD_AUDIO
    for size in (0, 2**40, 2**63, 2**64 - 1):
        yield f"{size} bytes by ds64", partial(_by_ds64, size), BAD_AUDIO if size else ACCEPTED
    yield "free format", lambda: b"\xff\xfb\x00\x00" + random.Random(8).randbytes(4000), BAD_AUDIO, BAD_KIND
    yield "an MP3 in the middle of a frame", lambda: without_frames(mp3(1, xing=False), 3)[50:], BAD_KIND
    yield "an ID3 alone", lambda: id3(titles(9)), BAD_AUDIO
    yield "an ID3 that goes on", lambda: b"ID3\3\0\0\x7f\x7f\x7f\x7f" + mp3(), BAD_AUDIO
    yield "half an ID3", lambda: b"ID3\3", BAD_AUDIO
    yield "layer I", lambda: b"\xff\xff\x90\x00" + bytes(4000), BAD_KIND
    yield "one frame", lambda: without_frames(mp3(1, xing=False), 5)[:108], BAD_AUDIO


def _silence(hours: float) -> bytes:
    """Of 8 kHz and 8 kbps: a frame has 72 ms in 72 bytes."""
    return (b"\xff\xe3\x18\xc4" + bytes(68)) * int(hours * 50_000)


def _bombs() -> Iterator[Row]:
    for hours in (0.17, 1, 12):
        yield f"{hours} hours of silence", partial(_silence, hours), BAD_AUDIO
    yield "hours by its count", lambda: _counted(2**32 - 1), BAD_AUDIO
    yield "no frames by its count", lambda: _counted(0), ACCEPTED
    yield "601 s of wav", lambda: plain(bytes(601 * 8000), bits=8), BAD_AUDIO
    yield "600 s of wav", lambda: plain(b"\x80" * (600 * 8000), bits=8), ACCEPTED
    yield "600 s in 49 MB", lambda: plain(bytes(600 * 41_000 * 2), rate=41_000), ACCEPTED
    yield "600 s of mp3", lambda: mp3(599.9, 8000, encoder={"b": "8000"}), ACCEPTED
    yield "51 MB of wav", lambda: plain(bytes(51 * _MB)), TOO_LARGE
    yield "51 MB of ID3", lambda: id3(bytes(51 * _MB)) + mp3(), TOO_LARGE
    yield "two million tags", lambda: id3(b"") * 2_000_000 + mp3(), BAD_AUDIO
    yield "three million chunks", lambda: riff(chunk(b"JUNK", b"") * 3_000_000), BAD_AUDIO
    yield "a million formats", lambda: riff(chunk(b"fmt ", form()) * 1_000_000), BAD_AUDIO
    yield "ten million starts of frames", lambda: b"\xff\xfb\x90\x00" * 10_000_000, BAD_AUDIO
    yield "40 MB of zeros after a frame", lambda: mp3(xing=False) + bytes(40 * _MB), ACCEPTED, BAD_AUDIO
    yield (
        "40 MB of noise after a frame",
        lambda: mp3(xing=False) + random.Random(9).randbytes(40 * _MB),
        BAD_AUDIO,
        ACCEPTED,
    )
    yield "40 MB of ones", lambda: b"\xff\xfb\x90" + b"\xff" * (40 * _MB), BAD_AUDIO
    yield "a million titles", lambda: id3(titles(1_000_000)) + mp3(), ACCEPTED
    yield "titles that never end", lambda: id3(b"TXXX\x7f\x7f\x7f\x7f\0\0" * 4000) + mp3(), ACCEPTED
    yield (
        "a compressed title",
        lambda: id3(b"TIT2\0\0\0\x09\0\x80\0\0\0\0\xff\xff\xff\xff\0", version=3) + mp3(),
        ACCEPTED,
    )


def _counted(frames: int) -> bytes:
    content = mp3()
    place = max(content.find(b"Xing"), content.find(b"Info")) + 8
    return content[:place] + frames.to_bytes(4, "big") + content[place + 4 :]
