"""The encoded status: made once per state, and never of another one."""

from __future__ import annotations

import gc
from dataclasses import replace

from api.http.status import ENCODED_RECORDS, StatusEncoder
from api.models import task_view
from api.records import TaskReport
from tests.records import pending, processing


def test_body_is_encoded_once_per_state() -> None:
    encode = StatusEncoder()
    report = TaskReport(processing(), None, 3.41)
    body = encode(report)
    assert body == task_view(report).model_dump_json().encode()
    assert encode(TaskReport(report.task, None, 3.44)) is body


def test_change_of_record_position_or_eta_is_encoded() -> None:
    encode = StatusEncoder()
    task = pending()
    reports = [
        TaskReport(task, 2, 10.0),
        TaskReport(task, 1, 10.0),
        TaskReport(task, 1, 9.9),
        TaskReport(replace(task, message="x", cancelled=True), 1, 9.9),
        TaskReport(processing(), None, 9.9),
        TaskReport(processing(), None, None),
    ]
    for report in [*reports, *reversed(reports)]:
        assert encode(report) == task_view(report).model_dump_json().encode()


def test_oldest_body_is_evicted() -> None:
    encode = StatusEncoder()
    reports = [TaskReport(pending(number), 1, 1.0) for number in range(ENCODED_RECORDS + 1)]
    bodies = [encode(report) for report in reports]
    assert encode(reports[-1]) is bodies[-1]
    assert encode(reports[1]) is bodies[1]
    assert encode(reports[0]) is not bodies[0]
    assert encode(reports[0]) == bodies[0]


def test_body_is_dropped_with_its_record() -> None:
    encode = StatusEncoder()
    encode(TaskReport(pending(1), 1, 1.0))
    gc.collect()
    assert len(encode) == 0
