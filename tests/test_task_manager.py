"""The life of a task: order, limits, sharing, failure, retention."""

from __future__ import annotations

import errno
import threading
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from api.http.errors import STATUSES
from api.records import Submission, Task, TaskStatus
from api.tasks.errors import QueueFullError, TaskError, TooLongError, UnavailableError
from engines.base import (
    Cancelled,
    FaceBox,
    GpuOutOfMemoryError,
    NoFaceError,
    Report,
    Stage,
    SynthesisJob,
    TooLargeError,
)
from media.errors import EncoderError
from tests.scripted_engine import ScriptedEngine
from tests.world import HOUR, PARAMS, World


def test_a_task_runs_to_completion(world: World) -> None:
    world.engine.hold()
    task_id = world.submit()
    world.engine.wait_begun()
    running = world.get(task_id)
    assert running.task.status is TaskStatus.PROCESSING
    assert running.queue_position is None
    assert running.eta_seconds == pytest.approx(10)
    world.engine.go_on()
    world.finish(task_id)
    task = world.get(task_id).task
    assert task.status is TaskStatus.COMPLETED
    assert task.progress == 1.0
    assert task.result is not None
    assert world.outputs.path(task.result.name).read_bytes().startswith(b"SynthesisParams")
    assert task.expires_at == world.now + 24 * HOUR


def test_waiting_tasks_have_places_and_run_in_order(world: World) -> None:
    world.engine.hold()
    ids = [world.submit(seed) for seed in range(4)]
    world.engine.wait_begun()
    assert [world.get(task_id).queue_position for task_id in ids] == [None, 1, 2, 3]
    twin = world.get(world.submit(0))
    assert twin.queue_position == 4
    assert twin.eta_seconds == pytest.approx(10)  # ready with the one that runs
    etas = [world.get(task_id).eta_seconds or 0 for task_id in ids]
    assert etas == pytest.approx([10, 20, 30, 40])
    world.engine.go_on()
    world.finish(*ids)
    assert [job.params.seed for job in world.engine.jobs] == [0, 1, 2, 3]


def test_the_estimate_learns_from_what_tasks_took(world: World) -> None:
    world.engine.hold()
    first = world.submit(1)
    world.engine.wait_begun()
    world.now += 30  # three times the estimate
    world.engine.go_on()
    world.finish(first)
    world.engine.hold()
    second = world.submit(2)
    world.engine.wait_begun()
    assert world.get(second).eta_seconds == pytest.approx(16)  # 10 s × (1 + 0.3 × 2)


def test_what_the_engine_says_of_the_time_counts_for_the_task_and_those_behind(world: World) -> None:
    class Telling(ScriptedEngine):
        def synthesize(self, job: SynthesisJob, report: Report, cancelled: Cancelled) -> None:
            report(Stage.PREPARING, 1.0, "Prepared", 40.0)
            super().synthesize(job, report, cancelled)

    world.engine = Telling()
    world.engine.hold()
    running, behind, twin = world.submit(1), world.submit(2), world.submit(1)
    world.engine.wait_begun()

    def etas() -> list[float | None]:
        return [world.get(task_id).eta_seconds for task_id in (running, behind, twin)]

    assert etas() == [40, 50, 40]
    world.now += 15
    assert etas() == [25, 35, 25]
    world.now -= 60  # somebody sets the clock: not a promise of more
    assert etas() == [40, 50, 40]
    world.now += 1000
    assert etas() == [0, 10, 0]


def test_without_it_the_share_of_the_stages_counts_again(world: World) -> None:
    class Forgetful(ScriptedEngine):
        def synthesize(self, job: SynthesisJob, report: Report, cancelled: Cancelled) -> None:
            report(Stage.PREPARING, 0.5, "Half prepared", 40.0)
            report(Stage.PREPARING, 1.0, "Prepared")
            super().synthesize(job, report, cancelled)

    world.engine = Forgetful()
    world.engine.hold()
    task_id = world.submit()
    world.engine.wait_begun()
    world.now += 5
    assert world.get(task_id).eta_seconds == pytest.approx(20)  # a fifth took 5 s


