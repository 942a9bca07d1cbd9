"""The engine on a GPU, with the small checkpoint: every precision and mode makes a video, and the same one again."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
import torch

from engines.base import GpuOutOfMemoryError, SynthesisJob
from engines.dice_talk.engine import DiceTalkEngine
from media import image, video
from tests.dice_talk.conftest import PARAMS, PORTRAIT, SPEECH, quiet

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


def loaded(checkpoint: Path, dtype: Literal["fp16", "bf16", "fp32"], low_vram: Literal["on", "off"]) -> DiceTalkEngine:
    engine = DiceTalkEngine(checkpoint, device_id=0, dtype=dtype, low_vram=low_vram, interpolate=True)
    engine.load()
    return engine


def made(engine: DiceTalkEngine, output: Path) -> bytes:
    face = engine.inspect(image.load(PORTRAIT)).face
    engine.synthesize(SynthesisJob(PORTRAIT, SPEECH, output, 0.4, face, PARAMS), quiet, lambda: False)
    return output.read_bytes()


@pytest.mark.parametrize("low_vram", ["on", "off"])
@pytest.mark.parametrize("dtype", ["fp16", "bf16", "fp32"])
def test_every_precision_and_mode(
    checkpoint: Path, tmp_path: Path, dtype: Literal["fp16", "bf16", "fp32"], low_vram: Literal["on", "off"]
) -> None:
    engine = loaded(checkpoint, dtype, low_vram)
    first = made(engine, tmp_path / "a.mp4")
    assert video.probe(tmp_path / "a.mp4").frames == 10
    assert made(engine, tmp_path / "b.mp4") == first
    engine.close()


def test_a_full_card_fails_one_job_and_not_the_next(checkpoint: Path, tmp_path: Path) -> None:
    engine = loaded(checkpoint, "fp16", "off")
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_allocated() + (1 << 20)) / total)
    try:
        with pytest.raises(GpuOutOfMemoryError, match="low-memory mode too"):
            made(engine, tmp_path / "a.mp4")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert made(engine, tmp_path / "a.mp4")
    engine.close()
