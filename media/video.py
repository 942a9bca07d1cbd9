"""Write and probe MP4 files with H.264 video and AAC audio, laid out for progressive download (fast start)."""

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
# Identical input must produce identical bytes. This requires a fixed number of threads, and rules out macroblock-tree
# rate control: its optimized code processes eight macroblocks (16 pixels wide) at a time, and is nondeterministic if
# their number in a row is not a multiple of eight. Without it, crf 22 gives the quality of crf 20 with it.
_X264_OPTIONS = {"preset": "veryfast", "crf": "22", "threads": "2", "x264-params": "mbtree=0"}


def frame_count(seconds: float, fps: int) -> int:
    """Return the number of frames of a video of `seconds`, at least 1.

    The video then ends within half a frame of its audio, unless the audio is shorter than half a frame.
    """
    return max(1, round(seconds * fps))


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """Properties of an MP4 file.

    `width` and `height` are in pixels. `video_seconds` and `audio_seconds` are the lengths of the two streams, 0 if
    unknown.
    """

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
    """Read the header of an MP4 file.

    Raises EncoderError if it is unreadable, or lacks a video or an audio stream.
    """
    try:
        with av.open(str(path), format="mp4") as container:
            if not container.streams.video or not container.streams.audio:
                raise EncoderError("The encoded file lacks a video stream or an audio stream.")
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
        raise EncoderError("The encoded video is damaged and cannot be read.") from error


def _seconds(stream: av.VideoStream | av.AudioStream) -> float:
    """Return the length of a stream in seconds, 0 if unknown."""
    if stream.duration is None or stream.time_base is None:
        return 0.0
    return float(stream.duration * stream.time_base)


class VideoWriter:
    """Context manager that encodes frames and an audio file to an MP4 file.

    Frames are RGB, uint8, (height, width, 3), with even height and width; exactly `frame_count(seconds, fps)` frames
    are expected. The audio is the first `seconds` of `audio`, mixed to mono and read in step with the frames.
    `comment` is stored in the metadata.

    The output is written to `<path>.part`. On a clean exit, the file is closed, verified and renamed to `path`; after
    an exception, it is deleted.

    Raises EncoderError, UnsupportedMediaError, InvalidAudioError, OSError (disk full).
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
        with _translate_encoder_errors():
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
        """Encode the next frame, and the audio up to its end. Raises EncoderError, InvalidAudioError, OSError."""
        picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
        picture = picture.reformat(format="yuv420p", dst_colorspace=Colorspace.ITU709)
        picture.pts, picture.time_base = self._frames, Fraction(1, self._fps)
        with _translate_encoder_errors():
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
            # Closing the generator closes the audio file.
            self._audio_frames.close()
            self._part.unlink(missing_ok=True)

    def _finish(self) -> None:
        """Flush both encoders, close and verify the file, and rename it to its final name."""
        self._write_audio(until=float("inf"))
        with _translate_encoder_errors():
            self._container.mux(self._video.encode(None))
            self._container.mux(self._sound.encode(None))
            self._container.close()
        self._check(probe(self._part))
        self._part.replace(self._path)

    def _check(self, info: VideoInfo) -> None:
        """Raises EncoderError if the number of frames, the size or the length of a stream is wrong."""
        expected = frame_count(self._seconds, self._fps)
        if not self._frames == info.frames == expected:
            raise EncoderError(
                "The encoded video has {frames} frames instead of {expected}.", frames=info.frames, expected=expected
            )
        if (info.width, info.height) != self._size:
            raise EncoderError(
                "The encoded video is {width}×{height} pixels instead of {expected_width}×{expected_height}.",
                width=info.width,
                height=info.height,
                expected_width=self._size[0],
                expected_height=self._size[1],
            )
        if abs(info.video_seconds - info.audio_seconds) > max(1 / self._fps, 2 * _AAC_FRAME / self._rate):
            raise EncoderError(
                "The encoded video has {video_seconds:.2f} seconds of video but {audio_seconds:.2f} seconds of audio.",
                video_seconds=info.video_seconds,
                audio_seconds=info.audio_seconds,
            )

    def _read_audio(self) -> Generator[av.AudioFrame]:
        """Yield the audio in frames of the AAC encoder's size: mono, float, with timestamps."""
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
        """Encode the audio frames that start before `until` seconds, so that audio and video are interleaved."""
        while self._next_audio is not None and (self._next_audio.time or 0.0) < until:
            with _translate_encoder_errors():
                self._container.mux(self._sound.encode(self._next_audio))
            self._next_audio = next(self._audio_frames, None)


def _aac_rate(native: int) -> int:
    """Return the sample rate of the audio stream in Hz: `native` if it is in `_AAC_RATES`, else 48000."""
    return native if native in _AAC_RATES else _AAC_RATES[-1]


@contextmanager
def _translate_encoder_errors() -> Iterator[None]:
    """Re-raise FFmpeg's errors as OSError if the operating system caused them, else as EncoderError."""
    try:
        yield
    except av.FFmpegError as error:
        # Error numbers of the operating system, such as disk full; FFmpeg's own are much larger.
        if error.errno in errno.errorcode:
            raise OSError(error.errno, error.strerror) from error
        raise EncoderError("The video could not be encoded.") from error
