"""Workers and an engine that stand still until a test lets them make a step, so that it can try any order of steps."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from typing import ParamSpec, TypeVar

from api.tasks.attempt import Attempt
from engines.base import (
    Cancelled,
    Estimate,
    FaceBox,
    Image,
    JobCancelledError,
    NoFaceError,
    Portrait,
    Report,
    Stage,
    SynthesisJob,
    SynthesisParams,
    TooLargeError,
)

_PATIENCE = 30.0  # seconds, for a step that takes none
_LOOK_SECONDS = 0.0005

P = ParamSpec("P")
T = TypeVar("T")


class KilledError(Exception):
    """The process is no more."""


@dataclass(frozen=True)
class Ask:
    """Ask whether to go on, and stop if not."""


@dataclass(frozen=True)
class AskOn:
    """Ask until the answer is to stop."""


@dataclass(frozen=True)
class Tell:
    """Report, without asking."""

    stage: Stage
    fraction: float


@dataclass(frozen=True)
class Finish:
    """Make the video, without asking."""


@dataclass(frozen=True)
class Fail:
    """Break."""

    error: Exception


@dataclass(frozen=True)
class Die:
    """Break off, as the process is no more."""


Command = Ask | AskOn | Tell | Finish | Fail | Die


class Worker(threading.Thread):
    """One attempt in a thread of its own, that stands wherever its engine would work."""

    def __init__(self, attempt: Attempt, work: Callable[[], object]) -> None:
        super().__init__(daemon=True)
        self.attempt = attempt
        self.begun = self.ended = self._killed = False
        self._work = work
        self._commands: SimpleQueue[Command] = SimpleQueue()
        self._stands = threading.Semaphore(0)

    def run(self) -> None:
        try:
            self._work()
        except Exception:
            if not self._killed:
                raise
        finally:
            self.ended = True
            self._stands.release()

    def begin(self) -> None:
        """Run until the engine is asked to work, or to the end."""
        self.begun = True
        self.start()
        self._wait()

    def go(self, command: Command) -> None:
        """Let the engine make a step, and return when it stands again or all has ended."""
        self._commands.put(command)
        self._wait()

    def kill(self) -> None:
        """Let the thread come to its end, whatever its manager makes of that."""
        self._killed = True
        self.go(Die())
        assert self.ended

    def stand(self) -> Command:
        """What the engine calls: wait for the next step."""
        self._stands.release()
        return self._commands.get(timeout=_PATIENCE)

    def _wait(self) -> None:
        assert self._stands.acquire(timeout=_PATIENCE), "a worker hangs"


class SteppedExecutor(Executor):
    """Begins nothing by itself: whoever has `workers` does, in the order in which they were submitted."""

    def __init__(self, workers: list[Worker]) -> None:
        self._all = workers
        self._own: list[Worker] = []
        self._closed = False

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        assert not self._closed
        (attempt,) = args
        assert isinstance(attempt, Attempt)
        worker = Worker(attempt, partial(fn, *args, **kwargs))
        self._own.append(worker)
        self._all.append(worker)
        return Future()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._closed = True
        for worker in self._own if wait else ():
            worker.join(_PATIENCE)
            assert worker.ended, "waited for a worker that does not end"


class SteppedEngine:
    """Does what its worker is told. Version "2" sees no face in pictures of one width, "3" has room for less speech."""

    name = "preview"
    checkpoint = "5c" * 32
    one_at_a_time = False
    ignored_fields: Mapping[str, str] = {}
    stage_weights: Mapping[Stage, float] = {Stage.PREPARING: 0.2, Stage.RENDERING: 0.7, Stage.ENCODING: 0.1}
    faceless = 65  # pixels
    room = 5.0  # seconds

    def __init__(self, version: str) -> None:
        self.version = version

    def load(self) -> None: ...

    def inspect(self, image: Image) -> Portrait:
        _obey(_stand())
        width = image.shape[1]
        if self.version == "2" and width == self.faceless:
            raise NoFaceError("No face was found in the portrait.")
        return Portrait(FaceBox(0, 0, width, width))

    def estimate(self, params: SynthesisParams, seconds: float, size: tuple[int, int]) -> Estimate:
        if self.version == "3" and seconds > self.room:
            raise TooLargeError(f"{seconds:g} s do not fit; at most {self.room:g} s do.")
        return Estimate(0.0, 1 << 20)  # nothing is learnt of the time that tests turn

    def synthesize(self, job: SynthesisJob, report: Report, cancelled: Cancelled) -> None:
        while True:
            command = _stand()
            if isinstance(command, Finish):
                job.output.write_bytes(repr(job).encode())
                return
            _obey(command)
            if isinstance(command, Tell):
                report(command.stage, command.fraction, "At work")
            elif isinstance(command, Ask):
                _stop_if(cancelled())
            elif isinstance(command, AskOn):
                pause = threading.Event()
                while True:
                    _stop_if(cancelled())
                    pause.wait(_LOOK_SECONDS)

    def close(self) -> None: ...


def _stand() -> Command:
    worker = threading.current_thread()
    assert isinstance(worker, Worker)
    return worker.stand()


def _obey(command: Command) -> None:
    """Break or die, where that is the command."""
    if isinstance(command, Fail):
        raise command.error
    if isinstance(command, Die):
        raise KilledError


def _stop_if(cancelled: bool) -> None:
    if cancelled:
        raise JobCancelledError("Cancelled.")
