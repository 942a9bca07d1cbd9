"""The servers that benchmarks/service.py and benchmarks/journal.py measure, each a process of its own.

`python -m benchmarks.service_servers service|reporting|bare DIRECTORY` prints its URL and serves until it is killed.
"""

from __future__ import annotations

import hashlib
import itertools
import sys
import threading
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import uvicorn
from fastapi import FastAPI, Form, HTTPException, UploadFile

from api.logs import configure_logging
from api.models import TaskAccepted, TaskView
from api.records import TaskStatus
from api.server import create_app, http_config, listen
from engines.base import Cancelled, Emotion, JobCancelledError, Report, Stage, SynthesisJob, SynthesisParams
from tests.scripted_engine import ScriptedEngine
from tests.server import make_settings

ENDLESS = 0  # the seed of a job that goes on until the service ends
STEP_BYTES = 8 << 20  # hashed in each step of a busy job: some ten milliseconds of work


class EndlessOrInstant(ScriptedEngine):
    """Makes no video, so that the service's own work is what is measured."""

    def synthesize(self, job: SynthesisJob, report: Report, cancelled: Cancelled) -> None:
        if job.params.seed != ENDLESS:
            super().synthesize(job, report, cancelled)
            return
        report(Stage.RENDERING, 0.5, "Rendering frame 60 of 200")
        pause = threading.Event()
        while not cancelled():
            pause.wait(0.1)
        raise JobCancelledError("The service has ended.")


class Reporting(EndlessOrInstant):
    """The endless job does equal steps of work, as one that renders frames, and says how many it has done."""

    def synthesize(self, job: SynthesisJob, report: Report, cancelled: Cancelled) -> None:
        if job.params.seed != ENDLESS:
            super().synthesize(job, report, cancelled)
            return
        frame = bytes(STEP_BYTES)
        for step in itertools.count(1):
            hashlib.sha256(frame).digest()  # as most of an engine's work, it does not hold Python's lock
            report(Stage.RENDERING, 0.5, f"Rendering frame {step} of 1000000")
            if cancelled():
                raise JobCancelledError("The service has ended.")


def service(directory: Path, engine: type[EndlessOrInstant] = EndlessOrInstant) -> uvicorn.Config:
    """This project's service."""
    settings = make_settings(directory, tasks={"max_queue": 100_000})
    configure_logging(settings)
    return http_config(create_app(settings, engine(steps=1)))


def reporting(directory: Path) -> uvicorn.Config:
    """The service with a worker that is busy."""
    return service(directory, Reporting)


def bare(directory: Path) -> uvicorn.Config:
    """The obvious FastAPI application: it stores what it is sent, checks nothing, and answers as much."""
    app = FastAPI()
    tasks: dict[str, TaskView] = {}

    @app.post("/api/v1/synthesis/start", status_code=202)
    async def start(
        image: UploadFile,
        audio: UploadFile,
        emotion: Annotated[Emotion, Form()],
        seed: Annotated[int, Form()] = 1,
    ) -> TaskAccepted:
        task_id = uuid.uuid4().hex
        (directory / f"{task_id}.image").write_bytes(await image.read())
        (directory / f"{task_id}.audio").write_bytes(await audio.read())
        now = datetime.now(UTC)
        tasks[task_id] = TaskView(
            task_id=task_id, status=TaskStatus.PROCESSING, progress=0.55, message="Rendering frame 60 of 200",
            created_at=now, updated_at=now, stage=Stage.RENDERING, queue_position=None, eta_seconds=3.4,
            started_at=now, completed_at=None, expires_at=None, error_code=None, attempt=1,
            parameters=SynthesisParams(emotion, 3.0, 6.0, False, 25, None, 25, seed, 1.0, 512, 0.5), engine="preview",
            warnings=[],
        )  # fmt: skip
        url = f"/api/v1/synthesis/{task_id}"
        return TaskAccepted(
            task_id=task_id, message="The task is queued.", status_url=f"{url}/status",
            download_url=f"{url}/download", queue_position=1, warnings=[],
        )  # fmt: skip

    @app.get("/api/v1/synthesis/{task_id}/status")
    async def status(task_id: str) -> TaskView:
        if task_id not in tasks:
            raise HTTPException(404)
        return tasks[task_id]

    return uvicorn.Config(app, ws="none", log_config=None, access_log=False)


if __name__ == "__main__":
    build = {"service": service, "reporting": reporting, "bare": bare}[sys.argv[1]]
    listener = listen("127.0.0.1", 0)
    config = build(Path(sys.argv[2]))
    print(f"http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
    uvicorn.Server(config).run(sockets=[listener])
