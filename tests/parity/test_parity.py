"""Every golden output within its tolerance; `--goldens DIR` checks another set in the same format."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import pytest
import torch

from tests.parity.golden import read
from tests.parity.runners import RUNNERS, Outputs

GOLDENS = Path(__file__).parent / "goldens"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    folder = Path(metafunc.config.getoption("--goldens") or GOLDENS)
    wanted = [
        (folder, case.name, output)
        for case in read(folder)
        for output, record in case.outputs.items()
        if not record.get("informative")
    ]
    if "output" in metafunc.fixturenames:
        metafunc.parametrize(
            ("folder", "name", "output"), wanted, ids=[f"{name}-{output}" for _, name, output in wanted]
        )


@lru_cache(maxsize=1)
def computed(folder: Path, name: str) -> Outputs:
    (case,) = [case for case in read(folder) if case.name == name]
    with torch.inference_mode():
        return RUNNERS[case.module](case)


def test_output_is_as_published(folder: Path, name: str, output: str) -> None:
    (case,) = [case for case in read(folder) if case.name == name]
    case.check(output, computed(folder, name)[output])


def test_the_set_is_complete() -> None:
    cases = read(GOLDENS)
    assert {case.module for case in cases} == set(RUNNERS)
    assert sum(not record.get("informative") for case in cases for record in case.outputs.values()) > 130
