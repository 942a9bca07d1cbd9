"""What a server has to do while it is killed: stories of clients, told in turns."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import suppress

from tests.chaos.engine import WAITS
from tests.chaos.ledger import GoneError, Ledger, Request, Wish

_LONG = 16.0  # seconds of a recording that arrives in several pieces
_END = object()


def work(ledger: Ledger, before: Request, chance: random.Random) -> None:
    """Let clients be served, until all their tasks have ended or the server is gone.

    `before` is a completed task, which one of them deletes.
    """
    stories = [
        _plain(ledger, chance),
        _twins(ledger),
        _long(ledger),
        _shared(ledger, before),
        _cancel_waiting(ledger),
        _cancel_running(ledger),
        _delete_running(ledger),
    ]
    first = len(ledger.requests)
    with suppress(GoneError):
        while stories:
            story = chance.choice(stories)
            if next(story, _END) is _END:
                stories.remove(story)
        for request in ledger.requests[first:]:
            if request.delete is Wish.NONE:
                ledger.finish(request)


def _plain(ledger: Ledger, chance: random.Random) -> Iterator[None]:
    yield
    ledger.start(portrait=chance.randrange(3), keyed=chance.random() < 0.5)


def _twins(ledger: Ledger) -> Iterator[None]:
    first = ledger.start(portrait=1)
    yield
    ledger.start(first)


def _long(ledger: Ledger) -> Iterator[None]:
    yield
    ledger.start(recording=_LONG)


def _shared(ledger: Ledger, before: Request) -> Iterator[None]:
    """Two tasks share one video; it and the uploads go with the second."""
    twin = ledger.start(before, keyed=False)
    while ledger.status(twin)["status"] != "COMPLETED":
        yield
    ledger.delete(before)
    yield
    ledger.delete(twin)


def _cancel_waiting(ledger: Ledger) -> Iterator[None]:
    request = ledger.start()
    body = ledger.cancel(request)
    yield
    if body["status"] == "FAILED":  # and not at work, or completed
        ledger.retry(request)


def _cancel_running(ledger: Ledger) -> Iterator[None]:
    request = ledger.start(base=WAITS)
    yield from _begin(ledger, request)
    ledger.cancel(request)


def _delete_running(ledger: Ledger) -> Iterator[None]:
    request = ledger.start(base=WAITS, portrait=4)
    yield from _begin(ledger, request)
    ledger.delete(request)


def _begin(ledger: Ledger, request: Request) -> Iterator[None]:
    """Until it runs; where it is cancelled meanwhile, that is well too."""
    while ledger.status(request)["status"] == "PENDING":
        yield
    yield
