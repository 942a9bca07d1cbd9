"""Refuses jobs that would take longer than a task may, before they wait for nothing."""

from __future__ import annotations

import math
from collections.abc import Collection

from api.http.errors import ApiError

_SMALLER = {
    "duration": "a shorter duration",
    "inference_steps": "fewer inference_steps",
    "min_resolution": "a smaller min_resolution",
}


def check_time(expected: float, allowed: float, ignored_fields: Collection[str]) -> None:
    """Raise ApiError 422 when a job of `expected` seconds would run into the timeout of `allowed` ones."""
    if expected > allowed:
        raise ApiError(
            422,
            "too_large",
            f"The video would take about {math.ceil(expected)} s to make; a task may take {allowed:g} s.",
            f"What helps: {_either([words for name, words in _SMALLER.items() if name not in ignored_fields])}.",
        )


def _either(words: list[str]) -> str:
    return " or ".join((", ".join(words[:-1]), words[-1]) if len(words) > 1 else words)