def test_the_queue_is_bounded(tmp_path: Path) -> None:
    world = World(tmp_path, max_queue=2)
    world.engine.hold()
    ids = [world.submit(seed) for seed in range(3)]
    with pytest.raises(QueueFullError) as refused:
        world.submit(9)
    assert refused.value.waiting == 2
    assert refused.value.retry_after > 0
    world.engine.go_on()
    world.finish(*ids)
    world.finish(world.submit(9))
    world.manager.shutdown(1)


def test_workers_run_side_by_side(tmp_path: Path) -> None:
    world = World(tmp_path, max_workers=3)
    world.engine.hold()
    ids = [world.submit(seed) for seed in range(5)]
    for _ in range(3):
        world.engine.wait_begun()
    assert world.status(*ids) == ["PROCESSING"] * 3 + ["PENDING"] * 2
    world.engine.go_on()
    world.finish(*ids)
    world.manager.shutdown(1)


def test_progress_never_falls_and_moves_with_the_work(world: World) -> None:
    seen: list[float] = []
    engine = world.engine

    class Watching(ScriptedEngine):
        def synthesize(self, job, report, cancelled) -> None:  # type: ignore[no-untyped-def]
            def watched(*values: object) -> None:
                report(*values)
                seen.append(world.get(task_id).task.progress)

            ready.wait(10)
            super().synthesize(job, watched, cancelled)

    ready = threading.Event()
    world.engine = Watching()
    task_id = world.submit()
    ready.set()
    world.finish(task_id)
    assert seen == sorted(seen)
    assert seen[:4] == pytest.approx([0.05, 0.10, 0.15, 0.20])
    assert seen[-1] == 0.999  # 1.0 is kept for COMPLETED
    world.engine = engine


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (NoFaceError("No face."), "no_face"),
        (EncoderError("No video."), "encoder_failed"),
        (OSError(errno.ENOSPC, "full"), "storage_full"),
        (RuntimeError("secret"), "internal"),
        (OSError(errno.EIO, "secret"), "internal"),
        (MemoryError(), "internal"),
        (GpuOutOfMemoryError("3 GiB are not there."), "gpu_out_of_memory"),
    ],
)
def test_a_failure_has_a_code_and_does_not_stop_the_next(world: World, failure: Exception, code: str) -> None:
    world.engine.failures.append(failure)
    first, second = world.submit(1), world.submit(2)
    world.finish(first, second)
    task = world.get(first).task
    assert (task.status, task.error_code) == (TaskStatus.FAILED, code)
    assert task.progress < 1
    assert "secret" not in task.message
    assert world.status(second) == ["COMPLETED"]


def test_tasks_that_take_turns_do_not_share_the_time_of_those_before_them(tmp_path: Path) -> None:
    world = World(tmp_path, max_workers=2)
    world.engine.hold()
    ids = [world.submit(seed) for seed in range(4)]  # of 10 s each
    for _ in range(2):
        world.engine.wait_begun()
    assert [world.get(task_id).eta_seconds for task_id in ids] == pytest.approx([10, 10, 20, 25])
    world.engine.one_at_a_time = True
    world.manager.resume()
    assert [world.get(task_id).eta_seconds for task_id in ids] == pytest.approx([10, 10, 20, 30])
    world.engine.go_on()
    world.finish(*ids)
    world.manager.shutdown(10)


def test_a_task_that_takes_too_long_times_out(tmp_path: Path) -> None:
    world = World(tmp_path, timeout_seconds=5)
    world.engine.cost = 0.1
    world.engine.hold()
    task_id = world.submit()
    world.engine.wait_begun()
    world.now += 6
    world.finish(task_id)
    assert world.get(task_id).task.error_code == "timeout"
    world.manager.shutdown(1)


def test_time_spent_waiting_for_another_job_does_not_count(tmp_path: Path) -> None:
    world = World(tmp_path, timeout_seconds=5)
    world.engine.cost = 0.1
    world.engine.waits = True
    world.engine.hold()
    task_id = world.submit()
    world.engine.wait_begun()
    task = world.get(task_id).task
    assert (task.status, task.stage, task.message) == ("PROCESSING", "queued", "Waiting for another job")
    world.now += 1000
    world.engine.go_on()
    world.finish(task_id)
    assert world.status(task_id) == ["COMPLETED"]
    world.manager.shutdown(1)


