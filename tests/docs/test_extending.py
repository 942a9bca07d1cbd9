"""The new endpoint and the new engine of the guide, put into a copy of the project as it says, work."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from engines.base import Engine
from media import audio, image, video
from tests.docs.conftest import Run, Service
from tests.docs.documents import ALL_BLOCKS, EXTENDING, Block
from tests.process import ROOT, environment, finish, serving, start
from tests.server import make_settings, running, wait_for

BLOCKS = [block for block in ALL_BLOCKS if block.chapter == EXTENDING]
LAUNCH = "import sys; sys.path.insert(0, {!r}); from api.server import main; sys.exit(main())"


def apply(diff: str, project: Path) -> None:
    """Replace what each hunk of a diff takes away, which must be there once, by what it adds."""
    for name, hunks in re.findall(r"^--- a/\S+\n\+\+\+ b/(\S+)\n((?:[@ +-].*\n|\n)+?)(?=---|\Z)", diff, re.M):
        file = project / name
        for hunk in hunks.split("@@\n")[1:]:
            lines = [line or " " for line in hunk.splitlines()]
            before, after = ("".join(f"{line[1:]}\n" for line in lines if line[0] in kept) for kept in (" -", " +"))
            assert file.read_text().count(before) == 1, f"{name}: {before}"
            file.write_text(file.read_text().replace(before, after))


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the code, extended."""
    directory = tmp_path_factory.mktemp("project")
    for package in ("api", "engines", "media"):
        shutil.copytree(ROOT / package, directory / package)
    for block in BLOCKS:
        if block.file:
            assert not (directory / block.file).exists()
            (directory / block.file).write_text(block.code.partition("\n")[2])
        elif block.kind == "diff":
            apply(block.code, directory)
    return directory


@pytest.fixture(scope="module")
def extended(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[httpx.Client, Path]]:
    """The extended service with the new engine, and its log."""
    directory = tmp_path_factory.mktemp("extended")
    with serving(("-c", LAUNCH.format(str(project))), environment(directory), "--engine", "still") as (_, client):
        wait_for(lambda: client.get("/api/health").json()["state"] != "starting")
        yield client, directory / "api.log"


@pytest.fixture(scope="module")
def engine(project: Path) -> Engine:
    """The new engine, loaded from the copy."""
    specification = importlib.util.spec_from_file_location("still", project / "engines" / "still.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    made: Engine = module.StillEngine()
    return made


def test_the_new_endpoint_answers(extended: tuple[httpx.Client, Path]) -> None:
    client, _ = extended
    assert client.get("/api/v1/limits").json() == {
        "image_bytes": 10 << 20,
        "audio_bytes": 50 << 20,
        "image_sides": [image.MIN_SIDE, image.MAX_SIDE],
        "audio_seconds": [audio.MIN_SECONDS, audio.MAX_SECONDS],
    }
    assert "/api/v1/limits" in client.get("/openapi.json").json()["paths"]


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.kind == "bash"], ids=str)
def test_the_commands_of_the_chapter_run(block: Block, extended: tuple[httpx.Client, Path], run: Run) -> None:
    client, log = extended
    assert run(block, Service(str(client.base_url).rstrip("/"), log))


def test_the_factory_makes_the_new_engine(extended: tuple[httpx.Client, Path], tmp_path: Path) -> None:
    client, _ = extended
    task = start(client, duration=2, min_resolution=256, seed=3, fps=10)
    assert any("seed" in warning for warning in task["warnings"])
    status = finish(client, task)
    assert (status["status"], status["engine"]) == ("COMPLETED", "still"), status
    path = tmp_path / "still.mp4"
    path.write_bytes(client.get(task["download_url"]).content)
    info = video.probe(path)
    assert (info.width, info.height, info.fps, info.frames) == (256, 320, 10, 20)


def test_a_test_can_hand_the_new_engine_to_the_application(engine: Engine, tmp_path: Path) -> None:
    """As the guide says of `create_app`, which `running` calls."""
    with running(make_settings(tmp_path), engine) as run:
        status = finish(run.client, start(run.client, min_resolution=256, duration=0.2))
        assert (status["status"], status["engine"]) == ("COMPLETED", "still")
        assert run.client.get("/api/health").json()["model_loaded"] is False


def test_the_new_code_is_in_the_style_of_the_project(project: Path) -> None:
    files = [str(project / block.file) for block in BLOCKS if block.file]
    assert len(files) == 2
    for check in (["check"], ["format", "--check"]):
        command = [sys.executable, "-m", "ruff", *check, "--config", str(ROOT / "pyproject.toml"), *files]
        ended = subprocess.run(command, check=False, capture_output=True, text=True)
        assert ended.returncode == 0, ended.stdout
