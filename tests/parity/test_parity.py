"""Every golden output within its tolerance; `--goldens DIR` checks another set in the same format."""

from __future__ import annotations

import json
import shutil
from functools import lru_cache
from pathlib import Path

import pytest
import torch
from safetensors.numpy import load_file, save_file

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
    if "folder" in metafunc.fixturenames:
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


# One case each of networks of several kinds, of one kind, and of none.
CHEAP = {"pipeline_3": "first", "audio_proj_tiny": "second", "pose_guider_tiny": "third", "process_bbox": "fourth"}
OTHER_NAMES = {"pipe_unet": "UNet_of_another_set", "clip48": "CLIP_small", "pipe_pose32": "PoseGuider", "vae": "VAE"}


@pytest.fixture
def renamed(tmp_path: Path) -> Path:
    """The cheap cases under other names, their networks too, in another order, without what the shapes say as well."""
    index = json.loads((GOLDENS / "index.json").read_text())
    cases = {}
    for name, other in reversed(CHEAP.items()):
        case = index["cases"][name]
        for entry in case["seed"]:
            entry["module"] = OTHER_NAMES.get(entry["module"], "some network")
        case["seed"].reverse()
        for key in ("N", "height", "width", "seq_len", "blocks", "channels", "output_dim", "context_tokens"):
            case["config"].pop(key, None)
        shutil.copy(GOLDENS / case["file"], tmp_path / f"{other}.safetensors")
        cases[other] = {**case, "file": f"{other}.safetensors"}
    (tmp_path / "index.json").write_text(json.dumps({"cases": cases}))
    return tmp_path


@pytest.mark.parametrize("name", CHEAP.values())
def test_another_set_is_run_by_what_its_index_says(renamed: Path, name: str) -> None:
    (case,) = [case for case in read(renamed) if case.name == name]
    outputs = computed(renamed, name)
    for output in case.outputs:
        case.check(output, outputs[output])


@pytest.mark.parametrize(("name", "output"), [("audio_proj_tiny", "tokens"), ("process_bbox", "crop")])
def test_a_wrong_number_is_found(tmp_path: Path, name: str, output: str) -> None:
    (case,) = [case for case in read(GOLDENS) if case.name == name]
    stored = {key: array.copy() for key, array in load_file(GOLDENS / case.record["file"]).items()}
    stored[case.outputs[output]["stored"]].flat[-1] += 1
    save_file(stored, tmp_path / case.record["file"])
    case.folder = tmp_path
    with pytest.raises(AssertionError, match="Mismatched elements: 1 "):
        case.check(output, computed(GOLDENS, name)[output])
