"""What settings do to the service, where no other test shows it; tests/test_promises.py has the list of all."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from api.engine import choose_engine
from api.server import create_app
from api.service import Service
from engines.base import SetupError
from tests.http.conftest import Client, check_error
from tests.process import ROOT, answers, environment, free_port
from tests.scripted_engine import ScriptedEngine
from tests.server import make_settings, running, wait_for


@pytest.mark.parametrize(
    ("host", "other_host", "log_level"),
    [("127.0.0.2", "127.0.0.1", "INFO"), ("127.0.0.1", "127.0.0.2", "WARNING")],
)
def test_the_process_listens_where_it_is_told_and_says_as_much(
    tmp_path: Path, host: str, other_host: str, log_level: str
) -> None:
    port = free_port()
    variables = environment(tmp_path, SERVER__HOST=host, SERVER__PORT=port, SERVER__LOG_LEVEL=log_level)
    process = subprocess.Popen([sys.executable, "-m", "api.server"], cwd=ROOT, env=variables, stderr=subprocess.DEVNULL)
    try:
        with httpx.Client(base_url=f"http://{host}:{port}", trust_env=False) as client:
            wait_for(lambda: answers(client))
        with httpx.Client(base_url=f"http://{other_host}:{port}", trust_env=False) as client:
            assert not answers(client)
    finally:
        process.kill()
        process.wait()
    assert ("uvicorn.error - INFO" in (tmp_path / "api.log").read_text()) == (log_level == "INFO")


def test_uploads_and_videos_are_where_the_settings_say(tmp_path: Path, wav: bytes) -> None:
    for upload_dir, output_dir in (
        (tmp_path / "in", tmp_path / "out"),
        (tmp_path / "from", tmp_path / "to" / "videos"),
    ):
        engine = ScriptedEngine()
        files = {"upload_dir": upload_dir, "output_dir": output_dir}
        with running(make_settings(tmp_path, files=files), engine) as run:
            client = Client(run, engine, wav)
            client.finish(client.start())
            assert {path.parent for path in (engine.jobs[0].image, engine.jobs[0].audio)} == {upload_dir}
            assert len(list(upload_dir.iterdir())) == 2
            assert len(list(output_dir.iterdir())) == 1


def test_the_journal_is_where_the_settings_say(tmp_path: Path, wav: bytes) -> None:
    engine = ScriptedEngine()
    task_ids: list[str] = []
    for data_dir in (tmp_path / "one", tmp_path / "two", tmp_path / "one"):
        with running(make_settings(tmp_path, files={"data_dir": data_dir}), engine) as run:
            known = [task["task_id"] for task in run.client.get("/api/v1/synthesis").json()["data"]]
            assert known == (task_ids[:1] if len(task_ids) == 2 else [])
            client = Client(run, engine, wav)
            task_ids.append(client.finish(client.start())["task_id"])
            assert (data_dir / "tasks.sqlite3").exists()


def test_with_too_little_room_no_task_is_taken(tmp_path: Path, wav: bytes) -> None:
    settings = make_settings(tmp_path, files={"min_free_mb": 100})
    free = {"bytes": 100 << 20}
    with running(settings, ScriptedEngine(), disk_free=lambda _: free["bytes"]) as run:
        client = Client(run, ScriptedEngine(), wav)
        before = client.start()
        client.finish(before)
        free["bytes"] -= 1
        refused = client.start(seed=2)
        assert "100 MiB" in check_error(refused, 503, "storage_full")["error"]
        assert int(refused.headers["retry-after"]) >= 1
        check_error(run.client.get("/api/health/ready"), 503, "storage_full")
        health = run.client.get("/api/health").json()
        assert (health["status"], health["disk_free_bytes"]) == ("unhealthy", free["bytes"])
        assert "100 MiB" in health["reason"]
        assert run.client.get(before.json()["download_url"]).status_code == 200
        free["bytes"] += 1
        assert client.start(seed=3).status_code == 202
        assert run.client.get("/api/health").json()["status"] == "healthy"


@pytest.mark.parametrize(("retention_hours", "kept"), [(1.0, False), (3.0, True)])
def test_videos_of_an_unknown_journal_are_kept_for_their_time(
    tmp_path: Path, retention_hours: float, kept: bool
) -> None:
    video = tmp_path / "outputs" / f"{'a' * 32}-1.mp4"
    video.parent.mkdir()
    video.touch()
    two_hours_ago = time.time() - 2 * 3600
    os.utime(video, (two_hours_ago, two_hours_ago))
    settings = make_settings(tmp_path, tasks={"retention_hours": retention_hours})
    for _ in range(2):  # older than the journal, too, which the first service makes
        service: Service = create_app(settings, ScriptedEngine()).state.service
        service.close()
        assert video.exists() == kept


def test_the_preview_engine_reads_its_model_where_the_checkpoints_are(tmp_path: Path) -> None:
    def load(directory: Path) -> None:
        engine = choose_engine(
            make_settings(tmp_path, synthesis={"engine": "preview"}, files={"checkpoint_dir": directory})
        ).engine
        engine.load()
        engine.close()

    load(ROOT / "checkpoints")
    with pytest.raises(SetupError):
        load(tmp_path)
