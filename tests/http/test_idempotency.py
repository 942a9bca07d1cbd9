"""Requests with an Idempotency-Key: sent again, they give the task they have made."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.http.conftest import Client, check_error, png
from tests.process import START
from tests.scripted_engine import ScriptedEngine
from tests.server import make_settings, running, wait_for

LONGEST = "k" * 255


def send(client: Client, key: str, *, image: bytes | None = None, **fields: Any) -> httpx.Response:
    data = {"emotion": "happy", **fields}
    files = {"image": png() if image is None else image, "audio": client.wav}
    return client.http.post(START, data=data, files=files, headers={"Idempotency-Key": key})


def test_the_same_request_gives_the_same_task(shared: Client) -> None:
    first = send(shared, '"again-1"', seed=11)
    shared.finish(first)
    jobs = len(shared.engine.jobs)
    second = send(shared, '"again-1"', seed=11)
    assert second.json() == first.json()
    assert second.headers["location"] == first.headers["location"]
    assert "idempotent-replayed" not in first.headers
    assert second.headers["idempotent-replayed"] == "true"
    assert len(shared.engine.jobs) == jobs
    assert not list(shared.run.service.uploads.directory.glob("*.part"))


def test_quotes_make_no_difference_and_neither_does_the_form_of_the_form(shared: Client) -> None:
    """The print is of the parts: not of the boundary, the order, the names of files or what is left empty."""
    first = send(shared, '"again-2"', seed=12, fps=25)
    parts: Any = [
        ("audio", ("other.wav", shared.wav, "application/octet-stream")), ("fps", (None, "25")),
        ("emotion", (None, "happy")), ("seed", (None, "12")), ("duration", (None, "")), ("image", ("x", png())),
    ]  # fmt: skip
    second = shared.http.post(START, files=parts, headers={"Idempotency-Key": "again-2"})
    assert second.json() == first.json()
    assert second.headers["idempotent-replayed"] == "true"


@pytest.mark.parametrize("change", [{"seed": 14}, {"image": png(seed=5)}, {"emotion": "sad"}, {"crop": "true"}])
def test_another_request_with_the_key_is_refused(shared: Client, change: dict[str, Any]) -> None:
    key = f"again-3-{next(iter(change))}"
    first = send(shared, key, seed=13)
    assert first.status_code == 202
    check_error(send(shared, key, **{"seed": 13, **change}), 422, "idempotency_key_reused")
    assert send(shared, key, seed=13).json() == first.json()


def test_a_request_that_was_refused_may_be_mended(shared: Client) -> None:
    check_error(send(shared, "again-4", seed=-1), 422, "validation_error")
    assert send(shared, "again-4", seed=15).status_code == 202


@pytest.mark.parametrize("key", ["", '""', "a b", '"open', '"a"b"', "k" * 256, "k\xe9", "\xa0k", "a,b" + '"'])
def test_a_key_that_cannot_be_used(shared: Client, key: str) -> None:
    answer = shared.http.post(START, headers=[(b"Idempotency-Key", key.encode("latin-1"))])
    check_error(answer, 400, "invalid_idempotency_key")


def test_two_keys_are_none(shared: Client) -> None:
    answer = shared.http.post(START, headers=[("Idempotency-Key", "a"), ("Idempotency-Key", "b")])
    check_error(answer, 400, "invalid_idempotency_key")


@pytest.mark.parametrize("key", [LONGEST, f'"{LONGEST[1:]}\\""', '"with space; and \\\\"', '"a";p=1;q'])
def test_keys_of_every_form(shared: Client, key: str) -> None:
    first = send(shared, key, seed=16)
    assert send(shared, key, seed=16).json() == first.json()


def test_while_the_first_is_being_sent_the_second_is_told_to_wait(shared: Client) -> None:
    base = shared.http.base_url
    with socket.create_connection((base.host, base.port or 0), timeout=5) as first:
        first.sendall(
            f"POST {START} HTTP/1.1\r\nHost: x\r\nIdempotency-Key: again-5\r\nContent-Length: 1000\r\n"
            "Content-Type: multipart/form-data; boundary=x\r\n\r\n--x".encode()
        )
        wait_for(lambda: shared.run.submissions.keys_in_use.used("again-5"))
        refused = send(shared, "again-5", seed=17)
        check_error(refused, 409, "idempotency_key_in_use")
        assert int(refused.headers["retry-after"]) >= 1
        assert send(shared, "again-6", seed=17).status_code == 202
    wait_for(lambda: not shared.run.submissions.keys_in_use.used("again-5"))  # it has gone away
    assert send(shared, "again-5", seed=17).status_code == 202


def test_a_key_is_free_again_with_the_end_of_its_task(shared: Client) -> None:
    first = send(shared, "again-7", seed=18).json()
    shared.http.delete(f"/api/v1/synthesis/{first['task_id']}")
    second = send(shared, "again-7", seed=19)
    assert second.status_code == 202
    assert second.json()["task_id"] != first["task_id"]


def test_a_full_queue_refuses_no_one_who_is_in_it(tmp_path: Path, wav: bytes) -> None:
    engine = ScriptedEngine()
    engine.hold()
    with running(make_settings(tmp_path, tasks={"max_workers": 1, "max_queue": 1}), engine) as run:
        client = Client(run, engine, wav)
        first, second = send(client, "one", seed=1), send(client, "two", seed=2)
        check_error(send(client, "three", seed=3), 429, "queue_full")
        assert [send(client, "one", seed=1).json(), send(client, "two", seed=2).json()] == [first.json(), second.json()]
        engine.go_on()


def test_keys_survive_a_restart(tmp_path: Path, wav: bytes) -> None:
    settings = make_settings(tmp_path)
    with running(settings, ScriptedEngine()) as run:
        client = Client(run, ScriptedEngine(), wav)
        first = send(client, "kept", seed=1)
        client.finish(first)
    with running(settings, ScriptedEngine()) as run:
        client = Client(run, ScriptedEngine(), wav)
        second = send(client, "kept", seed=1)
        assert (second.json(), second.headers["idempotent-replayed"]) == (first.json(), "true")
        check_error(send(client, "kept", seed=2), 422, "idempotency_key_reused")
