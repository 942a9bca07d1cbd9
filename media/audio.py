"""Speech: WAV and MP3 files of any rate, depth and number of channels, decoded in a stream."""

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
MAX_CHANNELS = 64  # that FFmpeg can mix

_BAD_PACKETS_ALLOWED = 2  # MP3s cut out of a stream begin with a frame whose data is missing


@dataclass(frozen=True, slots=True)
class AudioInfo:
    """What decoding the whole file gave: `format` is wav or mp3, `seconds` is counted, not declared."""

    format: str
    seconds: float
    sample_rate: int
    channels: int


def probe(path: Path) -> AudioInfo:
    """Decode the whole file to prove it. Raises UnsupportedMediaError, InvalidAudioError."""
    with _open(path) as source:
        seconds = 0.0
        rate = channels = first_rate = 0
        for frame in _frames(source):
            rate, channels = frame.sample_rate, frame.layout.nb_channels
            if not MIN_RATE <= rate <= MAX_RATE or channels > MAX_CHANNELS:
                raise InvalidAudioError(
                    f"The recording has {channels} channels at {rate} Hz; "
                    f"at most {MAX_CHANNELS} channels and {MIN_RATE} to {MAX_RATE} Hz are allowed."
                )
            first_rate = first_rate or rate  # of several MP3s in one file, the first declares its own length
            seconds += frame.samples / rate
            if seconds > MAX_SECONDS + 0.05:  # MP3 frames may carry a little padding
                raise InvalidAudioError(f"The recording is longer than the {MAX_SECONDS:g} seconds allowed.")
        if seconds < MIN_SECONDS:
            raise InvalidAudioError(
                f"The recording holds {seconds:.2f} seconds of sound; at least {MIN_SECONDS:g} are needed."
            )
        declared = source.sound.declared_seconds(seconds, first_rate)
        if seconds < 0.98 * declared - 0.2:
            raise InvalidAudioError(
                f"The recording is cut short: it declares {declared:.1f} seconds and holds {seconds:.1f}."
            )
        return AudioInfo(source.sound.format, min(seconds, MAX_SECONDS), rate, channels)


def probe_rate(path: Path) -> int:
    """The file's own sample rate in Hz, without decoding it. Raises UnsupportedMediaError, InvalidAudioError."""
    with _open(path) as source:
        return source.stream.codec_context.sample_rate


def read_blocks(
    path: Path, rate: int, *, seconds: float | None = None, block_seconds: float = 1.0
) -> Iterator[NDArray[np.float32]]:
    """Decode to mono at `rate` Hz, -1..1, in blocks of `block_seconds` (the last may be shorter).

    Only the first `seconds` are read where given. Channels are averaged. Memory does not grow with the length.
    Raises UnsupportedMediaError, InvalidAudioError.
    """
    size = round(block_seconds * rate)
    wanted = None if seconds is None else round(seconds * rate)
    given = 0
    pending: list[NDArray[np.float32]] = []
    held = 0
    with _open(path) as source:
        for samples in _mono(source, rate):
            pending.append(samples)
            held += len(samples)
            while held >= size:
                joined = np.concatenate(pending)
                block, rest = joined[:size], joined[size:]
                pending, held = [rest], len(rest)
                if wanted is not None and given + size >= wanted:
                    yield block[: wanted - given]
                    return
                yield block
                given += size
        if held:
            last = np.concatenate(pending)
            last = last if wanted is None else last[: wanted - given]
            if len(last):
                yield last


@dataclass(slots=True)
class _Source:
    container: av.container.InputContainer
    stream: av.AudioStream
    sound: Sound


@contextmanager
def _open(path: Path) -> Iterator[_Source]:
    with path.open("rb") as file:
        sound = find_sound(file)
        name = sound.format.upper()
        try:
            # The format is given, so that no other of FFmpeg's many parsers ever sees the file.
            with av.open(sound, "r", format=sound.format, metadata_errors="replace") as container:
                if not container.streams.audio:
                    raise InvalidAudioError("The recording holds no sound.")
                stream = container.streams.audio[0]
                # PyAV has no context for a codec it does not know, whatever its types say.
                codec = getattr(stream.codec_context, "name", "unknown")
                if not codec.startswith("pcm_" if sound.format == "wav" else "mp3"):
                    needed = "plain PCM" if sound.format == "wav" else "Layer III"
                    raise InvalidAudioError(f"The {name} file holds {codec} sound; {needed} is needed.")
                yield _Source(container, stream, sound)
        except (av.FFmpegError, ValueError) as error:  # ValueError: the rate changes midway
            raise InvalidAudioError(f"The recording is damaged and cannot be decoded as {name}.") from error


def _frames(source: _Source) -> Iterator[av.AudioFrame]:
    bad = 0
    for number, packet in enumerate(source.container.demux(source.stream)):
        try:
            yield from packet.decode()
        except av.InvalidDataError:
            bad += 1
            if bad > _BAD_PACKETS_ALLOWED + number // 100:
                raise


def _mono(source: _Source, rate: int) -> Iterator[NDArray[np.float32]]:
    form = resampler = None
    for frame in _frames(source):
        if resampler is None or form != (frame.sample_rate, frame.layout.name):
            if resampler is not None:  # the next of several MP3s in one file, or a damaged frame of one
                yield from map(_average, resampler.resample(None))
            form = frame.sample_rate, frame.layout.name
            # Interleaved: PyAV 18.1 reads past the end of planar frames of eight and more channels.
            resampler = AudioResampler(format="flt", rate=rate)
        frame.pts = None  # a gap or jump in the timestamps must not drop or invent samples
        yield from map(_average, resampler.resample(frame))
    if resampler is not None:
        yield from map(_average, resampler.resample(None))


def _average(frame: av.AudioFrame) -> NDArray[np.float32]:
    channels = frame.to_ndarray().reshape(-1, frame.layout.nb_channels)
    with np.errstate(invalid="ignore", over="ignore"):  # a float WAV may hold anything
        samples: NDArray[np.float32] = channels.mean(axis=1, dtype=np.float32)
    return np.nan_to_num(samples, nan=0.0, posinf=1.0, neginf=-1.0).clip(-1.0, 1.0)
