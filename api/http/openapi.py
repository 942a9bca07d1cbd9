"""What FastAPI cannot know about the contract: the multipart form, binary answers, the errors of each route."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from api.http import examples
from api.http.errors import ErrorResponse
from api.http.idempotency import HEADER
from api.http.submission import form_defaults
from api.models import StartForm
from api.settings import Settings

_START = "/api/v1/synthesis/start"

# What `idempotency.key_of` takes.
_IDEMPOTENCY_KEY = {
    "name": HEADER,
    "in": "header",
    "required": False,
    "description": "Makes the request safe to send again when its answer did not come. Take a new key, such as a UUID, "
    "for each task you want, with or without quotes. The same key with the same files and fields gives the task of the "
    "first request (`Idempotent-Replayed: true`) and starts nothing; with others 422 `idempotency_key_reused`; while "
    "the first request is still being received 409 `idempotency_key_in_use`. A key is known as long as its task, also "
    "after a restart; a request that was refused leaves its key free.",
    "schema": {"type": "string", "pattern": r'^("([ !#-\[\]-~]|\\["\\]){1,255}"(;[ -~]*)?|[!#-~]{1,255})$'},
}

_ERRORS = {
    400: ("malformed_form", "The form is malformed."),
    404: ("task_not_found", "There is no such task, or it was deleted."),
    408: ("request_timeout", "Nothing of the request came for too long."),
    409: ("not_finished", "There is no video: not yet, or the task failed."),
    410: ("task_expired", "The task has expired; its video is gone."),
    413: ("too_large", "The request or one of its files is too large."),
    415: ("unsupported_media_type", "Not a form, or a file of no allowed kind."),
    416: ("range_not_satisfiable", "The requested range lies outside the file."),
    422: (
        "validation_error",
        "Fields or parameters missing or out of range, a damaged file, a portrait without a usable face, more than can "
        "be made, or the Idempotency-Key of another request.",
    ),
    429: ("queue_full", "Too many tasks are waiting."),
    500: ("internal", "Something went wrong inside the service."),
    503: ("starting", "The service is starting, stopping, not set up, without its GPU, or its disk is full or broken."),
}


# What 409 means where it is not about the video.
_CONFLICTS = {
    "idempotency_key_in_use": "A request with this Idempotency-Key is still being received.",
    "not_failed": "Only a task that failed can be tried again.",
}


def error_responses(*statuses: int, conflict: str | None = None) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route that can answer with these statuses; `conflict` is the code of its 409."""
    responses: dict[int | str, dict[str, Any]] = {}
    for status in statuses:
        code, description = _ERRORS[status]
        if status == 409 and conflict is not None:
            code, description = conflict, _CONFLICTS[conflict]
        example = {"error": description, "detail": "More about it.", "code": code, "request_id": "4f1c2b7a"}
        responses[status] = {
            "model": ErrorResponse,
            "description": description,
            "content": {"application/json": {"example": example}},
        }
        if status in (429, 503) or code == "idempotency_key_in_use":
            responses[status]["headers"] = header("Retry-After", "Seconds to wait.", "integer")
        if status == 416:
            responses[status]["headers"] = header("Content-Range", "The size of the whole: `bytes */SIZE`.")
    return responses


def header(name: str, description: str, kind: str = "string") -> dict[str, Any]:
    """A header that a response always has."""
    return {name: {"description": description, "required": True, "schema": {"type": kind}}}


def accepted_response(*, replayed: bool = False) -> dict[str, Any]:
    """The 202 of a route that makes a task; `replayed`: or gives one that an earlier request has made."""
    headers = header("Location", "The status_url.")
    if replayed:
        headers["Idempotent-Replayed"] = {
            "description": "`true` when the task is that of an earlier request with this Idempotency-Key.",
            "schema": {"type": "string", "enum": ["true"]},
        }
    return {"description": "Accepted; poll `status_url`, or listen to the task's `events`.", "headers": headers}


def video_responses() -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route that answers with the mp4, a part of it, or that the client has it already."""
    etag = header("ETag", "Changes when the video does.")
    headers = {
        **etag,
        **header("Accept-Ranges", "`bytes`: a download can be resumed."),
        **header("Content-Disposition", 'attachment; filename="result.mp4"'),
        **header("Content-Length", "Bytes of the answer.", "integer"),
    }
    content = {"video/mp4": {"schema": {"type": "string", "format": "binary"}}}
    of_range = header("Content-Range", "Which bytes these are, and of how many.")
    return {
        200: {"description": "The mp4.", "headers": headers, "content": content},
        206: {"description": "The range that was asked for.", "headers": headers | of_range, "content": content},
        304: {"description": "The client has it already (If-None-Match).", "headers": etag},
    }


def events_responses() -> dict[int | str, dict[str, Any]]:
    """The `responses` of the route that streams a task's events."""
    view = {"$ref": "#/components/schemas/TaskView"}
    event = {
        "type": "object",
        "properties": {
            "event": {"type": "string", "enum": ["queued", "progress", "completed", "failed"]},
            "data": {"type": "string", "contentMediaType": "application/json", "contentSchema": view},
            "id": {"type": "string", "pattern": "^[0-9]+$"},
        },
        "required": ["event", "data", "id"],
    }
    example = (
        'retry: 2000\n\nevent: progress\ndata: {"task_id":"1306cf1ce3aa4fdeb6c212a48710c020","status":"PROCESSING",'
        '"progress":0.47,"message":"Rendering frame 60 of 200"}\nid: 1795363997097000\n\n'
    )
    return {
        200: {
            "description": "`data` is what `status` answers, on one line (shortened in the example). A line that "
            "begins with a colon only says that the stream lives.",
            "headers": header("Cache-Control", "`no-store`"),
            "content": {"text/event-stream": {"itemSchema": event, "example": example}},
        },
        204: {"description": "The task has ended, and Last-Event-ID is that of its last event: no more will come."},
    }


