"""Speech: WAV and MP3 files of any rate, depth and number of channels, decoded in a stream."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from av.audio.resampler import AudioResampler
from numpy.typing import NDArray

from media.errors import InvalidAudioError, UnsupportedMediaError

MIN_SECONDS = 0.1
MAX_SECONDS = 600.0
MIN_RATE, MAX_RATE = 4000, 768_000  # Hz
MAX_CHANNELS = 64  # that FFmpeg can mix

# Programs that write a WAV to a pipe cannot know its length and declare about 2 or 4 GiB.
_UNKNOWN_LENGTH_BYTES = 0x7FFF0000
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
        rate = channels = 0
        for frame in _frames(source):
            rate, channels = frame.sample_rate, frame.layout.nb_channels
            if not MIN_RATE <= rate <= MAX_RATE or channels > MAX_CHANNELS:
                raise InvalidAudioError(
                    f"The recording has {channels} channels at {rate} Hz; "
                    f"at most {MAX_CHANNELS} channels and {MIN_RATE} to {MAX_RATE} Hz are allowed."
                )
            seconds += frame.samples / rate
            if seconds > MAX_SECONDS + 0.05:  # MP3 frames may carry a little padding
                raise InvalidAudioError(f"The recording is longer than the {MAX_SECONDS:g} seconds allowed.")
        if seconds < MIN_SECONDS:
            raise InvalidAudioError(
                f"The recording holds {seconds:.2f} seconds of sound; at least {MIN_SECONDS:g} are needed."
            )
        if source.declared_seconds is not None and seconds < 0.98 * source.declared_seconds - 0.2:
            raise InvalidAudioError(
                f"The recording is cut short: it declares {source.declared_seconds:.1f} seconds "
                f"and holds {seconds:.1f}."
            )
        return AudioInfo(source.format, min(seconds, MAX_SECONDS), rate, channels)


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
    format: str
    declared_seconds: float | None


@contextmanager
def _open(path: Path) -> Iterator[_Source]:
    kind = _sniff(path)
    try:
        # The format is given, so that no other of FFmpeg's many parsers ever sees the file.
        with av.open(str(path), format=kind) as container:
            if not container.streams.audio:
                raise InvalidAudioError("The recording holds no sound.")
            stream = container.streams.audio[0]
            # PyAV has no context for a codec it does not know, whatever its types say.
            codec = getattr(stream.codec_context, "name", "unknown")
            if not codec.startswith("pcm_" if kind == "wav" else "mp3"):
                raise InvalidAudioError(f"The {kind.upper()} file holds {codec} sound; plain PCM is needed.")
            yield _Source(container, stream, kind, _declared_seconds(path, kind, stream))
    except (av.FFmpegError, ValueError) as error:  # ValueError: the rate changes midway
        raise InvalidAudioError(f"The recording is damaged and cannot be decoded as {kind.upper()}.") from error


def _sniff(path: Path) -> str:
    with path.open("rb") as file:
        head = file.read(12)
    if head[:4] in (b"RIFF", b"RF64") and head[8:12] == b"WAVE":
        return "wav"
    if head[:3] == b"ID3" or _is_mp3_frame(head):
        return "mp3"
    raise UnsupportedMediaError("The audio is neither a WAV nor an MP3 file.")


def _is_mp3_frame(head: bytes) -> bool:
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return False
    version, layer = head[1] >> 3 & 3, head[1] >> 1 & 3
    bit_rate, sample_rate = head[2] >> 4, head[2] >> 2 & 3
    return version != 1 and layer == 1 and bit_rate not in (0, 15) and sample_rate != 3


def _declared_seconds(path: Path, kind: str, stream: av.AudioStream) -> float | None:
    """The length the header promises, or None where there is no promise."""
    if kind == "wav":
        return _wav_seconds(path)
    if stream.duration is None or stream.time_base is None or not _has_frame_count(path):
        return None  # FFmpeg's guess from the bit rate
    return float(stream.duration * stream.time_base)


def _wav_seconds(path: Path) -> float | None:
    bytes_per_second = 0
    position = 12
    with path.open("rb") as file:
        file.seek(position)
        while len(header := file.read(8)) == 8:
            name, size = struct.unpack("<4sI", header)
            if name == b"data":
                known = bytes_per_second and size < _UNKNOWN_LENGTH_BYTES
                return size / bytes_per_second if known else None
            if name == b"fmt ":
                bytes_per_second = int.from_bytes(file.read(16)[8:12], "little")
            position += 8 + size + size % 2  # always forward, whatever sizes a hostile file declares
            file.seek(position)
    return None


def _has_frame_count(path: Path) -> bool:
    """Whether the MP3's first frame is a Xing/Info header, which counts the frames."""
    with path.open("rb") as file:
        head = file.read(10)
        if head[:3] == b"ID3":
            size = sum((byte & 0x7F) << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=False))
            file.seek(10 + size)
        else:
            file.seek(0)
        first = file.read(256)
    return b"Xing" in first or b"Info" in first


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
    # Interleaved: PyAV 18.1 reads past the end of planar frames of eight and more channels.
    resampler = AudioResampler(format="flt", rate=rate)
    for frame in _frames(source):
        frame.pts = None  # a gap or jump in the timestamps must not drop or invent samples
        for resampled in resampler.resample(frame):
            yield _average(resampled)
    for resampled in resampler.resample(None):
        yield _average(resampled)


def _average(frame: av.AudioFrame) -> NDArray[np.float32]:
    samples: NDArray[np.float32] = (
        frame.to_ndarray().reshape(-1, frame.layout.nb_channels).mean(axis=1, dtype=np.float32)
    )
    return np.nan_to_num(samples, nan=0.0, posinf=1.0, neginf=-1.0).clip(-1.0, 1.0)
