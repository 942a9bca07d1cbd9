"""From a recording to what each frame hears: resampling, windows of 30 s, and the states on disk."""

from __future__ import annotations

import itertools
import math
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import librosa
import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from engines.dice_talk.audio_features import CLIP_TOKENS, SpeechFeatures, frame_count, resample, speech_windows
from media import audio
from tests.media.speech import tone, write_mp3, write_wav

WINDOW = 480_000
Samples = NDArray[np.float32]

unhurried = settings(deadline=None)


def noise(count: int) -> Samples:
    return np.random.default_rng(count).uniform(-1, 1, count).astype(np.float32)


def in_one_go(samples: Samples, rate: int) -> Samples:
    return librosa.resample(samples, orig_sr=rate, target_sr=16000, res_type="soxr_hq")


def blocks_of(samples: Samples, sizes: list[int]) -> Iterator[Samples]:
    """The samples in blocks of these sizes, again and again."""
    start = 0
    for size in itertools.cycle(sizes):
        if start >= len(samples):
            return
        yield samples[start : start + size]
        start += size


SIZES = st.lists(st.sampled_from([0, 1, 7]) | st.integers(500, 9000), min_size=1, max_size=5).filter(
    lambda sizes: max(sizes) >= 500
)


@unhurried
@given(st.integers(8000, 96000), st.integers(1, 30000), SIZES)
@example(44100, 44100, [44100])
@example(48000, 30000, [1, 0, 1, 4096])
@example(44100, 3526, [1000])  # 1279.3 samples are 1280, which makes a frame
@example(16000, 5000, [0, 777])
def test_resampling_in_blocks_is_like_resampling_in_one_go(rate: int, count: int, sizes: list[int]) -> None:
    samples = noise(count)
    found = np.concatenate(list(resample(blocks_of(samples, sizes), rate)))
    expected = in_one_go(samples, rate)
    assert found.shape == expected.shape
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize(
    ("seconds", "windows"),
    [
        (0.1, [1600]),
        (29.9999375, [WINDOW - 1]),
        (30, [WINDOW]),
        (30.0000625, [WINDOW, 1]),
        (60, [WINDOW, WINDOW]),
        (65.5, [WINDOW, WINDOW, 88000]),
    ],
)
def test_windows_have_30_seconds(tmp_path: Path, seconds: float, windows: list[int]) -> None:
    samples = noise(round(seconds * 16000))
    path = write_wav(tmp_path / "speech.wav", samples.astype(np.float64), 16000, bits=32, floating=True)
    found = list(speech_windows(path))
    assert [len(window) for window in found] == windows
    np.testing.assert_array_equal(np.concatenate(found), samples)


@pytest.mark.parametrize("seconds", [None, 1.3])
@pytest.mark.parametrize(("rate", "channels"), [(8000, 1), (44100, 2), (48000, 6)])
def test_wav_files_of_any_rate(tmp_path: Path, rate: int, channels: int, seconds: float | None) -> None:
    signal = tone(2.5, rate, 300) + 0.3 * noise(round(2.5 * rate))
    path = write_wav(tmp_path / "speech.wav", signal, rate, bits=32, floating=True, channels=channels)
    samples = signal[: None if seconds is None else round(seconds * rate)].astype(np.float32)
    (window,) = speech_windows(path, seconds)
    np.testing.assert_allclose(window, in_one_go(samples, rate), atol=1e-4)


@pytest.mark.parametrize(("rate", "layout"), [(22050, "mono"), (44100, "stereo")])
@pytest.mark.parametrize("seconds", [None, 1.0])
def test_mp3_files(tmp_path: Path, rate: int, layout: str, seconds: float | None) -> None:
    path = write_mp3(tmp_path / "speech.mp3", tone(2.5, rate, 300), rate, layout=layout)
    (window,) = speech_windows(path, seconds)
    assert len(window) / 16000 == pytest.approx(seconds or 2.5, abs=0.1 if seconds is None else 1e-4)
    decoded = np.concatenate(list(audio.read_blocks(path, rate, seconds=seconds)))
    np.testing.assert_allclose(window, in_one_go(decoded, rate), atol=1e-4)
    spectrum = np.abs(np.fft.rfft(window[:16000]))
    assert np.argmax(spectrum) == 300


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 22050, 44100, 48000, 96000])
def test_the_shortest_recording_has_a_frame(tmp_path: Path, rate: int) -> None:
    path = write_wav(tmp_path / "speech.wav", tone(0.1, rate), rate)
    assert frame_count(sum(len(window) for window in speech_windows(path))) == 1


@pytest.mark.parametrize(
    ("samples", "frames"),
    [
        (0, 0),
        (639, 0),
        (640, 0),
        (1279, 0),
        (1280, 1),
        (1600, 1),
        (2559, 1),
        (2560, 2),
        (WINDOW, 375),
        (9_600_000, 7500),
    ],
)
def test_frames_are_whole(samples: int, frames: int) -> None:
    assert frame_count(samples) == frames