def test_what_would_time_out_is_refused_and_leaves_no_task(world: World) -> None:
    world.engine.cost = 360.5  # for each of 10 s
    with pytest.raises(TooLongError) as refused:
        world.submit()
    assert (refused.value.expected, refused.value.allowed) == (3605, 3600)
    assert refused.value.fields == ("duration", "min_resolution")
    assert world.manager.counts() == (0, 0)
    world.engine.cost = 360
    world.finish(world.submit())


def test_admission_goes_by_the_speed_that_was_measured(world: World) -> None:
    world.engine.cost = 200
    world.engine.hold()
    first = world.submit(1)
    world.engine.wait_begun()
    world.now += 3500  # estimated at 2000
    world.engine.go_on()
    world.finish(first)
    world.engine.cost = 300.01  # 3000.1 s by the estimate alone, and that × (1 + 0.3 × 0.75) as it seems
    with pytest.raises(TooLongError) as refused:
        world.submit(2)
    assert refused.value.expected == pytest.approx(3675.1, abs=1)
    world.finish(world.submit(1))  # that video is there already


def test_what_the_engine_finds_too_large_is_refused(world: World) -> None:
    world.engine.room = 5
    with pytest.raises(TooLargeError, match="at most 5 s"):
        world.submit()
    assert world.manager.counts() == (0, 0)


def test_equal_requests_share_one_video(tmp_path: Path) -> None:
    world = World(tmp_path, max_workers=3)
    world.engine.hold()
    first, second, other = world.submit(1), world.submit(1), world.submit(2)
    for _ in range(2):
        world.engine.wait_begun()
    assert world.status(first, second, other) == ["PROCESSING", "PENDING", "PROCESSING"]
    world.engine.go_on()
    world.finish(first, second, other)
    third = world.submit(1)
    assert world.status(first, second, third) == ["COMPLETED"] * 3
    assert world.get(first).task.result == world.get(third).task.result
    assert len(world.engine.jobs) == 2
    world.manager.shutdown(1)


def test_when_the_first_of_two_equal_requests_fails_the_second_runs(world: World) -> None:
    world.engine.hold()
    world.engine.failures.append(RuntimeError("once"))
    first, second = world.submit(1), world.submit(1)
    world.engine.wait_begun()
    world.engine.go_on()
    world.finish(first, second)
    assert world.status(first, second) == ["FAILED", "COMPLETED"]


def test_files_stay_until_their_last_owner_expires(world: World) -> None:
    first = world.submit(1)
    world.finish(first)
    world.now += 10 * HOUR
    second = world.submit(1)
    result = world.get(second).task.result
    assert result is not None
    world.now += 15 * HOUR  # the first has expired, the second has not
    world.manager.sweep()
    assert world.outputs.path(result.name).exists()
    assert len(list(world.uploads.directory.iterdir())) == 2
    world.now += 10 * HOUR
    world.manager.sweep()
    assert list(world.uploads.directory.iterdir()) == list(world.outputs.directory.iterdir()) == []
    third = world.submit(1)  # nothing to share any more
    world.finish(third)
    assert len(world.engine.jobs) == 2


@pytest.mark.parametrize("swept", [True, False])
def test_an_expired_task_is_gone_then_unknown(world: World, swept: bool) -> None:
    task_id = world.submit()
    world.finish(task_id)

    def answer() -> int:
        if swept:
            world.manager.sweep()
        with pytest.raises(TaskError) as refused:
            world.get(task_id)
        return STATUSES[type(refused.value)]

    world.now += 24 * HOUR
    assert answer() == 410
    world.now += 24 * HOUR - 1
    assert answer() == 410
    world.now += 2
    world.manager.sweep()
    assert answer() == 404


def test_a_waiting_task_never_expires(world: World) -> None:
    world.engine.hold()
    running, waiting = world.submit(1), world.submit(2)
    world.engine.wait_begun()
    world.now += 0.9 * HOUR  # less than the timeout
    world.manager.sweep()
    world.engine.go_on()
    world.finish(running, waiting)
    assert world.status(running, waiting) == ["COMPLETED", "COMPLETED"]


