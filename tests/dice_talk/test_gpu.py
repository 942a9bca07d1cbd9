"""The engine on a GPU, with the small checkpoint: it makes the same video again in every precision and mode, computes
what the CPU does, and outlives a full card.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import Tensor

from benchmarks import modes
from benchmarks.measure import free
from benchmarks.precision import full_precision
from benchmarks.real_size import REAL, rife
from benchmarks.real_size import networks as networks_of
from engines.base import GpuOutOfMemoryError
from engines.dice_talk import networks
from engines.dice_talk.attention import MAX_GROUPS, KeyValue, attend
from engines.dice_talk.engine import DiceTalkEngine
from engines.dice_talk.interpolation import double_rate
from engines.dice_talk.pipeline import PADDING, Pipeline, Sampling, T
from engines.dice_talk.portrait import PortraitTensors
from engines.dice_talk.vae import CHUNK
from media import image, video
from tests.dice_talk.conftest import PARAMS, PORTRAIT, SPEECH, quiet
from tests.jobs import make_job
from tests.process import ROOT, finish, server, start
from tests.server import wait_for

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")

FRAMES, SIDE = 12, 64
# In a process of its own: nothing brings a device back once a kernel has failed on it.
BREAKING = """
import torch
from engines.base import GpuFailedError
from engines.dice_talk.device import Turn, Work

device = torch.device("cuda", 0)
rows = torch.zeros(2, device=device)
work = Work(device, Turn(), lambda: None, low_memory=False)
assert work(lambda low_memory: rows[torch.tensor([1], device=device)].cpu()) == 0
try:
    work(lambda low_memory: rows[torch.tensor([5], device=device)].cpu())
except GpuFailedError:
    print("noticed")
"""


def loaded(checkpoint: Path, dtype: Literal["fp16", "bf16", "fp32"], low_vram: Literal["on", "off"]) -> DiceTalkEngine:
    engine = DiceTalkEngine(checkpoint, device_id=0, dtype=dtype, low_vram=low_vram, interpolate=True)
    engine.load()
    return engine


def made(engine: DiceTalkEngine, output: Path) -> bytes:
    face = engine.inspect(image.load(PORTRAIT)).face
    engine.synthesize(make_job(PORTRAIT, SPEECH, output, 0.4, face, PARAMS), quiet, lambda: False)
    return output.read_bytes()


def random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(7))


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


def computed(checkpoint: Path, device: str, *, low_memory: bool) -> tuple[Tensor, Tensor]:
    """Latents, and frames at the doubled rate, on the host; of the same noise and speech on every device."""
    found = networks.load(checkpoint, torch.device(device), torch.float32, interpolate=True)
    assert found.interpolation is not None
    middle = found.interpolation.middle
    pipeline = Pipeline(found.networks)
    speech = random(FRAMES, found.networks.audio_projection.proj1.in_features)
    tensors = PortraitTensors(random(3, SIDE, SIDE).tanh(), random(SIDE, SIDE).clamp(0, 1), random(3, 224, 224))

    def run(work: Callable[[bool], T], /) -> T:
        return work(low_memory)

    def clips(frames: Sequence[int]) -> Tensor:
        return speech[list(frames)]

    conditions = pipeline.prepare(tensors, 1, run)
    noise = random(FRAMES + PADDING, 4, SIDE // 8, SIDE // 8)
    latents = pipeline.denoise(conditions, noise, clips, Sampling(steps=2), run=run)
    chunks = pipeline.decode(latents, FRAMES, lambda chunk: torch.stack([*double_rate(middle, chunk)]).cpu(), run)
    return latents, torch.cat(list(chunks))


@pytest.mark.parametrize("low_memory", [False, True])
def test_it_computes_what_the_cpu_does(checkpoint: Path, low_memory: bool) -> None:
    """In fp32 without TF32. What the CPU computes is compared with the published code, in tests/parity."""
    with torch.inference_mode(), full_precision():
        wanted = computed(checkpoint, "cpu", low_memory=low_memory)
        found = computed(checkpoint, "cuda", low_memory=low_memory)
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours.shape == theirs.shape
        assert ours.std() > 0.01
        assert float((ours - theirs).norm() / theirs.norm()) < 1e-3


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_attention_over_more_groups_than_a_kernel_takes(dtype: torch.dtype) -> None:
    """As over the frames of a picture of 1024×1536 pixels."""
    query, key, value = (random(MAX_GROUPS + 7, 2, 5, 16).roll(by, 2).to("cuda", dtype) for by in range(3))
    found = attend(query, KeyValue(key, value))
    for part in (slice(3), slice(-9, None)):
        exact = [tensor[part].double().cpu() for tensor in (query, key, value)]
        wanted = attend(exact[0], KeyValue(exact[1], exact[2]))
        torch.testing.assert_close(found[part].double().cpu(), wanted, atol=5e-3, rtol=0)


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


@pytest.mark.parametrize(("low_memory", "room"), [(False, 11), (True, 7)])
@torch.inference_mode()
def test_the_published_size_fits_cards_of_12_and_8_gb(low_memory: bool, room: int) -> None:
    """Pictures of 512×512 pixels in fp16, with `room` GiB for PyTorch; the rest of such a card is CUDA's own."""
    device = torch.device("cuda", 0)
    free()
    torch.cuda.reset_peak_memory_stats()
    torch.cuda.set_per_process_memory_fraction((room << 30) / torch.cuda.get_device_properties(0).total_memory)
    try:
        scene = modes.scene(REAL, networks_of(REAL, device, torch.float16), (512, 512), rife(REAL, device))
        modes.product("", scene, low_memory=low_memory).clip(2 * CHUNK, 1)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert torch.cuda.max_memory_reserved() <= room << 30


def test_a_gpu_that_breaks_is_noticed() -> None:
    ended = subprocess.run([sys.executable, "-c", BREAKING], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.stdout.strip() == "noticed", ended.stderr


def test_the_service_chooses_it_and_reports_the_card(checkpoint: Path, tmp_path: Path) -> None:
    with server(tmp_path, FILES__CHECKPOINT_DIR=checkpoint, SYNTHESIS__ENGINE="auto") as (_, client):
        wait_for(lambda: client.get("/api/health").json()["state"] == "ready", 120)
        health = client.get("/api/health").json()
        assert (health["engine"], health["model_loaded"], health["gpu_available"]) == ("dice_talk", True, True)
        assert health["device"]["name"] == torch.cuda.get_device_name(0)
        assert 0 < health["device"]["memory_used_bytes"] < health["device"]["memory_total_bytes"]
        task = start(client, inference_steps=8, min_resolution=256, crop=True, duration=0.5)
        last = finish(client, task)
        assert (last["status"], last["engine"]) == ("COMPLETED", "dice_talk"), last["message"]
        (tmp_path / "video.mp4").write_bytes(client.get(task["download_url"]).content)
    assert video.probe(tmp_path / "video.mp4").frames == 12
