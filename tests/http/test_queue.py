"""Many clients at once, equal requests, and a service that is being stopped."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.http.conftest import Client, check_error
from tests.scripted_engine import ScriptedEngine
from tests.server import make_settings, running, wait_for


def test_two_hundred_submits_against_a_queue_of_a_hundred(tmp_path: Path, wav: bytes) -> None:
    engine = ScriptedEngine(steps=1)
    engine.hold()
    with running(make_settings(tmp_path, tasks={"max_workers": 1, "max_queue": 100}), engine) as run:
        client = Client(run, engine, wav)
        with ThreadPoolExecutor(200) as pool:
            answers = list(pool.map(lambda seed: client.start(seed=seed), range(200)))
        assert Counter(answer.status_code for answer in answers) == {202: 101, 429: 99}
        for refused in answers:
            if refused.status_code == 429:
                check_error(refused, 429, "queue_full")
        accepted = [answer for answer in answers if answer.status_code == 202]
        assert len({answer.json()["task_id"] for answer in accepted}) == 101
        queue = run.client.get("/api/health").json()["queue"]
        assert (queue["running"], queue["waiting"]) == (1, 100)
        engine.go_on()
        assert {client.finish(answer)["status"] for answer in accepted} == {"COMPLETED"}
        assert len(engine.jobs) == 101


def test_equal_requests_have_their_own_tasks_and_one_video(tmp_path: Path, wav: bytes) -> None:
    engine = ScriptedEngine()
    engine.hold()
    with running(make_settings(tmp_path), engine) as run:
        client = Client(run, engine, wav)
        answers = [client.start(seed=5) for _ in range(3)]
        assert len({answer.json()["task_id"] for answer in answers}) == 3
        engine.go_on()
        assert {client.finish(answer)["status"] for answer in answers} == {"COMPLETED"}
        assert len({run.client.get(answer.json()["download_url"]).headers["etag"] for answer in answers}) == 1
        assert len(engine.jobs) == 1
        late = client.start(seed=5)
        assert late.json()["status"] == "PENDING"
        assert client.finish(late)["status"] == "COMPLETED"
        client.finish(client.start(seed=6))
        assert len(engine.jobs) == 2
        assert len(list((tmp_path / "outputs").iterdir())) == 2


def test_while_draining_polls_are_answered_and_new_tasks_refused(tmp_path: Path, wav: bytes) -> None:
    engine = ScriptedEngine()
    engine.hold()
    settings = make_settings(tmp_path, tasks={"max_workers": 1, "shutdown_grace": 20})
    with running(settings, engine) as run, ThreadPoolExecutor(1) as pool:
        client = Client(run, engine, wav)
        first, second = client.start(seed=1), client.start(seed=2)
        engine.wait_begun()
        draining = pool.submit(run.service.drain)
        wait_for(lambda: run.client.get("/api/health").json()["state"] == "draining")
        assert run.client.get("/api/health").json()["status"] == "unhealthy"
        assert run.client.get("/api/health/ready").status_code == 503
        check_error(client.start(seed=3), 503, "draining")
        assert run.client.get(second.json()["status_url"]).json()["status"] == "PENDING"
        engine.go_on()
        assert client.finish(first)["status"] == "COMPLETED"
        assert draining.result(10)
        assert run.client.get(first.json()["download_url"]).status_code == 200
        assert run.client.get(second.json()["status_url"]).json()["status"] == "PENDING"  # the next service runs it
