"""Records of tasks, as the tests of those who keep them need them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from api.records import EngineIdentity, Idempotency, Result, Submission, Task, TaskErrorCode
from engines.base import Emotion, FaceBox, Stage, SynthesisParams

PARAMS = SynthesisParams(Emotion.HAPPY, 3.0, 6.0, False, 25, None, 25, 1, 1.0, 512, 0.5)
NOW = 1_000_000.0  # when tasks are accepted, in seconds since the epoch
HOUR = 3600.0


def submission(seed: int = 1, **changes: Any) -> Submission:
    plain = Submission("a" * 64, "b" * 64, 10.0, (64, 80), FaceBox(1, 2, 30, 40), replace(PARAMS, seed=seed))
    return replace(plain, **changes)


def pending(number: int = 1, **changes: Any) -> Task:
    """A task that waits; `number` is its place in the order of acceptance, and makes its id."""
    plain = Task(
        id=f"{number:032x}",
        position=number,
        key="c" * 64,
        submission=submission(number),
        maker=EngineIdentity("preview", "3", "d" * 64),
        warnings=(),
        estimate_seconds=10.0,
        created_at=NOW,
        updated_at=NOW,
    )
    return replace(plain, **changes)


def processing(number: int = 1, **changes: Any) -> Task:
    return replace(pending(number).started(NOW + 1), **changes)


def completed(number: int = 1, **changes: Any) -> Task:
    result = Result(f"{number:032x}-1.mp4", f"{number:064x}", 1000 + number)
    return replace(processing(number).completed(NOW + 2, NOW + 24 * HOUR, result), **changes)


def failed(number: int = 1, **changes: Any) -> Task:
    task = processing(number).failed(NOW + 2, NOW + 24 * HOUR, TaskErrorCode.INTERNAL, "The engine failed.")
    return replace(task, **changes)


def full(number: int = 1) -> Task:
    """A task in whose record nothing has its default."""
    return completed(
        number,
        submission=submission(
            2**32 - 1,
            given=("seed", "emotion"),
            warnings=("Two faces were found.",),
            request_id="8c1e",
            idempotency=Idempotency("order 4711", "e" * 64),
            face=FaceBox(1.25, 2.5, 30.125, 40.0625, -0.1),
            params=replace(PARAMS, emotion=Emotion.FEAR, crop=True, duration=0.1, seed=2**32 - 1, ref_scale=0.1 + 0.2),
        ),
        warnings=("Two faces were found.", "schön: 很好"),
        accepted_position=7,
        stage=Stage.ENCODING,
        attempt=2,
        cancelled=True,
        deleted=True,
        remaining_seconds=0.25,
        error_code=TaskErrorCode.CANCELLED,
    )
