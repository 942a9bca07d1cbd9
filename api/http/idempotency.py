"""Idempotent requests: the Idempotency-Key header (IETF draft-ietf-httpapi-idempotency-key-header-07)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from pydantic import BaseModel
from starlette.datastructures import Headers

from api.http.errors import ApiError
from api.utils import sha256_json

HEADER = "Idempotency-Key"
REPLAYED = "Idempotent-Replayed"
KEY_LIMIT = 255  # characters
# A string as in RFC 9651, whose parameters are ignored; or, as most clients send it, a token without quotes.
_QUOTED = re.compile(r'"((?:[ !#-\[\]-~]|\\["\\])+)"(?:;[ -~]*)?')
_BARE = re.compile(r"[!#-~]+")


def key_of(headers: Headers) -> str | None:
    """Return the key of a request, or None without the header. Raises ApiError 400 if it is invalid or repeated."""
    values = headers.getlist(HEADER)
    if not values:
        return None
    value = values[0].strip(" \t")
    quoted = _QUOTED.fullmatch(value)
    key = re.sub(r"\\(.)", r"\1", quoted[1]) if quoted else value if _BARE.fullmatch(value) else ""
    if len(values) > 1 or not 1 <= len(key) <= KEY_LIMIT:
        raise ApiError(
            400, "invalid_idempotency_key", f"The {HEADER} header is invalid.",
            f'Send one string of 1 to {KEY_LIMIT} printable ASCII characters, such as {HEADER}: "7c4c1a32-6b0d-4c8b".',
        )  # fmt: skip
    return key


def fingerprint(files: Mapping[str, str], fields: BaseModel, given: tuple[str, ...]) -> str:
    """Fingerprint of a form: equal for the same files (name → SHA-256) and the same explicitly set text fields."""
    return sha256_json([dict(files), fields.model_dump(mode="json", include=set(given))])


def key_reused_error() -> ApiError:
    """The error for a key that was already used with a different form."""
    return ApiError(
        422, "idempotency_key_reused", f"This {HEADER} was already used with a different request.",
        "Send the same files and fields, or use a new key.",
    )  # fmt: skip


class KeysInUse:
    """Idempotency keys of the requests in progress. Not thread-safe: for one event loop."""

    def __init__(self) -> None:
        self._keys: set[str] = set()

    def used(self, key: str) -> bool:
        """Whether a request in progress uses the key."""
        return key in self._keys

    @contextmanager
    def claim(self, key: str) -> Iterator[None]:
        """Reserve a key until the context exits. Raises ApiError 409 if another request in progress uses it."""
        if key in self._keys:
            raise ApiError(
                409, "idempotency_key_in_use", f"A request with this {HEADER} is still in progress.",
                "Wait for its response, or retry later.", headers={"Retry-After": "1"},
            )  # fmt: skip
        self._keys.add(key)
        try:
            yield
        finally:
            self._keys.discard(key)
