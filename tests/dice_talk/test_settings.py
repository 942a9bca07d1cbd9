"""What the settings of the section `gpu` do to the engine that the service chooses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from api.engine import choose_engine
from engines.base import FaceBox
from engines.dice_talk.cost import CostModel
from engines.dice_talk.engine import DiceTalkEngine
from tests.dice_talk.conftest import PARAMS, PORTRAIT, SPEECH, quiet
from tests.jobs import make_job
from tests.server import make_settings


@pytest.mark.parametrize(
    ("gpu", "dtype", "interpolates", "branches_at_once"),
    [
        ({"dtype": "fp32", "low_vram": "on", "enable_interpolate_frame": True}, torch.float32, True, 1),
        ({"dtype": "bf16", "low_vram": "off", "enable_interpolate_frame": False}, torch.bfloat16, False, 3),
    ],
    ids=["sparing", "coarse"],
)
def test_the_engine_works_as_they_say(
    engine: DiceTalkEngine,
    face: FaceBox,
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    gpu: dict[str, Any],
    dtype: torch.dtype,
    interpolates: bool,
    branches_at_once: int,
) -> None:
    cost = engine._ready()[1]
    monkeypatch.setattr(CostModel, "of", lambda *_: cost)  # counting it anew takes seconds
    settings = make_settings(
        tmp_path,
        synthesis={"engine": "dice_talk"},
        gpu={"device_id": -1, **gpu},
        files={"checkpoint_dir": checkpoint},
    )
    chosen = choose_engine(settings).engine
    assert isinstance(chosen, DiceTalkEngine)
    chosen.load()
    loaded, _ = chosen._ready()
    unet = loaded.networks.unet
    assert {parameter.dtype for parameter in unet.parameters()} == {dtype}
    assert {parameter.device.type for parameter in unet.parameters()} == {"cpu"}
    assert (loaded.interpolation is not None) == interpolates
    branches = branches_of(unet, monkeypatch)
    chosen.synthesize(make_job(PORTRAIT, SPEECH, tmp_path / "a.mp4", 0.2, face, PARAMS), quiet, lambda: False)
    assert set(branches) == {branches_at_once}


@pytest.mark.parametrize("fits", [True, False])
def test_low_vram_auto_goes_by_the_memory_that_there_is(
    engine: DiceTalkEngine, face: FaceBox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fits: bool
) -> None:
    loaded, cost = engine._ready()
    monkeypatch.setattr(engine, "_memory", cost.peak_bytes((64, 64), low_memory=False) - (not fits))
    branches = branches_of(loaded.networks.unet, monkeypatch)
    engine.synthesize(make_job(PORTRAIT, SPEECH, tmp_path / "a.mp4", 0.2, face, PARAMS), quiet, lambda: False)
    assert set(branches) == {3 if fits else 1}


def branches_of(unet: Any, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many branches of the guidance each call of the network has; in little memory they are called one by one."""
    branches: list[int] = []
    forward: Callable[..., torch.Tensor] = unet.forward

    def count(sample: torch.Tensor, *rest: Any) -> torch.Tensor:
        branches.append(len(sample))
        return forward(sample, *rest)

    monkeypatch.setattr(unet, "forward", count)
    return branches
