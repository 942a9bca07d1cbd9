"""What the service does is what its OpenAPI schema says: Schemathesis tries it, with all its checks."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.http.conftest import Client

ROOT = Path(__file__).resolve().parents[2]
CONFIGURATION = ROOT / "tests" / "http" / "schemathesis.toml"


@pytest.mark.parametrize("examples", [15, pytest.param(500, marks=pytest.mark.full)])
def test_the_service_keeps_to_its_schema(shared: Client, examples: int) -> None:
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(CONFIGURATION), "run"]
    command += [f"{shared.run.url}/openapi.json", "--max-examples", str(examples)]
    ended = subprocess.run(
        command, check=False, cwd=ROOT, env=os.environ | {"NO_COLOR": "1"}, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    operations = [path for path, methods in shared.http.get("/openapi.json").json()["paths"].items() for _ in methods]
    assert re.search(rf"Tested: +{len(operations)}\n", ended.stdout), ended.stdout
    links = re.search(r"API Links: +(\d+) covered / (\d+) selected", ended.stdout)
    assert links is not None, ended.stdout
    assert links[1] == links[2] != "0"
    assert len(shared.engine.jobs) > examples / 2  # real jobs came of it; equal ones share a video
