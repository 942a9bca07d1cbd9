"""Decode WAV and MP3 audio of any sample rate, sample format and channel count as a stream."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from av.audio.resampler import AudioResampler
from numpy.typing import NDArray

from media.errors import InvalidAudioError
from media.sound import Sound, find_sound

MIN_SECONDS = 0.1
MAX_SECONDS = 600.0
MIN_RATE, MAX_RATE = 4000, 768_000  # Hz
# FFmpeg cannot mix more channels.
MAX_CHANNELS = 64

# MP3 files cut from a stream start with a frame whose data is incomplete.
_MAX_BAD_PACKETS = 2


@dataclass(frozen=True, slots=True)
class AudioInfo:
    """Audio properties, determined by decoding the whole file.

    `format` is wav or mp3. `seconds` is the decoded length, not the declared one. `sample_rate` is in Hz.
    """

    format: str
    seconds: float
    sample_rate: int
    channels: int


def probe(path: Path) -> AudioInfo:
    """Decode the whole file to verify it. Raises UnsupportedMediaError, InvalidAudioError."""
    with _open(path) as source:
        seconds = 0.0
        rate = channels = first_rate = 0
        for frame in _frames(source):
            rate, channels = frame.sample_rate, frame.layout.nb_channels
            _check_format(rate, channels)
            # Of several concatenated MP3 files, only the first declares a length, at its own sample rate.
            first_rate = first_rate or rate
            seconds += frame.samples / rate
            # The tolerance is for the padding of MP3 frames.
            if seconds > MAX_SECONDS + 0.05:
                raise InvalidAudioError(
                    "The audio is longer than {max_seconds:g} seconds, the maximum length.", max_seconds=MAX_SECONDS
                )
        if seconds < MIN_SECONDS:
            raise InvalidAudioError(
                "The audio is {seconds:.2f} seconds long; at least {min_seconds:g} seconds are required.",
                seconds=seconds,
                min_seconds=MIN_SECONDS,
            )
        declared = source.sound.declared_seconds(seconds, first_rate)
        if seconds < 0.98 * declared - 0.2:
            raise InvalidAudioError(
                "The audio is truncated: the file declares {declared:.1f} seconds but contains {seconds:.1f} seconds. "
                "Upload the complete file.",
                declared=declared,
                seconds=seconds,
            )
        return AudioInfo(source.sound.format, min(seconds, MAX_SECONDS), rate, channels)


def probe_rate(path: Path) -> int:
    """Return the file's sample rate in Hz without decoding it. Raises UnsupportedMediaError, InvalidAudioError."""
    with _open(path) as source:
        return source.stream.codec_context.sample_rate


def read_blocks(
    path: Path, rate: int, *, seconds: float | None = None, block_seconds: float = 1.0
) -> Iterator[NDArray[np.float32]]:
    """Decode to mono at `rate` Hz in blocks: float32, (samples,), -1..1.

    Blocks have `block_seconds`; the last one may be shorter. `seconds` limits the total length; None reads the whole
    file. Channels are averaged. Memory use does not depend on the length of the file.

    Raises UnsupportedMediaError, InvalidAudioError.
    """
    size = round(block_seconds * rate)
    limit = None if seconds is None else round(seconds * rate)
    yielded = 0
    pending: list[NDArray[np.float32]] = []
    buffered = 0
    with _open(path) as source:
        for samples in _resample_to_mono(source, rate):
            pending.append(samples)
            buffered += len(samples)
            while buffered >= size:
                joined = np.concatenate(pending)
                block, rest = joined[:size], joined[size:]
                pending, buffered = [rest], len(rest)
                if limit is not None and yielded + size >= limit:
                    yield block[: limit - yielded]
                    return
                yield block
                yielded += size
        if buffered:
            last = np.concatenate(pending)
            last = last if limit is None else last[: limit - yielded]
            if len(last):
                yield last


@dataclass(slots=True)
class _Source:
    """An open audio file."""

    container: av.container.InputContainer
    stream: av.AudioStream
    sound: Sound


