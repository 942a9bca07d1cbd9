"""WAV and MP3 files of every description, made on the spot."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray


def tone(seconds: float, rate: int, hertz: float = 440.0, level: float = 0.5) -> NDArray[np.float64]:
    return level * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)


def write_wav(
    path: Path, samples: NDArray[np.float64], rate: int, *, bits: int = 16, channels: int = 1, floating: bool = False
) -> Path:
    """Write `samples` to every channel."""
    data = np.repeat(samples[:, None], channels, axis=1)
    if floating:
        body = data.astype({32: "<f4", 64: "<f8"}[bits]).tobytes()
    elif bits == 8:
        body = (data * 127 + 128).clip(0, 255).astype(np.uint8).tobytes()
    elif bits == 24:
        whole = (data * (2**23 - 1)).astype("<i4")
        body = whole.reshape(-1, 1).view(np.uint8)[:, :3].tobytes()
    else:
        body = (data * (2 ** (bits - 1) - 1)).astype(f"<i{bits // 8}").tobytes()
    frame = channels * bits // 8
    form = struct.pack("<HHIIHH", 3 if floating else 1, channels, rate, rate * frame, frame, bits)
    chunks = b"fmt " + struct.pack("<I", len(form)) + form + b"data" + struct.pack("<I", len(body)) + body
    path.write_bytes(b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks)
    return path


def write_mp3(
    path: Path,
    samples: NDArray[np.float64],
    rate: int,
    *,
    layout: str = "mono",
    xing: bool = True,
    encoder: Mapping[str, str] | None = None,
) -> Path:
    """`encoder` has options of FFmpeg's for LAME, such as `b`, the bits per second."""
    with av.open(str(path), "w", format="mp3", options={"write_xing": str(int(xing))}) as container:
        stream = container.add_stream("libmp3lame", rate=rate, layout=layout, options=dict(encoder or {}))
        channels = 1 if layout == "mono" else 2
        for start in range(0, len(samples), 1152):
            block = np.tile(samples[start : start + 1152].astype(np.float32), (channels, 1))
            frame = av.AudioFrame.from_ndarray(block, format="fltp", layout=layout)
            frame.sample_rate, frame.pts = rate, start
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path
