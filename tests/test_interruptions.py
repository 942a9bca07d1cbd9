"""What tasks go through with the service: stops, restarts, other engines, silent workers, a GPU that fails."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from PIL import Image

from api.tasks.errors import UnavailableError
from engines.base import (
    Cancelled,
    Estimate,
    FaceBox,
    GpuFailedError,
    Report,
    SynthesisJob,
    SynthesisParams,
    TooLargeError,
)
from tests.scripted_engine import ScriptedEngine, noise_picture
from tests.world import World


def test_shutdown_lets_the_running_task_finish(world: World) -> None:
    world.engine.hold()
    running, waiting = world.submit(1), world.submit(2)
    world.engine.wait_begun()
    threading.Timer(0.05, world.engine.go_on).start()
    assert world.manager.shutdown(10)
    assert world.status(running, waiting) == ["COMPLETED", "PENDING"]  # the next service runs it
    with pytest.raises(UnavailableError) as refused:
        world.submit(3)
    assert refused.value.code == "draining"


def test_shutdown_interrupts_what_outlives_its_grace(world: World) -> None:
    world.engine.hold()
    running = world.submit(1)
    world.engine.wait_begun()
    assert world.manager.shutdown(0.05)
    task = world.get(running).task
    assert (task.status, task.attempt, task.progress, task.started_at) == ("PENDING", 1, 0.0, None)


@pytest.mark.parametrize("max_attempts", [1, 3])
def test_an_interrupted_task_runs_again_as_often_as_it_may(tmp_path: Path, max_attempts: int) -> None:
    world = World(tmp_path, max_attempts=max_attempts)
    task_id = world.submit()
    for attempt in range(1, max_attempts + 1):
        world.engine.hold()
        world.manager.resume()
        world.engine.wait_begun()
        assert world.get(task_id).task.attempt == attempt
        assert world.manager.shutdown(0)
        world = world.next()
    task = world.get(task_id).task
    assert (task.status, task.error_code, task.attempt) == ("FAILED", "interrupted", max_attempts)
    world.manager.resume()
    world.finish(world.submit(2))  # and the service goes on
    world.manager.shutdown(1)


def test_what_has_not_ended_is_done_by_the_next_service_in_order(tmp_path: Path) -> None:
    world = World(tmp_path)
    done = world.submit(0)
    world.finish(done)
    world.engine.hold()
    ids = [world.submit(seed) for seed in (5, 3, 4)]
    world.engine.wait_begun()
    world.manager.cancel(world.submit(6))
    assert world.manager.shutdown(0)
    world = world.next()
    assert world.status(done, *ids) == ["COMPLETED", "PENDING", "PENDING", "PENDING"]
    assert [world.get(task_id).queue_position for task_id in ids] == [1, 2, 3]
    before = world.get(done).task
    assert before.result is not None
    assert world.outputs.path(before.result.name).exists()
    world.manager.resume()
    world.finish(*ids)
    assert [job.params.seed for job in world.engine.jobs] == [5, 3, 4]
    assert [world.get(task_id).task.attempt for task_id in ids] == [2, 1, 1]
    assert world.status(world.submit(0)) == ["COMPLETED"]  # at once: the video of before is shared
    world.manager.shutdown(1)


def test_another_engine_takes_over_what_waits(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.engine.hold()
    running, faceless = world.submit(1, "a" * 64), world.submit(2, "c" * 64)
    world.engine.wait_begun()
    assert world.manager.shutdown(0)
    world = world.next()
    Image.fromarray(noise_picture(80, 64)).save(world.uploads.path("a" * 64), "PNG")
    Image.new("RGB", (64, 64)).save(world.uploads.path("c" * 64), "PNG")
    world.engine.name, world.engine.checkpoint = "dice_talk", "d" * 64
    world.manager.resume()
    world.finish(running, faceless)
    task = world.get(running).task
    assert (task.status, task.maker.name, task.maker.checkpoint) == ("COMPLETED", "dice_talk", "d" * 64)
    assert task.submission.face == FaceBox(0, 0, 80, 64)  # as this engine sees it
    assert task.warnings == ("Two faces.",)
    assert world.get(faceless).task.error_code == "no_face"
    world.manager.shutdown(1)


class Silent(ScriptedEngine):
    """Says nothing and asks nothing until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.let_go = threading.Event()

    def synthesize(self, job: SynthesisJob, report: Report, cancelled: Cancelled) -> None:
        if job.params.seed == 0:
            self._begun.release()
            self.let_go.wait(30)
        super().synthesize(job, report, cancelled)


def test_a_worker_that_says_nothing_loses_its_task_and_its_place(tmp_path: Path) -> None:
    world = World(tmp_path, stall_seconds=100)
    world.engine = engine = Silent()
    stuck, behind = world.submit(0), world.submit(1)
    world.engine.wait_begun()
    world.now += 100
    world.manager.watch()
    assert world.status(stuck, behind) == ["PROCESSING", "PENDING"]
    world.now += 1
    world.manager.watch()
    assert world.get(stuck).task.error_code == "stalled"
    world.finish(behind)
    assert not world.manager.shutdown(0)  # its thread is still there
    engine.let_go.set()
    world.until(lambda: world.manager.shutdown(0))
    assert world.get(stuck).task.error_code == "stalled"
    assert len(list(world.outputs.directory.iterdir())) == 1  # nobody wants its video any more


