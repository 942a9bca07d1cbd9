"""The mouth's tracks: closed in silence, open with the voice, shut on M, B and P, and flat in memory."""

from __future__ import annotations

import sys
import tracemalloc
import wave
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from engines.base import JobCancelledError
from engines.preview import loudness, mouth, phones
from engines.preview.mouth import MouthTracks
from tests.preview.conftest import SPEECH

RATE = 16000
MOVING = ("jaw", "lip", "wide", "round", "close", "bite")


def write(path: Path, samples: NDArray[np.float64]) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes((np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())
    return path


def speech() -> NDArray[np.float64]:
    with wave.open(str(SPEECH), "rb") as file:
        assert file.getframerate() == RATE
        return np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float64) / 32768


def nothing() -> None:
    pass


def test_tracks_are_as_long_as_asked_for(tracks: MouthTracks) -> None:
    assert {len(getattr(tracks, name)) for name in (*MOVING, "loudness")} == {800}
    assert len(mouth.analyse(SPEECH, 0.1).jaw) == 10
    assert len(tracks.resampled(77, 30).jaw) == 77


@pytest.mark.parametrize("kind", ["silence", "hiss"])
def test_the_mouth_stays_shut_without_speech(tmp_path: Path, kind: str) -> None:
    level = 0.0 if kind == "silence" else 0.01
    samples = np.random.default_rng(1).standard_normal(2 * RATE) * level
    tracks = mouth.analyse(write(tmp_path / "quiet.wav", samples), 2.0)
    for name in MOVING:
        assert not getattr(tracks, name).any()


def test_pauses_close_the_mouth(tmp_path: Path) -> None:
    samples = np.concatenate([speech()[: 2 * RATE], np.zeros(RATE), speech()[2 * RATE : 4 * RATE]])
    tracks = mouth.analyse(write(tmp_path / "pause.wav", samples), 5.0)
    assert tracks.jaw[230:280].max() < 0.01
    assert tracks.jaw[:200].max() > 0.4


def test_the_jaw_follows_the_loudness(tracks: MouthTracks) -> None:
    opening = tracks.jaw + 0.3 * tracks.lip
    assert np.corrcoef(opening, tracks.loudness)[0, 1] >= 0.6


def test_lips_close_for_m_b_and_p(tracks: MouthTracks) -> None:
    closed = tracks.close > 0.9
    starts = np.flatnonzero(np.diff(closed.astype(int)) == 1)
    assert len(starts) >= 5  # the example speaks of many
    assert tracks.jaw[closed].mean() < 0.25 * tracks.jaw[tracks.loudness > 0.4].mean()
    assert tracks.lip[closed].max() < 0.08


def test_sounds_have_their_shapes() -> None:
    shape = {
        name: dict(zip(phones.SHAPES, phones.shape_of(name) or (), strict=True)) for name in ("AA", "M", "UW", "F")
    }
    assert shape["AA"]["jaw"] > 0.8
    assert shape["M"]["close"] == 1
    assert shape["UW"]["round"] > 0.8
    assert shape["F"]["bite"] == 1
    assert phones.shape_of("SIL") is None
    assert phones.shape_of("+NSN+") is None


def test_without_the_recogniser_the_spectrum_moves_the_mouth(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "pocketsphinx", None)
    tracks = mouth.analyse(SPEECH, 4.0)
    assert not tracks.close.any()
    assert np.corrcoef(tracks.jaw, tracks.loudness)[0, 1] >= 0.6
    assert "spectrum alone" in caplog.text


def test_the_same_speech_gives_the_same_tracks(tracks: MouthTracks) -> None:
    again = mouth.analyse(SPEECH, 8.0)
    for name in MOVING:
        assert np.array_equal(getattr(again, name), getattr(tracks, name))


def test_a_cut_between_blocks_loses_nothing(tmp_path: Path) -> None:
    """Speech beyond the recogniser's first 30 s is recognised, in its place."""
    samples = speech()[: 8 * RATE]
    levels_path = write(tmp_path / "long.wav", np.tile(samples, 5))
    levels = loudness.measure(levels_path, 40.0, nothing)
    shares: list[float] = []
    shapes, known = phones.recognise(levels_path, 40.0, levels, nothing, shares.append)
    assert len(shares) == 2
    assert 0.6 < shares[0] < 0.76
    assert shares[1] == 1.0
    closures = shapes[:, phones.SHAPES.index("close")]
    loud = levels.loudness > 0.5
    assert known[3200:][loud[3200:]].mean() > 0.8
    # The fifth repetition has its closures where the first has them, give or take the recogniser's context.
    first, fifth = closures[:800], closures[3200:4000]
    assert first @ fifth / max(first.sum(), fifth.sum()) > 0.6


@pytest.mark.parametrize("kind", ["noise", "tone", "speech over a tone"])
def test_thirty_seconds_without_a_pause(tmp_path: Path, kind: str) -> None:
    """The quietest moment of such a recording is its very end, which leaves next to nothing for another block."""
    count = 30 * RATE
    tone = 0.2 * np.sin(2 * np.pi * 180 * np.arange(count) / RATE)
    samples = {
        "noise": np.random.default_rng(1).standard_normal(count) * 0.1,
        "tone": tone,
        "speech over a tone": tone + np.resize(speech(), count),
    }[kind]
    tracks = mouth.analyse(write(tmp_path / "s.wav", samples), 30.0)
    assert len(tracks.jaw) == 3000


def test_memory_does_not_grow_with_the_samples(tmp_path: Path) -> None:
    """Ten minutes are 38 MB of float samples; the first pass keeps a few hundred bytes per tenth of a second."""
    path = write(tmp_path / "ten_minutes.wav", np.tile(speech()[: 4 * RATE], 150))
    tracemalloc.start()
    levels = loudness.measure(path, 600.0, nothing)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(levels.loudness) == 60000
    assert peak < 25e6


@pytest.mark.parametrize("after", [1, 12])
def test_analysis_stops_when_told(after: int) -> None:
    calls = 0

    def check() -> None:
        nonlocal calls
        calls += 1
        if calls > after:
            raise JobCancelledError("stop")

    with pytest.raises(JobCancelledError):
        mouth.analyse(SPEECH, 8.0, check)
    assert calls == after + 1
