"""The tables of the guide and of the reference say what the code says: nothing is missing, nothing is invented."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml
from starlette.routing import Route

from api.engine import ServiceState
from api.http.sse import EVENT_NAMES as NAMES
from api.models import Health, Manifest, QueueView, TaskList, TaskQuery, TaskView
from api.records import TaskErrorCode, TaskStatus
from api.routes import docs
from api.server import create_app
from api.settings import DEFAULT_CONFIG, Settings
from engines.base import Emotion, Stage, SynthesisParams
from engines.dice_talk.checkpoints import REQUIRED_FILES
from engines.dice_talk.engine import DiceTalkEngine
from engines.preview.engine import PreviewEngine
from media import audio, image
from tests.docs.codes import answered
from tests.docs.documents import BOTH, GUIDE, REFERENCE, Table, bounds, numbers, table, tables, text, words
from tests.scripted_engine import ScriptedEngine
from tests.server import make_settings

OPENAPI = "/openapi.json"
ENDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
WORDS = {"required": ..., "必填": ..., "whole audio": None, "全部语音": None}
FILES = Settings().files
UPLOADS = {
    "image": [
        FILES.max_image_mb, image.MIN_SIDE, image.MAX_SIDE, image.MAX_PIXELS, image.MAX_ASPECT, 1,
    ],
    "audio": [
        FILES.max_audio_mb, audio.MIN_SECONDS, audio.MAX_SECONDS, audio.MIN_RATE / 1000, audio.MAX_RATE / 1000,
        audio.MAX_CHANNELS,
    ],
}  # fmt: skip


@pytest.fixture(scope="module")
def schema(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    app = create_app(make_settings(tmp_path_factory.mktemp("app")), ScriptedEngine())
    return dict(app.openapi())


def plain(cell: str) -> Any:
    """A default as YAML reads it; `...` where there is none."""
    return WORDS[cell] if cell in WORDS else yaml.safe_load(cell.strip("`"))


def ends(field: dict[str, Any]) -> dict[str, float]:
    return {end: field[end] for end in ENDS if end in field}


@pytest.mark.parametrize("document", BOTH)
def test_form_fields(document: str, schema: dict[str, Any]) -> None:
    form = schema["components"]["schemas"]["StartForm"]
    rows = table(document, has="ref_scale", heading={GUIDE: "提交任务", REFERENCE: "Start"}[document]).by_name()
    assert list(rows) == list(form["properties"])
    for name, (range_, default, _) in rows.items():
        field = form["properties"][name]
        expected = field.get("default", None if name == "duration" else ...)
        assert plain(default) == (... if name in form["required"] else expected), name
        if name in UPLOADS:
            assert numbers(range_) == UPLOADS[name]
        elif name == "emotion":
            assert words(range_) == list(Emotion)
        else:
            assert bounds(range_) == ends(field), name
        assert (range_ in ("boolean", "布尔值")) == (field.get("type") == "boolean"), name


@pytest.mark.parametrize("document", BOTH)
def test_settings(document: str) -> None:
    rows = table(document, has="server.host").by_name()
    shipped = yaml.safe_load(DEFAULT_CONFIG.read_text())
    assert list(rows) == [f"{section}.{key}" for section, values in shipped.items() for key in values]
    sections = Settings.model_json_schema()
    for name, (range_, default, _) in rows.items():
        section, key = name.split(".")
        reference = sections["properties"][section].get("$ref") or sections["properties"][section]["allOf"][0]["$ref"]
        field = sections["$defs"][reference.rpartition("/")[2]]["properties"][key]
        assert plain(default) == field["default"], name
        assert bounds(range_) == ends(field), name
        if "enum" in field:
            assert words(range_) == field["enum"], name
        assert (range_ in ("boolean", "布尔值")) == (field.get("type") == "boolean"), name


@pytest.mark.parametrize("document", BOTH)
def test_error_codes(document: str) -> None:
    rows = table(document, column=1, has="malformed_form").rows
    listed = [(int(status), code) for status, cell, _ in rows for code in words(cell)]
    assert len(listed) == len(set(listed))
    assert set(listed) == answered()


@pytest.mark.parametrize("document", BOTH)
def test_error_codes_of_tasks(document: str) -> None:
    assert set(table(document, has="encoder_failed").by_name()) == set(TaskErrorCode)


@pytest.mark.parametrize("document", BOTH)
def test_endpoints(document: str, schema: dict[str, Any]) -> None:
    listed = set(table(document, has="GET /api/health").by_name())
    served = {f"{method.upper()} {path}" for path, methods in schema["paths"].items() for method in methods}
    pages = {f"GET {route.path}" for route in docs.router.routes if isinstance(route, Route) and route.path != "/"}
    assert listed == served | pages | {f"GET {OPENAPI}"}


@pytest.mark.parametrize("document", BOTH)
def test_the_fields_of_a_status(document: str) -> None:
    rows = table(document, has="eta_seconds", heading={GUIDE: "查询状态", REFERENCE: "Status"}[document]).by_name()
    assert set(rows) == set(TaskView.model_fields)
    assert words(rows["status"][0]) == list(TaskStatus)
    assert words(rows["stage"][0]) == list(Stage)


@pytest.mark.parametrize("document", BOTH)
def test_the_parameters_and_the_fields_of_the_list(document: str) -> None:
    rows = table(document, has="after").by_name()
    fields = TaskQuery.model_json_schema()["properties"]
    assert list(rows) == list(fields)
    assert words(rows["status"][0]) == list(TaskStatus)
    range_, default, _ = rows["limit"]
    assert (bounds(range_), numbers(default)) == (ends(fields["limit"]), [fields["limit"]["default"]])
    assert set(table(document, has="has_more").by_name()) == set(TaskList.model_fields)


@pytest.mark.parametrize("document", BOTH)
def test_the_fields_of_a_manifest(document: str) -> None:
    rows = table(document, has="speech_seconds").by_name()
    assert set(rows) == set(Manifest.model_fields)
    parts = Manifest.model_json_schema()["$defs"]
    for name in ("inputs", "engine", "timings", "output"):
        assert set(parts[f"Manifest{name.title()}"]["properties"]) <= set(words(rows[name][0])), name


@pytest.mark.parametrize("document", BOTH)
def test_the_names_of_events(document: str) -> None:
    heading = {GUIDE: "跟踪事件", REFERENCE: "Events"}[document]
    assert list(table(document, has="queued", heading=heading).by_name()) == list(NAMES.values())


@pytest.mark.parametrize("document", BOTH)
def test_headers(document: str, schema: dict[str, Any]) -> None:
    """All of the schema, and those that its operations take or give without its saying so."""
    operations = [operation for methods in schema["paths"].values() for operation in methods.values()]
    sent = {
        parameter["name"]
        for operation in operations
        for parameter in operation.get("parameters", [])
        if parameter["in"] == "header"
    }
    given = {
        name for operation in operations for answer in operation["responses"].values() for name in answer["headers"]
    }
    unsaid = {"Range", "If-Range", "If-None-Match", "Allow"}
    assert set(table(document, has="X-Request-ID").by_name()) == sent | given | unsaid


@pytest.mark.parametrize("document", BOTH)
def test_the_fields_of_health(document: str) -> None:
    rows = table(document, has="model_loaded").by_name()
    assert set(rows) == set(Health.model_fields)
    assert words(rows["state"][0]) == list(ServiceState)
    assert words(rows["queue"][0]) == list(QueueView.model_fields)


@pytest.mark.parametrize("document", [GUIDE, REFERENCE, "README.md"])
def test_what_the_fields_do_under_each_engine(document: str) -> None:
    """Every one that the engines are given; those a warning is about are those the engine ignores."""
    heading = {GUIDE: "DICE-Talk 引擎", REFERENCE: "Engines", "README.md": "DICE-Talk on a GPU"}[document]
    found = table(document, has="ref_scale", heading=heading)
    rows = found.by_name()
    assert set(rows) >= set(SynthesisParams.__dataclass_fields__) - {"emotion"}
    if document != "README.md":
        dice_talk, preview = (found.header.index(f"`{name}`") - 1 for name in ("dice_talk", "preview"))
        fields = SynthesisParams.__dataclass_fields__
        for engine, column in ((DiceTalkEngine, dice_talk), (PreviewEngine, preview)):
            warned = {
                name for name in fields if name in rows and any(w in rows[name][column] for w in ("warn", "不起作用"))
            }
            assert warned == set(engine.ignored_fields)


def test_the_stages_of_each_engine() -> None:
    (row,) = [row for each in tables(REFERENCE) for row in each.rows if row[0] == "stages"]
    assert sorted(words(row[1])) == sorted([*DiceTalkEngine.stage_weights, Stage.QUEUED])
    assert words(row[2]) == list(PreviewEngine.stage_weights)


def test_the_emotions_have_names_in_chinese() -> None:
    assert list(table(GUIDE, has="contempt").by_name()) == list(Emotion)


LIMITS = {
    "README.md": ("What it takes, what it gives", "portrait", "speech", "video", "queue"),
    GUIDE: ("能做什么，不能做什么", "肖像", "语音", "视频", "队列"),
    REFERENCE: ("Limits and retention", "portrait", "speech", "video", "queue"),
}


@pytest.mark.parametrize("document", LIMITS)
def test_limits_at_a_glance(document: str, schema: dict[str, Any]) -> None:
    heading, portrait, speech, film, queue = LIMITS[document]
    rows = {row[0]: row[1] for each in tables(document) if each.heading == heading for row in each.rows}
    fields = schema["components"]["schemas"]["StartForm"]["properties"]
    rate, side = (ends(fields[name]) for name in ("fps", "min_resolution"))
    tasks = Settings().tasks
    assert numbers(rows[portrait]) == UPLOADS["image"]
    assert numbers(rows[speech]) == UPLOADS["audio"][: 3 if document == "README.md" else None]
    assert numbers(rows[film])[-4:] == [rate["minimum"], rate["maximum"], side["minimum"], side["maximum"]]
    counted = [tasks.max_workers, tasks.max_queue, 429 if document == REFERENCE else tasks.retention_hours]
    assert numbers(rows[queue]) == counted


def test_what_readme_says_of_the_form(schema: dict[str, Any]) -> None:
    rows = {row[0]: row[1] for row in tables("README.md")[0].rows}
    assert words(rows["emotion"]) == list(Emotion)
    named = {*words(rows["more fields"]), "image", "audio", "emotion"}
    assert named == set(schema["components"]["schemas"]["StartForm"]["properties"])


def test_the_guide_and_the_reference_name_the_same_things() -> None:
    """In both directions; the guide alone names emotions in Chinese, tells of troubles and of what to tune."""
    own = {"故障排查", "性能调优", "能做什么，不能做什么"}
    guide = {name for each in tables(GUIDE) if each.heading not in own for name in each.by_name()}
    reference = {name for each in tables(REFERENCE) for name in (*each.by_name(), *codes_of(each))}
    assert guide | {code for each in tables(GUIDE) for code in codes_of(each)} == reference | set(Emotion)


def codes_of(found: Table) -> list[str]:
    """The second column of the table of errors."""
    return [name for row in found.rows if row[0].isdigit() and len(row) == 3 for name in words(row[1])]


@pytest.mark.parametrize("name", ["1024×1024", "512×512"])
def test_gpu_memory_is_that_of_the_page_about_the_engine(name: str) -> None:
    guide, page = (
        [row for each in tables(d) for row in each.rows if row[0] == name] for d in (GUIDE, "doc/dice_talk.md")
    )
    assert guide == page
    assert len(guide) == 1


def test_the_weights_are_the_same_in_both_languages() -> None:
    chinese, english = weights(GUIDE), weights("README.md")
    assert list(chinese) == list(english)
    assert chinese == english
    for document in (GUIDE, "README.md"):
        assert re.search(rf"(需要|needs) {len(REQUIRED_FILES)} (个文件|files)", text(document))


def weights(document: str) -> dict[str, list[float]]:
    """Sizes and counts by where the files come from."""
    rows = [row for each in tables(document) for row in each.rows if "](http" in row[0]]
    return {row[0]: sorted(number for cell in row[1:3] for number in numbers(cell)) for row in rows}
