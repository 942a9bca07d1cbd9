"""The task manager with its journal and its files, in any order of anything: beside it a model tells what must be.

Hypothesis chooses the steps: what users ask for, how engines work and fail, how time passes, how the process ends and
what the next one finds. Every run tries some; the long form at least 10,000.
"""

from __future__ import annotations

import errno
import itertools
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace

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

from api.records import Idempotency, TaskErrorCode, TaskReport, TaskStatus
from api.tasks.errors import TaskError
from engines.base import GpuFailedError, GpuOutOfMemoryError, NoFaceError, Stage, TooLargeError
from media.errors import EncoderError
from tests.records import HOUR
from tests.server import wait_for
from tests.stepped import Ask, AskOn, Command, Fail, Finish, SteppedEngine, Tell, Worker
from tests.task_checks import KEYS, check, code_of, names, status_of
from tests.task_model import Asked, Model, ModelJob, speech_seconds
from tests.task_process import FACELESS, PICTURES, Process, Witness, submission_of
from tests.volatile import volatile_directory

RETENTION, TIMEOUT, STALL = 24 * HOUR, HOUR, 600.0
MAX_QUEUE = 5
EXAMPLE = Asked("a" * 64, "d" * 64, seed=1)
FAILURES: dict[TaskErrorCode, Callable[[], Exception]] = {
    TaskErrorCode.NO_FACE: lambda: NoFaceError("No face."),
    TaskErrorCode.STORAGE_FULL: lambda: OSError(errno.ENOSPC, "full"),
    TaskErrorCode.INTERNAL: lambda: RuntimeError("broken"),
    TaskErrorCode.GPU_OUT_OF_MEMORY: lambda: GpuOutOfMemoryError("3 GiB are not there."),
    TaskErrorCode.ENCODER_FAILED: lambda: EncoderError("No video."),
    TaskErrorCode.GPU_FAILED: lambda: GpuFailedError("The GPU has fallen off the bus."),
}
asked = st.builds(
    Asked, picture=st.sampled_from(list(PICTURES)), speech=st.sampled_from(["d" * 64, "e" * 64]), seed=st.integers(1, 2)
)
any_of = st.integers(0, 11)  # one of those that there are
BROKEN = Fail(RuntimeError("broken"))
ends: st.SearchStrategy[list[Command]] = st.lists(st.sampled_from([Finish(), AskOn(), BROKEN]), min_size=3, max_size=3)


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
            with pytest.raises((TaskError, TooLargeError)) as refused:
                accept()
            assert isinstance(refused.value, (TaskError, TooLargeError))
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
        stage=st.sampled_from([None, Stage.QUEUED, Stage.PREPARING, Stage.RENDERING, Stage.ENCODING, Stage.DENOISING]),
        fraction=st.sampled_from([-1.0, 0.3, 0.7, 1.0, 2.0]),
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
        how=st.sampled_from(["gracefully", "at once", "at once", "hanging", "killed", "killed with a video"]),
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
        self.process.die(written=how == "killed with a video")
        self.witness.see_end_of_process()
        self.model.restart()
        self._open()
        if next_version is not None:
            check(self.process, self.model, self.witness)
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
        check(self.process, self.model, self.witness)

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
            patch.setattr("api.task_manager.STOP_SECONDS", 0.0)
            assert self.manager.shutdown(0) == (not self.model.jobs)
        self.model.refusal = self.model.refusal or "draining"
        self.model.interrupt()
        self.model.leave()
        check(self.process, self.model, self.witness)

    # -- what must hold --------------------------------------------------------------------------------------------

    @invariant()
    def all_is_as_it_should_be(self) -> None:
        type(self).steps += 1
        check(self.process, self.model, self.witness)

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
            self.process.die()
        finally:
            self._left.close()


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
    run_machine(25)


@pytest.mark.full
def test_ten_thousand_steps_of_it() -> None:
    before = TaskMachine.steps
    run_machine(300)
    assert TaskMachine.steps - before >= 10_000


# -- what it has found once, or would seldom find ---------------------------------------------------------------------


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


def test_a_task_is_gone_for_just_as_long_as_it_was_kept(machine: TaskMachine) -> None:
    machine.start(workers=1, max_attempts=1)
    machine.submit([(EXAMPLE, None)])
    machine.finish(0)
    (task_id,) = machine.model.known
    machine.time_passes(24.0, "sweep")
    assert status_of(lambda: machine.manager.get(task_id)) == 410
    machine.time_passes(24.0, "")
    assert status_of(lambda: machine.manager.get(task_id)) == 404
    machine.all_is_as_it_should_be()


def test_a_report_is_a_sign_of_life(machine: TaskMachine) -> None:
    machine.start(workers=1, max_attempts=1)
    machine.submit([(EXAMPLE, None)])
    for _ in range(3):
        machine.time_passes(0.1, "watch")
        machine.work(0, Stage.RENDERING, 0.3)
    machine.all_is_as_it_should_be()
    machine.finish(0)
    machine.all_is_as_it_should_be()


def test_a_key_stays_with_the_newer_task_when_an_older_one_goes(machine: TaskMachine) -> None:
    machine.start(workers=2, max_attempts=1)
    machine.submit([(EXAMPLE, KEYS[0])])
    machine.delete(0)
    machine.submit([(replace(EXAMPLE, seed=2), KEYS[0])])
    machine.finish(0)  # only now the first one goes
    machine.all_is_as_it_should_be()


def test_a_lost_gpu_is_told_while_the_service_ends(machine: TaskMachine) -> None:
    machine.start(workers=1, max_attempts=1)
    machine.submit([(EXAMPLE, None)])
    machine.fail(0, TaskErrorCode.GPU_FAILED)
    machine.end_process("gracefully", [Finish()], next_version="1")
    machine.all_is_as_it_should_be()


def test_what_is_interrupted_first_has_not_timed_out(machine: TaskMachine) -> None:
    machine.start(workers=2, max_attempts=2)
    machine.submit([(EXAMPLE, None), (replace(EXAMPLE, seed=2), None)])
    machine.fail(0, TaskErrorCode.GPU_FAILED)
    machine.time_passes(1.1, "")
    machine.work(0, None, 0.0)
    machine.all_is_as_it_should_be()


def test_time_in_which_another_has_its_turn_does_not_count(machine: TaskMachine) -> None:
    machine.start(workers=1, max_attempts=1)
    machine.submit([(EXAMPLE, None)])
    machine.work(0, Stage.QUEUED, 0.0)
    machine.time_passes(1.1, "")
    machine.work(0, None, 0.0)
    machine.all_is_as_it_should_be()


def test_a_video_is_shared_as_long_as_one_task_has_it(machine: TaskMachine) -> None:
    machine.start(workers=1, max_attempts=1)
    machine.submit([(EXAMPLE, None)])
    machine.finish(0)
    machine.submit([(EXAMPLE, None)])
    machine.delete(1)
    machine.submit([(EXAMPLE, None)])
    machine.all_is_as_it_should_be()
