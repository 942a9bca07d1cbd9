"""The task manager with its journal and its files, in any order of anything: beside it a model tells what must be.

Hypothesis chooses the steps: what users ask for, how engines work and fail, how time passes, how the process ends and
what the next one finds. Every run tries some; the long form at least 10,000.
"""

from __future__ import annotations

import errno
import hashlib
import itertools
import logging
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path

import cv2
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from api.errors import ApiError
from api.events import EventHub
from api.file_store import FileStore
from api.journal import FILE_NAME, Journal
from api.models import TaskErrorCode, TaskStatus
from api.settings import TaskSettings
from api.task_manager import TaskManager
from api.tasks import Idempotency, Submission, Task, TaskReport
from engines.base import FaceBox, GpuFailedError, GpuOutOfMemoryError, NoFaceError, Stage, TooLargeError
from media.errors import EncoderError
from tests.records import PARAMS
from tests.scripted_engine import noise_picture
from tests.server import wait_for
from tests.stepped import Ask, AskOn, Command, Die, Fail, Finish, SteppedEngine, SteppedExecutor, Tell, Worker
from tests.task_model import Asked, Model, ModelJob, ModelTask, speech_seconds
from tests.volatile import volatile_directory

HOUR = 3600.0
RETENTION, TIMEOUT, STALL = 24 * HOUR, HOUR, 600.0
MAX_QUEUE = 5
FACELESS = "c" * 64  # to version 2 of the engine
PICTURES = {"a" * 64: 64, FACELESS: SteppedEngine.faceless}  # their widths in pixels
KEYS = ("first", "second")  # for Idempotency-Key
EXAMPLE = Asked("a" * 64, "d" * 64, seed=1)
FAILURES: dict[TaskErrorCode, Callable[[], Exception]] = {
    TaskErrorCode.NO_FACE: lambda: NoFaceError("No face."),
    TaskErrorCode.STORAGE_FULL: lambda: OSError(errno.ENOSPC, "full"),
    TaskErrorCode.INTERNAL: lambda: RuntimeError("broken"),
    TaskErrorCode.GPU_OUT_OF_MEMORY: lambda: GpuOutOfMemoryError("3 GiB are not there."),
    TaskErrorCode.ENCODER_FAILED: lambda: EncoderError("No video."),
    TaskErrorCode.GPU_FAILED: lambda: GpuFailedError("The GPU has fallen off the bus."),
}
STEPS = {  # state → those that may follow
    None: {TaskStatus.PENDING},
    TaskStatus.PENDING: {TaskStatus.PENDING, TaskStatus.PROCESSING, TaskStatus.FAILED},
    TaskStatus.PROCESSING: set(TaskStatus),  # PENDING: the service has ended meanwhile
    TaskStatus.COMPLETED: {TaskStatus.COMPLETED},
    TaskStatus.FAILED: {TaskStatus.FAILED},
}

asked = st.builds(
    Asked, picture=st.sampled_from(list(PICTURES)), speech=st.sampled_from(["d" * 64, "e" * 64]), seed=st.integers(1, 2)
)
any_of = st.integers(0, 11)  # one of those that there are
BROKEN = Fail(RuntimeError("broken"))
ends: st.SearchStrategy[list[Command]] = st.lists(st.sampled_from([Finish(), AskOn(), BROKEN]), min_size=3, max_size=3)


class Witness:
    """Sees every step of every task, whichever service it runs in, and tells what must not have been."""

    def __init__(self, max_attempts: int) -> None:
        self._max_attempts = max_attempts
        self._last: dict[str, Task] = {}
        self.faults: list[str] = []

    def see_end_of_process(self) -> None:
        """The journal knows no progress."""
        self._last = {
            task_id: task if task.ended else replace(task, progress=0.0) for task_id, task in self._last.items()
        }

    def see(self, task: Task) -> None:
        before = self._last.get(task.id)
        self._last[task.id] = task
        self.faults += [f"{fault}: {before} → {task}" for fault in self._faults(before, task)]

    def _faults(self, before: Task | None, after: Task) -> Iterator[str]:
        if after.status not in STEPS[None if before is None else before.status]:
            yield "no such step"
        if (after.progress == 1.0) != (after.status is TaskStatus.COMPLETED):
            yield "progress and state do not agree"
        if after.attempt > self._max_attempts:
            yield "too many attempts"
        if before is None:
            return
        if before.ended and after != before:
            yield "it had ended"
        begun = before.status is TaskStatus.PENDING and after.status is TaskStatus.PROCESSING
        if after.attempt != before.attempt + begun:
            yield "attempts are not counted"
        if after.status is not TaskStatus.PENDING and after.progress < before.progress:
            yield "progress fell"
        if after.updated_at < before.updated_at:
            yield "time fell"


