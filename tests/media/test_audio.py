"""Speech as it comes: every rate, depth and channel count decodes; what is broken is refused in words."""

from __future__ import annotations

import tracemalloc
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from media import audio
from media.errors import InvalidAudioError, UnsupportedMediaError
from tests.media.speech import tone, write_mp3, write_wav


@pytest.mark.parametrize(
    ("rate", "bits", "channels", "floating"),
    [
        (8000, 8, 1, False),
        (11025, 16, 2, False),
        (16000, 16, 1, False),
        (44100, 24, 2, False),
        (48000, 32, 6, False),
        (96000, 32, 1, True),
        (192000, 64, 2, True),
        (16000, 16, 8, False),
        (16000, 16, 16, False),
    ],
)
def test_every_wav_decodes(tmp_path: Path, rate: int, bits: int, channels: int, floating: bool) -> None:
    path = write_wav(tmp_path / "s", tone(1.5, rate), rate, bits=bits, channels=channels, floating=floating)
    info = audio.probe(path)
    assert (info.format, info.sample_rate, info.channels) == ("wav", rate, channels)
    assert info.seconds == pytest.approx(1.5, abs=1e-3)
    samples = np.concatenate(list(audio.read_blocks(path, 16000)))
    assert len(samples) == pytest.approx(24000, abs=2)
    middle = samples[4000:20000]
    assert np.sqrt(np.mean(middle**2)) == pytest.approx(0.5 / np.sqrt(2), rel=0.02)
    assert np.argmax(np.abs(np.fft.rfft(middle))) == 440  # a second of sound: one bin per Hz


@pytest.mark.parametrize(("rate", "layout"), [(8000, "mono"), (22050, "stereo"), (44100, "stereo"), (48000, "mono")])
def test_every_mp3_decodes(tmp_path: Path, rate: int, layout: str) -> None:
    path = write_mp3(tmp_path / "s", tone(1.5, rate), rate, layout=layout)
    info = audio.probe(path)
    assert (info.format, info.sample_rate) == ("mp3", rate)
    assert info.seconds == pytest.approx(1.5, abs=0.06)
    samples = np.concatenate(list(audio.read_blocks(path, 16000)))
    assert np.sqrt(np.mean(samples[4000:20000] ** 2)) == pytest.approx(0.95 * 0.5 / np.sqrt(2), rel=0.02)  # LAME scales


def test_blocks_have_the_size_asked_for(tmp_path: Path) -> None:
    path = write_wav(tmp_path / "s", tone(2.3, 44100), 44100)
    blocks = list(audio.read_blocks(path, 16000, block_seconds=0.5))
    assert [len(block) for block in blocks] == [8000] * 4 + [4800]
    first = list(audio.read_blocks(path, 16000, seconds=1.2, block_seconds=0.5))
    assert [len(block) for block in first] == [8000, 8000, 3200]
    assert np.array_equal(np.concatenate(first), np.concatenate(blocks)[:19200])


def test_samples_out_of_range_are_clipped(tmp_path: Path) -> None:
    samples = tone(0.5, 16000)
    samples[100:200] = np.nan
    samples[300:400] = np.inf
    samples[500:600] = -7
    path = write_wav(tmp_path / "s", samples, 16000, bits=32, floating=True)
    decoded = np.concatenate(list(audio.read_blocks(path, 16000)))
    assert np.isfinite(decoded).all()
    assert np.abs(decoded).max() <= 1


def test_memory_does_not_grow_with_length(tmp_path: Path) -> None:
    def peak(seconds: float) -> int:
        path = write_wav(tmp_path / "s", tone(seconds, 16000), 16000)
        tracemalloc.start()
        for _ in audio.read_blocks(path, 16000):
            pass
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    assert peak(200) < 1.5 * peak(20)


@pytest.mark.parametrize("content", [b"", b"hello there", b"OggS" + bytes(100), b"fLaC" + bytes(100), b"\xff\xd8\xff"])
def test_other_kinds_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "s.wav"
    path.write_bytes(content)
    with pytest.raises(UnsupportedMediaError, match="neither a WAV nor an MP3"):
        audio.probe(path)


