"""From speech to whisper's hidden states, 50 tokens a second (specification, section 3).

The states go to an unnamed file as they are made and are read back a window at a time, so that memory does not grow
with the length of the speech.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Self

import librosa
import numpy as np
import soxr
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from media import audio

RATE = 16000  # Hz
FRAME_SAMPLES = 1280  # of one generated frame: 12.5 frames per second
CLIP_TOKENS = 10  # that a frame sees
_WINDOW_SAMPLES = 480_000  # 30 s, what whisper takes
FFT, HOP, MELS = 400, 160, 80
_TOKENS_PER_FRAME, _TOKENS_BEFORE = 4, 4


def frame_count(samples: int) -> int:
    """How many frames are generated for so many samples at RATE: every other one of 25 a second."""
    return samples // (FRAME_SAMPLES // 2) // 2


def speech_windows(path: Path, seconds: float | None = None) -> Iterator[NDArray[np.float32]]:
    """The speech as mono at RATE in windows of 30 s, the last one shorter. Raises MediaError."""
    rate = audio.probe_rate(path)
    return _regroup(resample(audio.read_blocks(path, rate, seconds=seconds), rate))


def resample(blocks: Iterable[NDArray[np.float32]], rate: int) -> Iterator[NDArray[np.float32]]:
    """Mono at `rate` to RATE, with librosa's default resampler, block by block."""
    if rate == RATE:
        yield from blocks
        return
    stream = soxr.ResampleStream(rate, RATE, 1, dtype="float32", quality="HQ")
    taken = given = 0
    for block in blocks:
        made = stream.resample_chunk(block)
        taken, given = taken + len(block), given + len(made)
        yield made
    made = stream.resample_chunk(np.zeros(0, np.float32), last=True)
    whole = math.ceil(taken * (RATE / rate))  # librosa appends a zero where soxr ends one sample earlier
    yield np.pad(made, (0, whole - given - len(made)))


def _regroup(blocks: Iterable[NDArray[np.float32]]) -> Iterator[NDArray[np.float32]]:
    held = np.zeros(0, np.float32)
    for block in blocks:
        held = np.concatenate([held, block])
        while len(held) >= _WINDOW_SAMPLES:
            yield held[:_WINDOW_SAMPLES]
            held = held[_WINDOW_SAMPLES:]
    if len(held):
        yield held


class LogMel:
    """Whisper's input: the log-mel spectrogram of a window, padded to 30 s."""

    def __init__(self) -> None:
        filters = librosa.filters.mel(sr=RATE, n_fft=FFT, n_mels=MELS)
        self._filters = torch.from_numpy(filters)
        self._hann = torch.hann_window(FFT)

    def __call__(self, samples: NDArray[np.float32]) -> Tensor:
        """At most 480000 samples → (1, 80, 3000)."""
        padded = torch.zeros(_WINDOW_SAMPLES)
        padded[: len(samples)] = torch.from_numpy(samples)
        spectrum = torch.stft(padded, FFT, HOP, window=self._hann, return_complex=True)[..., :-1].abs() ** 2
        mel = (self._filters @ spectrum).clamp(min=1e-10).log10()
        mel = torch.maximum(mel, mel.max() - 8.0)
        return ((mel + 4.0) / 4.0)[None]


class SpeechEncoder:
    """Whisper's encoder with the states of all its layers."""

    def __init__(self, encoder: WhisperEncoder) -> None:
        self._encoder = encoder
        self._mel = LogMel()

    @property
    def token_shape(self) -> tuple[int, int]:
        """The numbers of one token: (states, channels)."""
        return self._encoder.config.encoder_layers + 1, self._encoder.config.d_model

    def __call__(self, samples: NDArray[np.float32]) -> Tensor:
        """A window's samples → (1500, states, channels): the stem's output, then that of each layer."""
        states = self._encoder(self._mel(samples), output_hidden_states=True).hidden_states
        return torch.stack(states, dim=2)[0]


class SpeechFeatures:
    """The hidden states of a whole recording, on disk; a context manager."""

    def __init__(self, directory: Path, token_shape: tuple[int, int]) -> None:
        self._file = tempfile.TemporaryFile(dir=directory)  # noqa: SIM115  closed by __exit__
        self._shape = token_shape
        self._token_bytes = 4 * token_shape[0] * token_shape[1]
        self._tokens = 0
        self.frames = 0

    @classmethod
    def of(
        cls,
        windows: Iterable[NDArray[np.float32]],
        encoder: SpeechEncoder,
        directory: Path,
        after_window: Callable[[int], None] | None = None,
    ) -> Self:
        """Encode the windows one by one; `after_window` is told how many samples are done. Raises OSError."""
        features = cls(directory, encoder.token_shape)
        try:
            samples = 0
            for window in windows:
                features._file.write(encoder(window).numpy().astype("<f4").tobytes())
                samples += len(window)
                if after_window is not None:
                    after_window(samples)
        except BaseException:
            features._file.close()
            raise
        features.frames = frame_count(samples)
        features._tokens = 2 * (samples // (FRAME_SAMPLES // 2))
        return features

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def clips(self, frames: Sequence[int]) -> Tensor:
        """What each of the frames hears: (frames, 10, states, channels), zeros before and after the recording."""
        clips = torch.zeros(len(frames), CLIP_TOKENS, *self._shape)
        for row, frame in enumerate(frames):
            first = _TOKENS_PER_FRAME * frame - _TOKENS_BEFORE
            start, end = max(first, 0), min(first + CLIP_TOKENS, self._tokens)
            self._file.seek(start * self._token_bytes)
            states = np.frombuffer(self._file.read((end - start) * self._token_bytes), "<f4").copy()
            clips[row, start - first : end - first] = torch.from_numpy(states).reshape(-1, *self._shape)
        return clips
