"""Hostile and clumsy uploads: each gets its own 4xx, the one error shape, and leaves nothing behind."""

from __future__ import annotations

import io
import socket
import struct
import tracemalloc
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from api.storage.files import FileStore
from tests.http.conftest import Client, check_error, png
from tests.media.speech import tone, write_mp3, write_wav
from tests.process import START
from tests.scripted_engine import ScriptedEngine
from tests.server import make_settings, running, wait_for

MB = 1 << 20


@pytest.fixture(autouse=True)
def nothing_left(upload_dir: Path) -> Iterator[None]:
    """Whatever happened to a request, nothing half-received is left."""
    yield
    assert not list(upload_dir.glob("*.part"))


def picture(mode: str, size: tuple[int, int], kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise(size, 90).convert(mode).save(buffer, kind)
    return buffer.getvalue()


def bomb() -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 30000, 30000, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(10**6))) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("content", "status", "code"),
    [
        (b"just some text", 415, "unsupported_media_type"),
        (b"", 415, "unsupported_media_type"),
        (b"GIF89a" + bytes(50), 415, "unsupported_media_type"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 415, "unsupported_media_type"),
        (png()[:500], 422, "invalid_image"),
        (png()[:8], 422, "invalid_image"),
        (png()[:8] + b"polyglot" * 100, 422, "invalid_image"),
        (bomb(), 422, "invalid_image"),
        (picture("RGB", (63, 63)), 422, "invalid_image"),
        (picture("RGB", (1, 1)), 422, "invalid_image"),
        (picture("L", (70, 400)), 422, "invalid_image"),
        (picture("RGB", (100, 100), "JPEG")[:-800], 422, "invalid_image"),
        (np.zeros(11 * MB, np.uint8).tobytes(), 413, "too_large"),
    ],
    ids=["text", "empty", "gif", "svg", "truncated", "signature", "polyglot", "bomb", "63px", "1px", "narrow",
         "cut-jpeg", "11MB"],
)  # fmt: skip
def test_bad_images(shared: Client, content: bytes, status: int, code: str) -> None:
    body = check_error(shared.start(image=content), status, code)
    assert "image" in body["error"].lower()


def test_a_portrait_without_a_face(shared: Client) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (100, 100), "grey").save(buffer, "PNG")
    body = check_error(shared.start(image=buffer.getvalue()), 422, "no_face")
    assert "face" in body["error"]


@pytest.fixture(scope="module")
def speech(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    path = tmp_path_factory.mktemp("bad") / "s"
    long = write_mp3(path, np.zeros(8000 * 700), 8000).read_bytes()  # a small file, a long silence
    return {
        "header": write_wav(path, tone(0, 16000), 16000).read_bytes(),
        "short": write_wav(path, tone(0.05, 16000), 16000).read_bytes(),
        "cut": write_wav(path, tone(3, 16000), 16000).read_bytes()[:30000],
        "hours": long,
        "garbage": b"ID3\x04\x00\x00\x00\x00\x00\x00" + bytes(range(256)) * 40,
        "text": b"hello",
        "empty": b"",
        "51MB": bytes(51 * MB),
    }


@pytest.mark.parametrize(
    ("name", "status", "code"),
    [
        ("header", 422, "invalid_audio"),
        ("short", 422, "invalid_audio"),
        ("cut", 422, "invalid_audio"),
        ("hours", 422, "invalid_audio"),
        ("garbage", 422, "invalid_audio"),
        ("text", 415, "unsupported_media_type"),
        ("empty", 415, "unsupported_media_type"),
        ("51MB", 413, "too_large"),
    ],
)
def test_bad_audio(shared: Client, speech: dict[str, bytes], name: str, status: int, code: str) -> None:
    body = check_error(shared.start(audio=speech[name]), status, code)
    assert "audio" in body["error"].lower() or "recording" in body["error"].lower() or "mp3" in body["error"].lower()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("emotion", "joyful"), ("emotion", ""), ("emotion", "HAPPY "),
        ("ref_scale", "NaN"), ("ref_scale", "inf"), ("ref_scale", "1e400"), ("ref_scale", "-0.1"), ("ref_scale", "abc"),
        ("emo_scale", "10.01"), ("emo_scale", "-inf"), ("crop", "perhaps"), ("crop", "2"),
        ("inference_steps", "7"), ("inference_steps", "51"), ("inference_steps", "25.5"),
        ("duration", "0"), ("duration", "601"), ("duration", "nan"),
        ("fps", "7"), ("fps", "61"), ("seed", "-1"), ("seed", "4294967296"), ("seed", "1" * 900),
        ("dynamic_scale", "0.05"), ("dynamic_scale", "3.1"), ("min_resolution", "250"), ("min_resolution", "500"),
        ("min_resolution", "1088"), ("expand_ratio", "0"), ("expand_ratio", "2.5"), ("seed", "x" * 5000),
        ("seed", "2_5"), ("seed", "２５"), ("seed", "0x19"), ("seed", "25 "), ("seed", "2.5e1_0"), ("fps", "٢٥"),
        ("ref_scale", "3_0"), ("ref_scale", "３"), ("ref_scale", " 3"), ("duration", "None"), ("crop", "１"),
        ("seed", "\x00"), ("image_path", "/etc/passwd"), ("__proto__", "x"),
    ],
)  # fmt: skip
def test_bad_fields(shared: Client, field: str, value: str) -> None:
    body = check_error(shared.start(**dict[str, Any]({field: value})), 422, "validation_error")
    assert [problem["field"] for problem in body["errors"]] == [field]
    assert "inference_steps" in body["detail"]  # the list of the known ones