class WatchedHub(EventHub):
    """Shows what is published to a witness."""

    def __init__(self, witness: Witness) -> None:
        super().__init__()
        self._witness = witness
        self.forgotten: set[str] = set()

    def publish(self, report: TaskReport) -> None:
        super().publish(report)
        self._witness.see(report.task)
        if report.task.id in self.forgotten:
            self._witness.faults.append(f"told of a task that was deleted: {report.task}")

    def forget(self, task_id: str) -> None:
        super().forget(task_id)
        self.forgotten.add(task_id)


class Process:
    """One life of the service, on what the one before has left."""

    def __init__(self, directory: Path, model: Model, witness: Witness, ids: Iterator[str]) -> None:
        self.directory = directory
        self.engine: SteppedEngine | None = None
        self.workers: list[Worker] = []
        self.uploads = FileStore(directory / "uploads")
        self.outputs = FileStore(directory / "outputs")
        self.journal = Journal(directory / "data")
        self.manager = TaskManager(
            self._engine,
            TaskSettings(
                max_workers=model.workers,
                max_queue=model.max_queue,
                retention_hours=model.retention / HOUR,
                timeout_seconds=model.timeout,
                stall_seconds=model.stall,
                max_attempts=model.max_attempts,
            ),
            self.uploads,
            self.outputs,
            self.journal,
            events=WatchedHub(witness),
            now=lambda: model.now,
            monotonic=lambda: model.now,
            new_id=lambda: next(ids),
            new_executor=lambda size: SteppedExecutor(self.workers),
        )
        for store in (self.uploads, self.outputs):  # as the service does
            store.remove_leftovers(0)

    def _engine(self) -> SteppedEngine:
        assert self.engine is not None
        return self.engine

    def resume(self, version: str) -> None:
        self.engine = SteppedEngine(version)
        self.manager.resume()
        self.settle()

    def settle(self) -> None:
        """Let those who were given work come to where the engine works."""
        while new := [worker for worker in self.workers if not worker.begun]:
            new[0].begin()

    def go(self, worker: Worker, command: Command) -> None:
        worker.go(command)
        self.settle()

    def live(self) -> list[Worker]:
        return [worker for worker in self.workers if not worker.ended]

    def receive(self, what: Asked) -> None:
        """Take the files of a request, as one who holds them."""
        for name in (what.picture, what.speech):
            part = self.directory / "new.part"
            part.write_bytes(content(name))
            self.uploads.adopt(part, name)

    def close(self) -> None:
        """What the end of the process does."""
        for worker in self.live():
            worker.go(Die())
            assert worker.ended
        self.journal.close()
        self.uploads.close()
        self.outputs.close()


def content(name: str, made: dict[str, bytes] = {}) -> bytes:  # noqa: B006  made once
    """Of an upload: a picture, or any bytes."""
    if name not in made:
        width = PICTURES.get(name)
        made[name] = b"speech" if width is None else cv2.imencode(".png", noise_picture(width, 80))[1].tobytes()
    return made[name]


def submission_of(what: Asked, idempotency_key: str | None) -> Submission:
    return Submission(
        image=what.picture,
        audio=what.speech,
        seconds=speech_seconds(what.speech),
        size=(PICTURES[what.picture], 80),
        face=FaceBox(0, 0, 1, 1),
        params=replace(PARAMS, seed=what.seed),
        idempotency=None if idempotency_key is None else Idempotency(idempotency_key, repr(what)),
    )