@pytest.mark.parametrize(
    ("error", "code"),
    [(NoFaceError("No face in \ud800."), "no_face"), (SystemExit(3), "internal"), (KeyboardInterrupt(), "internal")],
)
def test_whatever_an_engine_raises_ends_the_task_and_leaves_its_place(
    world: World, error: BaseException, code: str
) -> None:
    class Odd(ScriptedEngine):
        def synthesize(self, job: SynthesisJob, report: Report, cancelled: Cancelled) -> None:
            if job.params.seed == 0:
                raise error
            super().synthesize(job, report, cancelled)

    world.engine = Odd()
    odd, behind = world.submit(0), world.submit(1)
    world.finish(odd, behind)
    assert world.get(odd).task.error_code == code
    assert world.status(behind) == ["COMPLETED"]


def test_nobody_who_asks_waits_for_the_disk(tmp_path: Path) -> None:
    """While the journal writes, which may take long, questions are answered on the event loop."""
    world = World(tmp_path, max_queue=2)
    world.engine.hold()
    running, waiting = world.submit(1), world.submit(2)
    world.engine.wait_begun()
    writing, written = threading.Event(), threading.Event()
    save = world.journal.save

    def slow(task: Task) -> None:
        writing.set()
        assert written.wait(10)
        save(task)

    world.journal.save = slow  # type: ignore[method-assign]
    cancelling = threading.Thread(target=world.manager.cancel, args=(running,))
    cancelling.start()
    assert writing.wait(10)
    assert world.status(running, waiting) == ["PROCESSING", "PENDING"]
    assert world.get(waiting).queue_position == 1
    world.manager.check_open()
    assert world.manager.counts() == (1, 1)
    assert len(world.manager.newest(None, 10, None)[0]) == 2
    assert world.manager.of_request("none") is None
    written.set()
    cancelling.join(10)
    world.engine.go_on()
    world.finish(running, waiting)
    world.manager.shutdown(1)


def test_the_sweep_lets_others_in_between(world: World) -> None:
    ids = [world.submit(1) for _ in range(250)]  # all but one share a video
    world.finish(*ids)
    world.now += 25 * HOUR
    portions: list[int] = []
    expire = world.journal.expire

    def counted(expired: Iterable[tuple[str, float]]) -> None:
        rows = list(expired)
        portions.append(len(rows))
        expire(rows)

    world.journal.expire = counted  # type: ignore[method-assign]
    world.manager.sweep()
    assert portions == [100, 100, 50]
    assert list(world.uploads.directory.iterdir()) == list(world.outputs.directory.iterdir()) == []


def test_a_failed_task_keeps_no_video(world: World) -> None:
    world.engine.failures.append(RuntimeError("broken"))
    world.finish(world.submit())
    assert list(world.outputs.directory.iterdir()) == []


def test_a_hundred_submitters_at_once(tmp_path: Path) -> None:
    world = World(tmp_path, max_queue=30)
    world.engine.hold()
    world.submit(999)
    world.engine.wait_begun()
    outcomes: list[bool] = []
    lock = threading.Lock()

    def submit(seed: int) -> None:
        try:
            world.manager.submit(
                Submission("a" * 64, "b" * 64, 1.0, (64, 64), FaceBox(0, 0, 1, 1), replace(PARAMS, seed=seed))
            )
            accepted = True
        except UnavailableError:
            accepted = False
        with lock:
            outcomes.append(accepted)

    threads = [threading.Thread(target=submit, args=(seed,)) for seed in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes.count(True) == 30
    world.engine.go_on()
    world.until(lambda: world.manager.counts() == (0, 0))
    world.manager.shutdown(1)


def test_workspace_that_cannot_be_created_fails_its_task_only(world: World) -> None:
    blocked = world.directory / "workspaces"
    blocked.write_text("a file where the directory should be")
    failing = world.submit(1)
    world.finish(failing)
    assert world.get(failing).task.error_code == "internal"
    blocked.unlink()
    later = world.submit(2)
    world.finish(later)
    assert world.status(later) == ["COMPLETED"]
    assert not blocked.exists()
