"""The registry: who is found, what is shared, which files stay, and what the next service knows of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from api.records import Idempotency, Result, Task
from api.storage.files import FileStore
from api.storage.journal import Journal
from api.tasks.queue import TaskQueue
from api.tasks.registry import result_key
from engines.base import Emotion, FaceBox, SynthesisJob
from tests.records import HOUR, NOW, PARAMS, completed, failed, pending, processing, submission
from tests.registries import RecordingListener, make_registry
from tests.scripted_engine import ScriptedEngine


class World:
    """A registry with its journal and files; tasks hold files as the task manager would let them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.open()

    def open(self) -> None:
        self.uploads = FileStore(self.directory / "uploads")
        self.outputs = FileStore(self.directory / "outputs")
        self.journal = Journal(self.directory / "data")
        self.listener = RecordingListener()
        self.queue = TaskQueue(1, lambda: NOW)
        self.registry = make_registry(
            self.directory, self.journal, self.uploads, self.outputs, self.listener, self.queue
        )
        self.unended = self.registry.restore()

    def close(self) -> None:
        for part in (self.journal, self.uploads, self.outputs):
            part.close()

    def restart(self) -> None:
        self.close()
        self.open()

    def add(self, task: Task) -> Task:
        for name in task.uploads:
            (self.directory / "new.part").write_text(name)
            self.uploads.adopt(self.directory / "new.part", name)
        self.registry.add(task)
        return task

    def complete(self, task: Task) -> Task:
        assert task.result is not None
        self.outputs.path(task.result.name).write_text("video")
        self.registry.update(task)
        return task

    def files(self) -> tuple[list[str], list[str]]:
        uploads, outputs = (sorted(path.name for path in store.directory.iterdir())
                            for store in (self.uploads, self.outputs))  # fmt: skip
        return uploads, outputs


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.close()


def ids(tasks: object) -> list[int]:
    assert isinstance(tasks, list)
    return [task.position for task in tasks]


def test_a_new_registry_is_empty(world: World) -> None:
    assert world.unended == []
    assert world.registry.next_position() == 1
    assert world.registry.newest() == []
    assert world.registry.find("1") is world.registry.find_any("1") is None
    assert world.registry.tombstone_until("1") == 0
    assert world.registry.of_request("key") is None
    assert world.registry.result("c" * 64) is None
    with pytest.raises(KeyError):
        world.registry.get("1")


def test_tasks_are_found_as_they_are_now(world: World) -> None:
    task = world.add(pending(1))
    assert world.registry.next_position() == 2
    for step in (processing(1), replace(processing(1), progress=0.5)):
        world.registry.update(step)
        assert world.registry.find(task.id) is world.registry.find_any(task.id) is world.registry.get(task.id) is step


def test_newest_first(world: World) -> None:
    for number in (1, 2, 3):
        world.add(pending(number))
    world.registry.update(processing(2))  # a step changes no place
    assert ids(world.registry.newest()) == [3, 2, 1]
    world.restart()
    assert ids(world.registry.newest()) == [3, 2, 1]
    assert world.registry.next_position() == 4


def test_a_deleted_task_is_there_for_its_worker_alone(world: World) -> None:
    world.add(pending(1))
    deleted = replace(processing(1), deleted=True)
    world.registry.update(deleted)
    assert world.registry.find(deleted.id) is None
    assert world.registry.newest() == []
    assert world.registry.get(deleted.id) is world.registry.find_any(deleted.id) is deleted


def test_progress_is_not_in_the_journal_and_all_else_is(world: World) -> None:
    world.add(pending(1))
    world.registry.update(processing(1))
    world.registry.progress(replace(processing(1), progress=0.5))
    assert world.registry.get(pending(1).id).progress == 0.5
    world.restart()
    assert world.registry.get(pending(1).id) == processing(1)


def test_the_next_service_is_told_of_those_that_had_not_ended(world: World) -> None:
    for number in (1, 2, 3, 4):
        world.add(pending(number))
    world.registry.update(processing(2))
    world.complete(completed(3))
    world.registry.update(failed(4))
    world.restart()
    assert world.unended == [pending(1), processing(2)]
    assert [world.registry.get(task.id) for task in (completed(3), failed(4))] == [completed(3), failed(4)]


