"""The device, driven by one job at a time, and what is done when it runs out of memory or breaks."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch

from engines.base import GpuFailedError, GpuOutOfMemoryError

T = TypeVar("T")
logger = logging.getLogger("engines.dice_talk")

_POLL_SECONDS = 0.1  # how often somebody who waits looks whether their job was cancelled


class Turn:
    """A lock that is handed on in the order in which it was asked for."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._line: deque[object] = deque()  # the holder first

    @contextmanager
    def held(self, check: Callable[[], None], waiting: Callable[[], None] | None = None) -> Iterator[None]:
        """Wait and hold. Meanwhile `check` may raise to leave the line; `waiting` is called again and again."""
        ticket = object()
        with self._changed:
            self._line.append(ticket)
        try:
            self._wait(ticket, check, waiting)
            yield
        finally:
            with self._changed:
                self._line.remove(ticket)
                self._changed.notify_all()

    def _wait(self, ticket: object, check: Callable[[], None], waiting: Callable[[], None] | None) -> None:
        while True:
            with self._changed:
                first = self._changed.wait_for(lambda: self._line[0] is ticket, _POLL_SECONDS)
            check()  # after the wait: who was cancelled meanwhile does not begin
            if first:
                return
            if waiting is not None:
                waiting()


class Work:
    """One job's pieces of work for the device: each waits for its turn, stops when the job was cancelled, and is
    done again with little memory when the device runs out of it.
    """

    def __init__(self, device: torch.device, turn: Turn, check: Callable[[], None], *, low_memory: bool) -> None:
        """`check` raises when the job should stop."""
        self._device = device
        self._turn = turn
        self._check = check
        self.low_memory = low_memory

    def __call__(self, work: Callable[[bool], T]) -> T:
        """Raises GpuOutOfMemoryError, GpuFailedError, and what `check` raises."""
        with self._turn.held(self._check):
            while True:
                try:
                    return self._attempt(work)
                except torch.OutOfMemoryError as error:
                    logger.warning("Out of GPU memory, low-memory mode: %s. %s", self.low_memory, str(error))
                # Out here nothing holds the failed attempt's tensors any more, no record in the log either.
                self._free()
                if self.low_memory:
                    raise GpuOutOfMemoryError(
                        "The GPU ran out of memory, in the low-memory mode too. Try a smaller min_resolution."
                    )
                self.low_memory = True

    def _attempt(self, work: Callable[[bool], T]) -> T:
        try:
            with torch.inference_mode():  # in whatever thread this is
                return work(self.low_memory)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise torch.OutOfMemoryError(str(error)) from error
            if not self._alive(error):
                logger.exception("The GPU failed")
                raise GpuFailedError("The GPU failed, and the service has to be started again.") from error
            raise

    def _alive(self, error: RuntimeError) -> bool:
        """Whether the device still works after an error: most that name CUDA leave it so, some do not."""
        if self._device.type != "cuda":  # there is nothing to ask
            return not isinstance(error, torch.AcceleratorError) and "CUDA error" not in str(error)
        try:
            torch.ones(1, device=self._device).add_(1)
            torch.cuda.synchronize(self._device)
        except RuntimeError as problem:
            return is_out_of_memory(problem)
        return True

    def _free(self) -> None:
        if self._device.type == "cuda":
            try:
                torch.cuda.empty_cache()
            except RuntimeError as error:
                raise GpuFailedError("The GPU failed, and the service has to be started again.") from error


_OUT_OF_MEMORY = (
    "out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_NOT_INITIALIZED",  # no room for a handle
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_NOT_INITIALIZED",
    "nable to find an engine to execute this computation",  # cuDNN, with no room for any of its workspaces
    "can't allocate memory",  # on the CPU
)


def is_out_of_memory(error: BaseException) -> bool:
    """PyTorch, cuBLAS and cuDNN all have their ways of saying it."""
    return isinstance(error, torch.OutOfMemoryError) or any(phrase in str(error) for phrase in _OUT_OF_MEMORY)
