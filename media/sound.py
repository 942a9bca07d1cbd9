"""Locate the audio data of WAV and MP3 files, and present it to FFmpeg without metadata.

Metadata (titles, cover art, cue points) is skipped: FFmpeg keeps the entries in a list, and searches the whole list for
each new entry. Half a megabyte of them would take seconds to parse.
"""

from __future__ import annotations

import re
import struct
from typing import BinaryIO

from media.errors import InvalidAudioError, UnsupportedMediaError

# Programs that write a WAV file to a pipe do not know its length, and declare 0 or about 2 or 4 GiB.
_UNKNOWN_LENGTH_BYTES = 0x7FFF0000
# In an RF64 file, this length refers to the ds64 chunk.
_RF64_LENGTH = 0xFFFFFFFF
# WAV chunks or ID3 tags that are read before a file is rejected.
_MAX_CHUNKS = 10_000
_MAX_FORMAT_BYTES = 1024
# Encoders add up to this many frames of padding, start and end together; decoders drop them.
_PADDING_FRAMES = 4
# The Xing/Info header starts within this many bytes; the pattern requires the flag for its frame count.
_XING_BYTES = 256
_XING = re.compile(rb"(?:Xing|Info)...[\x01\x03\x05\x07\x09\x0b\x0d\x0f](....)", re.S)
_RIFF_HEADER_BYTES, _CHUNK_HEADER_BYTES = 12, 8


class Sound:
    """Read-only, seekable view of the audio data of a file, for FFmpeg.

    The content is `head`, followed by `size` bytes of `file` from its current position. `kind` is wav or mp3.
    `declared` is the size of the audio data in bytes according to a WAV header.
    """

    def __init__(self, file: BinaryIO, kind: str, head: bytes, size: int, declared: int) -> None:
        self.format = kind
        self._size, self._declared_size = size, declared
        self._file, self._head, self._start = file, head, file.tell()
        self._position = 0
        self._declared_samples = _declared_samples(self.read(_XING_BYTES)) if kind == "mp3" else 0
        self.seek(0)

    def declared_seconds(self, decoded: float, rate: int) -> float:
        """Return the minimum length in seconds that the header declares, 0 if it declares none.

        `decoded` is the decoded length in seconds, `rate` the sample rate in Hz.
        """
        if self.format == "wav":
            # Derived from the sizes in bytes, because the byte rate in WAV headers is often wrong.
            return decoded * self._declared_size / self._size if self._size else 0.0
        return self._declared_samples / rate

    def read(self, wanted: int) -> bytes:
        """Return the next bytes, at most `wanted` and possibly fewer; empty at the end."""
        position, head = self._position, len(self._head)
        if position < head:
            data = self._head[position : position + wanted]
        else:
            self._file.seek(self._start + position - head)
            data = self._file.read(max(0, min(wanted, head + self._size - position)))
        self._position += len(data)
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        """Set the position as `io.IOBase.seek` does, and return it; a negative position becomes 0."""
        base = {0: 0, 1: self._position, 2: len(self._head) + self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def tell(self) -> int:
        """Return the current position in bytes."""
        return self._position


def find_sound(file: BinaryIO) -> Sound:
    """Detect the file type from the content and locate the audio data.

    Raises UnsupportedMediaError, InvalidAudioError.
    """
    size = file.seek(0, 2)
    file.seek(0)
    head = file.read(_RIFF_HEADER_BYTES)
    if head[:4] in (b"RIFF", b"RF64") and head[8:] == b"WAVE":
        return _open_wav(file, size)
    if head[:3] == b"ID3" or _is_mp3_frame(head):
        start = _skip_id3_tags(file)
        return Sound(file, "mp3", b"", max(0, size - start), 0)
    raise UnsupportedMediaError("The audio is neither a WAV nor an MP3 file.")


def _open_wav(file: BinaryIO, size: int) -> Sound:
    """Present a WAV file of `size` bytes as one that has only a "fmt " and a "data" chunk, in this order.

    Raises InvalidAudioError.
    """
    form, data, ds64_length = b"", None, 0
    position = _RIFF_HEADER_BYTES
    for _ in range(_MAX_CHUNKS):
        file.seek(position)
        header = file.read(_CHUNK_HEADER_BYTES)
        if len(header) < _CHUNK_HEADER_BYTES:
            break
        name, length = struct.unpack("<4sI", header)
        start = position + _CHUNK_HEADER_BYTES
        if name == b"ds64":
            ds64_length = int.from_bytes(file.read(16)[8:], "little")
        elif name == b"fmt " and not form:
            form = file.read(min(length, _MAX_FORMAT_BYTES))
        elif name == b"data" and not data:
            if length == _RF64_LENGTH and ds64_length:
                length = ds64_length
            elif length == 0 or length >= _UNKNOWN_LENGTH_BYTES:
                length = size - start
            data = start, length
        # The position only ever increases, whatever lengths a malicious file declares, so the loop cannot hang.
        position = start + length
        if position >= size or (form and data):
            break
        # Chunks are padded to an even length, but some programs omit the padding byte.
        if position % 2:
            file.seek(position)
            position += file.read(1) == b"\0"
    if not form or data is None:
        raise InvalidAudioError('The WAV file is damaged: its format ("fmt ") or audio ("data") chunk was not found.')
    start, declared = data
    available = max(0, min(declared, size - start))
    file.seek(start)
    chunks = (
        b"fmt " + struct.pack("<I", len(form)) + form + bytes(len(form) % 2) + b"data" + struct.pack("<I", available)
    )
    head = b"RIFF" + struct.pack("<I", 4 + len(chunks) + available) + b"WAVE" + chunks
    return Sound(file, "wav", head, available, declared)


def _skip_id3_tags(file: BinaryIO) -> int:
    """Seek to the end of the leading ID3 tags and return that position. Raises InvalidAudioError."""
    position = 0
    for _ in range(_MAX_CHUNKS):
        file.seek(position)
        head = file.read(10)
        if head[:3] != b"ID3" or len(head) < 10:
            file.seek(position)
            return position
        size = sum((byte & 0x7F) << shift for byte, shift in zip(head[6:], (21, 14, 7, 0), strict=True))
        footer_size = 10 if head[5] & 0x10 else 0
        position += 10 + size + footer_size
    raise InvalidAudioError(
        "The MP3 file starts with more than {max_tags} ID3 tags. Remove the tags and upload it again.",
        max_tags=_MAX_CHUNKS,
    )


def _is_mp3_frame(head: bytes) -> bool:
    """Whether `head` starts with a valid frame header of MPEG Layer III."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return False
    version, layer = head[1] >> 3 & 3, head[1] >> 1 & 3
    bit_rate, sample_rate = head[2] >> 4, head[2] >> 2 & 3
    return version != 1 and layer == 1 and bit_rate not in (0, 15) and sample_rate != 3


def _declared_samples(first: bytes) -> int:
    """Return the minimum number of samples that the Xing/Info header declares, 0 without such a header.

    `first` is the start of the first MP3 frame, which holds the header.
    """
    match = _XING.search(first)
    if match is None:
        return 0
    frames = int.from_bytes(match[1], "big") - _PADDING_FRAMES
    # MPEG-1 has 1152 samples per frame; MPEG-2 and 2.5, with lower sample rates, have 576.
    return max(0, frames) * (1152 if first[1] & 0x08 else 576)
