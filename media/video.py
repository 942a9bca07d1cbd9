"""Videos: H.264 + AAC in an mp4 that players can start before it is all there."""

from __future__ import annotations

import errno
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Self

import av
import numpy as np
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc
from numpy.typing import NDArray

from media import audio
from media.errors import EncoderError

_AAC_RATES = (16000, 22050, 24000, 32000, 44100, 48000)
_AAC_FRAME = 1024  # samples
# Equal input, equal bytes: so a fixed number of threads, and no macroblock tree, whose fast code works on eight blocks
# at a time and lets chance decide where a row of them (of 16 pixels) does not divide by eight. Without it, crf 22 gives
# the quality that 20 gives with it.
_X264_OPTIONS = {"preset": "veryfast", "crf": "22", "threads": "2", "x264-params": "mbtree=0"}


def frame_count(seconds: float, fps: int) -> int:
    """How many frames a video of `seconds` has: it ends within half a frame of its sound."""
    return max(1, round(seconds * fps))


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """What an mp4 holds; the lengths are those of its two streams in seconds."""

    width: int
    height: int
    fps: float
    frames: int
    video_seconds: float
    audio_seconds: float
    video_codec: str
    audio_codec: str
    comment: str


def probe(path: Path) -> VideoInfo:
    """Read the header of an mp4. Raises EncoderError when it is not a whole video with sound."""
    try:
        with av.open(str(path), format="mp4") as container:
            if not container.streams.video or not container.streams.audio:
                raise EncoderError("The video lacks its picture or its sound.")
            video, sound = container.streams.video[0], container.streams.audio[0]
            return VideoInfo(
                width=video.codec_context.width,
                height=video.codec_context.height,
                fps=float(video.average_rate or 0),
                frames=video.frames,
                video_seconds=_seconds(video),
                audio_seconds=_seconds(sound),
                video_codec=video.codec_context.name,
                audio_codec=sound.codec_context.name,
                comment=container.metadata.get("comment", ""),
            )
    except av.FFmpegError as error:
        raise EncoderError("The video cannot be read back.") from error


def _seconds(stream: av.VideoStream | av.AudioStream) -> float:
    if stream.duration is None or stream.time_base is None:
        return 0.0
    return float(stream.duration * stream.time_base)


class VideoWriter:
    """Writes frames and the speech that goes with them; a context manager.

    Frames are RGB, uint8, (height, width, 3), both sides even; exactly `frame_count(seconds, fps)` of them are
    expected. The sound is the first `seconds` of `audio`, mono, read as the frames go by. Everything goes to
    `<path>.part`; on a clean exit the file is closed, probed and renamed to `path`, on an error it is removed.
    Raises EncoderError, InvalidAudioError, OSError (no room on the disk).
    """

    def __init__(
        self, path: Path, *, width: int, height: int, fps: int, audio: Path, seconds: float, comment: str = ""
    ) -> None:
        self._path = path
        self._part = path.with_name(path.name + ".part")
        self._size = (width, height)
        self._fps = fps
        self._seconds = seconds
        self._source = audio
        self._comment = comment
        self._frames = 0

    def __enter__(self) -> Self:
        self._rate = _aac_rate(audio.probe_rate(self._source))
        self._audio_frames = self._read_audio()
        self._next_audio = next(self._audio_frames, None)
        options = {"movflags": "+faststart", "fflags": "+bitexact"}
        with _encoder_errors():
            self._container = av.open(str(self._part), "w", format="mp4", options=options)
        self._container.metadata["comment"] = self._comment
        self._video = self._add_video()
        self._sound = self._container.add_stream("aac", rate=self._rate, layout="mono")
        return self

    def _add_video(self) -> av.VideoStream:
        stream = self._container.add_stream("libx264", rate=self._fps, options=dict(_X264_OPTIONS))
        stream.width, stream.height = self._size
        stream.pix_fmt = "yuv420p"
        context = stream.codec_context
        context.color_range = ColorRange.MPEG
        context.colorspace = Colorspace.ITU709
        context.color_primaries = ColorPrimaries.BT709
        context.color_trc = ColorTrc.BT709
        return stream

    def write(self, frame: NDArray[np.uint8]) -> None:
        """Add the next frame."""
        picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
        picture = picture.reformat(format="yuv420p", dst_colorspace=Colorspace.ITU709)
        picture.pts, picture.time_base = self._frames, Fraction(1, self._fps)
        with _encoder_errors():
            self._container.mux(self._video.encode(picture))
        self._frames += 1
        self._write_audio(until=self._frames / self._fps)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self._finish()
            else:
                with suppress(av.FFmpegError):
                    self._container.close()
        finally:
            self._audio_frames.close()  # and with it the speech file
            self._part.unlink(missing_ok=True)

    def _finish(self) -> None:
        self._write_audio(until=float("inf"))
        with _encoder_errors():
            self._container.mux(self._video.encode(None))
            self._container.mux(self._sound.encode(None))
            self._container.close()
        self._check(probe(self._part))
        self._part.replace(self._path)

    def _check(self, info: VideoInfo) -> None:
        expected = frame_count(self._seconds, self._fps)
        if not self._frames == info.frames == expected:
            raise EncoderError(f"The video has {info.frames} frames instead of {expected}.")
        if (info.width, info.height) != self._size:
            raise EncoderError(f"The video is {info.width}×{info.height} instead of {self._size}.")
        if abs(info.video_seconds - info.audio_seconds) > max(1 / self._fps, 2 * _AAC_FRAME / self._rate):
            raise EncoderError("The picture and the sound of the video are not of the same length.")

    def _read_audio(self) -> Generator[av.AudioFrame]:
        blocks = audio.read_blocks(
            self._source, self._rate, seconds=self._seconds, block_seconds=_AAC_FRAME / self._rate
        )
        position = 0
        for samples in blocks:
            frame = av.AudioFrame.from_ndarray(samples[np.newaxis], format="fltp", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = self._rate, position, Fraction(1, self._rate)
            position += len(samples)
            yield frame

    def _write_audio(self, *, until: float) -> None:
        """Interleave: push the sound that starts before `until` seconds."""
        while self._next_audio is not None and (self._next_audio.time or 0.0) < until:
            with _encoder_errors():
                self._container.mux(self._sound.encode(self._next_audio))
            self._next_audio = next(self._audio_frames, None)


def _aac_rate(native: int) -> int:
    return native if native in _AAC_RATES else _AAC_RATES[-1]


@contextmanager
def _encoder_errors() -> Iterator[None]:
    try:
        yield
    except av.FFmpegError as error:
        if error.errno in errno.errorcode:  # the system's, such as a full disk; FFmpeg's own are far larger
            raise OSError(error.errno, error.strerror) from error
        raise EncoderError("The video could not be encoded.") from error
