"""A service that is told to stop leaves what has not ended to the next one, which runs it in its order."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from tests.chaos.engine import KILLS, WAITS
from tests.chaos.ledger import Ledger, Request
from tests.chaos.server import Server, serving
from tests.server import wait_for


def one_worker(directory: Path, **settings: object) -> AbstractContextManager[Server]:
    return serving(directory, TASKS__MAX_WORKERS=1, TASKS__MAX_ATTEMPTS=2, **{"TASKS__SHUTDOWN_GRACE": 0, **settings})


def terminate(server: Server) -> None:
    os.kill(server.process.pid or 0, signal.SIGTERM)


def ended(server: Server) -> int | None:
    server.process.join(30)
    return server.process.exitcode


@contextmanager
def at_work(directory: Path, **settings: object) -> Iterator[tuple[Server, Ledger, Request, list[Request]]]:
    """One task runs, and waits in its middle; three are behind it."""
    ledger = Ledger()
    with one_worker(directory, **settings) as server:
        ledger.use(server.client)
        running = ledger.start(base=WAITS)
        waiting = [ledger.start() for _ in range(3)]
        wait_for(lambda: ledger.status(running)["status"] == "PROCESSING")
        yield server, ledger, running, waiting


def test_what_outlives_its_grace_runs_again_before_those_behind_it(tmp_path: Path) -> None:
    with at_work(tmp_path) as (server, ledger, running, waiting):
        terminate(server)
        assert ended(server) == 0
    with one_worker(tmp_path) as server:
        ledger.use(server.client)
        wait_for(lambda: ledger.status(running)["status"] == "PROCESSING")
        told = [ledger.status(request) for request in (running, *waiting)]
        assert [body["status"] for body in told] == ["PROCESSING", "PENDING", "PENDING", "PENDING"]
        assert [body["attempt"] for body in told] == [2, 0, 0, 0]
        assert [body["queue_position"] for body in told] == [None, 1, 2, 3]
        server.hold(False)
        told = [ledger.finish(request) for request in (running, *waiting)]
        assert [(body["status"], body["attempt"]) for body in told] == [("COMPLETED", 2), *[("COMPLETED", 1)] * 3]
        started = [body["started_at"] for body in told]
        assert started == sorted(started)


def test_what_ends_within_its_grace_is_completed_and_the_others_wait_on(tmp_path: Path) -> None:
    with at_work(tmp_path, TASKS__SHUTDOWN_GRACE=60) as (server, ledger, running, waiting):
        terminate(server)
        wait_for(lambda: server.client.get("/api/health").json()["state"] == "draining")
        assert [ledger.status(request)["status"] for request in waiting] == ["PENDING"] * 3
        server.hold(False)
        assert ended(server) == 0
    with one_worker(tmp_path) as server:
        ledger.use(server.client)
        told = [ledger.finish(request) for request in (running, *waiting)]
        assert [(body["status"], body["attempt"]) for body in told] == [("COMPLETED", 1)] * 4
        started = [body["started_at"] for body in told]
        assert started == sorted(started)


def test_a_task_that_no_grace_is_enough_for_is_given_up(tmp_path: Path) -> None:
    with at_work(tmp_path) as (server, ledger, running, waiting):
        terminate(server)
        assert ended(server) == 0
    with one_worker(tmp_path) as server:
        ledger.use(server.client)
        wait_for(lambda: ledger.status(running)["status"] == "PROCESSING")
        terminate(server)
        assert ended(server) == 0
    with one_worker(tmp_path) as server:
        ledger.use(server.client)
        given_up = ledger.status(running)
        assert (given_up["status"], given_up["error_code"], given_up["attempt"]) == ("FAILED", "interrupted", 2)
        assert [ledger.finish(request)["status"] for request in waiting] == ["COMPLETED"] * 3


def test_a_job_that_kills_every_process_is_given_up_and_the_others_run(tmp_path: Path) -> None:
    with at_work(tmp_path) as (server, ledger, running, waiting):
        poison, behind = ledger.start(base=KILLS), ledger.start()
        server.hold(False)
        server.process.join(30)
        assert server.process.exitcode == -signal.SIGKILL
    again = Server(tmp_path, TASKS__MAX_WORKERS=1, TASKS__MAX_ATTEMPTS=2)
    assert again.wait_killed() is None  # no trap: the job
    assert again.process.exitcode == -signal.SIGKILL
    again.close()
    with one_worker(tmp_path) as server:
        ledger.use(server.client)
        given_up = ledger.finish(poison)
        assert (given_up["status"], given_up["error_code"], given_up["attempt"]) == ("FAILED", "interrupted", 2)
        told = [ledger.finish(request) for request in (running, *waiting, behind)]
        assert [(body["status"], body["attempt"]) for body in told] == [("COMPLETED", 1)] * 5
