"""OpenAPI details that FastAPI cannot infer: the multipart form, binary responses and the errors of each route."""

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

# The pattern accepts what `idempotency.key_of` accepts.
_IDEMPOTENCY_KEY = {
    "name": HEADER,
    "in": "header",
    "required": False,
    "description": "Makes the request safe to retry. Use a new key, such as a UUID, for each task, with or without "
    "quotes. A request with the same key, files and fields as an earlier one returns the task of that request "
    "(`Idempotent-Replayed: true`) and does not start another. With different files or fields it fails with 422 "
    "`idempotency_key_reused`, and while the earlier request is in progress with 409 `idempotency_key_in_use`. A key "
    "is kept as long as its task, across restarts; a rejected request does not use up its key.",
    "schema": {"type": "string", "pattern": r'^("([ !#-\[\]-~]|\\["\\]){1,255}"(;[ -~]*)?|[!#-~]{1,255})$'},
}

_ERRORS = {
    400: ("malformed_form", "The form is malformed or the Idempotency-Key is invalid."),
    404: ("task_not_found", "The task does not exist or was deleted."),
    408: ("request_timeout", "The request timed out before it was complete."),
    409: ("not_finished", "There is no video: the task has not finished yet, or it failed."),
    410: ("task_expired", "The task has expired and its video was deleted."),
    413: ("too_large", "The request or one of its files is too large."),
    415: ("unsupported_media_type", "The body is not a multipart form, or the type of a file is not supported."),
    416: ("range_not_satisfiable", "The requested range is outside the file."),
    422: (
        "validation_error",
        "Missing, unknown or out-of-range fields or parameters, a damaged file, a portrait without a usable face, a "
        "video that is too large to generate, or an Idempotency-Key that was used with a different request.",
    ),
    429: ("queue_full", "The queue is full."),
    500: ("internal", "Internal server error."),
    503: ("starting", "The service is starting, stopping or not set up, or its GPU or disk is unavailable."),
}

# What a 409 or 422 means on some routes.
_SPECIAL = {
    "validation_error": "Unknown, repeated or invalid query parameters.",
    "too_large": "The video is too large to generate, or would take too long.",
    "idempotency_key_in_use": "A request with this Idempotency-Key is still in progress.",
    "not_failed": "Only failed tasks can be retried.",
}


def error_responses(
    *statuses: int, conflict: str | None = None, invalid: str | None = None
) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route for these error statuses; `conflict` and `invalid`: codes of its 409 and 422."""
    responses: dict[int | str, dict[str, Any]] = {}
    for status in statuses:
        code, description = _ERRORS[status]
        special = {409: conflict, 422: invalid}.get(status)
        if special is not None:
            code, description = special, _SPECIAL[special]
        example = {"error": description, "detail": "Additional information.", "code": code, "request_id": "4f1c2b7a"}
        responses[status] = {
            "model": ErrorResponse,
            "description": description,
            "content": {"application/json": {"example": example}},
        }
        if status in (429, 503) or code == "idempotency_key_in_use":
            responses[status]["headers"] = header("Retry-After", "Seconds to wait before retrying.", "integer")
        if status == 416:
            responses[status]["headers"] = header("Content-Range", "Size of the file: `bytes */SIZE`.")
    return responses


def header(name: str, description: str, kind: str = "string") -> dict[str, Any]:
    """A response header that is always present."""
    return {name: {"description": description, "required": True, "schema": {"type": kind}}}


def accepted_response(*, replayed: bool = False) -> dict[str, Any]:
    """The 202 of a route that creates a task; with `replayed` it may return the task of an earlier request."""
    headers = header("Location", "The `status_url` of the task.")
    if replayed:
        headers["Idempotent-Replayed"] = {
            "description": "`true` if the task was created by an earlier request with this Idempotency-Key.",
            "schema": {"type": "string", "enum": ["true"]},
        }
    return {"description": "Accepted; poll `status_url` or stream the `events` of the task.", "headers": headers}


def video_responses() -> dict[int | str, dict[str, Any]]:
    """The `responses` of the download: the whole MP4, a range of it, or 304 if the client has it already."""
    etag = header("ETag", "Strong validator of the video.")
    headers = {
        **etag,
        **header("Accept-Ranges", "`bytes`: range requests are supported, so downloads can be resumed."),
        **header("Content-Disposition", 'attachment; filename="result.mp4"'),
        **header("Content-Length", "Size of the body in bytes.", "integer"),
    }
    content = {"video/mp4": {"schema": {"type": "string", "format": "binary"}}}
    content_range = header("Content-Range", "Range and total size: `bytes START-END/SIZE`.")
    return {
        200: {"description": "The video (MP4).", "headers": headers, "content": content},
        206: {
            "description": "The requested range of the video.",
            "headers": headers | content_range,
            "content": content,
        },
        304: {"description": "Not modified: the ETag matches If-None-Match.", "headers": etag},
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
            "description": "`data` is the JSON body of the `status` response, on one line (abridged in the "
            "example). Lines that start with a colon are heartbeats.",
            "headers": header("Cache-Control", "`no-store`"),
            "content": {"text/event-stream": {"itemSchema": event, "example": example}},
        },
        204: {"description": "The task has ended and Last-Event-ID is its last event: no more events follow."},
    }


def install(app: FastAPI, settings: Settings) -> None:
    """Make `app.openapi()` return the complete schema."""

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
    """Remove null from the types of parameters: neither a URL nor a header can carry it."""
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
        "image": _file("Portrait, JPEG or PNG", settings.files.max_image_mb, "64 to 8192 pixels per side"),
        "audio": _file("Speech, WAV or MP3", settings.files.max_audio_mb, "0.1 to 600 seconds"),
    }
    for name, field in form["properties"].items():
        # A form cannot send null: "number or null" becomes "number". Without a default, an empty example keeps
        # Swagger UI from filling in, and sending, the minimum.
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
    """Link the `task_id` of the 202 to every operation on a task, for clients and test tools."""
    links = schema["paths"][_START]["post"]["responses"]["202"].setdefault("links", {})
    for path, operations in schema["paths"].items():
        for method, operation in operations.items():
            if "{task_id}" in path:
                suffix = path.rpartition("{task_id}")[2].replace("/", "_")
                links[f"{method}{suffix}"] = {
                    "operationId": operation["operationId"],
                    "parameters": {"task_id": "$response.body#/task_id"},
                    "description": operation["summary"],
                }


def _add_request_ids(schema: dict[str, Any]) -> None:
    request_id = header("X-Request-ID", "ID of the request, as in the server log.")
    for operations in schema["paths"].values():
        for operation in operations.values():
            for response in operation["responses"].values():
                response["headers"] = response.get("headers", {}) | request_id


def _file(what: str, megabytes: float, more: str) -> dict[str, str]:
    return {"type": "string", "format": "binary", "description": f"{what}, at most {megabytes:g} MB, {more}."}


def _drop_unused(schema: dict[str, Any]) -> None:
    """Remove FastAPI's own validation error, which it adds to every route with a parameter but no route returns."""
    for path in schema["paths"].values():
        for operation in path.values():
            if "HTTPValidationError" in str(operation["responses"].get("422", "")):
                del operation["responses"]["422"]
    for name in ("HTTPValidationError", "ValidationError"):
        schema["components"]["schemas"].pop(name, None)
