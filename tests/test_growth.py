"""A service that has worked for long is as large as one that has worked a little."""

from __future__ import annotations

import gc
import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from engines.base import Cancelled, Report, SynthesisJob
from tests.containers import lengths
from tests.http.conftest import png
from tests.media.speech import tone, write_wav
from tests.process import START
from tests.scripted_engine import ScriptedEngine
from tests.server import Running, make_settings, running, wait_for
from tests.sse import parsed
from tests.volatile import volatile_directory

_POOL, _POOL_LIMIT = "AnyIO worker thread", 42  # of requests that wait for the disk: as many as were needed at once
TASKS = "/api/v1/synthesis"
HOUR = 3600.0
FAILING, CANCELLED, RESENT, HEARD, EQUAL = 1, 2, 3, 5, 7  # kinds of jobs: the last digit of their numbers
DRIFT_MB = 20.0  # in 10,000 jobs
DRIFT_KB = DRIFT_MB * 1e3 / 10_000  # for each of them


class ForgetfulEngine(ScriptedEngine):
    """Fails jobs of one kind, and remembers none; or, to be caught, some kB of each."""

    def __init__(self, leak: int = 0) -> None:
        super().__init__(steps=2)
        self._leak = leak
        self._leaked: list[bytearray] = []

    def synthesize(self, job: SynthesisJob, report: Report, cancelled: Cancelled) -> None:
        super().synthesize(job, report, cancelled)
        self.jobs.clear()
        if self._leak:
            self._leaked.append(bytearray(os.urandom(self._leak)))
        if job.params.seed % 10 == FAILING:
            raise RuntimeError("broken")


class Crowd:
    """Users who do all that can be done."""

    def __init__(self, run: Running, directory: Path) -> None:
        self.service, self.http = run.service, run.client
        self._files = {
            "image": png(),
            "audio": write_wav(directory / "s.wav", tone(0.2, 8000), 8000).read_bytes(),
        }
        self._next = 0

    def batch(self, jobs: int) -> None:
        """Submit, follow and fetch so many; some are deleted, the others expire."""
        ids = [task_id for _ in range(jobs) for task_id in self._job()]
        wait_for(lambda: self.service.task_manager.counts() == (0, 0))
        self.service.task_manager.watch()  # waits for the lock, and so for what goes with the last one's end
        assert self.http.get(TASKS, params={"limit": 1}).json()["has_more"]
        for hours, status in ((25, 410), (49, 404)):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(self.service.task_manager, "_now", lambda: time.time() + hours * HOUR)  # noqa: B023
                self.service.task_manager.sweep()
                assert {self._get(task_id, "status").status_code for task_id in ids} == {status}
        assert list(self.service.uploads.directory.iterdir()) == list(self.service.outputs.directory.iterdir()) == []

    def _job(self) -> list[str]:
        """The ids of tasks that are left to expire."""
        number = self._next
        self._next += 1
        kind = number % 10
        ids = [self.start(number - 1 if kind == EQUAL else number)]
        if kind == RESENT:
            assert self.start(number) == ids[0]
        if kind == CANCELLED:
            assert self.http.post(f"{TASKS}/{ids[0]}/cancel").status_code == 200
        ended = self.follow(ids[0], listening=kind == HEARD)
        if kind == FAILING:
            assert ended["error_code"] == "internal"
            ids.append(self.http.post(f"{TASKS}/{ids[0]}/retry").json()["task_id"])
            self.follow(ids[1], listening=True)
        if ended["status"] == "COMPLETED":
            assert self._get(ids[0], "download").status_code == self._get(ids[0], "manifest").status_code == 200
        if number % 20 < 10:
            return ids
        for task_id in ids:
            assert self.http.delete(f"{TASKS}/{task_id}").status_code == 204
        return []

    def start(self, seed: int) -> str:
        headers = {"Idempotency-Key": f'"order {seed}"'} if seed % 10 == RESENT else {}
        data = {"emotion": "happy", "seed": str(seed)}
        answer = self.http.post(START, data=data, files=self._files, headers=headers)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["task_id"])

    def follow(self, task_id: str, *, listening: bool = False) -> dict[str, Any]:
        """How the task has ended."""
        if listening:
            with self.http.stream("GET", f"{TASKS}/{task_id}/events") as response:
                return parsed(response.iter_bytes()).events[-1].body
        body: dict[str, Any] = {}

        def ended() -> bool:
            body.update(self._get(task_id, "status").json())
            return body["status"] in ("COMPLETED", "FAILED")

        wait_for(ended, pause=0.001)
        return body

    def _get(self, task_id: str, what: str) -> httpx.Response:
        return self.http.get(f"{TASKS}/{task_id}/{what}")


