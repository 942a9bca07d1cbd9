"""Every block of the documents is used as it stands: run against a live server, loaded, or read as what it shows."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from fastapi.sse import KEEPALIVE_COMMENT
from pydantic import BaseModel

from api.http import examples
from api.http.errors import ErrorResponse
from api.http.sse import EVENT_NAMES as NAMES
from api.http.sse import RETRY_MILLISECONDS
from api.models import Health, Manifest, TaskAccepted, TaskList, TaskView
from api.settings import load_settings
from media import video
from tests.docs.conftest import Run, Service
from tests.docs.documents import ALL_BLOCKS, DOCUMENTS, EXTENDING, Block, text
from tests.process import ROOT
from tests.sse import parsed

# What becomes of each kind of block, here and in test_extending.py and test_front_end.py.
KINDS = {"bash", "python", "json", "yaml", "text", "diff", "html", "javascript", "event-stream"}
USED = [block for block in ALL_BLOCKS if block.reason is None]
RUN = [block for block in USED if block.kind in ("bash", "python") and block.chapter != EXTENDING]
ANSWERS: tuple[type[BaseModel], ...] = (TaskAccepted, TaskView, Manifest, Health, ErrorResponse)
LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} - [\w.]+ - [A-Z]+ - .+")


def of_kind(kind: str) -> list[Block]:
    return [block for block in USED if block.kind == kind]


@pytest.mark.parametrize("block", RUN, ids=str)
def test_a_block_runs(block: Block, service: Service, run: Run, tmp_path: Path) -> None:
    run(block, service)
    made = {path.name for path in tmp_path.glob("*.mp4")}
    assert made >= set(re.findall(r"[\w-]+\.mp4", block.code))
    assert made or not re.search("download|--output", block.code)
    for name in made:
        assert video.probe(tmp_path / name).frames >= 25


@pytest.mark.parametrize("block", of_kind("json"), ids=str)
def test_a_json_block_is_an_answer_of_the_service(block: Block) -> None:
    answer = json.loads(block.code)
    (model,) = [model for model in ANSWERS if set(answer) | {"errors"} == set(model.model_fields) | {"errors"}]
    model.model_validate(answer)


@pytest.mark.parametrize(
    ("model", "example"),
    [
        (TaskAccepted, examples.ACCEPTED),
        (TaskView, examples.VIEW),
        (TaskList, examples.LIST),
        (Manifest, examples.MANIFEST),
    ],
)
def test_an_answer_that_the_schema_shows_is_one_of_the_service(model: type[BaseModel], example: dict[str, Any]) -> None:
    assert names(model.model_validate(example).model_dump(mode="json")) == names(example)
    assert examples.BY_SCHEMA[model.__name__] == example


def names(answer: object) -> object:
    """The fields without their values."""
    if isinstance(answer, dict):
        return {name: names(value) for name, value in answer.items()}
    return [names(value) for value in answer] if isinstance(answer, list) else None


@pytest.mark.parametrize("block", of_kind("event-stream"), ids=str)
def test_an_event_stream_is_as_the_service_sends_it(block: Block) -> None:
    """But for what is left out of its data."""
    shown = parsed([block.code.encode(), b"\n"])
    assert (shown.retry, shown.comments) == (RETRY_MILLISECONDS, [KEEPALIVE_COMMENT.decode().strip(": \n")])
    assert shown.names == [NAMES[event.body["status"]] for event in shown.events]
    assert len(shown.events) > 1
    for event in shown.events:
        assert set(event.body) < set(TaskView.model_fields)
    assert shown.ids == sorted(shown.ids)


@pytest.mark.parametrize("block", of_kind("yaml"), ids=str)
def test_a_yaml_block_is_a_settings_file(block: Block, tmp_path: Path) -> None:
    file = tmp_path / "api_config.yaml"
    file.write_text(block.code)
    settings = load_settings(file).model_dump(mode="json")
    for section, values in yaml.safe_load(block.code).items():
        for key, value in values.items():
            assert settings[section][key] == ("on" if value is True else value)


def test_a_text_block_shows_directories_or_the_log(service: Service) -> None:
    """A line of the log in the documents is one that the service writes, but for times, ids and figures."""
    written = {shape(line) for line in service.log.read_text().splitlines() if LINE.fullmatch(line)}
    shown = [line for block in of_kind("text") for line in block.code.splitlines()]
    for line in shown:
        if LINE.fullmatch(line):
            assert shape(line) in written, line
    parent = Path()
    for line in [line for line in shown if not LINE.fullmatch(line)]:
        name = line.split()[0]
        if not line.startswith(" "):
            parent = ROOT / name
        assert (parent / name if line.startswith(" ") else parent).exists(), line


def shape(line: str) -> str:
    """The line without what differs from one run to the next."""
    return re.sub(r"\d+(\.\d+)?", "0", re.sub(r"\b[0-9a-f]{32}\b", "ID", line))


def test_no_block_escapes() -> None:
    assert {block.kind for block in ALL_BLOCKS} <= KINDS, [str(b) for b in ALL_BLOCKS if b.kind not in KINDS]
    for block in ALL_BLOCKS:
        if block.reason is not None:
            assert block.kind == "bash", f"{block}: only commands can have a reason not to be run"
            assert len(block.reason) >= 10, f"{block}: {block.reason} is no reason"
    assert {block.document for block in RUN} >= {"README.md", "README_API.md", "doc/api_docs.md"}


def test_marks_stand_above_blocks() -> None:
    for document in DOCUMENTS:
        marked = sum(block.reason is not None for block in ALL_BLOCKS if block.document == document)
        shown = re.findall("not run by the tests|测试不运行", text(document), re.I)
        assert len(shown) == marked, document


def test_links_lead_somewhere() -> None:
    for name in DOCUMENTS:
        for path, anchor in re.findall(r"\]\(([^)#]*)#?([^)]*)\)", text(name)):
            if not path.startswith("http"):
                target = (ROOT / name).parent / path if path else ROOT / name
                assert target.exists(), f"{name}: {path}"
                assert not anchor or anchor in anchors(target), f"{name}: {path}#{anchor}"


def test_the_guide_has_a_table_of_contents() -> None:
    guide = text("README_API.md")
    contents = guide[guide.index("## 目录") : guide.index("## 快速开始")]
    listed = re.findall(r"\]\(#([^)]+)\)", contents)
    chapters = [heading.lower() for heading in re.findall(r"^## (.+)$", guide, re.M)][1:]
    slugs = [re.sub(r"[^\w\- ]", "", chapter).replace(" ", "-") for chapter in chapters]
    assert [slug for slug in listed if slug in slugs] == slugs


def test_files_and_modules_that_are_named_are_there() -> None:
    added = {block.file for block in ALL_BLOCKS if block.file}
    for name in DOCUMENTS:
        named = re.findall(
            r"`((?:api|engines|media|config|doc|examples|tests|benchmarks|scripts)/[\w./]*)`", text(name)
        )
        assert [path for path in named if not (ROOT / path).exists() and path not in added] == [], name
        for module in re.findall(r"python -m ([\w.]+)", text(name)):
            assert (ROOT / f"{module.replace('.', '/')}.py").is_file(), f"{name}: {module}"


def anchors(document: Path) -> set[str]:
    """What GitHub calls the headings of a document."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}
