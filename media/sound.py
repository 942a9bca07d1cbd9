"""Finds the sound in WAV and MP3 files, so that FFmpeg sees it alone.

What stands beside it (titles, covers, cue points) is skipped: FFmpeg keeps each of its entries in a list that it
searches for every next one, and half a megabyte of them would keep it busy for seconds.
"""

from __future__ import annotations

import re
import struct
from typing import BinaryIO

from media.errors import InvalidAudioError, UnsupportedMediaError

# Programs that write a WAV to a pipe cannot know its length and declare 0, or about 2 or 4 GiB.
_UNKNOWN_LENGTH_BYTES = 0x7FFF0000
_RF64_LENGTH = 0xFFFFFFFF  # the ds64 chunk has it
_MAX_CHUNKS = 10_000
_MAX_FORMAT_BYTES = 1024
_SILENT_FRAMES = 4  # at most, at both ends; players skip them
_XING_BYTES = 256  # in which it begins
_XING = re.compile(rb"(?:Xing|Info)...[\x01\x03\x05\x07\x09\x0b\x0d\x0f](....)", re.S)  # its flags say that it counts
_RIFF_HEADER, _CHUNK_HEADER = 12, 8


class Sound:
    """A file for FFmpeg to read: `head`, and `size` bytes of `file` from where it stands."""

    def __init__(self, file: BinaryIO, kind: str, head: bytes, size: int, declared: int) -> None:
        self.format = kind  # wav or mp3
        self._size, self._declared_size = size, declared
        self._file, self._head, self._start = file, head, file.tell()
        self._position = 0
        self._declared_samples = _declared_samples(self.read(_XING_BYTES)) if kind == "mp3" else 0
        self.seek(0)

    def declared_seconds(self, decoded: float, rate: int) -> float:
        """The least that the header promises, where `decoded` seconds at `rate` Hz were found; 0: no promise."""
        if self.format == "wav":  # in bytes, since the rate of bytes in the header is often wrong
            return decoded * self._declared_size / self._size if self._size else 0.0
        return self._declared_samples / rate

    def read(self, wanted: int) -> bytes:
        """The next bytes, at most `wanted`; none at the end."""
        position, head = self._position, len(self._head)
        if position < head:
            given = self._head[position : position + wanted]
        else:
            self._file.seek(self._start + position - head)
            given = self._file.read(max(0, min(wanted, head + self._size - position)))
        self._position += len(given)
        return given

    def seek(self, offset: int, whence: int = 0) -> int:
        """As files do."""
        base = {0: 0, 1: self._position, 2: len(self._head) + self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def tell(self) -> int:
        """The next byte to read."""
        return self._position


def find_sound(file: BinaryIO) -> Sound:
    """By the content alone. Raises UnsupportedMediaError, InvalidAudioError."""
    size = file.seek(0, 2)
    file.seek(0)
    head = file.read(_RIFF_HEADER)
    if head[:4] in (b"RIFF", b"RF64") and head[8:] == b"WAVE":
        return _in_wav(file, size)
    if head[:3] == b"ID3" or _is_mp3_frame(head):
        start = _skip_tags(file)
        return Sound(file, "mp3", b"", max(0, size - start), 0)
    raise UnsupportedMediaError("The audio is neither a WAV nor an MP3 file.")


def _in_wav(file: BinaryIO, size: int) -> Sound:
    """The format and the data, in whatever order and company, as a WAV of nothing else."""
    form, data, long_length = b"", None, 0
    position = _RIFF_HEADER
    for _ in range(_MAX_CHUNKS):
        file.seek(position)
        header = file.read(_CHUNK_HEADER)
        if len(header) < _CHUNK_HEADER:
            break
        name, length = struct.unpack("<4sI", header)
        start = position + _CHUNK_HEADER
        if name == b"ds64":
            long_length = int.from_bytes(file.read(16)[8:], "little")
        elif name == b"fmt " and not form:
            form = file.read(min(length, _MAX_FORMAT_BYTES))
        elif name == b"data" and not data:
            if length == _RF64_LENGTH and long_length:
                length = long_length
            elif length == 0 or length >= _UNKNOWN_LENGTH_BYTES:
                length = size - start
            data = start, length
        position = start + length  # always forward, whatever sizes a hostile file declares
        if position >= size or (form and data):
            break
        if position % 2:
            file.seek(position)
            position += file.read(1) == b"\0"  # padding, which some programs forget
    if not form or data is None:
        raise InvalidAudioError("The WAV file lacks the description of its sound, or the sound.")
    start, declared = data
    there = max(0, min(declared, size - start))
    file.seek(start)
    chunks = b"fmt " + struct.pack("<I", len(form)) + form + bytes(len(form) % 2) + b"data" + struct.pack("<I", there)
    return Sound(file, "wav", b"RIFF" + struct.pack("<I", 4 + len(chunks) + there) + b"WAVE" + chunks, there, declared)


def _skip_tags(file: BinaryIO) -> int:
    """Go to where the ID3 tags end, and say where that is."""
    position = 0
    for _ in range(_MAX_CHUNKS):
        file.seek(position)
        head = file.read(10)
        if head[:3] != b"ID3" or len(head) < 10:
            file.seek(position)
            return position
        size = sum((byte & 0x7F) << shift for byte, shift in zip(head[6:], (21, 14, 7, 0), strict=True))
        position += 10 + size + (10 if head[5] & 0x10 else 0)  # with a footer
    raise InvalidAudioError(f"The MP3 file begins with more than {_MAX_CHUNKS} tags.")


def _is_mp3_frame(head: bytes) -> bool:
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return False
    version, layer = head[1] >> 3 & 3, head[1] >> 1 & 3
    bit_rate, sample_rate = head[2] >> 4, head[2] >> 2 & 3
    return version != 1 and layer == 1 and bit_rate not in (0, 15) and sample_rate != 3


def _declared_samples(first: bytes) -> int:
    """The least that an MP3 has by the count in its first frame, the Xing/Info header; 0 where it has none."""
    found = _XING.search(first)
    if found is None:
        return 0
    frames = int.from_bytes(found[1], "big") - _SILENT_FRAMES
    return max(0, frames) * (1152 if first[1] & 0x08 else 576)  # MPEG-1, and those of lower rates
