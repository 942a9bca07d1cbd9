"""What a task may become, from every status, and what its record is worth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import FrozenInstanceError, fields, replace
from typing import Any

import pytest
from pydantic import TypeAdapter

from api.records import EngineIdentity, Idempotency, Result, Task, TaskErrorCode, TaskStatus, client_warnings
from engines.base import Emotion, Stage
from tests.records import HOUR, NOW, completed, failed, full, pending, processing, submission
from tests.scripted_engine import ScriptedEngine

RESULT = Result("1-1.mp4", "f" * 64, 5)
LATER = NOW + 100

TASKS = {"PENDING": pending, "PROCESSING": processing, "COMPLETED": completed, "FAILED": failed}
STEPS: dict[str, Callable[[Task], Task]] = {
    "started": lambda task: task.started(LATER),
    "reported": lambda task: task.reported(LATER, Stage.RENDERING, 0.5, "Rendering.", 3.0),
    "completed": lambda task: task.completed(LATER, LATER + HOUR, RESULT),
    "failed": lambda task: task.failed(LATER, LATER + HOUR, TaskErrorCode.NO_FACE, "No face was found."),
    "requeued": lambda task: task.requeued(LATER),
}
ALLOWED: dict[tuple[str, str], dict[str, Any]] = {
    ("PENDING", "started"): {
        "status": TaskStatus.PROCESSING, "stage": Stage.PREPARING, "message": "Preparing.", "started_at": LATER,
        "attempt": 1,
    },
    ("PROCESSING", "reported"): {
        "stage": Stage.RENDERING, "progress": 0.5, "message": "Rendering.", "remaining_seconds": 3.0,
    },
    ("PROCESSING", "completed"): {
        "status": TaskStatus.COMPLETED, "stage": Stage.ENCODING, "progress": 1.0, "message": "The video is ready.",
        "completed_at": LATER, "expires_at": LATER + HOUR, "result": RESULT,
    },
    ("PENDING", "failed"): {
        "status": TaskStatus.FAILED, "message": "No face was found.", "error_code": TaskErrorCode.NO_FACE,
        "completed_at": LATER, "expires_at": LATER + HOUR,
    },
    ("PROCESSING", "failed"): {
        "status": TaskStatus.FAILED, "message": "No face was found.", "error_code": TaskErrorCode.NO_FACE,
        "completed_at": LATER, "expires_at": LATER + HOUR,
    },
    ("PROCESSING", "requeued"): {
        "status": TaskStatus.PENDING, "stage": Stage.QUEUED, "progress": 0.0, "started_at": None,
        "message": "Requeued after an interruption.",
    },
}  # fmt: skip


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("status", TASKS)
def test_every_step_from_every_status(status: str, step: str) -> None:
    """A step changes what it says and nothing else, or is refused."""
    task = TASKS[status]()
    before = replace(task)
    changes = ALLOWED.get((status, step))
    if changes is None:
        with pytest.raises(ValueError, match=rf"^task {task.id} is {status}, not [A-Z]+$"):
            STEPS[step](task)
    else:
        assert STEPS[step](task) == replace(task, updated_at=LATER, **changes)
    assert task == before


@pytest.mark.parametrize(("task", "ended"), [(pending(), False), (processing(), False), (completed(), True),
                                             (failed(), True)])  # fmt: skip
def test_a_task_has_ended_when_it_is_completed_or_failed(task: Task, ended: bool) -> None:
    assert task.ended is ended


def test_a_refusal_tells_what_the_step_is_for() -> None:
    with pytest.raises(ValueError, match="is COMPLETED, not PROCESSING"):
        completed().reported(LATER, Stage.ENCODING, 1.0, "", None)
    with pytest.raises(ValueError, match="is PROCESSING, not PENDING"):
        processing().started(LATER)


def test_a_new_task() -> None:
    task = pending()
    assert (task.status, task.stage, task.progress) == (TaskStatus.PENDING, Stage.QUEUED, 0.0)
    assert task.message == "Queued."
    assert (task.attempt, task.accepted_position) == (0, 1)
    assert (task.cancelled, task.deleted) == (False, False)
    assert (task.started_at, task.completed_at, task.expires_at) == (None, None, None)
    assert (task.remaining_seconds, task.error_code, task.result) == (None, None, None)
    assert task.uploads == ("a" * 64, "b" * 64)


def test_a_record_cannot_be_changed() -> None:
    for record in (pending(), submission(), EngineIdentity("a", "b", "c"), RESULT, Idempotency("key", "print")):
        for field in fields(record):
            with pytest.raises(FrozenInstanceError):
                setattr(record, field.name, None)


def test_progress_never_falls_and_never_says_done() -> None:
    task = processing()
    seen = []
    for progress in (0.25, 0.2, 0.3, -1.0, 0.998, 0.9995, 1.0, 7.0, 0.1):
        task = task.reported(LATER, Stage.RENDERING, progress, "", None)
        seen.append(task.progress)
    assert seen == [0.25, 0.25, 0.3, 0.3, 0.998, 0.999, 0.999, 0.999, 0.999]


def test_a_clock_that_is_set_back_moves_no_task_back() -> None:
    task = processing().reported(NOW + 50, Stage.RENDERING, 0.5, "", None)
    assert task.reported(NOW + 20, Stage.RENDERING, 0.6, "", None).updated_at == NOW + 50
    assert task.reported(NOW + 51, Stage.RENDERING, 0.6, "", None).updated_at == NOW + 51


def test_a_task_that_runs_again_begins_anew() -> None:
    first = processing().reported(NOW + 5, Stage.RENDERING, 0.5, "Rendering.", 3.0)
    again = first.requeued(NOW + 10)
    assert (again.progress, again.started_at, again.remaining_seconds, again.attempt) == (0.0, None, None, 1)
    second = again.started(NOW + 20)
    assert (second.attempt, second.started_at, second.created_at) == (2, NOW + 20, NOW)
    assert second.reported(NOW + 21, Stage.PREPARING, 0.1, "", None).progress == 0.1


def test_the_maker_is_the_engine() -> None:
    engine = ScriptedEngine()
    assert EngineIdentity.of(engine) == EngineIdentity("preview", "scripted", "5c" * 32)


def test_task_expires_when_its_retention_is_over() -> None:
    task = completed()
    assert task.expires_at is not None
    assert not task.expired(task.expires_at - 1)
    assert task.expired(task.expires_at)
    assert not processing().expired(task.expires_at)


def test_task_taken_over_has_identity_and_warnings_of_its_engine() -> None:
    engine = ScriptedEngine()
    task = pending(submission=submission(warnings=("Two faces.",), given=("inference_steps",)))
    taken_over = task.with_engine(engine)
    warnings = ("Two faces.", "inference_steps has no effect here.")
    assert taken_over == replace(task, maker=EngineIdentity.of(engine), warnings=warnings)


def test_warnings_are_the_portraits_and_those_of_fields_that_the_client_sent() -> None:
    engine = ScriptedEngine()
    said = submission(warnings=("Two faces.",), given=("seed", "inference_steps"))
    assert client_warnings(said, engine) == ("Two faces.", "inference_steps has no effect here.")
    assert client_warnings(replace(said, given=("seed",)), engine) == ("Two faces.",)
    assert client_warnings(submission(), engine) == ()


def test_the_full_record_has_nothing_left_to_its_default() -> None:
    """Otherwise the test below would miss a field."""
    for record in (full(), full().submission, full().submission.face):
        for field in fields(record):
            assert getattr(record, field.name) != field.default, field.name


@pytest.mark.parametrize("task", [pending(), processing(), completed(), failed(), full()])
def test_a_record_survives_json(task: Task) -> None:
    records = TypeAdapter(Task)
    again = records.validate_json(records.dump_json(task))
    assert again == task
    assert isinstance(again.submission.params.emotion, Emotion)
    assert isinstance(again.status, TaskStatus)
    assert isinstance(again.submission.given, tuple)