@dataclass(frozen=True)
class Size:
    """How large the process is."""

    containers: dict[str, int]
    threads: list[str]
    descriptors: int
    megabytes: float

    @classmethod
    def of(cls, run: Running) -> Size:
        gc.collect()
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return cls(
            lengths(run.service, "service"),
            sorted(thread.name for thread in threading.enumerate() if not thread.name.startswith(_POOL)),
            len(list(Path("/proc/self/fd").iterdir())),
            pages * os.sysconf("SC_PAGE_SIZE") / 1e6,
        )


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """What breaks on purpose is not told, and pytest does not keep it."""
    logger = logging.getLogger("api")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    yield
    logger.setLevel(level)


@contextmanager
def crowd(leak: int = 0) -> Iterator[tuple[Running, Crowd]]:
    with volatile_directory() as directory, running(make_settings(directory), ForgetfulEngine(leak)) as run:
        yield run, Crowd(run, directory)


def grown(before: Size, after: Size) -> dict[str, tuple[int, int]]:
    """The containers that are larger, and the threads and descriptors if there are others."""
    larger = {
        path: (before.containers.get(path, 0), length)
        for path, length in after.containers.items()
        if length > before.containers.get(path, 0)
    }
    counts = {
        "threads": (len(before.threads), len(after.threads)),
        "descriptors": (before.descriptors, after.descriptors),
    }
    return larger | {name: (was, now) for name, (was, now) in counts.items() if now > was}


def drift_kb(jobs: int, leak: int = 0) -> float:
    """By how much the process grows with each job, in kB, once it is warm."""
    with crowd(leak) as (run, users):
        users.batch(1000)
        before = Size.of(run)
        for _ in range(jobs // 500):
            users.batch(500)
        return (Size.of(run).megabytes - before.megabytes) * 1e3 / jobs


@pytest.mark.parametrize(
    "jobs", [pytest.param(80, id="80 jobs"), pytest.param(1000, id="1000 jobs", marks=pytest.mark.full)]
)
def test_a_second_batch_of_jobs_leaves_nothing_larger(jobs: int) -> None:
    with crowd() as (run, users):
        users.batch(jobs)
        first = Size.of(run)
        users.batch(jobs)
        with suppress(AssertionError):  # the last requests may still be about to end
            wait_for(lambda: grown(first, Size.of(run)) == {}, 5, pause=0.1)
        second = Size.of(run)
        pool = sum(thread.name.startswith(_POOL) for thread in threading.enumerate())
    print(f"{len(second.containers)} containers, {sum(second.containers.values())} items; {pool} threads in the pool")
    print(
        f"others {len(first.threads)} → {len(second.threads)}, descriptors {first.descriptors} → {second.descriptors}"
    )
    assert any(path.endswith("_registry._tasks") for path in second.containers)  # it has looked where it must
    assert grown(first, second) == {}
    assert pool <= _POOL_LIMIT


def test_what_is_kept_is_found() -> None:
    with crowd(leak=1) as (run, users):
        first = Size.of(run)
        users.batch(20)
        assert any(path.endswith("_leaked") for path in grown(first, Size.of(run)))


def test_a_video_that_is_loaded_down_as_its_task_goes_is_forgotten_too() -> None:
    with crowd() as (run, users):
        first = Size.of(run)
        task_id = users.start(0)
        users.follow(task_id)
        result = run.service.task_manager.get(task_id).task.result
        assert result is not None
        with run.service.outputs.held(result.name) as video:
            run.service.task_manager.delete(task_id)
            assert video.exists()
        assert not video.exists()
        assert grown(first, Size.of(run)).keys() <= {"threads", "descriptors"}


@pytest.mark.full
def test_memory_stays_as_it_is_over_ten_thousand_jobs() -> None:
    drift = drift_kb(10_000)
    print(f"{drift:.3f} kB a job")
    assert drift < DRIFT_KB


@pytest.mark.full
def test_a_leak_of_some_kilobytes_a_job_is_caught() -> None:
    drift = drift_kb(2500, leak=2 * round(DRIFT_KB * 1e3))
    print(f"{drift:.3f} kB a job")
    assert drift > DRIFT_KB
