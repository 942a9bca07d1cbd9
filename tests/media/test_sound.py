"""The sound is found in whatever else a file holds: tags, chunks and headers, in any order and number."""

from __future__ import annotations

import signal
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from media import audio
from media.errors import InvalidAudioError, UnsupportedMediaError
from tests.media.speech import tone, write_mp3, write_wav


@pytest.mark.parametrize("size", [0x7FFFFFFF, 0x7FFFF000, 0xFFFFFFFF])
def test_a_wav_from_a_pipe_declares_no_length(tmp_path: Path, size: int) -> None:
    path = write_wav(tmp_path / "s", tone(1, 16000), 16000)
    content = bytearray(path.read_bytes())
    content[40:44] = struct.pack("<I", size)
    path.write_bytes(content)
    assert audio.probe(path).seconds == pytest.approx(1)


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Fail, rather than hang, when what is inside does not end."""

    def late(*_: object) -> None:
        raise AssertionError(f"not done after {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_a_chunk_that_points_back_at_itself_does_not_hang(tmp_path: Path) -> None:
    """After an odd ds64 chunk FFmpeg goes on at once, and aligns the chunks after the next.

    A reader that pads sees the JUNK one byte later, as an empty chunk, and the LIST in it that reaches to the trap: a
    format shorter than one can be, at the end of the file. Going on from its contents leads back to its own header.
    """
    wav = write_wav(tmp_path / "s", tone(0.5, 8000), 8000).read_bytes()
    ds64 = b"ds64" + struct.pack("<IQQQ", 25, len(wav), len(wav) - 44, 4000) + b"\0"
    junk = b"JUNK" + struct.pack("<I", 10) + b"\0LIST" + struct.pack("<I", 2 + len(wav) - 12 + 8) + b"\0" + b"\0"
    trap = b"JUNK" + struct.pack("<I", 8) + b"fmt " + struct.pack("<I", 8)
    path = tmp_path / "trap"
    path.write_bytes(b"RF64" + wav[4:12] + ds64 + junk + wav[12:] + trap)
    with at_most(10):
        assert audio.probe(path).seconds == pytest.approx(0.5)


def riff(name: bytes, data: bytes) -> bytes:
    return name + struct.pack("<I", len(data)) + data + bytes(len(data) % 2)


def id3(content: bytes) -> bytes:
    size = bytes(len(content) >> shift & 0x7F for shift in (21, 14, 7, 0))
    return b"ID3\x04\x00\x00" + size + content


def test_a_hundred_thousand_titles_cost_no_time(tmp_path: Path) -> None:
    """FFmpeg would search all it has for each: minutes for these."""
    texts = b"".join(b"TXXX\0\0\0\x0b\0\0\0" + b"%07d\0ab" % number for number in range(100_000))
    names = b"".join(struct.pack(">II", 0x41414141 + number, 0x02000000) + b"a\0" for number in range(100_000))
    mp3 = write_mp3(tmp_path / "s.mp3", tone(1, 16000), 16000)
    mp3.write_bytes(id3(texts) + mp3.read_bytes())
    wav = write_wav(tmp_path / "s.wav", tone(1, 16000), 16000)
    content = wav.read_bytes()
    wav.write_bytes(content[:36] + riff(b"LIST", b"INFO" + names) + content[36:] + riff(b"LIST", b"INFO" + names))
    with at_most(5):
        assert audio.probe(mp3).seconds == pytest.approx(1)
        assert audio.probe(wav).seconds == pytest.approx(1)


def test_millions_of_tags_or_chunks_are_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "s"
    for content, says in (
        (id3(b"") * 2_000_000, "more than 10000 ID3 tags"),
        (b"RIFF\0\0\0\0WAVE" + riff(b"JUNK", b"") * 2_000_000, "chunk was not found"),
    ):
        path.write_bytes(content)
        with at_most(2), pytest.raises(InvalidAudioError, match=says):
            audio.probe(path)


def test_several_mp3s_in_one_file(tmp_path: Path) -> None:
    parts = [
        write_mp3(tmp_path / "s", tone(1, rate), rate, layout=layout, xing=False).read_bytes()
        for rate, layout in ((16000, "mono"), (44100, "stereo"), (22050, "mono"))
    ]
    path = tmp_path / "all"
    path.write_bytes(b"".join(parts))
    seconds = audio.probe(path).seconds
    assert seconds == pytest.approx(3.2, abs=0.1)  # each has some silence at its ends
    samples = np.concatenate(list(audio.read_blocks(path, 16000)))
    assert len(samples) == pytest.approx(seconds * 16000, abs=5)
    assert np.abs(np.fft.rfft(samples[-12000:-4000])).argmax() == 220  # still 440 Hz, in half a second


def test_the_first_of_several_mp3s_declares_its_own_length_alone(tmp_path: Path) -> None:
    """Its frames are counted in its own rate: in that of the last one they would be a promise of 22 seconds."""
    first = write_mp3(tmp_path / "first.mp3", tone(4, 44100), 44100).read_bytes()
    last = write_mp3(tmp_path / "last.mp3", tone(1, 8000), 8000, xing=False).read_bytes()
    joined = tmp_path / "joined.mp3"
    joined.write_bytes(first + last)
    assert audio.probe(joined).seconds == pytest.approx(5, abs=0.3)


def test_what_follows_an_mp3_is_no_part_of_its_length(tmp_path: Path) -> None:
    path = write_mp3(tmp_path / "s", tone(1, 16000), 16000)
    path.write_bytes(path.read_bytes() + bytes(10_000))
    assert audio.probe(path).seconds == pytest.approx(1, abs=0.1)


def test_titles_in_any_character_set(tmp_path: Path) -> None:
    path = write_wav(tmp_path / "s", tone(1, 16000), 16000)
    path.write_bytes(path.read_bytes() + riff(b"LIST", b"INFO" + riff(b"INAM", "Grüße".encode("latin-1"))))
    assert audio.probe(path).seconds == pytest.approx(1)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_chunks_in_any_order(tmp_path: Path, order: tuple[int, ...]) -> None:
    path = write_wav(tmp_path / "s", tone(1, 16000), 16000)
    content = path.read_bytes()
    chunks = (content[12:36], riff(b"cue ", bytes(5)), content[36:])
    path.write_bytes(content[:12] + b"".join(chunks[place] for place in order))
    assert audio.probe(path).seconds == pytest.approx(1)


def test_a_chunk_of_odd_length_without_its_padding(tmp_path: Path) -> None:
    path = write_wav(tmp_path / "s", tone(1, 16000), 16000)
    content = path.read_bytes()
    path.write_bytes(content[:12] + riff(b"cue ", bytes(5))[:-1] + content[12:])
    assert audio.probe(path).seconds == pytest.approx(1)


def test_the_length_is_counted_in_bytes_of_data_whatever_rate_is_declared(tmp_path: Path) -> None:
    path = write_wav(tmp_path / "s", tone(1, 16000), 16000)
    content = bytearray(path.read_bytes())
    content[28:32] = struct.pack("<I", 100)  # bytes per second
    path.write_bytes(content)
    assert audio.probe(path).seconds == pytest.approx(1)


def test_a_long_wav_has_its_length_in_a_chunk_of_its_own(tmp_path: Path) -> None:
    path = write_wav(tmp_path / "s", tone(4, 16000), 16000)
    content = path.read_bytes()
    ds64 = riff(b"ds64", struct.pack("<QQQI", len(content) + 28, len(content) - 44, 64000, 0))
    unknown = b"\xff" * 4
    path.write_bytes(b"RF64" + unknown + b"WAVE" + ds64 + content[12:40] + unknown + content[44:])
    assert audio.probe(path).seconds == pytest.approx(4)
    too_long = content[12:40] + unknown + content[44:]
    path.write_bytes(path.read_bytes()[:-64000])
    with pytest.raises(InvalidAudioError, match=r"declares 4\.0 seconds but contains 2\.0"):
        audio.probe(path)
    path.write_bytes(b"RF64" + unknown + b"WAVE" + riff(b"ds64", b"\xff" * 28) + too_long)
    with pytest.raises(InvalidAudioError, match="truncated"):
        audio.probe(path)


@settings(max_examples=200, deadline=None)
@given(
    chunks=st.lists(st.tuples(st.sampled_from([b"fmt ", b"data", b"LIST", b"ds64"]), st.integers(0, 40)), max_size=6)
)
def test_chunks_that_lie_about_their_size(
    tmp_path_factory: pytest.TempPathFactory, chunks: list[tuple[bytes, int]]
) -> None:
    path = write_wav(tmp_path_factory.getbasetemp() / "chunks", tone(0.2, 8000), 8000)
    content = path.read_bytes()
    lies = b"".join(name + struct.pack("<I", size) for name, size in chunks)
    for changed in (content[:12] + lies + content[12:], content + lies, b"RF64" + content[4:] + lies):
        path.write_bytes(changed)
        with at_most(10), suppress(InvalidAudioError, UnsupportedMediaError):
            assert audio.probe(path).seconds >= audio.MIN_SECONDS


def test_only_pcm_in_wav(tmp_path: Path) -> None:
    path = write_wav(tmp_path / "s", tone(1, 16000), 16000)
    content = bytearray(path.read_bytes())
    content[20:22] = struct.pack("<H", 0x0055)  # MP3 inside the WAV
    path.write_bytes(content)
    with pytest.raises(InvalidAudioError, match="only uncompressed PCM is supported"):
        audio.probe(path)


@pytest.mark.parametrize("at", [12, 36])
def test_a_wav_without_its_format_or_its_data(tmp_path: Path, at: int) -> None:
    path = write_wav(tmp_path / "s", tone(1, 16000), 16000)
    content = path.read_bytes()
    path.write_bytes(content[:at] + b"gone" + content[at + 4 :])
    with pytest.raises(InvalidAudioError, match="chunk was not found"):
        audio.probe(path)
