"""Streaming multipart/form-data parser: files go to disk in bounded memory, limits are enforced as data arrives."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from anyio import to_thread
from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, MultipartState, parse_options_header
from starlette.requests import Request

from api.http.errors import ApiError, FieldError

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

TEXT_LIMIT = 1000  # bytes per text field
PART_LIMIT = 100  # parts per form
FLUSH_SIZE = 1 << 19  # bytes buffered per file before a write
# Bytes that a body may have in addition to its files: part headers and text fields.
_OVERHEAD = 1 << 20


@dataclass(frozen=True, slots=True)
class FilePart:
    """A received file: its temporary path and the SHA-256 of its content."""

    path: Path
    sha256: str


@dataclass(slots=True)
class Form:
    """Text fields and files by field name, and the field errors found while parsing."""

    texts: dict[str, str] = field(default_factory=dict)
    files: dict[str, FilePart] = field(default_factory=dict)
    errors: list[FieldError] = field(default_factory=list)

    def hashes(self) -> dict[str, str]:
        """Return the SHA-256 of each file by field name."""
        return {name: part.sha256 for name, part in self.files.items()}


@asynccontextmanager
async def receive_form(
    request: Request, directory: Path, texts: frozenset[str], files: Mapping[str, int]
) -> AsyncIterator[Form]:
    """Receive the text fields `texts` and the `files` (name → maximum bytes), storing the files in `directory`.

    Files that were not moved elsewhere are deleted when the context exits. Unknown and repeated fields are reported in
    `errors`. Raises ApiError 400 (malformed), 413 (too large), 415 (not a multipart form), OSError (disk full).
    """
    receiver = _Receiver(directory, texts, files)
    try:
        yield await receiver.receive(request)
    finally:
        receiver.discard()


class _Receiver:
    def __init__(self, directory: Path, texts: frozenset[str], files: Mapping[str, int]) -> None:
        self._directory = directory
        self._texts = texts
        self._files = files
        self._body_limit = sum(files.values()) + _OVERHEAD
        self.form = Form()
        self._sinks: list[_FileSink] = []
        self._parts = 0
        self._seen: set[str] = set()
        self._header_name = bytearray()
        self._header_value = bytearray()
        self._disposition = b""
        self._sink: _FileSink | None = None
        self._text: bytearray | None = None
        self._name = ""

    async def receive(self, request: Request) -> Form:
        parser = MultipartParser(self._boundary(request), self._callbacks())
        self._check_content_length(request)
        received = 0
        try:
            async for chunk in request.stream():
                received += len(chunk)
                if received > self._body_limit:
                    raise self._too_large()
                parser.write(chunk)
                if any(len(sink.buffer) >= FLUSH_SIZE for sink in self._sinks):
                    await to_thread.run_sync(self._flush)
        except MultipartParseError as error:
            raise _malformed("The multipart form is malformed.") from error
        if parser.state != MultipartState.END:
            raise _malformed("The multipart form is incomplete: its closing boundary is missing.")
        await to_thread.run_sync(self._finish)
        return self.form

    def discard(self) -> None:
        for sink in self._sinks:
            sink.discard()

    def _boundary(self, request: Request) -> bytes:
        kind, options = parse_options_header(request.headers.get("content-type", ""))
        if kind != b"multipart/form-data":
            raise ApiError(
                415, "unsupported_media_type", "The request body is not a multipart form.",
                "Send the fields with Content-Type: multipart/form-data.",
            )  # fmt: skip
        boundary = options.get(b"boundary", b"")
        if not 1 <= len(boundary) <= 200:
            raise _malformed("The Content-Type header has no valid boundary (1 to 200 bytes).")
        return boundary

    def _check_content_length(self, request: Request) -> None:
        length = request.headers.get("content-length", "")
        if length.isdecimal() and int(length) > self._body_limit:
            raise self._too_large()

    def _too_large(self) -> ApiError:
        limits = ", ".join(f"{name} {_megabytes(limit)}" for name, limit in self._files.items())
        return ApiError(413, "too_large", "The request is too large.", f"Maximum sizes: {limits}.")

    def _callbacks(self) -> MultipartCallbacks:
        return {
            "on_part_begin": self._on_part_begin,
            "on_header_field": lambda data, start, end: self._header_name.extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._header_value.extend(data[start:end]),
            "on_header_end": self._on_header_end,
            "on_headers_finished": self._on_headers_finished,
            "on_part_data": self._on_part_data,
            "on_part_end": self._on_part_end,
        }

    def _on_part_begin(self) -> None:
        self._parts += 1
        if self._parts > PART_LIMIT:
            raise _malformed(f"The form has more than {PART_LIMIT} fields.")
        self._disposition = b""

    def _on_header_end(self) -> None:
        if self._header_name.lower() == b"content-disposition":
            self._disposition = bytes(self._header_value)
        self._header_name.clear()
        self._header_value.clear()

    def _on_headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
        if b"name" not in options:
            raise _malformed("A part of the multipart form has no name.")
        self._name = name = options[b"name"].decode("utf-8", "replace")
        if name not in self._texts and name not in self._files:
            self._error("Unknown field")
        elif name in self._seen:
            self._error("Field is repeated")
        elif name in self._files:
            self._sink = _FileSink(self._directory, name)
            self._sinks.append(self._sink)
        else:
            self._text = bytearray()
        self._seen.add(name)

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._sink is not None:
            self._sink.add(data[start:end])
            limit = self._files[self._name]
            if self._sink.size > limit:
                raise ApiError(
                    413, "too_large", f"The {self._name} is too large.", f"The maximum size is {_megabytes(limit)}."
                )
        elif self._text is not None and len(self._text) <= TEXT_LIMIT:
            self._text.extend(data[start : min(end, start + TEXT_LIMIT + 1)])

    def _on_part_end(self) -> None:
        if self._text is not None:
            if len(self._text) > TEXT_LIMIT:
                self._error(f"Longer than {TEXT_LIMIT} bytes")
            else:
                self.form.texts[self._name] = self._text.decode("utf-8", "replace")
        self._sink = self._text = None

    def _error(self, message: str) -> None:
        self.form.errors.append(FieldError(field=self._name[:100], message=message))

    def _flush(self) -> None:
        for sink in self._sinks:
            sink.flush()

    def _finish(self) -> None:
        for sink in self._sinks:
            self.form.files[sink.name] = sink.finish()


class _FileSink:
    """A file being written under a random name: the client's file name is never used, as it could be any path."""

    def __init__(self, directory: Path, name: str) -> None:
        self.name = name
        self.size = 0
        self.buffer = bytearray()
        self._path = directory / f"{uuid.uuid4().hex}.part"
        self._hash = hashlib.sha256()
        self._file: BinaryIO | None = None

    def add(self, data: bytes) -> None:
        self.buffer.extend(data)
        self.size += len(data)

    def flush(self) -> None:
        if self._file is None:
            self._file = self._path.open("xb")
        self._file.write(self.buffer)
        self._hash.update(self.buffer)
        self.buffer.clear()

    def finish(self) -> FilePart:
        self.flush()
        if self._file is not None:
            self._file.close()
        return FilePart(self._path, self._hash.hexdigest())

    def discard(self) -> None:
        self._path.unlink(missing_ok=True)
        if self._file is not None:
            # On a full disk, close fails to write the rest of the buffer.
            with suppress(OSError):
                self._file.close()


def _malformed(error: str) -> ApiError:
    return ApiError(400, "malformed_form", error, "Send multipart/form-data as curl -F or a browser does.")


def _megabytes(size: int) -> str:
    return f"{size / 2**20:g} MiB" if size >= 2**20 else f"{size / 2**10:.0f} KiB"
