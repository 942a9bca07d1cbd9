"""Numbers in sentences, in both languages, are those of the settings and of the code."""

from __future__ import annotations

import re
from typing import Any

import pytest

from api import server, service
from api.http import idempotency, middleware, multipart, protocol, submission
from api.models import TaskQuery
from api.settings import Settings
from api.tasks import errors, events
from engines.dice_talk import pipeline, windows
from media import image
from tests.docs.documents import GUIDE, REFERENCE, text, words
from tests.process import ROOT
from tests.scripted_engine import ScriptedEngine
from tests.server import make_settings

TASKS, LOGGING, SERVER, FILES = Settings().tasks, Settings().logging, Settings().server, Settings().files
ID_LENGTH = int(re.findall(r"\{1,(\d+)\}", middleware.REQUEST_ID.pattern)[0])
HEAD = protocol.HEAD_LIMIT >> 10
QUEUE = (TASKS.max_workers, TASKS.max_queue)
PAGE = TaskQuery.model_json_schema()["properties"]["limit"]

# In a document, a pattern whose groups are numbers, and what they are.
SENTENCES: list[tuple[str, str, tuple[float, ...]]] = [
    ("README.md", r"(\d+) tasks run, (\d+) wait, finished ones are kept (\d+) hours", (*QUEUE, TASKS.retention_hours)),
    (GUIDE, r"同时运行 (\d+) 个任务，最多 (\d+) 个排队，结束的任务保留 (\d+) 小时", (*QUEUE, TASKS.retention_hours)),
    (REFERENCE, r"(\d+) tasks run \(`tasks.max_workers`\), (\d+) wait", QUEUE),
    (GUIDE, r"视频保留 (\d+) 小时（`tasks.retention_hours`）", (TASKS.retention_hours,)),
    (REFERENCE, r"(\d+) hours \(`tasks.retention_hours`\), then 410", (TASKS.retention_hours,)),
    (GUIDE, r"超过 `tasks.timeout_seconds`（默认 (\d+) 秒）", (TASKS.timeout_seconds,)),
    (REFERENCE, r"(\d+) s of work \(`tasks.timeout_seconds`\)", (TASKS.timeout_seconds,)),
    (GUIDE, r"正在运行的任务有 (\d+) 秒（`tasks.shutdown_grace`）", (TASKS.shutdown_grace,)),
    (GUIDE, r"每个文本字段最多 (\d+) 字节，一个表单最多 (\d+) 个字段", (multipart.TEXT_LIMIT, multipart.PART_LIMIT)),
    (REFERENCE, r"at most (\d+) bytes, a\s+form at most (\d+) fields", (multipart.TEXT_LIMIT, multipart.PART_LIMIT)),
    (
        REFERENCE,
        r"(\d+) fields, (\d+) bytes of text each; (\d+) kB",
        (multipart.PART_LIMIT, multipart.TEXT_LIMIT, HEAD),
    ),
    (GUIDE, r"超过 (\d+) 个数据块的图片、\s+超过 (\d+) 次扫描", (image.MAX_SEGMENTS, image.MAX_SCANS)),
    (REFERENCE, r"more than (\d+) pieces, or a JPEG of more than (\d+) scans", (image.MAX_SEGMENTS, image.MAX_SCANS)),
    (GUIDE, r"请求头超过 (\d+) kB", (HEAD,)),
    (REFERENCE, r"more than (\d+) kB of request headers", (HEAD,)),
    (GUIDE, r"最多 (\d+) 个字符", (ID_LENGTH,)),
    (REFERENCE, r"`-`, at most (\d+)\)", (ID_LENGTH,)),
    (GUIDE, r"等待了 (\d+) 秒，引擎仍在加载", (service.ENGINE_WAIT_SECONDS,)),
    (REFERENCE, r"still being loaded after (\d+) s", (service.ENGINE_WAIT_SECONDS,)),
    (REFERENCE, r"waits up to (\d+) s, then 503", (service.ENGINE_WAIT_SECONDS,)),
    (REFERENCE, r"(\d+) s within a request \(`server.idle_timeout`\)", (SERVER.idle_timeout,)),
    (GUIDE, r"大约 (\d+) 秒后（让客户端", (server.LAST_POLLS_SECONDS,)),
    (REFERENCE, r"About (\d+) seconds later", (server.LAST_POLLS_SECONDS,)),
    (GUIDE, r"以退出码 (\d+) 结束，由", (server.EXIT_GPU,)),
    (GUIDE, r"到 (\d+) MB（`logging.max_mb`）.*保留 (\d+) 个（`logging.backups`）", (LOGGING.max_mb, LOGGING.backups)),
    (REFERENCE, r"rotated at (\d+) MB, (\d+) old ones", (LOGGING.max_mb, LOGGING.backups)),
    (REFERENCE, r"([\d.]+) s without a sign of life \(`tasks.stall_seconds`\)", (TASKS.stall_seconds,)),
    (REFERENCE, r"`tasks.stall_seconds`\s+\(([\d.]+) s\)", (TASKS.stall_seconds,)),
    (GUIDE, r"`tasks.stall_seconds`（(\d+) 秒）", (TASKS.stall_seconds,)),
    (REFERENCE, r"begun (\d+) times \(`tasks.max_attempts`\)", (TASKS.max_attempts,)),
    (GUIDE, r"最多运行 (\d+) 次（`tasks.max_attempts`）", (TASKS.max_attempts,)),
    (REFERENCE, r"string of 1 to (\d+) printable", (idempotency.KEY_LIMIT,)),
    (REFERENCE, r"(\d+) characters; known as long", (idempotency.KEY_LIMIT,)),
    (GUIDE, r"1–(\d+) 个可打印的 ASCII 字符", (idempotency.KEY_LIMIT,)),
    (
        REFERENCE,
        r"last (\d+) events of a task, of ended ones\s+those of the last (\d+)",
        (events.HISTORY, events.ENDED),
    ),
    (GUIDE, r"每个任务最近的 (\d+) 个事件，已结束的任务只保留最近 (\d+) 个", (events.HISTORY, events.ENDED)),
    (
        REFERENCE,
        r"the last (\d+) can be resumed; a heartbeat every (\d+) s",
        (events.HISTORY, events.HEARTBEAT_SECONDS),
    ),
    (REFERENCE, r"After (\d+) seconds without an event", (events.HEARTBEAT_SECONDS,)),
    (GUIDE, r"(\d+) 秒没有事件时", (events.HEARTBEAT_SECONDS,)),
    (REFERENCE, r"at most (\w+) a second \|", (1 / events.INTERVAL_SECONDS,)),
    (REFERENCE, r"(\d+) MB \(`files.min_free_mb`\), with less 503", (FILES.min_free_mb,)),
    (REFERENCE, r"less than `files.min_free_mb` \((\d+) MB\)", (FILES.min_free_mb,)),
    (GUIDE, r"少于 (\d+) MB（`files.min_free_mb`）", (FILES.min_free_mb,)),
    (REFERENCE, r"`Retry-After: (\d+)`; health is", (errors.StorageFullError.retry_after,)),
    (GUIDE, r"`Retry-After` 为 (\d+) 秒；健康状态", (errors.StorageFullError.retry_after,)),
    (REFERENCE, r"page of the list \| (\d+) tasks, (\d+) at most", (PAGE["default"], PAGE["maximum"])),
    (GUIDE, r"在 (\d+) 端口提供服务", (SERVER.port,)),
    (GUIDE, r"Port (\d+) is already in use", (SERVER.port,)),
    ("doc/architecture.md", r"(\w+) requests at a time", (submission.CHECKS_AT_ONCE,)),
    (GUIDE, r"motion bucket（(\d+) 和 (\d+)）", (pipeline.MOTION_BUCKET, pipeline.MOTION_BUCKET_EXP)),
    ("README.md", r"motion buckets, (\d+) and (\d+)", (pipeline.MOTION_BUCKET, pipeline.MOTION_BUCKET_EXP)),
    ("README.md", r"(\d+) are made a second \(([\d.]+) without", (2 * pipeline.FPS, pipeline.FPS)),
    (REFERENCE, r"(\d+) \(([\d.]+) without interpolation\)", (2 * pipeline.FPS, pipeline.FPS)),
    (GUIDE, r"每秒生成 ([\d.]+) 帧，插帧后为 (\d+) 帧", (pipeline.FPS, 2 * pipeline.FPS)),
]
NAMES = {"one": 1, "two": 2, "three": 3}


