"""The form itself: file names, part headers, boundaries, and what stands around and between."""

from __future__ import annotations

import base64
import gzip
from collections.abc import Iterator
from functools import partial

from tests.http.odd.case import (
    ACCEPTED,
    BAD_FIELD,
    BAD_FORM,
    BAD_KIND,
    BOUNDARY,
    CONTENT_TYPE,
    TOO_LARGE,
    Case,
    Content,
    Outcome,
    cut,
    file_part,
    good_audio,
    good_image,
    joined,
    part,
    request,
    text_part,
)

_NAMES: tuple[bytes, ...] = (
    b"", b" ", b".", b"..", b"../", b"../../../../etc/passwd", b"..\\..\\windows\\win.ini", b"/etc/passwd",
    b"C:\\x.png",
    b"\\\\server\\share\\x", b"//x/y", b"a\x00.png", b"a%00.png", b"x.png\x00.wav", b"con", b"NUL",
    b"a" * 255, b"a" * 4000,
    "肖像.png".encode(), "\u202egnp.exe".encode(), "\u202e\u202d\u200f".encode(),
    "\U0001f600\U0001f3fd.png".encode(),
    "e\u0301.png".encode(), b"\xff\xfe.png", b"\xc3(.png", "肖像.png".encode("gb18030"), b"a;b.png", b"a=b",
    b"a'b",
    b"a\\\"b.png", b"a\\", b"a\tb", b"~", b"~root", b"-rf", b"--help", b"$(id)", b"`id`", b"|id", b"a&b",
    b"*", b"?",
    b"%2e%2e%2f", b"file:///etc/passwd", b"http://example.com/x.png", b"<script>alert(1)</script>",
    b"{{7*7}}", b"%s%n",
    b"image.php", b".htaccess", b"x.tar.gz", b"a.part", b"0" * 64, b"result.mp4",
)  # fmt: skip
_TYPES = (
    b"", b"image/png", b"IMAGE/JPEG", b"text/html", b"application/json", b"multipart/mixed; boundary=x",
    b"audio/wav; x=y",
    b"a" * 3000, b"\xff", b"image/png, image/jpeg", b"image", b"/", b"message/rfc822",
    b"text/plain; charset=utf-16",
)  # fmt: skip
_HEADERS = (
    b"Content-Transfer-Encoding: binary", b"Content-Transfer-Encoding: 8bit", b"Content-Length: 5",
    b"Content-Length: -1",
    b"Content-Length: 99999999999999", b"Content-Disposition-X: form-data; name=fps", b"X-Empty:",
    b"X: " + b"y" * 4000,
    b"Content-Encoding: gzip", b"Transfer-Encoding: chunked", b"Content-Range: bytes 0-1/2", b"Host: x",
    b"Cookie: a=b",
)  # fmt: skip
_DISPOSITIONS: tuple[tuple[bytes, Outcome], ...] = (
    (b'name="image"', ACCEPTED), (b"name=image", ACCEPTED), (b'name="image";', ACCEPTED),
    (b'name="image"; ;', ACCEPTED),
    (b'filename="x"; name="image"', ACCEPTED), (b'name="image"; filename*=UTF-8\'\'x%ff', ACCEPTED),
    (b'name="image"; filename="a"; filename="b"', ACCEPTED), (b'name="image"; filename*=bogus\'\'%00',
    ACCEPTED),
    (b'name="image"; filename*0="a"; filename*1="b"', ACCEPTED), (b'name="image"; x="\\"', ACCEPTED),
    (b"name='image'", BAD_FIELD), (b'name="image', BAD_FIELD), (b'name=image"', BAD_FIELD),
    (b'name="im\\age"', BAD_FIELD),
    (b'name="image\x00"', BAD_FIELD), (b'name="image "', BAD_FIELD), (b'name="\xff\xfe"', BAD_FIELD),
    (b'name=""', BAD_FIELD),
    (b"name=", BAD_FIELD), (b"name*=UTF-8''image", BAD_FORM), (b"", BAD_FORM), (b'filename="image"', BAD_FORM),
    (b"nam=image", BAD_FORM), (b'"name"="image"', BAD_FORM), (b";;;;", BAD_FORM), (b"name", BAD_FIELD),
    (b'name="image"; name="audio"', BAD_FIELD), (b'name="' + b"x" * (1 << 20) + b'"', BAD_FORM),
    (b'name="image"; filename="' + b"x" * (1 << 20) + b'"', BAD_FORM), (b'name="' + b"x" * 4000 + b'"',
    BAD_FIELD),
)  # fmt: skip


