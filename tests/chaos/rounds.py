"""Rounds: a server at work is killed at a point and started again, and nothing is lost."""

from __future__ import annotations

import os
import random
import signal
from contextlib import suppress
from pathlib import Path

from tests.chaos.engine import WAITS
from tests.chaos.invariants import MAX_ATTEMPTS, Invariants
from tests.chaos.ledger import GoneError, Ledger
from tests.chaos.points import EXPIRING, POINTS, STARTING, STOPPING
from tests.chaos.server import Server
from tests.chaos.workload import work
from tests.server import wait_for

_BEFORE_START = "begun"
_SHORT_RETENTION = 1 / 3600  # hours


class Chain:
    """Rounds on one directory: what the earlier ones left has to outlive the later ones too.

    With few workers, more tasks wait when the server is killed.
    """

    def __init__(self, directory: Path, workers: int = 1) -> None:
        self._directory = directory
        self._workers = workers
        self.ledger = Ledger()
        self.invariants = Invariants(self.ledger, directory)
        self._server = self._started()

    def close(self) -> None:
        self._server.close()

    def round(self, point: str, occurrence: int, chance: random.Random) -> None:
        """Raises AssertionError."""
        if point == EXPIRING:
            self._restart(_SHORT_RETENTION)
        before = self.ledger.start(portrait=100 + len(self.ledger.requests))  # of its own
        if point == EXPIRING:
            before.may_expire = True
            self._let_expire(occurrence)
        else:
            self.ledger.finish(before)
            self._server.hold(True)
            self._server.arm(*((_BEFORE_START, 1) if point in STARTING else (point, occurrence)))
            work(self.ledger, before, chance)
        if point in STOPPING:
            self._stop()
        assert self._server.wait_killed() == (_BEFORE_START if point in STARTING else point)
        at_work = self.invariants.at_work()
        assert at_work or not POINTS[point].unfinished
        if point in STARTING:
            with_trap = Server(self._directory, point=point, occurrence=occurrence)
            assert with_trap.wait_killed() == point
            with_trap.close()
            at_work += self.invariants.at_work()
        self._restart()
        self.invariants.check(at_work)

    def undisturbed(self, chance: random.Random) -> None:
        """The same work with no kill and no start behind it, which would tidy up. Raises AssertionError."""
        before = self.ledger.start(portrait=100)
        self.ledger.finish(before)
        self._server.hold(True)
        work(self.ledger, before, chance)
        self._server.hold(False)
        self.invariants.check()

    def _let_expire(self, occurrence: int) -> None:
        """Let tasks expire while one runs and one waits that need files of theirs."""
        with suppress(GoneError):
            self._server.hold(True)
            self._server.arm(EXPIRING, occurrence)
            for _ in range(occurrence):
                self.ledger.start(portrait=3).may_expire = True
            for _ in range(3):
                self.ledger.start(portrait=3, base=WAITS)

    def _stop(self) -> None:
        running = self.ledger.start(base=WAITS)
        wait_for(lambda: self.ledger.status(running)["status"] == "PROCESSING")
        os.kill(self._server.process.pid or 0, signal.SIGTERM)

    def _started(self, retention_hours: float = 24) -> Server:
        server = Server(
            self._directory,
            TASKS__MAX_WORKERS=self._workers,
            TASKS__MAX_ATTEMPTS=MAX_ATTEMPTS,
            TASKS__SHUTDOWN_GRACE=0.1,
            TASKS__RETENTION_HOURS=retention_hours,
        )
        server.wait_ready()
        server.hold(False)
        self.ledger.use(server.client)
        return server

    def _restart(self, retention_hours: float = 24) -> None:
        self._server.close()
        self._server = self._started(retention_hours)
