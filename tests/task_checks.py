"""What a task manager answers, keeps and does, held against the model of it."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace

import pytest

from api.http.errors import STATUSES
from api.records import Task, TaskStatus
from api.storage.database import FILE_NAME
from api.storage.files import FileStore
from api.storage.journal import Journal
from api.tasks.errors import TaskError
from api.tasks.registry import result_key
from engines.base import Stage
from tests.stepped import SteppedEngine
from tests.task_model import Model, ModelTask
from tests.task_process import Process, Witness, submission_of

KEYS = ("first", "second")  # for Idempotency-Key


def check(process: Process, model: Model, witness: Witness) -> None:
    """Fail unless all is as the model says."""
    assert witness.faults == [], witness.faults
    _check_answers(process, model, witness)
    _check_list(process, model)
    _check_work(process, model)
    assert names(process.uploads) == model.uploads()
    assert names(process.outputs) == model.videos()
    _check_journal(process, model)


def _check_answers(process: Process, model: Model, witness: Witness) -> None:
    for task_id in model.known:
        expected = model.answer(task_id)
        if expected != 200:
            assert status_of(lambda: process.manager.get(task_id)) == expected  # noqa: B023  it runs at once
            continue
        report, task = process.manager.get(task_id), model.tasks[task_id]
        witness.see(report.task)
        assert facts(report.task) == model_facts(task)
        assert task.progress is None or report.task.progress == pytest.approx(task.progress)
        assert report.task.key == result_key(submission_of(task.asked, None), SteppedEngine(task.made_with))
        waiting = [waiting.id for waiting in model.waiting]
        assert report.queue_position == (waiting.index(task_id) + 1 if task_id in waiting else None)
        assert (report.eta_seconds is None) == task.ended
        if report.task.result is not None:
            video = process.outputs.path(report.task.result.name).read_bytes()
            assert hashlib.sha256(video).hexdigest() == report.task.result.sha256
    for key in KEYS:
        known, wanted = process.manager.of_request(key), model.of_request(key)
        assert (known and known.id) == (wanted and wanted.id)


def _check_list(process: Process, model: Model) -> None:
    """All pages."""
    found: list[str] = []
    more = True
    while more:
        page, more = process.manager.newest(None, 3, found[-1] if found else None)
        found += [report.task.id for report in page]
    assert found == [task.id for task in model.visible]


def _check_work(process: Process, model: Model) -> None:
    """Who works, on what, and in which order they were given it."""
    assert process.manager.counts() == (len(model.running), len(model.waiting))
    assert code_of(process.manager.check_open) == model.refuses()
    assert process.manager.gpu_failed.is_set() == (process.manager.gpu_failure is not None)
    given_up = {job.video for job in model.jobs if job.left_behind}
    working = [worker.attempt for worker in process.live() if worker.attempt.output not in given_up]
    assert {attempt.output for attempt in working} == {job.video for job in model.running.values()}
    assert len(working) <= model.workers
    equal = [(task.asked, task.made_with) for task in model.tasks.values()
             if task.id in {attempt.task_id for attempt in working}]  # fmt: skip
    assert len(set(equal)) == len(working), "two work on one video"
    assert [worker.attempt.task_id for worker in process.workers] == model.started


def _check_journal(process: Process, model: Model) -> None:
    """What the next process would read, if this one were killed now."""
    copy = process.directory / "copy"
    copy.mkdir()
    for path in (process.directory / "data").glob(f"{FILE_NAME}*"):
        shutil.copy(path, copy)
    with closing(Journal(copy)) as journal:
        assert journal.damage is None
        tasks, gone = journal.load()
    shutil.rmtree(copy)
    assert gone == model.gone
    assert [(task.id, *facts(task)) for task in tasks] == [
        (task.id, *model_facts(task)) for task in model.tasks.values()
    ]
    for task in tasks:
        if model.answer(task.id) == 200:
            assert apart_from_progress(task) == apart_from_progress(process.manager.get(task.id).task)


def code_of(call: Callable[[], object]) -> str | None:
    """The code of the error that it raises."""
    try:
        call()
    except TaskError as error:
        return error.code
    return None


def status_of(call: Callable[[], object]) -> int:
    """What a route would answer."""
    try:
        call()
    except TaskError as error:
        return STATUSES[type(error)]
    return 200


def names(store: FileStore) -> set[str]:
    """Of all that is in its directory."""
    return {path.name for path in store.directory.iterdir()}


def facts(task: Task) -> tuple[object, ...]:
    video = None if task.result is None else task.result.name
    return (
        task.status, task.attempt, task.cancelled, task.deleted, task.error_code, task.expires_at,
        task.maker.version, video,
    )  # fmt: skip


def model_facts(task: ModelTask) -> tuple[object, ...]:
    return (
        task.status, task.attempt, task.cancelled, task.deleted, task.error_code,
        task.expires_at, task.maker, task.video,
    )  # fmt: skip


def apart_from_progress(task: Task) -> Task:
    if task.status is not TaskStatus.PROCESSING:
        return task
    return replace(task, progress=0.0, stage=Stage.PREPARING, message="", remaining_seconds=None, updated_at=0.0)
