"""The log: what goes where, in which form, and how large it may grow."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import pytest

from api.logs import configure_logging
from tests.server import make_settings

pytestmark = pytest.mark.usefixtures("loggers_as_before")


def written(directory: Path, **sections: Any) -> str:
    configure_logging(make_settings(directory, **sections))
    logging.getLogger("api.x").debug("a detail")
    logging.getLogger("api.x").info("Task 1 started")
    logging.getLogger("engines.x").error("Task 1 failed")
    logging.getLogger("uvicorn.error").info("the server says")
    logging.getLogger("uvicorn.error").warning("the server warns")
    logging.getLogger("some.library").info("a library says")
    logging.getLogger("some.library").warning("a library warns")
    return (directory / "api.log").read_text()


def test_lines_can_be_found_with_grep(tmp_path: Path) -> None:
    lines = written(tmp_path).splitlines()
    assert len(lines) == 4
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} - api\.x - INFO - Task 1 started", lines[0])
    assert "engines.x - ERROR - Task 1 failed" in lines[1]
    assert "the server warns" in lines[2]
    assert "a library warns" in lines[3]


@pytest.mark.parametrize(("level", "expected"), [("DEBUG", 5), ("INFO", 4), ("WARNING", 3), ("ERROR", 2)])
def test_the_level(tmp_path: Path, level: str, expected: int) -> None:
    assert len(written(tmp_path, logging={"level": level}).splitlines()) == expected


@pytest.mark.parametrize(("level", "expected"), [("INFO", 2), ("warning", 1), ("ERROR", 0)])
def test_the_level_of_the_http_server(tmp_path: Path, level: str, expected: int) -> None:
    assert written(tmp_path, server={"log_level": level}).count("the server") == expected


@pytest.mark.parametrize(
    ("form", "expected"),
    [("%(levelname)s|%(message)s", "INFO|Task 1 started\n"), ("%(name)s: %(message)s", "api.x: Task 1 started\n")],
)
def test_the_format(tmp_path: Path, form: str, expected: str) -> None:
    assert written(tmp_path, logging={"format": form}).startswith(expected)


@pytest.mark.parametrize("name", ["own.log", "logs/of/the.service"])
def test_the_file(tmp_path: Path, name: str) -> None:
    configure_logging(make_settings(tmp_path, logging={"file": tmp_path / name}))
    logging.getLogger("api.x").info("Task 1 started")
    assert "Task 1 started" in (tmp_path / name).read_text()
    assert not (tmp_path / "api.log").exists()


def test_only_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(make_settings(tmp_path, logging={"file": None}))
    logging.getLogger("api.x").info("Task 1 started")
    assert "Task 1 started" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("max_mb", "most"), [(0.001, 1049), (0.002, 2097), (1e-9, 80)])
@pytest.mark.parametrize("backups", [1, 2])
def test_the_file_is_rotated(tmp_path: Path, max_mb: float, most: int, backups: int) -> None:
    configure_logging(make_settings(tmp_path, logging={"max_mb": max_mb, "backups": backups}))
    for number in range(200):
        logging.getLogger("api.x").info("line %d", number)
    kept = ["api.log", *(f"api.log.{number + 1}" for number in range(backups))]
    assert sorted(path.name for path in tmp_path.iterdir()) == kept
    assert most / 2 < (tmp_path / "api.log.1").stat().st_size <= most
