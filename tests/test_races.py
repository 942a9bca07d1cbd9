"""Two that reach for one task at the same moment: one of them wins, nobody sees an error, no file is left or lost."""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import pytest

from api.http.errors import STATUSES
from api.records import Task, TaskReport, TaskStatus
from api.service import build_task_manager
from api.settings import TaskSettings
from api.storage.files import FileStore
from api.storage.journal import Journal
from api.storage.workspaces import Workspaces
from api.tasks.errors import TaskError, TaskNotFoundError
from api.tasks.events import EventHub
from engines.base import Cancelled, JobCancelledError, Report, SynthesisJob
from tests.records import submission
from tests.scripted_engine import ScriptedEngine
from tests.server import wait_for
from tests.volatile import volatile_directory

SPEECH = "b" * 64
P = ParamSpec("P")
T = TypeVar("T")


class RacingEngine(ScriptedEngine):
    """A job stands at the start of the race, when one is held, and otherwise ends as soon as it is asked to."""

    def __init__(self) -> None:
        super().__init__()
        self.at_start = threading.Semaphore(0)
        self.start = threading.Barrier(2)
        self.endless = False  # whether those that do not race end only when they are cancelled
        self.racing: set[int] = set()  # seeds

    def synthesize(self, job: SynthesisJob, report: Report, cancelled: Cancelled) -> None:
        if job.params.seed in self.racing:
            self.at_start.release()
            self.start.wait(30)
            if job.params.seed % 2 and cancelled():  # every other one does not ask so late
                raise JobCancelledError("Cancelled.")
        elif self.endless:
            wait_for(cancelled, pause=0.0005)
            raise JobCancelledError("Cancelled.")
        job.output.write_bytes(b"video")
        if self.failures:
            raise self.failures.pop()


class CheckedWorkers(ThreadPoolExecutor):
    """Keeps what its work raised, which nobody else asks for."""

    def __init__(self, size: int, errors: list[BaseException]) -> None:
        super().__init__(size)
        self._errors = errors

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        future = super().submit(fn, *args, **kwargs)
        future.add_done_callback(self._note)
        return future

    def _note(self, future: Future[Any]) -> None:
        error = future.exception()
        if error is not None:
            self._errors.append(error)


class EndsHub(EventHub):
    """Counts how often each task was said to have ended."""

    def __init__(self) -> None:
        super().__init__(lambda event: b"")
        self.ends: Counter[str] = Counter()

    def changed(self, report: TaskReport) -> None:
        super().changed(report)
        self.ends[report.task.id] += report.task.ended


class Track:
    """A manager with one worker, and someone who races it."""

    def __init__(self, directory: Path) -> None:
        self.engine = RacingEngine()
        self.uploads, self.outputs = FileStore(directory / "uploads"), FileStore(directory / "outputs")
        self.journal = Journal(directory / "data")
        self.hub = EndsHub()
        self.errors: list[BaseException] = []
        self.manager = build_task_manager(
            lambda: self.engine,
            TaskSettings(max_workers=1),
            journal=self.journal,
            uploads=self.uploads,
            outputs=self.outputs,
            workspaces=Workspaces(directory / "workspaces"),
            listener=self.hub,
            new_executor=lambda size: CheckedWorkers(size, self.errors),
        )
        self.manager.resume()
        self.delay = 1e-5  # seconds that the racer lets pass, so that both win about as often
        self._part = directory / "new.part"
        self._numbers = iter(range(1_000_000))

    def submit(self, *, racing: bool = False) -> str:
        """The id of a task that is like no other."""
        number = next(self._numbers)
        if racing:
            self.engine.racing = {number}
        picture = f"{number:064x}"
        for name in (picture, SPEECH):
            self._part.write_text(name)
            self.uploads.adopt(self._part, name)
        return self.manager.submit(replace(submission(number), image=picture)).task.id

    def race(self, call: Callable[[], T]) -> T:
        """Do something while the worker's job goes on."""
        assert self.engine.at_start.acquire(timeout=30)
        self.engine.start.wait(30)
        begun = time.perf_counter()
        while time.perf_counter() - begun < self.delay:
            pass
        return call()

    def judge(self, *, was_late: bool) -> None:
        """The racer starts the sooner after it was late, and the later otherwise."""
        self.delay *= 0.8 if was_late else 1.25

    def ended(self, task_id: str) -> Task:
        wait_for(lambda: self.manager.get(task_id).task.ended, pause=0.0005)
        self.manager.watch()  # waits for the lock, and so for what goes with its end
        return self.manager.get(task_id).task

    def idle(self) -> None:
        wait_for(lambda: self.manager.counts() == (0, 0), pause=0.0005)
        self.manager.watch()  # waits for the lock, and so for what goes with their ends

    def files(self) -> tuple[int, int]:
        """How many uploads and videos there are."""
        return len(list(self.uploads.directory.iterdir())), len(list(self.outputs.directory.iterdir()))