def install(app: FastAPI, settings: Settings) -> None:
    """Make `app.openapi()` give the whole contract."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = get_openapi(
                title=app.title,
                version=app.version,
                description=app.description,
                routes=app.routes,
                tags=app.openapi_tags,
            )
            _drop_null(schema)
            _add_form(schema, settings)
            _add_links(schema)
            _add_request_ids(schema)
            _drop_unused(schema)
            # In the order of use, not in the order in which routes are matched.
            schema["paths"] = {_START: schema["paths"].pop(_START), **schema["paths"]}
            for name, example in examples.BY_SCHEMA.items():
                schema["components"]["schemas"][name]["example"] = example
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _drop_null(schema: dict[str, Any]) -> None:
    """Neither an address nor a header can say null: "string or null" becomes "string"."""
    for operations in schema["paths"].values():
        for operation in operations.values():
            for parameter in operation.get("parameters", []):
                kinds = [kind for kind in parameter["schema"].pop("anyOf", []) if kind.get("type") != "null"]
                parameter["schema"].update(*kinds)


def _add_form(schema: dict[str, Any], settings: Settings) -> None:
    form = StartForm.model_json_schema(ref_template="#/components/schemas/{model}")
    schema["components"]["schemas"].update(form.pop("$defs"))
    defaults = form_defaults(settings)
    properties: dict[str, Any] = {
        "image": _file("Portrait, JPEG or PNG", settings.files.max_image_mb, "64 to 8192 pixels a side"),
        "audio": _file("Speech, WAV or MP3", settings.files.max_audio_mb, "0.1 to 600 seconds"),
    }
    for name, field in form["properties"].items():
        # A form cannot send null: "number or null" becomes "number", and where there is no default an empty example
        # keeps Swagger UI from filling in, and sending, the minimum.
        field.update(next((kind for kind in field.pop("anyOf", []) if kind.get("type") != "null"), {}))
        field.pop("default", None)
        field.pop("title", None)
        default = {"example": ""} if defaults.get(name) is None else {"default": defaults[name]}
        properties[name] = field | (default if name in defaults else {})
    form |= {"properties": properties, "required": ["image", "audio", "emotion"], "title": "StartForm"}
    schema["components"]["schemas"]["StartForm"] = form
    start = schema["paths"][_START]["post"]
    start["parameters"] = [_IDEMPOTENCY_KEY]
    start["requestBody"] = {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {"$ref": "#/components/schemas/StartForm"},
                "encoding": {
                    "image": {"contentType": "image/jpeg, image/png"},
                    "audio": {"contentType": "audio/wav, audio/mpeg"},
                },
            }
        },
    }


def _add_links(schema: dict[str, Any]) -> None:
    """Tell tools that a task_id of the 202 is for every operation on a task."""
    links = schema["paths"][_START]["post"]["responses"]["202"].setdefault("links", {})
    for path, operations in schema["paths"].items():
        for method, operation in operations.items():
            if "{task_id}" in path:
                what = path.rpartition("{task_id}")[2].replace("/", "_")  # nothing for the task itself
                links[f"{method}{what}"] = {
                    "operationId": operation["operationId"],
                    "parameters": {"task_id": "$response.body#/task_id"},
                    "description": operation["summary"],
                }


def _add_request_ids(schema: dict[str, Any]) -> None:
    request_id = header("X-Request-ID", "Names this request in the service's log.")
    for operations in schema["paths"].values():
        for operation in operations.values():
            for response in operation["responses"].values():
                response["headers"] = response.get("headers", {}) | request_id


def _file(what: str, megabytes: float, more: str) -> dict[str, str]:
    return {"type": "string", "format": "binary", "description": f"{what}, at most {megabytes:g} MB, {more}."}


def _drop_unused(schema: dict[str, Any]) -> None:
    """FastAPI lists its own validation error for every route with a parameter; none of ours answers it."""
    for path in schema["paths"].values():
        for operation in path.values():
            if "HTTPValidationError" in str(operation["responses"].get("422", "")):
                del operation["responses"]["422"]
    for name in ("HTTPValidationError", "ValidationError"):
        schema["components"]["schemas"].pop(name, None)
