"""The parts of a job that need no networks: which frame is shown when, as what pixels, and how long the rest takes."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from engines.dice_talk import synthesis
from engines.dice_talk.synthesis import Pace, Shared, at_rate, decoded, picture_of

unhurried = settings(deadline=None)
RATES = st.sampled_from([12.5, 25.0])


class Frames:
    """Native frames that know their numbers, and how many of them were taken."""

    def __init__(self, count: int) -> None:
        self.taken = 0
        self._count = count

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        for number in range(self._count):
            self.taken += 1
            yield np.full((1, 1, 3), number, np.uint8)


def shown(native: int, native_fps: float, fps: int, count: int) -> list[int]:
    return [int(frame[0, 0, 0]) for frame in at_rate(iter(Frames(native)), native_fps, fps, count)]


@unhurried
@given(st.integers(1, 250), RATES, st.integers(8, 60), st.integers(1, 400))
@example(1, 12.5, 60, 300)
@example(250, 25.0, 8, 400)
@example(100, 12.5, 25, 199)
def test_each_frame_is_the_nearest_in_time(native: int, native_fps: float, fps: int, count: int) -> None:
    numbers = shown(native, native_fps, fps, count)
    assert len(numbers) == count
    assert numbers == sorted(numbers), "never back in time"
    for number, found in enumerate(numbers):
        wanted = Fraction(number, fps) * Fraction(native_fps)
        distance = abs(found - wanted)
        assert distance <= Fraction(1, 2) or found == native - 1, "the last frame is held"
        assert all(distance <= abs(other - wanted) for other in (found - 1, found + 1) if 0 <= other < native)


@pytest.mark.parametrize(
    ("native", "native_fps", "fps", "expected"),
    [
        (4, 25.0, 25, [0, 1, 2, 3]),
        (3, 12.5, 25, [0, 1, 1, 2, 2, 2]),
        (6, 25.0, 12, [0, 2, 4]),
        (2, 25.0, 25, [0, 1, 1, 1, 1]),
        (1, 12.5, 30, [0, 0, 0, 0]),
    ],
)
def test_frames_by_hand(native: int, native_fps: float, fps: int, expected: list[int]) -> None:
    assert shown(native, native_fps, fps, len(expected)) == expected


@unhurried
@given(st.integers(1, 250), RATES, st.integers(8, 60), st.integers(1, 400))
def test_no_frame_is_made_before_it_is_shown(native: int, native_fps: float, fps: int, count: int) -> None:
    frames = Frames(native)
    for frame in at_rate(iter(frames), native_fps, fps, count):
        assert frames.taken == int(frame[0, 0, 0]) + 1


@unhurried
@given(st.lists(st.floats(0, 1, width=32), min_size=18, max_size=18))
@example([value / 255 for value in range(18)])
@example([0.0, 1.0] * 9)
def test_pixels_are_rounded_to_the_nearest(values: list[float]) -> None:
    frame = torch.tensor(values, dtype=torch.float32).reshape(3, 2, 3)
    picture = picture_of(frame)
    assert picture.shape == (2, 3, 3)
    assert picture.dtype == np.uint8
    exact = frame.double().permute(1, 2, 0).numpy() * 255
    assert np.abs(picture - exact).max() <= 0.5 + 1e-4


def test_every_grey_comes_back() -> None:
    greys = torch.arange(256).reshape(1, 16, 16).expand(3, -1, -1)
    for dtype in (torch.float32, torch.float16):
        picture = picture_of((greys / 255).to(dtype))
        assert np.array_equal(picture[..., 1], np.arange(256).reshape(16, 16))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(synthesis, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    return clock


def test_the_pace_is_measured_from_the_start(clock: SimpleNamespace) -> None:
    pace = Pace(warm_up=0)
    assert pace.after(0) is None
    clock.now += 3.0
    assert pace.after(1) == pytest.approx(3.0)
    clock.now += 1.0
    assert pace.after(4) == pytest.approx(1.0)


def test_the_pace_leaves_out_the_warm_up(clock: SimpleNamespace) -> None:
    pace = Pace(warm_up=2)
    for seconds in (50.0, 40.0):
        clock.now += seconds
        assert pace.after(1) is None
    clock.now += 30.0
    assert pace.after(2) is None
    clock.now += 2.0
    assert pace.after(3) == pytest.approx(2.0)
    clock.now += 7.0
    assert pace.after(5) == pytest.approx(3.0)


def test_the_jobs_before_a_job_are_those_that_came_first() -> None:
    shared = Shared(torch.device("cpu"))
    assert shared.before(1) == 0
    for job, seconds in ((3, 10.0), (1, 20.0), (2, 40.0)):
        shared.remaining[job] = seconds
    assert [shared.before(job) for job in (3, 1, 2)] == [0, 10, 30]
    shared.remaining[3] = 4.0  # a later word on the same job
    assert [shared.before(job) for job in (3, 1, 2)] == [0, 4, 24]
    del shared.remaining[3]
    assert [shared.before(job) for job in (1, 2)] == [0, 20]


def test_devices_do_not_share_their_lines() -> None:
    first, second = Shared(torch.device("cpu")), Shared(torch.device("cpu"))
    first.remaining[1] = 5.0
    assert second.before(2) == 0
    assert len({id(turn) for shared in (first, second) for turn in (shared.pieces, shared.denoising)}) == 4


@pytest.mark.parametrize(
    ("number", "fps", "expected"), [(1, 25, 19), (19, 25, 19), (20, 25, 39), (1, 30, 22), (22, 30, 22), (23, 30, 46)]
)
def test_the_frames_of_a_chunk_count_as_decoded_together(number: int, fps: int, expected: int) -> None:
    """Otherwise the first frame of the first chunk would seem to take as long as the whole chunk."""
    assert decoded(number, fps) == expected
