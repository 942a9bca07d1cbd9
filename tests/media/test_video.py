"""The mp4s that are written: right streams, length, colours and sound, nothing half-written, equal bytes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from media import video
from media.errors import EncoderError
from tests.media.speech import tone, write_mp3, write_wav

RED = np.full((64, 96, 3), (200, 40, 30), np.uint8)


def write(path: Path, audio: Path, *, seconds: float, fps: int, frames: int | None = None) -> Path:
    with video.VideoWriter(
        path, width=96, height=64, fps=fps, audio=audio, seconds=seconds, comment="a note"
    ) as writer:
        for index in range(video.frame_count(seconds, fps) if frames is None else frames):
            writer.write(np.roll(RED, index, axis=1))
    return path


@pytest.mark.parametrize(
    ("fps", "rate", "seconds"),
    [(25, 16000, 2.0), (8, 44100, 1.03), (60, 8000, 0.5), (30, 11025, 1.31), (25, 96000, 0.1)],
)
def test_streams_and_lengths(tmp_path: Path, fps: int, rate: int, seconds: float) -> None:
    info = video.probe(
        write(tmp_path / "v.mp4", write_wav(tmp_path / "s", tone(seconds, rate), rate), seconds=seconds, fps=fps)
    )
    assert (info.video_codec, info.audio_codec, info.width, info.height) == ("h264", "aac", 96, 64)
    assert info.fps == fps
    assert info.frames == max(1, round(seconds * fps))
    assert info.comment == "a note"
    assert abs(info.video_seconds - seconds) <= 0.5 / fps + 1e-6
    assert abs(info.video_seconds - info.audio_seconds) <= max(1 / fps, 2048 / 16000)


def test_sound_starts_with_the_picture(tmp_path: Path) -> None:
    rate = 44100
    samples = np.zeros(2 * rate)
    samples[rate:] = tone(1, rate)
    path = write(tmp_path / "v.mp4", write_mp3(tmp_path / "s", samples, rate), seconds=2, fps=25)
    with av.open(str(path)) as container:
        sound = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
        assert container.streams.video[0].start_time == 0
    assert np.argmax(np.abs(sound) > 0.1) / rate == pytest.approx(1, abs=0.01)


def test_only_the_first_seconds(tmp_path: Path) -> None:
    info = video.probe(write(tmp_path / "v.mp4", write_wav(tmp_path / "s", tone(3, 16000), 16000), seconds=1, fps=25))
    assert info.frames == 25
    assert info.audio_seconds == pytest.approx(1, abs=0.13)


def test_colours_and_tags(tmp_path: Path) -> None:
    path = write(tmp_path / "v.mp4", write_wav(tmp_path / "s", tone(0.2, 16000), 16000), seconds=0.2, fps=25)
    with av.open(str(path)) as container:
        context = container.streams.video[0].codec_context
        assert context.pix_fmt == "yuv420p"
        assert (context.colorspace, context.color_primaries, context.color_trc, context.color_range) == (1, 1, 1, 1)
        frame = next(container.decode(video=0)).to_ndarray(format="rgb24")
    assert np.abs(frame.astype(int) - RED).max() <= 4


def test_the_index_comes_first(tmp_path: Path) -> None:
    content = write(
        tmp_path / "v.mp4", write_wav(tmp_path / "s", tone(1, 16000), 16000), seconds=1, fps=25
    ).read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")


def test_equal_input_gives_equal_bytes(tmp_path: Path) -> None:
    sound = write_wav(tmp_path / "s", tone(1, 16000), 16000)
    one, two = (write(tmp_path / name, sound, seconds=1, fps=25).read_bytes() for name in ("a.mp4", "b.mp4"))
    assert one == two


@pytest.mark.parametrize("size", [(192, 192), (320, 256)])
def test_noisy_pictures_of_any_width_too(tmp_path: Path, size: tuple[int, int]) -> None:
    """Where the encoder decides by chance, it shows in pictures that are hard to predict."""
    width, height = size
    noise = np.random.default_rng(1).integers(0, 256, (12, height // 4, width // 4, 3), dtype=np.uint8)
    frames = noise.repeat(4, axis=1).repeat(4, axis=2)
    sound = write_wav(tmp_path / "s", tone(1, 16000), 16000)
    made = set()
    for _ in range(12):
        with video.VideoWriter(
            tmp_path / "v.mp4", width=width, height=height, fps=25, audio=sound, seconds=len(frames) / 25
        ) as writer:
            for frame in frames:
                writer.write(frame)
        made.add((tmp_path / "v.mp4").read_bytes())
    assert len(made) == 1


def test_nothing_is_left_of_a_video_that_failed(tmp_path: Path) -> None:
    sound = write_wav(tmp_path / "s", tone(1, 16000), 16000)
    writer = video.VideoWriter(tmp_path / "v.mp4", width=96, height=64, fps=25, audio=sound, seconds=1)
    with pytest.raises(ValueError, match="ndim"), writer:
        writer.write(RED[0])
    assert list(tmp_path.iterdir()) == [sound]


def test_missing_frames_are_noticed(tmp_path: Path) -> None:
    sound = write_wav(tmp_path / "s", tone(1, 16000), 16000)
    with pytest.raises(EncoderError, match="24 frames instead of 25"):
        write(tmp_path / "v.mp4", sound, seconds=1, fps=25, frames=24)
    assert list(tmp_path.iterdir()) == [sound]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"frames": 24}, "24 frames instead of 25"),
        ({"width": 98}, "98×64 pixels instead of 96×64"),
        ({"audio_seconds": 0.5}, "1.00 seconds of video but 0.50 seconds of audio"),
    ],
)
def test_verification_error_states_both_values(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    probe = video.probe
    monkeypatch.setattr(video, "probe", lambda path: replace(probe(path), **changes))
    sound = write_wav(tmp_path / "s", tone(1, 16000), 16000)
    with pytest.raises(EncoderError, match=says):
        write(tmp_path / "v.mp4", sound, seconds=1, fps=25)
    assert list(tmp_path.iterdir()) == [sound]


def test_the_file_appears_only_when_whole(tmp_path: Path) -> None:
    sound = write_wav(tmp_path / "s", tone(1, 16000), 16000)
    path = tmp_path / "v.mp4"
    with video.VideoWriter(path, width=96, height=64, fps=25, audio=sound, seconds=1) as writer:
        for _ in range(25):
            writer.write(RED)
            assert not path.exists()
    assert path.exists()


def silent(directory: Path) -> Path:
    """An mp4 without an audio stream."""
    path = directory / "silent.mp4"
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(RED, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def test_what_is_no_video_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "v.mp4"
    path.write_bytes(b"not a video" * 100)
    with pytest.raises(EncoderError, match="damaged"):
        video.probe(path)
    with pytest.raises(EncoderError, match="lacks a video stream or an audio stream"):
        video.probe(silent(tmp_path))