@pytest.mark.parametrize(
    ("field", "value", "means"),
    [("seed", "025", 25), ("seed", "+25", 25), ("seed", "25.0", 25), ("ref_scale", ".5", 0.5), ("ref_scale", "5.", 5),
     ("ref_scale", "1e-1", 0.1), ("emo_scale", "+1E0", 1), ("crop", "YES", True), ("crop", "off", False)],
)  # fmt: skip
def test_numbers_as_people_write_them(shared: Client, field: str, value: str, means: float | bool) -> None:
    assert shared.finish(shared.start(**dict[str, Any]({field: value})))["parameters"][field] == means


def test_all_that_is_wrong_is_said_at_once(shared: Client) -> None:
    answer = shared.http.post(START, data={"fps": "1000", "colour": "red"}, files={"image": png()})
    body = check_error(answer, 422, "validation_error")
    assert {problem["field"] for problem in body["errors"]} == {"fps", "colour", "audio", "emotion"}


def test_repeated_fields(shared: Client) -> None:
    files: Any = [("image", png()), ("image", png()), ("audio", shared.wav)]
    answer = shared.http.post(START, data={"emotion": ["sad", "happy"]}, files=files)
    body = check_error(answer, 422, "validation_error")
    assert sorted(problem["field"] for problem in body["errors"]) == ["emotion", "image"]


@pytest.mark.parametrize("name", ["../../etc/passwd", "a\x00b.png", "/etc/x.png", "..\\x", "x" * 3000, "肖像.png", ""])
def test_names_from_the_client_never_touch_the_disk(shared: Client, upload_dir: Path, name: str) -> None:
    quoted = name.replace("\x00", "%00")
    files: Any = {"image": (quoted, png(), "text/html"), "audio": (quoted, shared.wav)}
    accepted = shared.http.post(START, data={"emotion": "fear"}, files=files)
    assert accepted.status_code == 202
    assert all(len(path.name) == 64 for path in upload_dir.iterdir())


def test_uploads_are_content_addressed(shared: Client, upload_dir: Path) -> None:
    shared.finish(shared.start(seed=1))
    before = sorted(upload_dir.iterdir())
    shared.finish(shared.start(seed=2))
    assert sorted(upload_dir.iterdir()) == before


@pytest.mark.parametrize(
    ("body", "kind", "status", "code"),
    [
        (b"{}", "application/json", 415, "unsupported_media_type"),
        (b"emotion=sad", "application/x-www-form-urlencoded", 415, "unsupported_media_type"),
        (b"", "", 415, "unsupported_media_type"),
        (b"--x", "multipart/form-data", 400, "malformed_form"),
        (b"--x", "multipart/form-data; boundary=" + "y" * 300, 400, "malformed_form"),
        (b"no boundary here", "multipart/form-data; boundary=x", 400, "malformed_form"),
        (b"", "multipart/form-data; boundary=x", 400, "malformed_form"),
        (b'--x\r\nContent-Disposition: form-data; name="emotion"\r\n\r\nsad', "multipart/form-data; boundary=x", 400,
         "malformed_form"),
        (b"--x\r\nContent-Type: text/plain\r\n\r\nsad\r\n--x--\r\n", "multipart/form-data; boundary=x", 400,
         "malformed_form"),
        (b"--x\r\nA: " + b"b" * 100_000 + b"\r\n\r\nsad\r\n--x--\r\n", "multipart/form-data; boundary=x", 400,
         "malformed_form"),
        (b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\nb\r\n' * 200 + b"--x--\r\n",
         "multipart/form-data; boundary=x", 400, "malformed_form"),
    ],
)  # fmt: skip
def test_malformed_forms(shared: Client, body: bytes, kind: str, status: int, code: str) -> None:
    check_error(shared.http.post(START, content=body, headers={"content-type": kind}), status, code)


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(body=st.binary(max_size=300), lead=st.booleans())
def test_any_bytes_for_a_form(shared: Client, body: bytes, lead: bool) -> None:
    content = (b'--x\r\nContent-Disposition: form-data; name="emotion"\r\n\r\n' if lead else b"--x") + body
    answer = shared.http.post(START, content=content, headers={"content-type": "multipart/form-data; boundary=x"})
    assert answer.status_code in (400, 422)
    assert set(answer.json()) >= {"error", "detail", "code", "request_id"}


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(values=st.dictionaries(st.sampled_from(["emotion", "ref_scale", "fps", "seed", "crop", "duration"]), st.text()))
def test_any_text_in_the_fields(shared: Client, values: dict[str, str]) -> None:
    answer = shared.start(image=b"no image", **dict[str, Any](values))  # so that no task comes of it
    assert answer.status_code in (415, 422)
    assert answer.json()["code"] in ("unsupported_media_type", "validation_error")