@pytest.fixture
def track() -> Iterator[Track]:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)  # seconds: threads take turns often, so that races are close
    with volatile_directory() as directory:
        track = Track(directory)
        yield track
        sys.setswitchinterval(interval)
        assert track.manager.shutdown(10)
        assert track.errors == []
        assert track.files() == (0, 0)
        track.journal.close()
        track.uploads.close()
        track.outputs.close()


def both_won(winners: Counter[Any]) -> bool:
    """Otherwise it was no race."""
    return len(winners) == 2 and min(winners.values()) > winners.total() / 20


def test_cancel_against_finish(track: Track) -> None:
    winners: Counter[str] = Counter()
    for _ in range(1000):
        task_id = track.submit(racing=True)
        answer = track.race(lambda: track.manager.cancel(task_id)).task  # noqa: B023  it runs at once
        task = track.ended(task_id)
        assert (task.status, task.error_code) in [(TaskStatus.COMPLETED, None), (TaskStatus.FAILED, "cancelled")]
        assert answer.ended or answer.cancelled
        assert not answer.ended or answer == task
        assert answer.cancelled == (task.status is TaskStatus.FAILED)
        assert track.files() == (2, 1 if task.result else 0)
        assert track.hub.ends[task_id] == 1
        winners[task.status] += 1
        track.judge(was_late=answer.ended)
        track.manager.delete(task_id)
    assert both_won(winners), winners


def test_delete_against_finish(track: Track) -> None:
    winners: Counter[int] = Counter()
    for _ in range(300):
        task_id = track.submit(racing=True)
        track.race(lambda: track.manager.delete(task_id))  # noqa: B023  it runs at once
        with pytest.raises(TaskNotFoundError):
            track.manager.get(task_id)
        track.idle()
        assert track.files() == (0, 0)
        finished = track.hub.ends[task_id]
        winners[finished] += 1
        track.judge(was_late=finished == 1)
    assert both_won(winners), winners


def test_cancel_against_begin(track: Track) -> None:
    """The worker takes up the next task as that is cancelled."""
    track.engine.endless = True
    winners: Counter[int] = Counter()
    for _ in range(300):
        before, task_id = track.submit(racing=True), track.submit()
        track.race(lambda: track.manager.cancel(task_id))  # noqa: B023  it runs at once
        task = track.ended(task_id)
        assert track.ended(before).status is TaskStatus.COMPLETED
        assert (task.status, task.error_code) == (TaskStatus.FAILED, "cancelled")
        assert track.hub.ends[task_id] == 1
        assert track.files() == (3, 1)
        winners[task.attempt] += 1
        track.judge(was_late=task.attempt == 1)
        for each in (before, task_id):
            track.manager.delete(each)
    assert both_won(winners), winners


def failed(track: Track) -> str:
    track.engine.failures.append(RuntimeError("broken"))
    task_id = track.submit()
    assert track.ended(task_id).status is TaskStatus.FAILED
    return task_id


def both(pool: ThreadPoolExecutor, *calls: Callable[[], Any]) -> list[Any]:
    """What two give, or the errors of the service that they raise, begun at the same moment."""
    start = threading.Barrier(2)

    def run(call: Callable[[], Any]) -> Any:
        start.wait(30)
        try:
            return call()
        except TaskError as error:
            return STATUSES[type(error)]

    return [future.result(30) for future in [pool.submit(run, call) for call in calls]]


def test_two_retries_at_once(track: Track) -> None:
    with ThreadPoolExecutor(2) as pool:
        for _ in range(200):
            first = failed(track)
            retry: Callable[[], str] = lambda: track.manager.retry(first).task.id  # noqa: B023, E731
            again = both(pool, retry, retry)
            assert len({first, *again}) == 3
            tasks = [track.ended(task_id) for task_id in again]
            assert [task.status for task in tasks] == [TaskStatus.COMPLETED] * 2
            assert tasks[0].result == tasks[1].result  # equal tasks share
            for task_id in (first, *again):
                assert track.files() == (2, 1)
                track.manager.delete(task_id)


def test_retry_against_delete(track: Track) -> None:
    """Either there is a task with all its files, or there is none."""
    with ThreadPoolExecutor(2) as pool:
        for number in range(200):
            first = failed(track)
            calls: list[Callable[[], Any]] = [
                lambda: track.manager.retry(first).task.id,  # noqa: B023  it runs at once
                lambda: track.manager.delete(first),  # noqa: B023
            ]
            answers = both(pool, *(calls if number % 2 else calls[::-1]))
            again = answers[1 - number % 2]
            if again == 404:
                assert track.files() == (0, 0)
            else:
                assert track.ended(again).status is TaskStatus.COMPLETED
                assert track.files() == (2, 1)
                track.manager.delete(again)


def test_a_task_deleted_just_as_it_is_tried_again(track: Track, monkeypatch: pytest.MonkeyPatch) -> None:
    first, hold = failed(track), track.uploads.hold

    def hold_too_late(name: str) -> None:
        # By the second file the task is gone.
        with suppress(TaskNotFoundError):
            track.manager.delete(first)
        hold(name)

    monkeypatch.setattr(track.uploads, "hold", hold_too_late)
    with pytest.raises(TaskNotFoundError):
        track.manager.retry(first)
