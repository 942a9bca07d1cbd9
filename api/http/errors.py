"""Every error response: one JSON envelope, `{"error", "detail", "code", "request_id"}`, plus `errors` for fields."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from http import HTTPMethod, HTTPStatus

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.routing import Match, Mount

from api.http.messages import describe, retry_after
from api.storage.errors import JournalWriteError, is_disk_full
from api.tasks import errors as task_errors
from engines.base import NoFaceError, TooLargeError
from media.errors import CodedError, InvalidAudioError, InvalidImageError, UnsupportedMediaError

# Coded errors that are not listed here are not the client's fault: 500.
STATUSES: dict[type[CodedError], int] = {
    task_errors.TaskNotFoundError: 404,
    task_errors.NotFailedError: 409,
    task_errors.NotFinishedError: 409,
    task_errors.TaskFailedError: 409,
    task_errors.TaskExpiredError: 410,
    task_errors.FileMissingError: 410,
    UnsupportedMediaError: 415,
    InvalidImageError: 422,
    InvalidAudioError: 422,
    NoFaceError: 422,
    TooLargeError: 422,
    task_errors.TooLongError: 422,
    task_errors.QueueFullError: 429,
    task_errors.StartingError: 503,
    task_errors.SetupFailedError: 503,
    task_errors.DrainingError: 503,
    task_errors.GpuUnavailableError: 503,
    task_errors.StorageFullError: 503,
    task_errors.LowDiskSpaceError: 503,
    task_errors.JournalFailedError: 503,
}
# Code and message of bare HTTP statuses, such as the router's.
HTTP_ERRORS = {
    400: ("bad_request", "The request is malformed."),
    404: ("not_found", "Not found."),
    405: ("method_not_allowed", "Method not allowed for this URL."),
    416: ("range_not_satisfiable", "The requested range is outside the file."),
}


class FieldError(BaseModel):
    """An invalid form field or query parameter."""

    field: str = Field(examples=["inference_steps"])
    message: str = Field(examples=["Input should be greater than or equal to 8"])


class ErrorResponse(BaseModel):
    """The body of every error response."""

    error: str = Field(description="Human-readable error message.", examples=["Task not found."])
    detail: str | None = Field(None, description="Additional details, such as how to fix the request, if any.")
    code: str = Field(description="Stable, machine-readable error code.", examples=["task_not_found"])
    request_id: str | None = Field(None, description="Request ID, as in the `X-Request-ID` header and the server log.")
    errors: list[FieldError] | None = Field(None, description="Invalid fields, only with `validation_error`.")


class ApiError(Exception):
    """An error response; may be raised anywhere in `api/http` and `api/routes`."""

    def __init__(
        self,
        status: int,
        code: str,
        error: str,
        detail: str | None = None,
        *,
        errors: Sequence[FieldError] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(error)
        self.status, self.code, self.error, self.detail = status, code, error, detail
        self.errors = list(errors) if errors is not None else None
        self.headers = dict(headers or {})

    def body(self, request_id: str | None) -> bytes:
        """Encode the body; `errors` is left out unless set."""
        response = ErrorResponse(
            error=self.error, detail=self.detail, code=self.code, request_id=request_id, errors=self.errors
        )
        fields = response.model_dump(exclude={"errors"} if self.errors is None else None)
        return json.dumps(fields, ensure_ascii=False).encode()


class FormError(ApiError):
    """Form fields that are missing, unknown, repeated or invalid."""

    def __init__(self, errors: Sequence[FieldError], known: Sequence[str]) -> None:
        detail = f"{_joined(errors)}."
        if known:
            detail += f" Known fields: {', '.join(known)}."
        super().__init__(422, "validation_error", "Missing or invalid form fields.", detail, errors=errors)


class QueryError(ApiError):
    """Query parameters that are unknown, repeated or invalid."""

    def __init__(self, errors: Sequence[FieldError]) -> None:
        super().__init__(422, "validation_error", "Invalid query parameters.", f"{_joined(errors)}.", errors=errors)


def from_status(status: int, detail: str | None = None, headers: Mapping[str, str] | None = None) -> ApiError:
    """The error for a bare HTTP status, such as the router's 404 and 405."""
    phrase = HTTPStatus(status).phrase
    code, error = HTTP_ERRORS.get(status, (phrase.lower().replace(" ", "_"), f"{phrase}."))
    if status == 404:
        detail = "See /docs for the endpoints."
    allowed = {name.lower(): value for name, value in (headers or {}).items()}.get("allow")
    if allowed:
        detail = f"Allowed methods: {allowed}."
    return ApiError(status, code, error, None if detail == phrase else detail, headers=headers)


def from_exception(error: Exception) -> ApiError:  # noqa: PLR0911
    """The error response for an exception; 500 unless the exception is known."""
    match error:
        case ApiError():
            return error
        case CodedError() if type(error) in STATUSES:
            return _from_coded(error)
        case RequestValidationError():
            return _from_validation(error)
        case HTTPException():
            return from_status(error.status_code, error.detail, error.headers)
        case OSError() if is_disk_full(error):
            return _from_coded(task_errors.StorageFullError())
        case JournalWriteError():
            return _from_coded(task_errors.JournalFailedError())
        case _:
            return ApiError(500, "internal", "Internal server error.", "See the server log for this request_id.")


async def respond(request: Request, error: Exception) -> Response:
    """Exception handler for the errors that routes raise deliberately."""
    if isinstance(error, HTTPException) and error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        error = from_status(error.status_code, error.detail, _allow(request) or error.headers)
    response = from_exception(error)
    body = response.body(request.state.request_id)
    return Response(body, response.status, response.headers, media_type="application/json")


def _from_coded(error: CodedError) -> ApiError:
    headers = {"Retry-After": str(retry_after(error))} if isinstance(error, task_errors.UnavailableError) else None
    return ApiError(STATUSES[type(error)], error.code, *describe(error), headers=headers)


def _from_validation(error: RequestValidationError) -> ApiError:
    return QueryError(
        [
            FieldError(
                field=str(problem["loc"][-1]),
                message="Unknown parameter" if problem["type"] == "extra_forbidden" else problem["msg"],
            )
            for problem in error.errors()
        ]
    )


def _joined(errors: Sequence[FieldError]) -> str:
    return "; ".join(f"{problem.field}: {problem.message}" for problem in errors)


def _allow(request: Request) -> dict[str, str]:
    """Return the Allow header for a 405. Starlette lists the methods of one route, but several routes share a URL."""
    # A mount matches every method, so it would list them all.
    routes = [route for route in request.app.routes if not isinstance(route, Mount)]
    methods = [
        method
        for method in HTTPMethod
        if any(route.matches({**request.scope, "method": method})[0] is Match.FULL for route in routes)
    ]
    return {"Allow": ", ".join(methods)} if methods else {}