def cases() -> Iterator[Case]:
    """All of them."""
    for file_name in _NAMES:
        yield _with_image(
            f"a file called {_shown(file_name)}", b'name="image"; filename="' + file_name + b'"', ACCEPTED
        )
        yield _with_audio(
            f"a recording called {_shown(file_name)}", b'name="audio"; filename="' + file_name + b'"', ACCEPTED
        )
    for kind in _TYPES:
        yield _with_image(f"of type {_shown(kind)}", b'name="image"', ACCEPTED, b"Content-Type: " + kind)
        yield _with_audio(f"a recording of type {_shown(kind)}", b'name="audio"', ACCEPTED, b"Content-Type: " + kind)
    for line in _HEADERS:
        yield _with_image(f"with {_shown(line)}", b'name="image"', ACCEPTED, line)
    for disposition, outcome in _DISPOSITIONS:
        yield _with_image(f"called by {_shown(disposition)}", disposition, outcome)
    for name, make, outcome in _bodies():
        yield Case(f"form: {name}", frozenset([outcome]), make)
    for kind_of_form, outcome in _CONTENT_TYPES:
        yield Case(f"form: {kind_of_form[:60]!r}", frozenset([outcome]), request, content_type=kind_of_form)


def _shown(value: bytes) -> str:
    return repr(value) if len(value) < 60 else f"{value[:30]!r}... of {len(value)} bytes"


def _with_image(name: str, disposition: bytes, outcome: Outcome, *headers: bytes) -> Case:
    def body() -> bytes:
        return joined([part(disposition, good_image(), *headers), file_part("audio", good_audio()), *_TEXTS])

    return Case(f"form: {name}", frozenset([outcome]), body)


def _with_audio(name: str, disposition: bytes, outcome: Outcome, *headers: bytes) -> Case:
    def body() -> bytes:
        return joined([part(disposition, good_audio(), *headers), file_part("image", good_image()), *_TEXTS])

    return Case(f"form: {name}", frozenset([outcome]), body)


_TEXTS = (text_part("emotion", "sad"), text_part("min_resolution", "256"))
_END = joined([])

_CONTENT_TYPES: tuple[tuple[str, Outcome], ...] = (
    (CONTENT_TYPE.upper().replace("ODD", "odd"), ACCEPTED), ('multipart/form-data; boundary="----odd"',
    ACCEPTED),
    (CONTENT_TYPE + "; charset=utf-8", ACCEPTED), ("multipart/form-data; charset=x; boundary=----odd",
    ACCEPTED),
    ("multipart/form-data;boundary=----odd", ACCEPTED), ("multipart/form-data; boundary=----ODD", BAD_FORM),
    ("multipart/form-data", BAD_FORM), ("multipart/form-data; boundary=", BAD_FORM),
    ("multipart/form-data; boundary", BAD_FORM),
    ("multipart/form-data; boundary=x", BAD_FORM), (f"multipart/form-data; boundary={'x' * 201}", BAD_FORM),
    ("multipart/form-data; boundary=-----odd", BAD_FORM), ("multipart/form-data; boundary=..*", BAD_FORM),
    ("multipart/mixed; boundary=----odd", BAD_KIND), ("",
    BAD_KIND),
    ("multipart/related; boundary=----odd", BAD_KIND), ("application/x-www-form-urlencoded", BAD_KIND),
    ("application/json", BAD_KIND), ("image/png", BAD_KIND), ("multipart", BAD_KIND), ("*/*", BAD_KIND),
    (";", BAD_KIND),
    ("text/plain; multipart/form-data; boundary=----odd", BAD_KIND), ("x" * 5000, BAD_KIND),
    ("multipart/form-dat\u00e4", BAD_KIND),
)  # fmt: skip


