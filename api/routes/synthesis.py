"""Start a task, get its status and download its video."""

from __future__ import annotations

import os
import re

from fastapi import APIRouter, Request, Response
from fastapi.responses import FileResponse
from starlette.types import Receive, Scope, Send

from api.http.dependencies import ServiceDep, SubmissionsDep
from api.http.idempotency import REPLAYED
from api.http.openapi import accepted_response, error_responses, video_responses
from api.http.plain_route import PlainRoute
from api.models import TaskAccepted, TaskView
from api.records import Task
from api.service import Service
from api.storage.files import FileStore
from api.tasks.errors import FileMissingError

PREFIX = "/api/v1/synthesis"
_RANGE = re.compile(r"bytes=\s*(\d+-\d*|-\d+)(\s*,\s*(\d+-\d*|-\d+))*\s*")

router = APIRouter(prefix=PREFIX, tags=["synthesis"])
polling = APIRouter(prefix=PREFIX, tags=["synthesis"], route_class=PlainRoute)


@router.post(
    "/start",
    status_code=202,
    summary="Start a task",
    responses={
        202: accepted_response(replayed=True),
        **error_responses(400, 408, 409, 413, 415, 422, 429, 500, 503, conflict="idempotency_key_in_use"),
    },
)
async def start(request: Request, response: Response, submissions: SubmissionsDep) -> TaskAccepted:
    """Creates a talking-portrait video from a portrait, a speech recording and an emotion.

    All validation happens here, including face detection. A request with an `Idempotency-Key` is safe to retry: the
    same form returns the same task.
    """
    task, replayed = await submissions.submit(request)
    if replayed:
        response.headers[REPLAYED] = "true"
    return accepted(task, response)


@polling.head("/{task_id}/status", include_in_schema=False)
@polling.get(
    "/{task_id}/status",
    response_model=TaskView,
    summary="Get task status",
    response_description="The current state of the task.",
    responses=error_responses(404, 410, 500),
)
async def status(task_id: str, request: Request) -> Response:
    """Poll until `status` is COMPLETED or FAILED, or stream `events` instead."""
    state = request.app.state
    report = state.service.task_manager.get(task_id)
    return Response(state.status_body(report), media_type="application/json")


@router.get(
    "/{task_id}/download",
    summary="Download the video",
    response_class=FileResponse,
    responses=video_responses() | error_responses(404, 409, 410, 416, 500),
)
async def download(task_id: str, request: Request, service: ServiceDep) -> Response:
    """Supports range requests, conditional requests and HEAD: downloads can be resumed and players can seek."""
    return _video(service, task_id, request)


@router.head(
    "/{task_id}/download",
    summary="Get the headers of the video",
    response_class=FileResponse,
    responses=video_responses() | error_responses(404, 409, 410, 416, 500),
)
async def download_head(task_id: str, request: Request, service: ServiceDep) -> Response:
    """Same as GET, without the body."""
    return _video(service, task_id, request)


def accepted(task: Task, response: Response) -> TaskAccepted:
    """Set the headers of a 202 and return its body."""
    status_url = f"{PREFIX}/{task.id}/status"
    response.headers["Location"] = status_url
    return TaskAccepted(
        task_id=task.id,
        message="The task is queued.",
        status_url=status_url,
        download_url=f"{PREFIX}/{task.id}/download",
        queue_position=task.accepted_position,
        warnings=list(task.warnings),
    )


class _HeldFile(FileResponse):
    """Sends a stored file and holds a reference to it, so that deleting the task does not delete the file meanwhile."""

    def __init__(self, store: FileStore, name: str, found: os.stat_result, headers: dict[str, str]) -> None:
        super().__init__(
            store.path(name), media_type="video/mp4", filename="result.mp4", headers=headers, stat_result=found
        )
        self._store, self._name = store, name

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._store.held(self._name) as path:
            # Deleted since the request was checked.
            if not path.exists():
                raise FileMissingError("video")
            await super().__call__(scope, receive, send)


def _video(service: Service, task_id: str, request: Request) -> Response:
    result = service.task_manager.result(task_id)
    etag = f'"{result.sha256}"'
    known = request.headers.get("if-none-match", "")
    if etag in known or known.strip() == "*":
        return Response(status_code=304, headers={"ETag": etag})
    if not _RANGE.fullmatch(request.headers.get("range", "")):
        # RFC 9110, section 14.2: a range that is malformed or in other units is ignored.
        request.scope["headers"] = [header for header in request.scope["headers"] if header[0] != b"range"]
    try:
        found = service.outputs.path(result.name).stat()
    except FileNotFoundError:
        raise FileMissingError("video") from None
    return _HeldFile(service.outputs, result.name, found, {"ETag": etag})