@contextmanager
def _open(path: Path) -> Iterator[_Source]:
    """Open the audio stream; decoding errors inside the context become InvalidAudioError.

    Raises UnsupportedMediaError, InvalidAudioError.
    """
    with path.open("rb") as file:
        sound = find_sound(file)
        try:
            # The format is given explicitly, so that untrusted data reaches no other of FFmpeg's many demuxers.
            with av.open(sound, "r", format=sound.format, metadata_errors="replace") as container:
                if not container.streams.audio:
                    raise InvalidAudioError("The audio file contains no audio stream.")
                stream = container.streams.audio[0]
                # Contrary to PyAV's type hints, `codec_context` is None for an unknown codec.
                codec = getattr(stream.codec_context, "name", "unknown")
                if not codec.startswith("pcm_" if sound.format == "wav" else "mp3"):
                    raise InvalidAudioError(
                        "The {format} file uses the codec {codec}; only {supported} is supported.",
                        format=sound.format.upper(),
                        codec=codec,
                        supported="uncompressed PCM" if sound.format == "wav" else "MPEG Layer III",
                    )
                yield _Source(container, stream, sound)
        # PyAV raises ValueError if the sample rate changes within the file.
        except (av.FFmpegError, ValueError) as error:
            raise InvalidAudioError(
                "The audio is damaged and cannot be decoded as {format}.", format=sound.format.upper()
            ) from error


def _check_format(rate: int, channels: int) -> None:
    """Raises InvalidAudioError if the sample rate (Hz) or the number of channels is out of range."""
    if not MIN_RATE <= rate <= MAX_RATE:
        raise InvalidAudioError(
            "The audio has a sample rate of {rate} Hz; it must be between {min_rate} and {max_rate} Hz.",
            rate=rate,
            min_rate=MIN_RATE,
            max_rate=MAX_RATE,
        )
    if channels > MAX_CHANNELS:
        raise InvalidAudioError(
            "The audio has {channels} channels; at most {max_channels} are allowed.",
            channels=channels,
            max_channels=MAX_CHANNELS,
        )


def _frames(source: _Source) -> Iterator[av.AudioFrame]:
    """Decode all frames, skipping up to 2 undecodable packets and 1 more per 100 packets.

    Raises av.InvalidDataError if there are more.
    """
    bad = 0
    for number, packet in enumerate(source.container.demux(source.stream)):
        try:
            yield from packet.decode()
        except av.InvalidDataError:
            bad += 1
            if bad > _MAX_BAD_PACKETS + number // 100:
                raise


def _resample_to_mono(source: _Source, rate: int) -> Iterator[NDArray[np.float32]]:
    """Decode to mono at `rate` Hz: arrays of any length, float32, (samples,), -1..1."""
    source_format = resampler = None
    for frame in _frames(source):
        if resampler is None or source_format != (frame.sample_rate, frame.layout.name):
            # The format changes where MP3 files are concatenated, or in a damaged frame.
            if resampler is not None:
                yield from map(_average_channels, resampler.resample(None))
            source_format = frame.sample_rate, frame.layout.name
            # Interleaved, because PyAV 18.1 reads past the end of planar frames of eight and more channels.
            resampler = AudioResampler(format="flt", rate=rate)
        # Without timestamps, a gap or jump in them neither drops nor inserts samples.
        frame.pts = None
        yield from map(_average_channels, resampler.resample(frame))
    if resampler is not None:
        yield from map(_average_channels, resampler.resample(None))


def _average_channels(frame: av.AudioFrame) -> NDArray[np.float32]:
    """Average the channels of an interleaved float frame: float32, (samples,), clipped to -1..1."""
    channels = frame.to_ndarray().reshape(-1, frame.layout.nb_channels)
    # A float WAV may contain infinities, NaN and values whose sum overflows.
    with np.errstate(invalid="ignore", over="ignore"):
        samples: NDArray[np.float32] = channels.mean(axis=1, dtype=np.float32)
    return np.nan_to_num(samples, nan=0.0, posinf=1.0, neginf=-1.0).clip(-1.0, 1.0)