def test_too_many_silent_workers_end_the_service(tmp_path: Path) -> None:
    world = World(tmp_path, stall_seconds=100)
    world.engine = engine = Silent()
    for rest in (False, True):  # one worker left behind is replaced, the second is one too many
        world.submit(0)
        world.engine.wait_begun()
        world.now += 101
        world.manager.watch()
        assert world.manager.gpu_failed.is_set() == rest
    engine.let_go.set()


def test_where_tasks_take_turns_a_silent_one_ends_the_service(tmp_path: Path) -> None:
    world = World(tmp_path, stall_seconds=100)
    world.engine = engine = Silent()
    world.engine.one_at_a_time = True
    world.manager.resume()
    stuck, behind = world.submit(0), world.submit(1)
    world.engine.wait_begun()
    world.now += 101
    world.manager.watch()
    assert world.manager.gpu_failed.is_set()
    assert world.status(stuck, behind) == ["FAILED", "PENDING"]
    assert not world.manager.shutdown(0)
    engine.let_go.set()


class Breaking(ScriptedEngine):
    """Loses its GPU with seed 0."""

    def synthesize(self, job: SynthesisJob, report: Report, cancelled: Cancelled) -> None:
        if job.params.seed == 0:
            raise GpuFailedError("The GPU has fallen off the bus.")
        super().synthesize(job, report, cancelled)


def test_when_the_gpu_fails_the_others_are_left_to_the_next_service(tmp_path: Path) -> None:
    world = World(tmp_path, max_workers=2)
    world.engine = Breaking()
    world.engine.hold()
    done, running = world.submit(3), world.submit(1)
    world.engine.go_on()
    world.finish(done, running)
    world.engine.hold()
    running, waiting = world.submit(2), world.submit(2)
    world.engine.wait_begun()
    assert not world.manager.gpu_failed.is_set()
    failing = world.submit(0)
    assert world.manager.gpu_failed.wait(10)
    world.until(lambda: world.status(running) == ["PENDING"])
    assert world.status(failing, running, waiting) == ["FAILED", "PENDING", "PENDING"]
    assert world.get(failing).task.error_code == "gpu_failed"
    assert world.get(failing).task.message == world.manager.gpu_failure == "The GPU has fallen off the bus."
    assert world.status(done) == ["COMPLETED"]  # and its video can still be had
    with pytest.raises(UnavailableError) as refused:
        world.submit(4)
    assert refused.value.code == "gpu_failed"
    assert world.manager.shutdown(0)
    with pytest.raises(UnavailableError) as refused:
        world.manager.check_open()
    assert refused.value.code == "gpu_failed"


def test_a_gpu_that_fails_while_the_service_is_being_stopped_ends_that_sooner(tmp_path: Path) -> None:
    world = World(tmp_path, max_workers=2)
    world.engine = Breaking()
    world.engine.hold()
    world.engine.failures.append(GpuFailedError("The GPU has fallen off the bus."))
    failing, running = world.submit(1), world.submit(2)
    for _ in range(2):
        world.engine.wait_begun()
    stopping = threading.Thread(target=world.manager.shutdown, args=(60,))
    stopping.start()
    world.until(lambda: refuses(world))
    world.engine.go_on()
    stopping.join(10)
    assert not stopping.is_alive()
    assert world.get(failing).task.error_code == "gpu_failed"
    assert world.status(running)[0] in ("PENDING", "COMPLETED")  # interrupted, or finished just before


def refuses(world: World) -> bool:
    try:
        world.manager.check_open()
    except UnavailableError:
        return True
    return False


def test_a_task_that_cannot_be_estimated_any_more_does_not_stop_the_start(tmp_path: Path) -> None:
    world = World(tmp_path, resume=False)
    broken, large, fits = world.submit(1), world.submit(2), world.submit(3)
    assert world.manager.shutdown(0)
    world = world.next()

    class Smaller(ScriptedEngine):
        """The same engine with less memory, and a mistake."""

        def estimate(self, params: SynthesisParams, seconds: float, size: tuple[int, int]) -> Estimate:
            if params.seed == 1:
                raise ZeroDivisionError
            if params.seed == 2:
                raise TooLargeError("It does not fit.")
            return Estimate(33.0, 1)

    world.engine = Smaller()
    world.engine.hold()
    world.manager.resume()
    assert [world.get(task_id).task.error_code for task_id in (broken, large)] == ["internal", "too_large"]
    assert world.get(fits).eta_seconds == pytest.approx(33)
    world.engine.go_on()
    world.finish(fits)
    world.manager.shutdown(1)
