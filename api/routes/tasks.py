"""List, cancel, retry and delete tasks, and get their manifests."""

from __future__ import annotations

from collections import Counter
from typing import Annotated

from anyio import to_thread
from fastapi import APIRouter, Query, Request, Response
from starlette.convertors import StringConvertor, register_url_convertor

from api.http.dependencies import ServiceDep
from api.http.errors import FieldError, QueryError
from api.http.openapi import accepted_response, error_responses
from api.models import Manifest, TaskAccepted, TaskList, TaskQuery, TaskView, manifest, task_view
from api.routes.synthesis import PREFIX, accepted


class _TaskId(StringConvertor):
    # `start` is a route, not a task ID.
    regex = "(?!start$)[^/]+"


register_url_convertor("task", _TaskId())
router = APIRouter(prefix=PREFIX, tags=["synthesis"])

# Task manager calls may block on disk I/O, so they run in a thread.


@router.head("", include_in_schema=False)
@router.get(
    "",
    summary="List tasks",
    response_description="A page of tasks.",
    responses=error_responses(404, 410, 422, 500, invalid="validation_error"),
)
async def tasks(request: Request, query: Annotated[TaskQuery, Query()], service: ServiceDep) -> TaskList:
    """Returns one page, newest tasks first. Deleted and expired tasks are not included."""
    given = Counter(name for name, _ in request.query_params.multi_items())
    repeated = [FieldError(field=name, message="Parameter is repeated") for name, times in given.items() if times > 1]
    if repeated:
        raise QueryError(repeated)
    page, more = await to_thread.run_sync(service.task_manager.newest, query.status, query.limit, query.after)
    data = [task_view(report) for report in page]
    first, last = (data[0].task_id, data[-1].task_id) if data else (None, None)
    return TaskList(data=data, has_more=more, first_id=first, last_id=last)


@router.post(
    "/{task_id}/cancel",
    summary="Cancel a task",
    response_description="The task; if it is still PROCESSING, the cancellation is in progress.",
    responses=error_responses(404, 410, 500),
)
async def cancel(task_id: str, service: ServiceDep) -> TaskView:
    """A queued task fails at once, a running one at the engine's next check, with the `error_code` `cancelled`.

    A task that has already ended is not changed.
    """
    return task_view(await to_thread.run_sync(service.task_manager.cancel, task_id))


@router.post(
    "/{task_id}/retry",
    status_code=202,
    summary="Retry a failed task",
    responses={
        202: accepted_response(),
        **error_responses(404, 409, 410, 422, 429, 500, 503, conflict="not_failed", invalid="too_large"),
    },
)
async def retry(task_id: str, request: Request, response: Response, service: ServiceDep) -> TaskAccepted:
    """Creates a new task with the same files and parameters; the failed task is not changed."""
    service.check_open()
    await service.engine_ready()
    report = await to_thread.run_sync(service.task_manager.retry, task_id, request.state.request_id)
    return accepted(report.task, response)


@router.delete(
    "/{task_id:task}",
    status_code=204,
    summary="Delete a task",
    response_description="The task was deleted.",
    responses=error_responses(404, 410, 500),
)
async def delete(task_id: str, service: ServiceDep) -> Response:
    """Cancels the task if necessary and deletes it with its files. Downloads in progress are completed."""
    await to_thread.run_sync(service.task_manager.delete, task_id)
    return Response(status_code=204)


@router.head("/{task_id}/manifest", include_in_schema=False)
@router.get(
    "/{task_id}/manifest",
    summary="Get the task manifest",
    response_description="The manifest.",
    responses=error_responses(404, 410, 500),
)
async def read_manifest(task_id: str, service: ServiceDep) -> Manifest:
    """Returns everything needed to reproduce the video and to verify the result."""
    return manifest(service.task_manager.get(task_id).task)
