"""Which jobs are refused for the time they would take, and what is said to help."""

from __future__ import annotations

import pytest

from api.admission import check_time
from api.http.errors import ApiError
from api.settings import Settings
from engines.base import Emotion, SynthesisParams
from engines.preview.engine import PreviewEngine


def detail(*ignored: str) -> str | None:
    with pytest.raises(ApiError) as refused:
        check_time(10.2, 10, ignored)
    assert (refused.value.status, refused.value.code) == (422, "too_large")
    assert refused.value.error == "The video would take about 11 s to make; a task may take 10 s."
    return refused.value.detail


def test_only_what_makes_a_difference_to_the_engine_is_said_to_help() -> None:
    assert detail() == "What helps: a shorter duration, fewer inference_steps or a smaller min_resolution."
    assert detail("inference_steps") == "What helps: a shorter duration or a smaller min_resolution."
    assert detail("inference_steps", "min_resolution", "fps") == "What helps: a shorter duration."


def test_what_fits_is_let_through() -> None:
    check_time(10, 10, ())


@pytest.mark.parametrize("size", [(1024, 1024), (1024, 3072)])
def test_the_longest_and_largest_preview_fits_with_a_margin(size: tuple[int, int]) -> None:
    settings = Settings()
    engine = PreviewEngine(settings.files.checkpoint_dir)
    params = SynthesisParams(
        Emotion.HAPPY, 3.0, 6.0, False, 25, None, settings.synthesis.fps, 0, 1.0, 1024, settings.synthesis.expand_ratio
    )
    expected = engine.estimate(params, 600, size).seconds
    check_time(2 * expected, settings.tasks.timeout_seconds, engine.ignored_fields)  # on a machine half as fast
