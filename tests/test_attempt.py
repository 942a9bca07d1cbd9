"""One attempt: what its engine may ask and tell, and what it ends with."""

from __future__ import annotations

import errno
import hashlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from api.records import Result, TaskErrorCode
from api.tasks.attempt import Attempt, Failure, explain
from engines.base import (
    Cancelled,
    FaceBox,
    GpuFailedError,
    GpuOutOfMemoryError,
    JobCancelledError,
    NoFaceError,
    Report,
    SetupError,
    Stage,
    SynthesisJob,
    TooLargeError,
)
from media.errors import EncoderError, InvalidAudioError, InvalidImageError, UnsupportedMediaError
from tests.jobs import make_job
from tests.records import PARAMS
from tests.scripted_engine import ScriptedEngine

Work = Callable[[SynthesisJob, Report, Cancelled], None]
INTERNAL = Failure(TaskErrorCode.INTERNAL, "Unexpected engine error; see the server log.")


class Does(ScriptedEngine):
    """An engine whose jobs are one function."""

    def __init__(self, work: Work) -> None:
        super().__init__()
        self._work = work

    def synthesize(self, job: SynthesisJob, report: Report, cancelled: Cancelled) -> None:
        self._work(job, report, cancelled)


class World:
    """An attempt with a clock that tests turn, and what it told."""

    def __init__(self, directory: Path) -> None:
        self.now = 500.0
        self.told: list[tuple[Attempt, Stage, float, str, float | None]] = []
        self.attempt = Attempt("a" * 32, "a-1.mp4", 60.0, lambda: self.now)
        self.output = directory / "a-1.mp4"
        self._directory = directory

    def run(self, work: Work) -> Result | Failure:
        job = make_job(
            self._directory / "image", self._directory / "audio", self.output, 1.0, FaceBox(0, 0, 1, 1), PARAMS
        )
        return self.attempt.run(Does(work), job, lambda *told: self.told.append(told))


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def until_cancelled(job: SynthesisJob, report: Report, cancelled: Cancelled) -> None:
    if cancelled():
        raise JobCancelledError("Cancelled.")
    job.output.write_bytes(b"")


def test_the_video_is_the_result(world: World) -> None:
    content = b"video" * 1000
    assert (world.attempt.task_id, world.attempt.output) == ("a" * 32, "a-1.mp4")

    def work(job: SynthesisJob, report: Report, cancelled: Cancelled) -> None:
        job.output.write_bytes(content)

    assert world.run(work) == Result("a-1.mp4", hashlib.sha256(content).hexdigest(), 5000)


def test_an_engine_that_makes_no_video_has_failed(world: World, caplog: pytest.LogCaptureFixture) -> None:
    assert world.run(lambda job, report, cancelled: None) == INTERNAL
    assert caplog.messages == [f"Task {'a' * 32} failed with an unexpected engine error"]


def test_a_failed_attempt_leaves_no_video_and_what_cannot_be_removed_changes_nothing(world: World) -> None:
    def fail(job: SynthesisJob, report: Report, cancelled: Cancelled) -> None:
        raise EncoderError("No stream.")

    failure = Failure(TaskErrorCode.ENCODER_FAILED, "No stream.")
    world.output.write_bytes(b"video")
    assert world.run(fail) == failure
    assert not world.output.exists()
    world.output.mkdir()
    assert world.run(fail) == failure
    assert world.output.exists()


def test_the_engine_is_asked_to_stop_with_the_first_reason(world: World) -> None:
    def work(job: SynthesisJob, report: Report, cancelled: Cancelled) -> None:
        assert not cancelled()
        world.attempt.stop(Failure(TaskErrorCode.CANCELLED, "The task was cancelled."))
        world.attempt.stop(Failure(TaskErrorCode.INTERRUPTED, "The service was stopped."))
        world.now += 1000  # and no timeout either
        until_cancelled(job, report, cancelled)

    assert world.run(work) == Failure(TaskErrorCode.CANCELLED, "The task was cancelled.")


def test_a_video_that_is_ready_before_the_engine_notices_counts(world: World) -> None:
    def work(job: SynthesisJob, report: Report, cancelled: Cancelled) -> None:
        world.attempt.stop(Failure(TaskErrorCode.CANCELLED, "The task was cancelled."))
        job.output.write_bytes(b"video")

    assert isinstance(world.run(work), Result)


def test_an_engine_that_stops_by_itself_has_failed(world: World) -> None:
    def work(job: SynthesisJob, report: Report, cancelled: Cancelled) -> None:
        raise JobCancelledError("I do not want to.")

    assert world.run(work) == Failure(TaskErrorCode.INTERNAL, "The engine cancelled the job unexpectedly.")


def test_work_is_timed_and_stopped(world: World) -> None:
    def work(job: SynthesisJob, report: Report, cancelled: Cancelled) -> None:
        world.now += 60
        assert not cancelled()
        world.now += 0.5
        until_cancelled(job, report, cancelled)

    assert world.run(work) == Failure(TaskErrorCode.TIMEOUT, "The task exceeded the time limit of 60 s.")


