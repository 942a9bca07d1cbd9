"""One upload, how it is put together, and the outcomes it may have."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.media.speech import tone, write_wav

Outcome = tuple[int, str]
"""HTTP status and `code`."""

ACCEPTED: Outcome = (202, "accepted")
NO_FACE: Outcome = (422, "no_face")
BAD_IMAGE: Outcome = (422, "invalid_image")
BAD_AUDIO: Outcome = (422, "invalid_audio")
BAD_KIND: Outcome = (415, "unsupported_media_type")
BAD_FIELD: Outcome = (422, "validation_error")
BAD_FORM: Outcome = (400, "malformed_form")
TOO_LARGE: Outcome = (413, "too_large")

BOUNDARY = b"----odd"
CONTENT_TYPE = "multipart/form-data; boundary=----odd"
RENDERED_SEED = 1
"""Tasks with this seed are really rendered; of others the files are read to their end, see `server`."""

ROOT = Path(__file__).resolve().parents[3]
PORTRAIT = ROOT / "examples" / "portrait.jpg"

Content = Callable[[], bytes]
"""Made when it is sent: the largest are tens of megabytes."""


@dataclass(frozen=True, slots=True)
class Case:
    """A request for a video. The first of several `outcomes` is no more likely than the others."""

    name: str
    outcomes: frozenset[Outcome]
    body: Content
    content_type: str = CONTENT_TYPE
    rendered: bool = False


def part(disposition: bytes, content: bytes, *headers: bytes) -> bytes:
    """One part of a form, from its boundary to its last byte; `disposition` comes after `form-data; `."""
    lines = (b"--" + BOUNDARY, b"Content-Disposition: form-data; " + disposition, *headers, b"", content)
    return b"\r\n".join(lines) + b"\r\n"


def file_part(name: str, content: bytes) -> bytes:
    """As `curl -F name=@file` sends it."""
    head = f'name="{name}"; filename="file.bin"'.encode()
    return part(head, content, b"Content-Type: application/octet-stream")


def text_part(name: str, text: bytes | str) -> bytes:
    """As `curl -F name=text` sends it."""
    return part(f'name="{name}"'.encode(), text.encode() if isinstance(text, str) else text)


def joined(parts: Iterable[bytes]) -> bytes:
    """The whole body."""
    return b"".join(parts) + b"--" + BOUNDARY + b"--\r\n"


def request(
    *, image: bytes | None = None, audio: bytes | None = None, texts: Sequence[tuple[str, bytes | str]] = ()
) -> bytes:
    """A body that is sane but for what is given."""
    files = (
        file_part("image", good_image() if image is None else image),
        file_part("audio", good_audio() if audio is None else audio),
    )
    given = dict(texts)
    sane = [(name, text) for name, text in (("emotion", "happy"), ("min_resolution", "256")) if name not in given]
    return joined((*files, *(text_part(name, text) for name, text in (*sane, *texts))))


@functools.cache
def good_image() -> bytes:
    """The example portrait."""
    return PORTRAIT.read_bytes()


@functools.cache
def good_audio() -> bytes:
    """A fifth of a second."""
    return wav_of(tone(0.2, 8000, 220), 8000)


def wav_of(samples: object, rate: int, **options: object) -> bytes:
    """See `write_wav`."""
    return in_memory(lambda path: write_wav(path, samples, rate, **options))  # type: ignore[arg-type]


def in_memory(write: Callable[[Path], object]) -> bytes:
    """What `write` writes into the file that it is given."""
    import tempfile  # noqa: PLC0415

    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "file"
        write(path)
        return path.read_bytes()


def image_case(name: str, content: Content, *outcomes: Outcome, rendered: bool = False) -> Case:
    """Odd in its image alone."""
    return _file_case(f"image: {name}", "image", content, outcomes, rendered)


def audio_case(name: str, content: Content, *outcomes: Outcome, rendered: bool = False) -> Case:
    """Odd in its audio alone."""
    return _file_case(f"audio: {name}", "audio", content, outcomes, rendered)


def _file_case(name: str, kind: str, content: Content, outcomes: tuple[Outcome, ...], rendered: bool) -> Case:
    texts = (("seed", str(RENDERED_SEED)),) if rendered else ()

    def body() -> bytes:
        return request(image=content(), texts=texts) if kind == "image" else request(audio=content(), texts=texts)

    return Case(name, frozenset(outcomes), body, rendered=rendered)


def after(lead: bytes, content: Content) -> bytes:
    """With something before it."""
    return lead + content()


def cut(content: Content, share: float) -> bytes:
    """The first of it."""
    whole = content()
    return whole[: int(len(whole) * share)]


def flipped(content: Content, seed: str, bits: int) -> bytes:
    """With some bits the other way, half of them near the beginning, where the headers are."""
    rng = random.Random(seed)
    changed = bytearray(content())
    for _ in range(bits):
        place = rng.random() ** (6 if rng.random() < 0.5 else 1)
        changed[int(place * len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)
