"""The arithmetic of a window in the published size is what sharing leaves of it, and the plain form's is all."""

from __future__ import annotations

import pytest

from benchmarks import flops


def test_a_window_takes_no_more_arithmetic_than_planned() -> None:
    """95.6 TFLOP; without any sharing it would be 104.9."""
    assert 94e12 < flops.call() <= 95.6e12


def test_the_plain_form_takes_what_was_counted_of_the_published_one() -> None:
    """To the last digit: so the reference leaves out none of its work, and adds none."""
    assert flops.naive_call() == 104_901_243_863_040


@pytest.mark.parametrize(("seconds", "calls"), [(2, 50), (10, 150), (60, 775)])
def test_calls_of_a_clip(seconds: int, calls: int) -> None:
    assert flops.calls(int(seconds * 12.5)) == calls