def test_waiting_for_another_task_is_not_timed(world: World) -> None:
    def work(job: SynthesisJob, report: Report, cancelled: Cancelled) -> None:
        world.now += 40
        report(Stage.QUEUED, 1.0, "Waiting for another job")
        world.now += 1000
        assert not cancelled()
        report(Stage.PREPARING, 0.0, "Preparing")
        world.now += 20
        assert not cancelled()
        assert world.attempt.clock.seconds() == 60
        world.now += 1
        until_cancelled(job, report, cancelled)

    outcome = world.run(work)
    assert isinstance(outcome, Failure)
    assert outcome.code is TaskErrorCode.TIMEOUT


def test_silence_ends_with_a_report_and_with_a_question(world: World) -> None:
    silent = world.attempt.seconds_since_heartbeat

    def work(job: SynthesisJob, report: Report, cancelled: Cancelled) -> None:
        world.now += 7
        assert silent() == 7
        report(Stage.RENDERING, 0.5, "")
        assert silent() == 0
        world.now += 8
        assert silent() == 8
        cancelled()
        assert silent() == 0
        job.output.write_bytes(b"")

    assert silent() == 0
    assert isinstance(world.run(work), Result)
    world.now += 9
    assert silent() == 9


def test_shares_of_stages_become_progress_of_the_task(world: World) -> None:
    """The scripted engine's weights: preparing 0.2, rendering 0.7, encoding 0.1."""

    def work(job: SynthesisJob, report: Report, cancelled: Cancelled) -> None:
        for stage, fraction in (
            (Stage.QUEUED, 1.0), (Stage.PREPARING, 0.0), (Stage.PREPARING, 0.5), (Stage.PREPARING, 1.0),
            (Stage.RENDERING, 0.0), (Stage.RENDERING, -1.0), (Stage.RENDERING, 0.5), (Stage.RENDERING, 7.0),
            (Stage.DENOISING, 0.5), (Stage.ENCODING, 0.5), (Stage.ENCODING, 1.0),
        ):  # fmt: skip
            report(stage, fraction, f"{stage} {fraction}")
        report(Stage.ENCODING, 1.0, "Nearly there", 2.5)
        job.output.write_bytes(b"")

    world.run(work)
    progress = [told[2] for told in world.told]
    expected = [0, 0, 0.1, 0.2, 0.2, 0.2, 0.55, 0.9, 0, 0.95, 1, 1]
    assert progress == pytest.approx(expected)
    assert {told[0] for told in world.told} == {world.attempt}
    assert world.told[2][1:] == (Stage.PREPARING, 0.1, "preparing 0.5", None)
    assert (world.told[-1][1], *world.told[-1][3:]) == (Stage.ENCODING, "Nearly there", 2.5)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (NoFaceError("No face."), "no_face"),
        (TooLargeError("Too large."), "too_large"),
        (GpuOutOfMemoryError("No memory."), "gpu_out_of_memory"),
        (GpuFailedError("Broken."), "gpu_failed"),
        (InvalidImageError("Broken."), "invalid_image"),
        (InvalidAudioError("Broken."), "invalid_audio"),
        (EncoderError("No stream."), "encoder_failed"),
    ],
)
def test_what_engines_and_files_say_is_told(
    world: World, error: Exception, code: str, caplog: pytest.LogCaptureFixture
) -> None:
    def work(*_: Any) -> None:
        raise error

    assert explain(error, "1") == Failure(TaskErrorCode(code), str(error))
    assert world.run(work) == Failure(TaskErrorCode(code), str(error))
    assert caplog.records == []


def test_a_sentence_that_quotes_what_cannot_be_written_is_told_without_that() -> None:
    assert explain(NoFaceError("No face in \udcff.jpg."), "1") == Failure(TaskErrorCode.NO_FACE, "No face in ?.jpg.")


def test_newest_reported_picture_is_kept(world: World) -> None:
    def work(job: SynthesisJob, report: Report, cancelled: Cancelled) -> None:
        assert world.attempt.picture is None
        report(Stage.RENDERING, 0.1, "", None, b"first")
        report(Stage.RENDERING, 0.2, "", 1.0, b"second")
        report(Stage.RENDERING, 0.3, "")
        job.output.write_bytes(b"video")

    assert isinstance(world.run(work), Result)
    assert world.attempt.picture == b"second"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_told(number: int) -> None:
    assert explain(OSError(number, "x"), "1") == Failure(
        TaskErrorCode.STORAGE_FULL, "No disk space left for the video."
    )


@pytest.mark.parametrize(
    "error",
    [ValueError("secret"), OSError(errno.EIO, "x"), MemoryError(), SetupError("secret"), UnsupportedMediaError("x")],
)
def test_what_nobody_expected_is_logged_and_not_told(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    assert explain(error, "4711") == INTERNAL
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("api.task_manager", logging.ERROR)
    assert record.getMessage() == "Task 4711 failed with an unexpected engine error"
    assert record.exc_info is not None
    assert record.exc_info[1] is error