def announce(client: Client, length: int) -> socket.socket:
    """A raw connection that announces a body of `length` bytes and has sent none of it."""
    connection = socket.create_connection((client.http.base_url.host, client.http.base_url.port or 0), timeout=10)
    connection.sendall(
        f"POST {START} HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=x\r\n"
        f"Content-Length: {length}\r\n\r\n".encode()
    )
    return connection


def test_too_much_is_refused_as_soon_as_it_is_announced(shared: Client) -> None:
    with announce(shared, 10**12) as connection:
        assert connection.recv(100).startswith(b"HTTP/1.1 413 ")


def test_too_much_is_refused_before_the_body_ends(shared: Client) -> None:
    """The image passes its limit; the client still means to send an audio."""
    head = b'--x\r\nContent-Disposition: form-data; name="image"; filename="x"\r\n\r\n'
    with announce(shared, 40 * MB) as connection:
        connection.sendall(head + bytes(10 * MB + 70_000))
        assert connection.recv(100).startswith(b"HTTP/1.1 413 ")


def test_a_chunked_body_without_a_length_is_bounded(shared: Client) -> None:
    def endless() -> Iterator[bytes]:
        yield b'--x\r\nContent-Disposition: form-data; name="unknown"; filename="x"\r\n\r\n'
        for _ in range(70):
            yield bytes(MB)

    answer = shared.http.post(START, content=endless(), headers={"content-type": "multipart/form-data; boundary=x"})
    check_error(answer, 413, "too_large")


def test_a_client_that_goes_away_leaves_nothing(shared: Client, upload_dir: Path) -> None:
    head = b'--x\r\nContent-Disposition: form-data; name="image"; filename="x"\r\n\r\n'
    with announce(shared, 5 * MB) as connection:
        connection.sendall(head + bytes(3 * MB))
        wait_for(lambda: bool(list(upload_dir.glob("*.part"))))  # the server has written the first of it
    wait_for(lambda: not list(upload_dir.glob("*.part")))  # and has removed it
    assert shared.start().status_code == 202  # and goes on


def test_limits_come_from_the_settings(tmp_path: Path, wav: bytes) -> None:
    files = {"max_image_mb": 0.002, "max_audio_mb": 0.04}
    with running(make_settings(tmp_path, files=files), ScriptedEngine()) as run:
        client = Client(run, ScriptedEngine(), wav)
        assert "2 KiB" in check_error(client.start(), 413, "too_large")["detail"]
        small = picture("1", (64, 64))
        assert client.start(image=small).status_code == 202
        check_error(client.start(image=small, audio=wav + bytes(20_000)), 413, "too_large")


def test_a_refusal_at_the_last_moment_leaves_no_files(tmp_path: Path, wav: bytes) -> None:
    """The queue is full only when the files have already been stored."""
    engine = ScriptedEngine()
    engine.hold()
    with running(make_settings(tmp_path, tasks={"max_workers": 1, "max_queue": 1}), engine) as run:
        client = Client(run, engine, wav)
        accepted = [client.start(seed=seed) for seed in range(2)]
        kept = sorted((tmp_path / "uploads").iterdir())
        run.service.check_open = lambda: None  # type: ignore[method-assign]  # as for a request that came a moment earlier
        check_error(client.start(image=png(seed=9)), 429, "queue_full")
        assert sorted((tmp_path / "uploads").iterdir()) == kept
        engine.go_on()
        assert {client.finish(answer)["status"] for answer in accepted} == {"COMPLETED"}


def test_a_full_disk_is_said(shared: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(FileStore, "adopt", full)
    check_error(shared.start(), 503, "storage_full")
    monkeypatch.undo()
    assert shared.start().status_code == 202


def test_an_unexpected_failure_is_a_plain_500(shared: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("/secret/path.py")

    monkeypatch.setattr(FileStore, "adopt", broken)
    check_error(shared.start(), 500, "internal")


def test_memory_stays_bounded_while_receiving(shared: Client) -> None:
    """A 40 MB recording goes through buffers of half a megabyte."""
    part = b'--x\r\nContent-Disposition: form-data; name="%b"; filename="x"\r\n\r\n'

    def body() -> Iterator[bytes]:
        yield part % b"audio"
        for _ in range(40 * 16):
            yield bytes(MB // 16)
        yield b"\r\n--x--\r\n"

    tracemalloc.start()
    answer = shared.http.post(START, content=body(), headers={"content-type": "multipart/form-data; boundary=x"})
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    check_error(answer, 422, "validation_error")  # no image, no emotion
    assert peak < 8 * MB
