"""What the documents say of the scripts is what the scripts say of themselves."""

from __future__ import annotations

import argparse
import re
import subprocess

import pytest

import api.server
import test_api
from engines.dice_talk import checkpoints
from tests.docs.documents import BOTH, GUIDE, REFERENCE, exit_codes, table, tables, text
from tests.process import EXAMPLES, ROOT


@pytest.fixture(scope="module")
def usage() -> dict[str, dict[str, str]]:
    """The parts of `./start_server.sh help`: name → what it says."""
    ended = subprocess.run([str(ROOT / "start_server.sh"), "help"], check=True, capture_output=True, text=True)
    found: dict[str, dict[str, str]] = {}
    part = ""
    for line in ended.stdout.splitlines():
        entry = re.fullmatch(r"  (\S+)(?: [A-Z]+)?(?: {1,}| {2,})(.+)", line)
        if re.fullmatch(r"[A-Z][a-z]+( codes)?", line):
            part = line
        elif entry and part:
            found.setdefault(part, {})[entry[1]] = entry[2].strip()
    return found


@pytest.mark.parametrize("document", BOTH)
def test_commands(document: str, usage: dict[str, dict[str, str]]) -> None:
    heading = {GUIDE: "启动脚本", REFERENCE: "Commands"}[document]
    assert set(table(document, has="demo", heading=heading).by_name()) == set(usage["Commands"])


@pytest.mark.parametrize("document", BOTH)
def test_options(document: str, usage: dict[str, dict[str, str]]) -> None:
    assert set(table(document, has="--emotions-url").by_name()) == set(usage["Options"])


@pytest.mark.parametrize("document", BOTH)
def test_variables(document: str, usage: dict[str, dict[str, str]]) -> None:
    rows = table(document, has="DICE_TALK_VENV").by_name()
    helped = {name.rstrip(",") for name in usage["Environment"]} - {"DICE_TALK_SECTION__KEY"}
    assert set(rows) - {"HF_ENDPOINT"} == helped
    assert "HF_ENDPOINT" in str(usage["Environment"])
    for name in ("DICE_TALK_START_TIMEOUT", "DICE_TALK_STOP_TIMEOUT", "DICE_TALK_VENV"):
        (default,) = re.findall(r"\(([^)]+)\)$", usage["Environment"][name])
        assert default in re.sub(r"[`（）]", "", rows[name][0]).replace("`", ""), name


def test_exit_codes_of_the_script(usage: dict[str, dict[str, str]]) -> None:
    expected = {int(code): what for code, what in usage["Exit codes"].items()}
    assert len(expected) == 9
    english = exit_codes(REFERENCE, "./start_server.sh")
    assert {code: what.replace("`", "") for code, what in english.items()} == expected
    (chinese,) = [each for each in tables(GUIDE) if each.header == ("退出码", "含义")]
    assert {int(row[0]) for row in chinese.rows} == set(expected)


@pytest.mark.parametrize("document", BOTH)
def test_exit_codes_of_the_service(document: str) -> None:
    said = re.sub(r"\s+", " ", str(api.server.__doc__)).partition("Exit codes: ")[2]
    expected = {int(code) for code in re.findall(r"(\d) \w", said)}
    assert set(exit_codes(document, "python -m api.server")) == expected


@pytest.mark.parametrize("document", BOTH)
def test_exit_codes_of_the_checkpoints(document: str) -> None:
    said = str(checkpoints.__doc__).partition("Exit codes: ")[2]
    expected = {int(code) for code in re.findall(r"(?:^|; )(\d+) \w", said.replace("\n", " ").replace(";  ", "; "))}
    assert len(expected) == 5
    assert set(exit_codes(document, "python -m engines.dice_talk.checkpoints")) == expected


@pytest.mark.parametrize("document", BOTH)
def test_arguments_of_the_test_script(document: str, monkeypatch: pytest.MonkeyPatch) -> None:
    parsers: list[argparse.ArgumentParser] = []

    def keep(parser: argparse.ArgumentParser, *_: object) -> argparse.Namespace:
        parsers.append(parser)
        raise SystemExit

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", keep)
    monkeypatch.delenv("DICE_TALK_URL", raising=False)
    with pytest.raises(SystemExit):
        test_api.main()
    actions = {(action.option_strings or [action.dest])[0]: action for action in parsers[0]._actions}
    rows = table(document, has="what").by_name()
    assert set(rows) - {"all", "health"} == set(actions) - {"-h"}
    for name, (default, _) in rows.items():
        expected = str(actions[name].default).replace(str(EXAMPLES), "examples")
        assert default == f"`{expected}`", name


@pytest.mark.parametrize("document", ["README.md", *BOTH])
def test_commands_that_are_mentioned_exist(document: str, usage: dict[str, dict[str, str]]) -> None:
    mentioned = re.findall(r"\./start_server\.sh ([a-z]+)\b", text(document))
    assert mentioned
    assert set(mentioned) <= set(usage["Commands"])
    options = re.findall(r"\./start_server\.sh (?:[a-z]+ )?(--[a-z-]+)", text(document))
    assert set(options) <= set(usage["Options"])