@pytest.mark.parametrize(("document", "pattern", "expected"), SENTENCES)
def test_a_sentence(document: str, pattern: str, expected: tuple[float, ...]) -> None:
    found = re.findall(pattern, text(document))
    assert found, "the sentence has changed"
    for groups in found:
        given = groups if isinstance(groups, tuple) else (groups,)
        assert tuple(float(NAMES.get(number) or number) for number in given) == expected


def test_the_share_of_denoising_follows_from_the_page_about_the_engine() -> None:
    page = text("doc/dice_talk.md")
    ((call, whole),) = re.findall(r"\*\*([\d.]+) TFLOP\*\*[^;]*; a clip of 10 s, all networks, ([\d,]+)", page)
    pattern = (
        r"10 秒、(\d+) 步的视频共 (\d+) TFLOP，"
        r"其中 UNet 的 (\d+) 次调用（(\d+) 个窗口 × (\d+) 步，每次 ([\d.]+) TFLOP）约占 (\d+)%"
    )
    ((steps, total, calls, count, again, each, share),) = re.findall(pattern, text(GUIDE))
    frames = 10 * pipeline.FPS
    assert int(count) == -(-(frames + pipeline.PADDING) // windows.WINDOW)
    assert int(steps) == int(again) == Settings().synthesis.inference_steps
    assert int(calls) == int(count) * int(steps)
    assert (each, total) == (call, whole.replace(",", ""))
    assert int(share) == round(100 * int(calls) * float(each) / int(total))


def test_the_speed_of_the_preview_is_what_was_measured() -> None:
    ((at_512, at_1024),) = re.findall(
        r"`min_resolution` 为 512 时速度至少是实时的 ([\d.]+) 倍，\s*为 1024 时至少 ([\d.]+) 倍", text(GUIDE)
    )
    measured = (ROOT / "benchmarks" / "results" / "preview.md").read_text()
    rows = re.findall(r"^\| (\d+) px \| (\d+) s \| [\d.]+ s \| ([\d.]+) \|.*\| (\d+) MB \|$", measured, re.M)
    assert {(row[0], row[1]) for row in rows} >= {("512", "10"), ("512", "60"), ("512", "600"), ("1024", "10")}
    for side, claimed in (("512", at_512), ("1024", at_1024)):
        assert min(float(speed) for width, _, speed, _ in rows if width == side) >= float(claimed)
    memory = {int(seconds): int(size) for width, seconds, _, size in rows if width == "512"}
    assert memory[600] <= 1.05 * memory[60]  # "does not grow with the length of the speech"


def test_the_headers_that_web_pages_can_read(tmp_path_factory: pytest.TempPathFactory) -> None:
    app = server.create_app(make_settings(tmp_path_factory.mktemp("app")), ScriptedEngine())
    (cors,) = [layer for layer in app.user_middleware if "allow_origins" in layer.kwargs]
    options: dict[str, Any] = dict(cors.kwargs)
    (line,) = [line for line in text(GUIDE).splitlines() if line.startswith("- 响应头")]
    assert words(line) == options["expose_headers"]
