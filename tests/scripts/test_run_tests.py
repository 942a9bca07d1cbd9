"""run_tests.sh and .ci/run, with tools that only take notes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.scripts.checkout import Checkout

TOOL = """\
import os, pathlib, sys
print(os.path.basename(__file__).removesuffix(".py"), *sys.argv[1:], flush=True)
sys.exit(int(os.environ.get("FAILS") == pathlib.Path(__file__).stem) * 3)
"""
IMPORT_LINTER = """\
import os, sys
def lint_imports_command():
    print("lint-imports", flush=True)
    sys.exit(int(os.environ.get("FAILS") == "lint-imports"))
"""
EVERYTHING = ["ruff check .", "ruff format --check .", "mypy", "lint-imports", "pytest"]


@pytest.fixture
def tools(tmp_path: Path) -> str:
    """A PYTHONPATH with a ruff, a mypy and a pytest of our own."""
    directory = tmp_path / "tools"
    directory.mkdir()
    for name in ("ruff", "mypy", "pytest"):
        (directory / f"{name}.py").write_text(TOOL)
    (directory / "importlinter").mkdir()
    (directory / "importlinter" / "__init__.py").touch()
    (directory / "importlinter" / "cli.py").write_text(IMPORT_LINTER)
    return str(directory)


@pytest.mark.parametrize("script", ["run_tests.sh", ".ci/run"])
@pytest.mark.parametrize(
    ("fails", "expected"), [("nothing", 0), ("ruff", 1), ("mypy", 1), ("lint-imports", 1), ("pytest", 3)]
)
def test_everything_runs_and_any_failure_counts(
    checkout: Checkout, tools: str, script: str, fails: str, expected: int
) -> None:
    code, output = checkout.run_command([checkout.root / script], PYTHONPATH=tools, FAILS=fails)
    lines = output.splitlines()
    assert code == expected
    assert [line for line in lines if line in EVERYTHING] == EVERYTHING
    assert checkout.calls == []


def test_arguments_go_to_pytest_alone(checkout: Checkout, tools: str) -> None:
    words = ["tests/a file.py", "-k", "upload"]
    code, output = checkout.run_command([checkout.root / "run_tests.sh", *words], PYTHONPATH=tools, FAILS="pytest")
    assert code == 3
    assert output.splitlines()[-1] == "pytest tests/a file.py -k upload"
    assert "ruff" not in output


def test_all_requirements_are_installed_together(checkout: Checkout, tools: str) -> None:
    (checkout.venv / ".installed-requirements_dev.txt").unlink()
    assert checkout.run_command([checkout.root / "run_tests.sh"], PYTHONPATH=tools)[0] == 0
    files = " ".join(
        f"-r {checkout.root}/{name}.txt" for name in ("requirements_api", "requirements", "requirements_dev")
    )
    assert checkout.calls == [f"uv pip install --python {checkout.venv}/bin/python {files} --quiet"]


def without_chromium(directory: Path, user: int, apt: str) -> str:
    """A PATH with all programs but Chromium, for a user of this number and an apt-get that runs this."""
    directory.mkdir()
    own = {"id": f"echo {user}", "apt-get": f'echo "apt-get $*"; {apt}', "chromium": ""}
    for name, script in own.items():
        if script:
            (directory / name).write_text(f"#!/bin/sh\n{script}\n")
            (directory / name).chmod(0o755)
    for place in os.environ["PATH"].split(os.pathsep):
        for program in Path(place).glob("*"):
            if program.name not in own and not (directory / program.name).is_symlink():
                (directory / program.name).symlink_to(program)
    return str(directory)


INSTALLED = ["apt-get update -qq", "apt-get install -qq --no-install-recommends chromium"]


@pytest.mark.parametrize(
    ("user", "apt", "calls", "said"),
    [
        (0, "true", INSTALLED, ""),
        (0, "false", INSTALLED[:1], "Could not install Chromium: browser tests are skipped."),
        (1000, "true", [], "requires root and apt-get: browser tests are skipped."),
    ],
)
def test_ci_installs_chromium_where_it_can_and_runs_everything_anyway(
    checkout: Checkout, tools: str, tmp_path: Path, user: int, apt: str, calls: list[str], said: str
) -> None:
    path = without_chromium(tmp_path / "other programs", user, apt)
    code, output = checkout.run_command([checkout.root / ".ci" / "run"], PYTHONPATH=tools, PATH=path)
    lines = output.splitlines()
    assert code == 0
    assert [line for line in lines if line.startswith("apt-get")] == calls
    assert [line for line in lines if line in EVERYTHING] == EVERYTHING
    assert said in output
    assert ("skipped" in output) == bool(said)