class Counting:
    """Stands for whisper: every token holds its number in the recording, from 1, negative in the second state."""

    token_shape = 2, 3

    def __init__(self) -> None:
        self.windows = 0

    def __call__(self, samples: Samples) -> Tensor:
        numbers = 1 + np.arange(1500, dtype=np.float32) + 1500 * self.windows
        self.windows += 1
        return torch.from_numpy(np.stack([numbers, -numbers], axis=1)[:, :, None] * np.ones(3, np.float32))


def windows_of(samples: int) -> Iterator[Samples]:
    for start in range(0, samples, WINDOW):
        yield np.zeros(min(WINDOW, samples - start), np.float32)


def features_of(
    windows: Iterator[Samples], directory: Path, after_window: Callable[[int], None] | None = None
) -> SpeechFeatures:
    encoder: Any = Counting()
    return SpeechFeatures.of(windows, encoder, directory, after_window)


@st.composite
def recordings(draw: st.DrawFn) -> tuple[int, list[int]]:
    """Samples, and some of the frames in any order."""
    frames = draw(st.integers(1, 10) | st.integers(370, 380) | st.integers(1, 1200))
    samples = 1280 * frames + draw(st.sampled_from([0, 1, 639, 640, 1279]))
    return samples, [*draw(st.lists(st.integers(0, frames - 1), min_size=1, max_size=8)), 0, frames - 1]


@unhurried
@given(recordings())
@example((1279 + 1280, [0]))
@example((1280, [0, 0]))
@example((WINDOW, [374, 0, 373]))
@example((WINDOW + 640, [374, 0, 373]))
@example((WINDOW + 1280, [373, 374, 375]))
def test_each_frame_hears_ten_tokens_and_silence_around_the_recording(
    tmp_path_factory: pytest.TempPathFactory, recording: tuple[int, list[int]]
) -> None:
    samples, frames = recording
    with features_of(windows_of(samples), tmp_path_factory.getbasetemp()) as features:
        assert features.frames == samples // 1280
        clips = features.clips(frames)
    assert clips.shape == (len(frames), CLIP_TOKENS, *Counting.token_shape)
    tokens = samples // 640 * 2  # 50 a second, in pairs
    for frame, clip in zip(frames, clips, strict=True):
        heard = [number if 0 <= number < tokens else None for number in range(4 * frame - 4, 4 * frame + 6)]
        expected = torch.tensor([0.0 if number is None else number + 1.0 for number in heard])
        assert torch.equal(clip[:, 0], expected[:, None].expand(-1, 3))
        assert torch.equal(clip[:, 1], -expected[:, None].expand(-1, 3))


def test_ten_minutes_are_heard_to_the_end(tmp_path: Path) -> None:
    with features_of(windows_of(9_600_000), tmp_path) as features:
        assert features.frames == 7500
        (last,) = features.clips([7499])
    assert last[:8, 0, 0].tolist() == list(range(29993, 30001))
    assert not last[8:].any()


def test_of_too_little_speech_there_are_no_frames(tmp_path: Path) -> None:
    for samples in (0, 1279):
        with features_of(windows_of(samples), tmp_path) as features:
            assert features.frames == 0


def open_files(directory: Path) -> int:
    """How many files of the directory, with names or without, this process has open."""
    count = 0
    for link in Path("/proc/self/fd").iterdir():
        try:
            count += link.readlink().is_relative_to(directory)
        except FileNotFoundError:  # that of the listing
            continue
    return count


def test_the_file_never_has_a_name_and_goes_with_the_features(tmp_path: Path) -> None:
    done: list[int] = []

    def after_window(samples: int) -> None:
        done.append(samples)
        assert list(tmp_path.iterdir()) == []
        assert open_files(tmp_path) == 1

    with features_of(windows_of(WINDOW + 5000), tmp_path, after_window) as features:
        features.clips([0, 100])
        assert list(tmp_path.iterdir()) == []
        assert open_files(tmp_path) == 1
    assert done == [WINDOW, WINDOW + 5000]
    assert open_files(tmp_path) == 0
    with pytest.raises(ValueError, match="closed"):
        features.clips([0])


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_the_file_goes_with_an_error(tmp_path: Path, error: BaseException) -> None:
    def after_window(samples: int) -> None:
        assert open_files(tmp_path) == 1
        raise error

    with pytest.raises(type(error)):
        features_of(windows_of(WINDOW), tmp_path, after_window)
    assert open_files(tmp_path) == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("rate", [8000, 16000])  # the second as it is
def test_memory_does_not_grow_with_the_recording(tmp_path: Path, rate: int) -> None:
    def peak(seconds: int) -> int:
        path = write_wav(tmp_path / f"{seconds}.wav", tone(seconds, rate), rate)
        tracemalloc.start()
        with features_of(speech_windows(path), tmp_path) as features:
            assert features.frames == math.floor(12.5 * seconds)
            for first in range(0, features.frames - 25, 50):
                features.clips(range(first, first + 25))
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    short = peak(60)
    assert short > 4 * WINDOW, "a window's samples are held"
    assert peak(600) < 1.05 * short + 100_000
