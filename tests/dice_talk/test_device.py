"""Who may use the device when, and what becomes of a job when the device has no memory left or breaks."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch

from engines.base import GpuFailedError, GpuOutOfMemoryError, JobCancelledError
from engines.dice_talk.device import Turn, Work

PATIENCE = 20.0  # seconds, for what takes milliseconds
CPU = torch.device("cpu")
NO_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("CUDA error: out of memory"),
]
BROKEN = [
    torch.AcceleratorError("CUDA error: an illegal memory access was encountered\nat /opt/torch/c10/cuda.cpp:41"),
    torch.AcceleratorError("device lost"),
    RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm`"),
]


def go_on() -> None:
    """The check of a job that nobody cancelled."""


def at_once() -> Callable[[], None]:
    """The check of a job that must not have to wait."""
    calls = 0

    def check() -> None:
        nonlocal calls
        calls += 1
        assert calls == 1, "the turn is not free"

    return check


class Waiter(threading.Thread):
    """Somebody in the line; started only when they stand in it."""

    def __init__(self, turn: Turn, then: Callable[[], None]) -> None:
        super().__init__(daemon=True)
        self.cancelled = threading.Event()
        self.error: BaseException | None = None
        self._in_line = threading.Event()
        self._turn = turn
        self._then = then
        self.start()
        assert self._in_line.wait(PATIENCE)

    def run(self) -> None:
        try:
            with self._turn.held(self._check):
                self._then()
        except BaseException as error:
            self.error = error

    def end(self) -> BaseException | None:
        """Wait until the thread is over: what it raised."""
        self.join(PATIENCE)
        assert not self.is_alive()
        return self.error

    def _check(self) -> None:
        self._in_line.set()
        if self.cancelled.is_set():
            raise JobCancelledError("Stop.")


def test_the_turn_goes_on_in_the_order_asked_for() -> None:
    turn = Turn()
    order: list[int] = []
    with turn.held(go_on):
        waiters = [Waiter(turn, lambda number=number: order.append(number)) for number in range(6)]  # type: ignore[misc]
        assert order == []
    assert [waiter.end() for waiter in waiters] == [None] * 6
    assert order == list(range(6))


def test_one_at_a_time() -> None:
    turn = Turn()
    alone = threading.Lock()

    def hold() -> None:
        for _ in range(50):
            with turn.held(go_on):
                assert alone.acquire(blocking=False)
                alone.release()

    threads = [threading.Thread(target=hold) for _ in range(4)]
    failures: list[Any] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threading, "excepthook", failures.append)
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
    assert not failures
    assert not any(thread.is_alive() for thread in threads)


def test_who_is_cancelled_leaves_the_line() -> None:
    turn = Turn()
    order: list[str] = []
    with turn.held(go_on):
        leaver = Waiter(turn, lambda: order.append("leaver"))
        other = Waiter(turn, lambda: order.append("other"))
        leaver.cancelled.set()
        assert isinstance(leaver.end(), JobCancelledError)
    assert other.end() is None
    assert order == ["other"]


def test_who_is_cancelled_while_waiting_does_not_begin() -> None:
    turn = Turn()
    order: list[str] = []
    with turn.held(go_on):
        waiter = Waiter(turn, lambda: order.append("waiter"))
        waiter.cancelled.set()
    assert isinstance(waiter.end(), JobCancelledError)
    assert order == []
    with turn.held(at_once()):
        pass


def test_an_error_gives_the_turn_back() -> None:
    turn = Turn()
    with pytest.raises(ZeroDivisionError), turn.held(go_on):
        _ = 1 / 0
    with turn.held(at_once()):
        pass


def test_who_waits_is_told_so_and_who_does_not_is_not() -> None:
    turn = Turn()
    told = threading.Event()

    def wait() -> None:
        with turn.held(go_on, told.set):
            pass

    with turn.held(go_on, told.set):
        assert not told.is_set()
        thread = threading.Thread(target=wait)
        thread.start()
        assert told.wait(PATIENCE)
    thread.join(PATIENCE)
    assert not thread.is_alive()


def test_pieces_of_two_jobs_do_not_run_at_once() -> None:
    turn = Turn()
    first, second = (Work(CPU, turn, go_on, low_memory=False) for _ in range(2))
    running, finish = threading.Event(), threading.Event()
    order: list[str] = []

    def long_piece(low_memory: bool) -> None:
        running.set()
        assert finish.wait(PATIENCE)
        order.append("long")

    threads = [threading.Thread(target=lambda: first(long_piece))]
    threads[0].start()
    assert running.wait(PATIENCE)
    threads.append(threading.Thread(target=lambda: second(lambda _: order.append("short"))))
    threads[1].start()
    waiter = Waiter(turn, lambda: order.append("after"))  # the line is there, and nobody moves
    assert order == []
    finish.set()
    for thread in (*threads, waiter):
        thread.join(PATIENCE)
    assert order[0] == "long"
    assert sorted(order[1:]) == ["after", "short"]


class Piece:
    """Work that fails as told, each time with a tensor of its own in its hands."""

    def __init__(self, *failures: Exception) -> None:
        self._failures = list(failures)
        self.modes: list[bool] = []
        self.tensors: list[weakref.ref[torch.Tensor]] = []
        self.alive: list[int] = []  # tensors of earlier attempts that were still there, at each attempt

    def __call__(self, low_memory: bool) -> str:
        self.alive.append(self.held())
        held = torch.zeros(8)
        self.tensors.append(weakref.ref(held))
        self.modes.append(low_memory)
        if self._failures:
            self._fail(held + 1)
        return "done"

    def held(self) -> int:
        return sum(tensor() is not None for tensor in self.tensors)

    def _fail(self, deeper: torch.Tensor) -> None:
        raise self._failures.pop(0)


def fresh(error: Exception) -> Exception:
    """Exceptions keep the frames they went through."""
    return type(error)(*error.args)


@pytest.mark.parametrize("failure", NO_MEMORY, ids=str)
def test_out_of_memory_once_is_done_again_with_little(failure: Exception) -> None:
    work = Work(CPU, Turn(), go_on, low_memory=False)
    piece = Piece(fresh(failure))
    assert work(piece) == "done"
    assert piece.modes == [False, True]
    assert piece.alive == [0, 0], "the second attempt needs the memory of the first"
    following = Piece()
    assert work(following) == "done"
    assert following.modes == [True]


@pytest.mark.parametrize("failure", NO_MEMORY, ids=str)
@pytest.mark.parametrize("low_memory", [False, True])
def test_out_of_memory_in_the_low_memory_mode_ends_the_job_only(failure: Exception, low_memory: bool) -> None:
    turn = Turn()
    piece = Piece(*(fresh(failure) for _ in range(2)))
    with pytest.raises(GpuOutOfMemoryError, match=r"^The GPU ran out of memory.*\.$") as caught:
        Work(CPU, turn, go_on, low_memory=low_memory)(piece)
    assert piece.modes == ([True] if low_memory else [False, True])
    assert piece.held() == 0, "who reports the error does not hold the memory"
    assert caught.value.code == "gpu_out_of_memory"
    assert Work(CPU, turn, at_once(), low_memory=False)(Piece()) == "done"


@pytest.mark.parametrize("failures", [1, 2])
def test_memory_is_given_back_to_the_device(monkeypatch: pytest.MonkeyPatch, failures: int) -> None:
    piece = Piece(*(fresh(NO_MEMORY[0]) for _ in range(failures)))
    held: list[int] = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: held.append(piece.held()))
    work = Work(torch.device("cuda"), Turn(), go_on, low_memory=False)
    if failures == 1:
        assert work(piece) == "done"
    else:
        with pytest.raises(GpuOutOfMemoryError):
            work(piece)
    assert held == [0] * failures, "only what nobody holds can be given back"


@pytest.mark.parametrize("failure", BROKEN, ids=lambda error: str(error)[:40])
def test_a_broken_device_is_told_in_a_sentence(failure: Exception) -> None:
    piece = Piece(fresh(failure))
    with pytest.raises(GpuFailedError) as caught:
        Work(CPU, Turn(), go_on, low_memory=False)(piece)
    assert piece.modes == [False], "nothing would work any more"
    assert caught.value.code == "gpu_failed"
    sentence = str(caught.value)
    assert sentence.endswith(".")
    assert not any(sign in sentence for sign in "/\n:`")


@pytest.mark.parametrize("failure", [RuntimeError("shapes do not match"), ValueError("no"), OSError(28, "disk full")])
def test_other_errors_pass_unchanged(failure: Exception) -> None:
    turn = Turn()
    piece = Piece(failure)
    with pytest.raises(type(failure)) as caught:
        Work(CPU, turn, go_on, low_memory=False)(piece)
    assert caught.value is failure
    assert piece.modes == [False]
    with turn.held(at_once()):
        pass


def test_a_cancelled_job_does_no_more_work() -> None:
    def cancelled() -> None:
        raise JobCancelledError("Stop.")

    turn = Turn()
    piece = Piece()
    with pytest.raises(JobCancelledError):
        Work(CPU, turn, cancelled, low_memory=False)(piece)
    assert piece.modes == []
    with turn.held(at_once()):
        pass