@pytest.mark.parametrize("content", [b"ID3" + bytes(5000), b"\xff\xfb\x90\x00" + b"garbage!" * 4000])
def test_garbage_called_mp3_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "s.mp3"
    path.write_bytes(content)
    with pytest.raises(InvalidAudioError):
        audio.probe(path)


def test_only_a_header(tmp_path: Path) -> None:
    path = write_wav(tmp_path / "s", tone(0, 16000), 16000)
    with pytest.raises(InvalidAudioError, match=r"is 0\.00 seconds long"):
        audio.probe(path)


@pytest.mark.parametrize("write", [write_wav, write_mp3])
def test_cut_short(tmp_path: Path, write: object) -> None:
    path = (write_wav if write is write_wav else write_mp3)(tmp_path / "s", tone(4, 16000), 16000)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InvalidAudioError, match=r"truncated: the file declares 4\.\d seconds but contains [12]\.\d"):
        audio.probe(path)


def test_too_short_and_too_long(tmp_path: Path) -> None:
    with pytest.raises(InvalidAudioError, match=r"0\.05 seconds"):
        audio.probe(write_wav(tmp_path / "s", tone(0.05, 16000), 16000))
    assert audio.probe(write_wav(tmp_path / "s", np.zeros(600 * 8000), 8000, bits=8)).seconds == 600
    with pytest.raises(InvalidAudioError, match="longer than 600 seconds"):
        audio.probe(write_wav(tmp_path / "s", np.zeros(601 * 8000), 8000, bits=8))


@pytest.mark.parametrize(
    ("rate", "channels", "says"),
    [
        (1, 1, "rate of 1 Hz"),
        (3999, 1, "rate of 3999 Hz; it must be between 4000 and 768000 Hz"),
        (768_001, 1, "rate of 768001 Hz"),
        (8000, 65, "65 channels; at most 64 are"),
    ],
)
def test_rates_and_channels_out_of_range(tmp_path: Path, rate: int, channels: int, says: str) -> None:
    with pytest.raises(InvalidAudioError, match=says):
        audio.probe(write_wav(tmp_path / "s", np.zeros(max(rate, 100)), rate, channels=channels))


def test_the_limits_of_rates_and_channels(tmp_path: Path) -> None:
    for rate, channels in ((4000, 1), (768_000, 1), (8000, 64)):
        path = write_wav(tmp_path / "s", tone(0.2, rate), rate, channels=channels)
        assert audio.probe(path).seconds == pytest.approx(0.2)
        assert sum(map(len, audio.read_blocks(path, 16000))) == pytest.approx(3200, abs=2)


def test_infinities_of_both_signs(tmp_path: Path) -> None:
    path = write_wav(tmp_path / "s", np.zeros(16000), 16000, bits=32, channels=2, floating=True)
    content = path.read_bytes()
    for pair in ((np.inf, -np.inf), (3e38, 3e38)):
        path.write_bytes(content[:44] + np.array(pair * 16000, "<f4").tobytes())
        assert np.isfinite(np.concatenate(list(audio.read_blocks(path, 16000)))).all()


@settings(max_examples=150, deadline=None)
@given(place=st.floats(0, 1), value=st.integers(0, 255), mp3=st.booleans())
def test_damage_never_escapes_as_another_error(
    tmp_path_factory: pytest.TempPathFactory, place: float, value: int, mp3: bool
) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged"
    (write_mp3 if mp3 else write_wav)(path, tone(0.3, 8000), 8000)
    content = bytearray(path.read_bytes())
    content[int(place**3 * (len(content) - 1))] = value  # mostly in the header
    path.write_bytes(content)
    with suppress(InvalidAudioError, UnsupportedMediaError):  # said in words; anything else fails the test
        assert audio.probe(path).seconds >= audio.MIN_SECONDS
        list(audio.read_blocks(path, 16000))
