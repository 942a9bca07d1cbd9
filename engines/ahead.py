"""Making frames in a thread of their own while others are encoded."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from engines.base import Image


@contextmanager
def ahead(frames: Iterator[Image], limit: int) -> Iterator[Iterator[Image]]:
    """Make frames at most `limit` ahead of whoever takes them; the thread ends with the block.

    What goes wrong while making them is raised where the frame is taken.
    """
    ready: queue.Queue[Image | BaseException | None] = queue.Queue(limit)
    stopped = threading.Event()

    def put(item: Image | BaseException | None) -> None:
        while not stopped.is_set():
            try:
                ready.put(item, timeout=0.1)
            except queue.Full:
                continue
            return

    def make() -> None:
        try:
            for picture in frames:
                put(picture)
                if stopped.is_set():
                    return
            put(None)
        except BaseException as error:  # the taker raises it
            put(error)

    def take() -> Iterator[Image]:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item

    thread = threading.Thread(target=make, name="frames")
    thread.start()
    try:
        yield take()
    finally:
        stopped.set()
        thread.join()
