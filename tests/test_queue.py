"""Expected times: the estimate at first, the task's own speed later, what was learnt for the next."""

from __future__ import annotations

import pytest

from api.tasks.attempt import WorkClock
from api.tasks.queue import SpeedMeter


def test_at_first_the_estimate_counts_then_the_tasks_own_speed() -> None:
    meter = SpeedMeter()
    assert meter.remaining(10, elapsed=0, progress=0) == 10
    assert meter.remaining(10, elapsed=4, progress=0) == 6
    assert meter.remaining(10, elapsed=4, progress=0.1) == pytest.approx((40 + 10) / 2 - 4)
    assert meter.remaining(10, elapsed=4, progress=0.2) == pytest.approx(16)
    assert meter.remaining(10, elapsed=30, progress=0) == 0  # late, but never less than nothing


def test_it_learns_how_fast_the_machine_is() -> None:
    meter = SpeedMeter()
    for _ in range(30):
        meter.learn(estimated=10, actual=25)
    assert meter.total(4) == pytest.approx(10, rel=0.01)
    meter.learn(estimated=0, actual=1)  # says nothing
    assert meter.total(4) == pytest.approx(10, rel=0.01)


def test_short_tasks_say_little_of_long_ones() -> None:
    meter = SpeedMeter()
    meter.learn(estimated=1, actual=5)  # the first task, say, with all its warming up
    assert meter.total(1000) == pytest.approx(1120)  # 1 + 0.03 × 4
    meter.learn(estimated=1000, actual=1000)
    assert meter.total(1000) == pytest.approx(1084)


def test_the_work_clock_stands_still_while_a_task_waits() -> None:
    now = 100.0
    clock = WorkClock(lambda: now)
    now += 2
    assert clock.seconds() == 2
    clock.run(False)
    now += 50
    clock.run(False)  # said again
    assert clock.seconds() == 2
    clock.run(True)
    now += 3
    clock.run(True)
    assert clock.seconds() == 5