def _bodies() -> Iterator[tuple[str, Content, Outcome]]:
    line, mark = b"\r\n", b"--" + BOUNDARY
    yield "nothing", lambda: b"", BAD_FORM
    yield "only its end", lambda: _END, BAD_FIELD
    yield "only a boundary", lambda: mark, BAD_FORM
    yield "a boundary and no more", lambda: mark + line, BAD_FORM
    yield "zeros", lambda: bytes(5000), BAD_FORM
    yield "an image alone", good_image, BAD_FORM
    yield "JSON", lambda: b'{"emotion": "sad"}', BAD_FORM
    yield "no last boundary", lambda: request()[: -len(_END)], BAD_FORM
    yield "half a last boundary", lambda: request()[:-4], BAD_FORM
    yield "no last line end", lambda: request()[:-2], ACCEPTED
    for share in (0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99):
        yield f"cut at {share}", partial(cut, request, share), BAD_FORM
    yield "text after it", lambda: request() + b"and more" * 100, ACCEPTED
    yield "another after it", lambda: request() * 2, ACCEPTED
    yield "a megabyte after it", lambda: request() + bytes(1 << 20), ACCEPTED
    yield "a line end before it", lambda: line + request(), ACCEPTED
    yield "text before it", lambda: b"This is a form." + line + request(), BAD_FORM
    yield "a blank before it", lambda: b" " + request(), BAD_FORM
    yield "lines that end in LF", lambda: request().replace(line, b"\n"), BAD_FORM
    yield "headers that end in LF", lambda: request().replace(b"\r\n\r\n", b"\n\n"), BAD_FORM
    yield "lines that end in CR", lambda: request().replace(line, b"\r"), BAD_FORM
    yield "blanks after the boundary", lambda: request().replace(mark + line, mark + b"  " + line), BAD_FORM
    yield "a folded header", lambda: request().replace(b"form-data; ", b"form-data;\r\n ", 1), BAD_FORM
    yield "a header without a colon", lambda: request().replace(b"Content-Type: ", b"Content-Type ", 1), BAD_FORM
    yield "a header without a name", lambda: request().replace(b"Content-Type: ", b": ", 1), BAD_FORM
    yield (
        "a header of control characters",
        lambda: request().replace(b"Content-Type: ", b"Content\0Type: ", 1),
        BAD_FORM,
    )
    yield "many headers", lambda: joined([part(b'name="emotion"', b"sad", *[b"X: y"] * 100)]), BAD_FORM
    yield "200 parts", lambda: joined([text_part("x", "y")] * 200), BAD_FORM
    yield "ten thousand parts", lambda: joined([text_part("x", "y")] * 10_000), BAD_FORM
    yield "50 unknown parts", lambda: joined([text_part(f"x{number}", "y") for number in range(50)]), BAD_FIELD
    yield "2 MB of text", lambda: request(texts=[("emotion", b"x" * (2 << 20))]), BAD_FIELD
    yield "70 MB of text", lambda: joined([text_part("emotion", bytes(70 << 20))]), TOO_LARGE
    yield (
        "a form in a form",
        lambda: joined([part(b'name="image"', request(), b"Content-Type: " + CONTENT_TYPE.encode())]),
        BAD_KIND,
    )
    yield "a form of another boundary in it", lambda: request(audio=request().replace(BOUNDARY, b"other")), BAD_KIND
    yield "things like boundaries in a file", lambda: request(image=good_image() + _look_alikes()), ACCEPTED
    yield "a megabyte of half a boundary", lambda: request(image=good_image() + b"\r\n----" * 150_000), ACCEPTED
    yield "base64", lambda: joined(
        [part(b'name="image"', base64.b64encode(good_image()), b"Content-Transfer-Encoding: base64"),
         file_part("audio", good_audio()), *_TEXTS]
    ), BAD_KIND  # fmt: skip
    yield "gzip", lambda: gzip.compress(request(), mtime=0), BAD_FORM
    yield "two dispositions", lambda: request().replace(
        b"Content-Type: application/octet-stream", b'Content-Disposition: form-data; name="fps"', 1
    ), BAD_FIELD  # fmt: skip
    yield "an attachment", lambda: request().replace(b"form-data; ", b"attachment; "), ACCEPTED
    yield "headers in capitals", lambda: request().replace(b"Content-Disposition", b"CONTENT-DISPOSITION"), ACCEPTED


def _look_alikes() -> bytes:
    edge = b"--" + BOUNDARY
    return b"".join(
        (edge, b"--\r\n", b"\n", edge, b"--\n", b"\r\n", edge[:-1], b"\r\n\r\n", BOUNDARY, b"\r\r\n", edge[:3])
    )