def code_of(call: Callable[[], object]) -> str | None:
    """The code of the error that it raises."""
    try:
        call()
    except ApiError as error:
        return error.code
    return None


def status_of(call: Callable[[], object]) -> int:
    """What a route would answer."""
    try:
        call()
    except ApiError as error:
        return error.status
    return 200


def too_long(version: str, what: Asked) -> bool:
    return version == "3" and speech_seconds(what.speech) > SteppedEngine.room


class TaskMachine(RuleBasedStateMachine):
    """Every rule does one thing to both, the service and the model; the invariants compare them."""

    steps = 0  # made by all machines

    def __init__(self) -> None:
        super().__init__()
        self._left = ExitStack()
        self.directory = self._left.enter_context(volatile_directory())
        self._new_ids = (f"{number:032x}" for number in itertools.count(1))

    @initialize(workers=st.integers(1, 3), max_attempts=st.integers(1, 3))
    def start(self, workers: int, max_attempts: int) -> None:
        self.model = Model(1_000_000.0, workers, MAX_QUEUE, max_attempts, RETENTION, TIMEOUT, STALL)
        self.witness = Witness(max_attempts)
        self._open()
        self.process.resume("1")

    def _open(self) -> None:
        self.process = Process(self.directory, self.model, self.witness, self._new_ids)
        self.manager = self.process.manager

    # -- users -----------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.model.resumed)
    @rule(requests=st.lists(st.tuples(asked, st.sampled_from((None, None, *KEYS))), min_size=1, max_size=3))
    def submit(self, requests: list[tuple[Asked, str | None]]) -> None:
        for what, idempotency_key in requests:
            if idempotency_key is None or not self._is_known(what, idempotency_key):
                self._submit(what, idempotency_key)

    def _is_known(self, what: Asked, idempotency_key: str) -> bool:
        """Whether such a request was sent before: then there is its task."""
        known, expected = self.manager.of_request(idempotency_key), self.model.of_request(idempotency_key)
        if known is None or expected is None:
            assert known is None
            assert expected is None
            return False
        assert known.id == expected.id
        assert known.submission.idempotency == Idempotency(idempotency_key, repr(expected.asked))
        return True

    def _submit(self, what: Asked, idempotency_key: str | None) -> None:
        self.process.receive(what)
        submission = submission_of(what, idempotency_key)
        if not self._accepts(lambda: self.manager.submit(submission), what, idempotency_key, self.model.version):
            for name in (what.picture, what.speech):
                self.process.uploads.release(name)

    def _accepts(self, accept: Callable[[], TaskReport], what: Asked, idempotency_key: str | None, maker: str) -> bool:
        """Whether there is a new task, just when there should be."""
        refusal = "too_large" if too_long(self.model.version, what) else self.model.refuses()
        if refusal is not None:
            with pytest.raises((ApiError, TooLargeError)) as refused:
                accept()
            assert isinstance(refused.value, (ApiError, TooLargeError))
            assert refused.value.code == refusal
            return False
        place = len(self.model.waiting) + 1
        report = accept()
        assert (report.task.status, report.task.accepted_position) == (TaskStatus.PENDING, place)
        self.model.accept(report.task.id, what, idempotency_key, maker)
        self.process.settle()
        return True

    @precondition(lambda self: self.model.known)
    @rule(which=any_of)
    def cancel(self, which: int) -> None:
        task_id = self._pick(which)
        if not self._is_refused(task_id, lambda: self.manager.cancel(task_id)):
            report = self.manager.cancel(task_id)
            self.model.cancel(task_id)
            assert report == self.manager.get(task_id)

    @precondition(lambda self: self.model.known)
    @rule(which=any_of)
    def delete(self, which: int) -> None:
        task_id = self._pick(which)
        if not self._is_refused(task_id, lambda: self.manager.delete(task_id)):
            self.manager.delete(task_id)
            self.model.delete(task_id)

    @precondition(lambda self: self.model.resumed and self.model.known)
    @rule(which=any_of)
    def retry(self, which: int) -> None:
        task_id = self._pick(which)
        if self._is_refused(task_id, lambda: self.manager.retry(task_id)):
            return
        task = self.model.tasks[task_id]
        if task.status is TaskStatus.FAILED:
            self._accepts(lambda: self.manager.retry(task_id), task.asked, None, task.maker)
        else:
            assert status_of(lambda: self.manager.retry(task_id)) == 409

    @precondition(lambda self: self.model.known)
    @rule(status=st.sampled_from([None, *TaskStatus]), limit=st.integers(1, 4), which=any_of)
    def list_after(self, status: TaskStatus | None, limit: int, which: int) -> None:
        after = self._pick(which)
        if self._is_refused(after, lambda: self.manager.newest(status, limit, after)):
            return
        visible = self.model.visible
        older = visible[[task.id for task in visible].index(after) + 1 :]
        wanted = [task.id for task in older if status in (None, task.status)]
        page, more = self.manager.newest(status, limit, after)
        assert ([report.task.id for report in page], more) == (wanted[:limit], len(wanted) > limit)

    def _pick(self, which: int) -> str:
        """An id, among them those of tasks that are no more."""
        return self.model.known[-1 - which % len(self.model.known)]

    def _is_refused(self, task_id: str, call: Callable[[], object]) -> bool:
        """Whether nothing can be done with a task, as it is not there; then the call has to say so."""
        expected = self.model.answer(task_id)
        if expected == 200:
            return False
        assert status_of(call) == expected
        return True

    # -- engines ---------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.model.jobs)
    @rule(
        which=any_of,
        stage=st.sampled_from([None, *Stage]),
        fraction=st.sampled_from([-1.0, 0.0, 0.3, 1.0, 2.0]),
    )
    def work(self, which: int, stage: Stage | None, fraction: float) -> None:
        """Report, or without a stage ask whether to go on."""
        job = self._go(which, Ask() if stage is None else Tell(stage, fraction))
        if job is None:
            return
        if stage is None:
            self.model.ask(job)
        else:
            self.model.tell(job, stage, fraction)

    @precondition(lambda self: self.model.jobs)
    @rule(which=any_of)
    def finish(self, which: int) -> None:
        job = self._go(which, Finish())
        if job is not None:
            self.model.end(job, None)

    @precondition(lambda self: self.model.jobs)
    @rule(which=any_of, code=st.sampled_from(list(FAILURES)))
    def fail(self, which: int, code: TaskErrorCode) -> None:
        job = self.model.jobs[which % len(self.model.jobs)]
        self.process.go(self._worker(job), Fail(FAILURES[code]()))
        self.model.end(job, code)

    def _go(self, which: int, command: Command) -> ModelJob | None:
        """Let a worker make a step; None where it was not yet at the engine's work, and only came there."""
        job = self.model.jobs[which % len(self.model.jobs)]
        self.process.go(self._worker(job), command)
        if not job.inspecting:
            return job
        self.model.inspect(job, {FACELESS})
        return None

    def _worker(self, job: ModelJob) -> Worker:
        (found,) = [worker for worker in self.process.live() if worker.attempt.output == job.video]
        return found

    # -- time ------------------------------------------------------------------------------------------------------

    @rule(
        hours=st.sampled_from([0.01, 0.02, 0.05, 0.1, 0.2, 1.1, 23.9, 24.0]),
        chores=st.sampled_from(["", "sweep", "watch", "sweep and watch"]),
    )
    def time_passes(self, hours: float, chores: str) -> None:
        self.model.now += hours * HOUR
        if "sweep" in chores:
            self.manager.sweep()
            self.model.sweep()
        if "watch" in chores:
            self.manager.watch()
            self.model.watch()
            self.process.settle()

    # -- the process -----------------------------------------------------------------------------------------------

    @precondition(lambda self: not self.model.resumed)
    @rule(version=st.sampled_from("123"))
    def resume(self, version: str) -> None:
        self.process.resume(version)
        self.model.resume(version)

    @precondition(lambda self: self.model.tasks)
    @rule(
        how=st.sampled_from(["gracefully", "at once", "hanging", "killed", "killed with a video"]),
        ends=ends,
        next_version=st.sampled_from([None, *"1123"]),
    )
    def end_process(self, how: str, ends: list[Command], next_version: str | None) -> None:
        """Another one takes its place, and its engine may be there soon. `ends`: how jobs end when interrupted."""
        if how == "gracefully":
            self._shut_down(60, [Finish() if isinstance(end, AskOn) else end for end in ends])
        elif how == "at once":
            self._shut_down(0, ends)
        elif how == "hanging":
            self._leave()
        for worker in self.process.live():
            worker.go(Die(written=how == "killed with a video"))
        self.process.close()
        self.witness.see_end_of_process()
        self.model.restart()
        self._open()
        if next_version is not None:
            self._check()
            self.resume(next_version)

    def _shut_down(self, grace: float, ends: list[Command]) -> None:
        outcome: list[bool] = []
        thread = threading.Thread(target=lambda: outcome.append(self.manager.shutdown(grace)), daemon=True)
        thread.start()
        wait_for(lambda: code_of(self.manager.check_open) in ("draining", "gpu_failed"), pause=0.0005)
        self.model.refusal = self.model.refusal or "draining"
        if grace == 0:
            self.model.interrupt()
        for job, end in zip(list(self.model.running.values()), itertools.cycle(ends), strict=False):
            late = job.seconds(self.model.now) > TIMEOUT  # would ask before it is interrupted, or after
            self._end(job, Finish() if late and isinstance(end, AskOn) else end)
        thread.join(30)
        assert outcome == [not self.model.jobs]  # those left behind
        self._check()

    def _end(self, job: ModelJob, end: Command) -> None:
        worker = self._worker(job)
        while not worker.ended:
            self.process.go(worker, end)
            if job.inspecting and not isinstance(end, Fail):
                self.model.inspect(job, {FACELESS})
        if job in self.model.jobs:
            failure = TaskErrorCode.INTERNAL if isinstance(end, Fail) else None
            self.model.end(job, job.stop if isinstance(end, AskOn) else failure)

    def _leave(self) -> None:
        """Shut down, though no worker ends."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("api.task_manager._STOP_SECONDS", 0.0)
            assert self.manager.shutdown(0) == (not self.model.jobs)
        self.model.refusal = self.model.refusal or "draining"
        self.model.interrupt()
        self.model.leave()
        self._check()

    # -- what must hold --------------------------------------------------------------------------------------------

    @invariant()
    def all_is_as_it_should_be(self) -> None:
        type(self).steps += 1
        self._check()

    def _check(self) -> None:
        assert self.witness.faults == [], self.witness.faults
        self._check_answers()
        self._check_list()
        self._check_work()
        assert names(self.process.uploads) == self.model.uploads()
        assert names(self.process.outputs) == self.model.videos()
        self._check_journal()

    def _check_answers(self) -> None:
        for task_id in self.model.known:
            expected = self.model.answer(task_id)
            if expected != 200:
                assert status_of(lambda: self.manager.get(task_id)) == expected  # noqa: B023  it runs at once
                continue
            report, task = self.manager.get(task_id), self.model.tasks[task_id]
            self.witness.see(report.task)
            assert facts(report.task) == model_facts(task)
            assert task.progress is None or report.task.progress == pytest.approx(task.progress)
            assert report.task.key == submission_of(task.asked, None).key(SteppedEngine(task.made_with))
            waiting = [waiting.id for waiting in self.model.waiting]
            assert report.queue_position == (waiting.index(task_id) + 1 if task_id in waiting else None)
            assert (report.eta_seconds is None) == task.ended
            if report.task.result is not None:
                video = self.process.outputs.path(report.task.result.name).read_bytes()
                assert hashlib.sha256(video).hexdigest() == report.task.result.sha256
        for key in KEYS:
            known, wanted = self.manager.of_request(key), self.model.of_request(key)
            assert (known and known.id) == (wanted and wanted.id)

    def _check_list(self) -> None:
        """All pages."""
        found: list[str] = []
        more = True
        while more:
            page, more = self.manager.newest(None, 3, found[-1] if found else None)
            found += [report.task.id for report in page]
        assert found == [task.id for task in self.model.visible]

    def _check_work(self) -> None:
        """Who works, on what, and in which order they were given it."""
        assert self.manager.counts() == (len(self.model.running), len(self.model.waiting))
        assert code_of(self.manager.check_open) == self.model.refuses()
        assert self.manager.gpu_failed.is_set() == (self.manager.gpu_failure is not None)
        given_up = {job.video for job in self.model.jobs if job.left_behind}
        working = [worker.attempt for worker in self.process.live() if worker.attempt.output not in given_up]
        assert {attempt.output for attempt in working} == {job.video for job in self.model.running.values()}
        assert len(working) <= self.model.workers
        equal = [(task.asked, task.made_with) for task in self.model.tasks.values()
                 if task.id in {attempt.task_id for attempt in working}]  # fmt: skip
        assert len(set(equal)) == len(working), "two work on one video"
        assert [worker.attempt.task_id for worker in self.process.workers] == self.model.started

    def _check_journal(self) -> None:
        """What the next process would read, if this one were killed now."""
        copy = self.directory / "copy"
        copy.mkdir()
        for path in (self.directory / "data").glob(f"{FILE_NAME}*"):
            shutil.copy(path, copy)
        with closing(Journal(copy)) as journal:
            assert journal.damage is None
            tasks, gone = journal.load()
        shutil.rmtree(copy)
        assert gone == self.model.gone
        assert [(task.id, *facts(task)) for task in tasks] == [
            (task.id, *model_facts(task)) for task in self.model.tasks.values()
        ]
        for task in tasks:
            if self.model.answer(task.id) == 200:
                assert apart_from_progress(task) == apart_from_progress(self.manager.get(task.id).task)

    def teardown(self) -> None:
        """When all are forgotten, no file is left."""
        try:
            for task_id in [task.id for task in self.model.visible]:
                self.manager.delete(task_id)
            self.model.now += 2 * RETENTION
            self.manager.sweep()
            for worker in self.process.live():
                while not worker.ended:
                    self.process.go(worker, Finish())
            assert names(self.process.uploads) == names(self.process.outputs) == set()
            assert self.manager.counts() == (0, 0)
            self.process.close()
        finally:
            self._left.close()


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


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """What breaks on purpose is not told."""
    logger = logging.getLogger("api")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    yield
    logger.setLevel(level)


def run_machine(examples: int) -> None:
    run_state_machine_as_test(
        TaskMachine,
        settings=settings(
            max_examples=examples, stateful_step_count=50, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )


def test_whatever_happens_tasks_go_as_promised() -> None:
    run_machine(30)


@pytest.mark.full
def test_ten_thousand_steps_of_it() -> None:
    before = TaskMachine.steps
    run_machine(300)
    assert TaskMachine.steps - before >= 10_000


# -- what it has found once --------------------------------------------------------------------------------------------


@pytest.fixture
def machine() -> Iterator[TaskMachine]:
    machine = TaskMachine()
    yield machine
    machine.teardown()


def test_a_task_tried_again_keeps_its_files_when_the_failed_one_is_deleted(machine: TaskMachine) -> None:
    machine.start(workers=1, max_attempts=1)
    machine.submit([(EXAMPLE, None)])
    machine.fail(0, TaskErrorCode.INTERNAL)
    machine.retry(0)
    machine.delete(1)
    machine.all_is_as_it_should_be()
    machine.finish(0)
    machine.all_is_as_it_should_be()


def test_an_engine_that_comes_back_takes_no_other_ones_video_for_its_own(machine: TaskMachine) -> None:
    machine.start(workers=1, max_attempts=3)
    machine.submit([(EXAMPLE, None), (replace(EXAMPLE, seed=2), None)])
    for version in "21":  # the second task has waited for both
        machine.end_process("killed", [AskOn()], next_version=version)
        machine.all_is_as_it_should_be()
