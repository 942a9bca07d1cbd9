"""The shell scripts are clean."""

from __future__ import annotations

import shutil
import subprocess
import sysconfig

import pytest

from tests.scripts.checkout import REPOSITORY

SCRIPTS = ("start_server.sh", "run_tests.sh", ".ci/run", "scripts/environment.sh")


def test_shellcheck_finds_nothing() -> None:
    shellcheck = shutil.which("shellcheck", path=sysconfig.get_path("scripts")) or shutil.which("shellcheck")
    if shellcheck is None:
        pytest.skip("shellcheck is not installed")
    result = subprocess.run(
        [shellcheck, "--external-sources", *SCRIPTS], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("name", ["start_server.sh", "run_tests.sh", ".ci/run", "test_api.py"])
def test_scripts_can_be_run(name: str) -> None:
    """The executable bit is there, but for the one that is started with python."""
    executable = bool((REPOSITORY / name).stat().st_mode & 0o111)
    assert executable == (name != "test_api.py")
