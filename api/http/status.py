"""The encoded status of tasks, shared by polls and events."""

from __future__ import annotations

from weakref import WeakKeyDictionary

from api.models import task_view, tenths
from api.records import Task, TaskReport

ENCODED_RECORDS = 256


class StatusEncoder:
    """Encodes the body of a status once per record, queue position and ETA; polls and events share it.

    Keeps the bodies of the latest `ENCODED_RECORDS` records, while those exist. For one event loop.
    """

    def __init__(self) -> None:
        self._bodies: WeakKeyDictionary[Task, tuple[int | None, float | None, bytes]] = WeakKeyDictionary()

    def __len__(self) -> int:
        """Number of bodies that are kept."""
        return len(self._bodies)

    def __call__(self, report: TaskReport) -> bytes:
        """The JSON of `task_view(report)`."""
        position, eta = report.queue_position, tenths(report.eta_seconds)
        known = self._bodies.get(report.task)
        if known is not None and known[:2] == (position, eta):
            return known[2]
        body = task_view(report).model_dump_json().encode()
        self._bodies[report.task] = position, eta, body
        if len(self._bodies) > ENCODED_RECORDS:
            # The oldest.
            del self._bodies[next(self._bodies.keys())]
        return body
