"""Requests that may be sent again: the Idempotency-Key header (IETF draft-ietf-httpapi-idempotency-key-header-07)."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from pydantic import BaseModel
from starlette.datastructures import Headers

from api.http.errors import ApiError

HEADER = "Idempotency-Key"
REPLAYED = "Idempotent-Replayed"
_LIMIT = 255  # characters
# A string as in RFC 9651, whose parameters mean nothing here; or, as most clients send it, a word without quotes.
_QUOTED = re.compile(r'"((?:[ !#-\[\]-~]|\\["\\])+)"(?:;[ -~]*)?')
_BARE = re.compile(r"[!#-~]+")


def key_of(headers: Headers) -> str | None:
    """The key of a request, None where it has none. Raises ApiError 400."""
    values = headers.getlist(HEADER)
    if not values:
        return None
    value = values[0].strip(" \t")
    quoted = _QUOTED.fullmatch(value)
    key = re.sub(r"\\(.)", r"\1", quoted[1]) if quoted else value if _BARE.fullmatch(value) else ""
    if len(values) > 1 or not 1 <= len(key) <= _LIMIT:
        raise ApiError(
            400, "invalid_idempotency_key", f"The {HEADER} cannot be used.",
            f'One string of 1 to {_LIMIT} printable ASCII characters, such as {HEADER}: "7c4c1a32-6b0d-4c8b".',
        )  # fmt: skip
    return key


def fingerprint(files: Mapping[str, str], fields: BaseModel, given: tuple[str, ...]) -> str:
    """Equal for forms with the same files (name → SHA-256) and the same values in the same text fields."""
    parts = [dict(files), fields.model_dump(mode="json", include=set(given))]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def reused() -> ApiError:
    """The error for a key that was sent with another form before."""
    return ApiError(
        422, "idempotency_key_reused", f"This {HEADER} was sent with another request before.",
        "Send the same files and fields as then, or another key.",
    )  # fmt: skip


class KeysInUse:
    """The keys of requests that are being received now. For one event loop."""

    def __init__(self) -> None:
        self._keys: set[str] = set()

    def used(self, key: str) -> bool:
        """Whether a request is using the key."""
        return key in self._keys

    @contextmanager
    def claim(self, key: str) -> Iterator[None]:
        """Use a key alone. Raises ApiError 409 when another request is using it."""
        if key in self._keys:
            raise ApiError(
                409, "idempotency_key_in_use", f"A request with this {HEADER} is still being received.",
                "Wait for its answer, or send this one again later.", headers={"Retry-After": "1"},
            )  # fmt: skip
        self._keys.add(key)
        try:
            yield
        finally:
            self._keys.discard(key)