def test_a_task_that_the_journal_refuses_is_not_there(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(task: Task) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(world.journal, "add", refuse)
    with pytest.raises(OSError, match="No space left"):
        world.registry.add(pending(1, submission=submission(idempotency=Idempotency("key", "print"))))
    assert world.registry.newest() == []
    assert world.registry.next_position() == 1
    assert world.registry.of_request("key") is None


def test_uploads_go_with_the_last_task_that_holds_them(world: World) -> None:
    first, second = world.add(pending(1)), world.add(pending(2))
    world.restart()
    world.registry.forget(first)
    assert world.files()[0] == ["a" * 64, "b" * 64]
    world.restart()
    world.registry.forget(second)
    assert world.files()[0] == []
    world.restart()
    assert world.unended == []


def test_uploads_that_somebody_removed_are_missing(world: World) -> None:
    task = world.add(pending(1))
    assert world.registry.uploads_exist(task)
    world.uploads.path("b" * 64).unlink()
    assert not world.registry.uploads_exist(task)


def test_equal_tasks_share_a_video_as_long_as_one_has_it(world: World) -> None:
    result = Result("1-1.mp4", "f" * 64, 5)
    first, second = (completed(number, result=result) for number in (1, 2))
    world.add(pending(1))
    world.add(pending(2))
    assert world.registry.result(first.key) is None
    world.complete(first)
    assert world.registry.result(first.key) == result
    world.registry.update(second)
    for restart in (False, True):
        if restart:
            world.restart()
        assert world.registry.result(first.key) == result
    world.registry.forget(first)
    assert world.registry.result(first.key) == result
    assert world.files()[1] == ["1-1.mp4"]
    world.registry.forget(second)
    assert world.registry.result(first.key) is None
    assert world.files() == ([], [])


def test_a_video_that_somebody_removed_is_shared_with_nobody(world: World) -> None:
    world.add(pending(1))
    task = world.complete(completed(1))
    assert task.result is not None
    world.outputs.path(task.result.name).unlink()
    assert world.registry.result(task.key) is None


def test_a_newer_video_of_equal_tasks_is_not_lost_with_an_older_one(world: World) -> None:
    """The older file was removed by hand, so the newer task made its own."""
    world.add(pending(1))
    world.add(pending(2))
    old, new = world.complete(completed(1)), world.complete(completed(2))
    assert old.result != new.result
    world.registry.forget(old)
    assert world.registry.result(new.key) == new.result
    world.registry.forget(new)
    assert world.registry.result(new.key) is None


def test_a_failed_task_gives_no_video(world: World) -> None:
    world.add(pending(1))
    world.registry.update(failed(1))
    world.restart()
    assert world.registry.result(failed(1).key) is None
    assert world.files()[1] == []


def keyed(number: int, key: str = "order") -> Task:
    return pending(number, submission=submission(number, idempotency=Idempotency(key, "print")))


def test_a_request_is_known_until_its_task_is_forgotten(world: World) -> None:
    task = world.add(keyed(1))
    world.add(keyed(2, "another"))
    assert world.registry.of_request("order") == task
    world.restart()
    assert world.registry.of_request("order") == task
    assert world.registry.of_request("another") == keyed(2, "another")
    world.registry.forget(task)
    assert world.registry.of_request("order") is None
    world.restart()
    assert world.registry.of_request("order") is None


def test_the_newest_task_of_a_request_counts(world: World) -> None:
    """The first has expired, so the same request could be sent again; then it is swept."""
    first, second = world.add(keyed(1)), world.add(keyed(2))
    assert world.registry.of_request("order") == second
    world.registry.forget(first)
    assert world.registry.of_request("order") == second


def test_a_deleted_tasks_request_is_not_known(world: World) -> None:
    world.add(keyed(1))
    world.registry.update(replace(keyed(1), deleted=True))
    assert world.registry.of_request("order") is None


def test_nothing_is_left_of_tasks_that_are_forgotten(world: World) -> None:
    result = Result("1-1.mp4", "f" * 64, 5)
    for number in (1, 2, 3):
        world.add(keyed(number, f"order {number}"))
    for number in (1, 2):
        world.complete(
            replace(completed(number, result=result), submission=keyed(number, f"order {number}").submission)
        )
    for number in (1, 2, 3):
        world.registry.expire([(world.registry.get(pending(number).id), NOW)])
    world.registry.flush(NOW)
    containers = {name: value for name, value in vars(world.registry).items() if isinstance(value, dict)}
    assert len(containers) >= 4
    assert not any(containers.values()), containers
    assert world.files() == ([], [])


def test_expired_tasks_are_found_by_the_sweep_and_remembered_for_a_while(world: World) -> None:
    for number in (1, 2, 3):
        world.add(pending(number))
    world.complete(completed(1))
    later = world.complete(completed(2, expires_at=NOW + 25 * HOUR))
    assert world.registry.expired(NOW + 24 * HOUR - 1) == []
    (expired,) = world.registry.expired(NOW + 24 * HOUR)
    assert expired == completed(1)
    world.registry.expire([(expired, NOW + 48 * HOUR)])
    for restart in (False, True):
        if restart:
            world.restart()
        assert world.registry.find(expired.id) is None
        assert world.registry.tombstone_until(expired.id) == NOW + 48 * HOUR
        assert world.registry.get(later.id) == later
    world.registry.flush(NOW + 48 * HOUR - 1)
    assert world.registry.expired(NOW + 48 * HOUR - 1) == [later]
    assert world.registry.tombstone_until(expired.id) == NOW + 48 * HOUR
    world.registry.flush(NOW + 48 * HOUR)
    assert world.registry.tombstone_until(expired.id) == 0
    world.restart()
    assert world.registry.tombstone_until(expired.id) == 0


# -- notifications -----------------------------------------------------------------------------------------------------


def test_listener_is_notified_of_every_change(world: World) -> None:
    world.add(pending(1))
    world.add(pending(2))
    world.registry.update(processing(1))
    world.registry.progress(replace(processing(1), progress=0.5))
    world.complete(completed(1))
    reports = [(report.task, report.queue_position) for report in world.listener.reports]
    assert reports == [
        (pending(1), 1),
        (pending(2), 2),
        (processing(1), None),
        (replace(processing(1), progress=0.5), None),
        (completed(1), None),
    ]
    assert world.listener.dropped == []


def test_deleted_task_is_reported_as_forgotten_only(world: World) -> None:
    task = world.add(pending(1))
    world.registry.update(replace(processing(1), deleted=True))
    world.registry.progress(replace(processing(1), deleted=True, progress=0.5))
    world.registry.forget(world.registry.get(task.id))
    assert [report.task for report in world.listener.reports] == [task]
    assert set(world.listener.dropped) == {task.id}


def test_listener_is_notified_when_a_task_expires(world: World) -> None:
    world.add(pending(1))
    task = world.complete(completed(1))
    world.registry.expire([(task, NOW + HOUR)])
    assert world.listener.dropped == [task.id]


def test_refused_task_is_reported_to_no_listener(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(task: Task) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(world.journal, "add", refuse)
    with pytest.raises(OSError, match="No space left"):
        world.registry.add(pending(1))
    assert world.listener.reports == []
    assert world.queue.waiting == {}


def test_positions_are_reported_for_watched_tasks_only(world: World) -> None:
    tasks = [world.add(pending(number)) for number in (1, 2, 3)]
    world.listener.reports.clear()
    world.registry.report_positions()
    assert world.listener.reports == []
    world.listener.watching = {tasks[2].id, "unknown"}
    world.registry.report_positions()
    assert [(report.task, report.queue_position) for report in world.listener.reports] == [(tasks[2], 3)]


def test_updated_queue_is_stored_and_reported_to_watchers_only(world: World) -> None:
    tasks = [world.add(pending(number)) for number in (1, 2, 3)]
    world.listener.reports.clear()
    world.listener.watching = {tasks[1].id}
    estimated = [replace(task, estimate_seconds=50.0) for task in tasks]
    world.registry.update_queued(estimated)
    assert list(world.queue.waiting.values()) == estimated
    assert [report.task for report in world.listener.reports] == [estimated[1]]
    world.restart()
    assert world.unended == estimated


def test_restored_tasks_are_in_the_queue(world: World) -> None:
    for number in (1, 2, 3):
        world.add(pending(number))
    world.registry.update(processing(1))
    world.registry.update(failed(2))
    world.restart()
    assert list(world.queue.running.values()) == [processing(1)]
    assert list(world.queue.waiting.values()) == [pending(3)]


# -- jobs --------------------------------------------------------------------------------------------------------------


def test_job_has_the_values_of_its_task_and_a_workspace(world: World) -> None:
    world.add(pending(7))
    task = processing(7, attempt=2)
    with world.registry.job(task, "7-2.mp4") as job:
        workspace = job.workspace
        assert list(workspace.iterdir()) == []
        (workspace / "frames").mkdir()
        (workspace / "frames" / "1.png").write_bytes(b"x")
        with world.registry.job(replace(task, attempt=3), "7-3.mp4") as other:
            assert other.workspace != workspace
        assert job == SynthesisJob(
            image=world.directory / "uploads" / ("a" * 64),
            audio=world.directory / "uploads" / ("b" * 64),
            output=world.directory / "outputs" / "7-2.mp4",
            seconds=10.0,
            face=FaceBox(1, 2, 30, 40),
            params=replace(PARAMS, seed=7),
            task_id=task.id,
            attempt=2,
            workspace=workspace,
        )
    assert not workspace.parent.exists()


def test_files_of_a_task_are_in_their_stores(world: World) -> None:
    task = world.add(pending(1))
    assert world.registry.image(task) == world.directory / "uploads" / ("a" * 64)
    world.outputs.path("1-1.mp4").write_text("video")
    world.registry.delete_video("1-1.mp4")
    assert world.files()[1] == []
    with pytest.raises(FileNotFoundError):
        world.registry.delete_video("1-1.mp4")


def test_old_unreferenced_files_are_removed_from_both_stores(world: World) -> None:
    world.add(pending(1))
    for store, name in ((world.uploads, "f" * 64), (world.outputs, f"{7:032x}-1.mp4")):
        store.path(name).write_text("left over")
    world.registry.remove_leftovers(3600)
    assert len(world.files()[0]) == 3
    assert len(world.files()[1]) == 1
    world.registry.remove_leftovers(-1)
    assert world.files() == (["a" * 64, "b" * 64], [])


# -- keys --------------------------------------------------------------------------------------------------------------


def test_equal_requests_have_one_key_and_all_that_makes_another_video_gives_another() -> None:
    engine = ScriptedEngine()
    plain = submission()
    key = result_key(plain, engine)
    assert len(key) == 64
    assert key == result_key(submission(), ScriptedEngine())
    changes: list[dict[str, Any]] = [{field.name: 0.25} for field in fields(PARAMS) if field.name != "emotion"]
    params = [replace(PARAMS, **change) for change in [{"emotion": Emotion.SAD}, *changes]]
    others = [replace(plain, image="b" * 64, audio="a" * 64), replace(plain, image="1" * 64), *(
        replace(plain, params=other) for other in params)]  # fmt: skip
    keys = {result_key(other, engine) for other in others}
    for name in ("name", "version", "checkpoint"):
        another = ScriptedEngine()
        setattr(another, name, "another")
        keys.add(result_key(plain, another))
    assert len(keys) == 2 + len(params) + 3
    assert key not in keys


def test_what_makes_no_other_video_gives_the_same_key() -> None:
    told = submission(
        given=("seed",), warnings=("Two faces.",), request_id="1", idempotency=Idempotency("key", "print"),
        seconds=11.0, size=(1, 1), face=FaceBox(0, 0, 1, 1),
    )  # fmt: skip
    assert result_key(told, ScriptedEngine()) == result_key(submission(), ScriptedEngine())


def test_the_key_is_the_same_in_every_version_of_the_service() -> None:
    """It is in the journal: another one, and a task would not find the video of its equal that an earlier one made."""
    assert (
        result_key(submission(), ScriptedEngine()) == "bc03b55acba01d15974400c13f1ccaf990f472a45644eaa5e569f5495fd52b01"
    )
