"""Every error the service answers: `{"error", "detail", "code", "request_id"}`, and `errors` where fields are wrong."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Mapping, Sequence
from http import HTTPMethod, HTTPStatus
from pathlib import Path

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.routing import Match, Mount

from engines.base import EngineError, NoFaceError, TooLargeError
from media.errors import InvalidAudioError, InvalidImageError, MediaError, UnsupportedMediaError


class FieldError(BaseModel):
    """What is wrong with one form field."""

    field: str = Field(examples=["inference_steps"])
    message: str = Field(examples=["Input should be greater than or equal to 8"])


class ErrorResponse(BaseModel):
    """The one shape of every error."""

    error: str = Field(description="A sentence for a person.", examples=["There is no such task."])
    detail: str | None = Field(None, description="More, where there is more to say.")
    code: str = Field(description="A stable name for programs.", examples=["task_not_found"])
    request_id: str | None = Field(None, description="As in X-Request-ID and in the log.")
    errors: list[FieldError] | None = Field(None, description="Only for form fields (validation_error).")


class ApiError(Exception):
    """An answer other than success; raise it anywhere below a route."""

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
        """The JSON answer."""
        answer = ErrorResponse(
            error=self.error, detail=self.detail, code=self.code, request_id=request_id, errors=self.errors
        )
        fields = answer.model_dump(exclude={"errors"} if self.errors is None else None)
        return json.dumps(fields, ensure_ascii=False).encode()


class FormError(ApiError):
    """Form fields that are missing, unknown, repeated or out of range."""

    def __init__(self, errors: Sequence[FieldError], known: Sequence[str]) -> None:
        detail = "; ".join(f"{problem.field}: {problem.message}" for problem in errors)
        if known:
            detail += f". The known fields are {', '.join(known)}."
        super().__init__(422, "validation_error", "The form has missing or wrong fields.", detail, errors=errors)


class UnavailableError(ApiError):
    """The service cannot take the job now, but may later."""

    def __init__(self, code: str, error: str, retry_after: float, *, status: int = 503) -> None:
        seconds = max(1, round(retry_after))
        super().__init__(status, code, error, f"Try again in about {seconds} s.", headers={"Retry-After": str(seconds)})


STORAGE_RETRY_SECONDS = 60

_HTTP_ERRORS = {
    400: ("bad_request", "The request cannot be understood."),
    404: ("not_found", "There is nothing at this address."),
    405: ("method_not_allowed", "This address does not answer this method."),
    416: ("range_not_satisfiable", "The requested range lies outside the file."),
}
_REFUSALS: dict[type[Exception], int] = {
    UnsupportedMediaError: 415,
    InvalidImageError: 422,
    InvalidAudioError: 422,
    NoFaceError: 422,
    TooLargeError: 422,
}


def is_disk_full(error: OSError) -> bool:
    """Whether the error means that there is no room left."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def disk_full(path: Path) -> OSError:
    """The operating system's error, for those that have another way to say it."""
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


class JournalWriteError(OSError):
    """The journal of the tasks cannot be used, for another reason than a full disk."""

    def __init__(self, reason: str, path: Path) -> None:
        super().__init__(errno.EIO, reason, str(path))


def from_status(status: int, detail: str | None = None, headers: Mapping[str, str] | None = None) -> ApiError:
    """The answer for a bare HTTP status, such as the router's 404 and 405."""
    phrase = HTTPStatus(status).phrase
    code, error = _HTTP_ERRORS.get(status, (phrase.lower().replace(" ", "_"), f"{phrase}."))
    if status == 404:
        detail = "The endpoints are listed at /docs."
    allowed = {name.lower(): value for name, value in (headers or {}).items()}.get("allow")
    if allowed:
        detail = f"It answers {allowed}."
    return ApiError(status, code, error, None if detail == phrase else detail, headers=headers)


def from_exception(error: Exception) -> ApiError:
    """The answer for an exception; what is not the client's doing becomes a plain 500."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, RequestValidationError):
        return _wrong_parameters(error)
    if isinstance(error, HTTPException):
        return from_status(error.status_code, error.detail, error.headers)
    if isinstance(error, (MediaError, EngineError)) and type(error) in _REFUSALS:
        return ApiError(_REFUSALS[type(error)], error.code, str(error))
    if isinstance(error, OSError):
        return _from_system(error)
    return _internal()


def _from_system(error: OSError) -> ApiError:
    if is_disk_full(error):
        return UnavailableError("storage_full", "The service has no room left for files.", STORAGE_RETRY_SECONDS)
    if isinstance(error, JournalWriteError):
        sentence = "The service cannot write its journal of the tasks, so it takes no new ones."
        return UnavailableError("journal_failed", sentence, STORAGE_RETRY_SECONDS)
    return _internal()


def _internal() -> ApiError:
    return ApiError(500, "internal", "Something went wrong inside the service.", "The service's log tells more.")


def _wrong_parameters(error: RequestValidationError) -> ApiError:
    return wrong_parameters(
        [
            FieldError(
                field=str(problem["loc"][-1]),
                message="is unknown" if problem["type"] == "extra_forbidden" else problem["msg"],
            )
            for problem in error.errors()
        ]
    )


def wrong_parameters(errors: Sequence[FieldError]) -> ApiError:
    """The error for a query with parameters that are unknown, repeated or out of range."""
    detail = "; ".join(f"{problem.field}: {problem.message}" for problem in errors)
    return ApiError(422, "validation_error", "The address has wrong parameters.", f"{detail}.", errors=errors)


async def respond(request: Request, error: Exception) -> Response:
    """FastAPI's exception handler for the errors that routes raise on purpose."""
    if isinstance(error, HTTPException) and error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        error = from_status(error.status_code, error.detail, _allow(request) or error.headers)
    answer = from_exception(error)
    body = answer.body(request.state.request_id)
    return Response(body, answer.status, answer.headers, media_type="application/json")


def _allow(request: Request) -> dict[str, str]:
    """The methods of an address, for its 405. The router knows those of one route, but several share an address."""
    routes = [route for route in request.app.routes if not isinstance(route, Mount)]  # a mounted app tells its own
    methods = [
        method
        for method in HTTPMethod
        if any(route.matches({**request.scope, "method": method})[0] is Match.FULL for route in routes)
    ]
    return {"Allow": ", ".join(methods)} if methods else {}
