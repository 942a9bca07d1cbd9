"""The UNet against the plain form of it, and what it shares against the same spelt out."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks import naive, naive_denoising
from benchmarks.precision import full_precision
from benchmarks.real_size import TINY
from engines.dice_talk import pipeline as pipeline_module
from engines.dice_talk import sampler
from engines.dice_talk.context import Modality
from engines.dice_talk.pipeline import FPS, MOTION_BUCKET, MOTION_BUCKET_EXP, Sampling
from tests.dice_talk.plain import HEIGHT, WIDTH, Plain, plain, random

FRAMES = 30
TOTAL = FRAMES + 25
SIGMA = 1.7
IDS = torch.tensor([FPS, MOTION_BUCKET, MOTION_BUCKET_EXP])
WINDOWS = {
    "speech": list(range(3, 28)),
    "speech and padding": list(range(18, 43)),
    "padding": list(range(30, 55)),
    "around the circle": [index % TOTAL for index in range(45, 70)],
}


def latents() -> Tensor:
    return random(TOTAL, 4, HEIGHT // 8, WIDTH // 8, seed=5)


def ours(clip: Plain, window: list[int], *, low_memory: bool = False) -> Tensor:
    """v of the three branches."""
    made = clip.pipeline
    scaled = sampler.scale_input(latents()[window], SIGMA).to(made.device, made.dtype)
    time = made.networks.unet.embed_time(sampler.timestep(SIGMA), IDS)
    context = made.context(clip.conditions, clip.clips, window, FRAMES, low_memory)
    return made.predict(scaled, time, clip.conditions, context, low_memory)


def theirs(clip: Plain, window: list[int]) -> Tensor:
    laid = naive_denoising.lay_out(clip.pipeline.networks.pose_guider, clip.job)
    inputs = naive_denoising.window_inputs(laid, latents(), window, SIGMA, IDS[None].to(clip.pipeline.device))
    return naive.predict(clip.pipeline.networks.unet, inputs)


def difference(found: Tensor, wanted: Tensor) -> float:
    """Of the norms, relative."""
    assert found.shape == wanted.shape
    assert wanted.norm() > 0
    return float((found - wanted).norm() / wanted.norm())


@torch.inference_mode()
def test_a_call_equals_the_plain_form(monkeypatch: pytest.MonkeyPatch) -> None:
    """In fp64, where differences of rounding are far below any other."""
    monkeypatch.setattr(pipeline_module, "_LOW_MEMORY_ROWS", 1000)  # the last piece of a feed-forward is a part
    clip, window = plain(FRAMES, torch.float64), WINDOWS["speech and padding"]
    expected = theirs(clip, window)
    assert difference(ours(clip, window), expected) < 1e-11
    assert difference(ours(clip, window, low_memory=True), expected) < 1e-11


@pytest.mark.parametrize("window", WINDOWS.values(), ids=WINDOWS)
@torch.inference_mode()
def test_a_call_equals_the_plain_form_in_single_precision(window: list[int]) -> None:
    clip = plain(FRAMES, torch.float32)
    assert difference(ours(clip, window), theirs(clip, window)) < 2e-5


@torch.inference_mode()
def test_the_branches_and_the_kinds_of_frames_differ() -> None:
    """So that the comparisons above could fail."""
    clip = plain(FRAMES, torch.float32)
    unconditional, reference, full = ours(clip, WINDOWS["speech"])
    assert difference(reference, unconditional) > 0.01
    assert difference(full, reference) > 0.01
    _, reference, full = ours(clip, WINDOWS["padding"])
    assert difference(full, reference) < 1e-5  # padding hears and feels nothing
    shifted = [index + 1 for index in WINDOWS["speech"]]
    assert difference(ours(clip, shifted), ours(clip, WINDOWS["speech"])) > 0.01


@pytest.mark.parametrize("frames", [12, 25])  # windows that overlap; windows that just fit
@torch.inference_mode()
def test_denoising_equals_the_plain_form(frames: int) -> None:
    clip = plain(frames, torch.float32)
    noise = random(frames + 25, 4, HEIGHT // 8, WIDTH // 8, seed=6)
    guider, unet = clip.pipeline.networks.pose_guider, clip.pipeline.networks.unet
    expected = naive_denoising.denoise(unet, guider, clip.job, noise, steps=2, identity=3.0, expression=6.0)
    found = clip.pipeline.denoise(clip.conditions, noise, clip.clips, Sampling(2, 3.0, 6.0))
    assert difference(found, expected) < 1e-4


@torch.inference_mode()
def test_what_is_shared_equals_its_copies() -> None:
    """A pose map of size 1 and few rows of tokens, against a map and a row for every branch and frame."""
    clip, window = plain(FRAMES, torch.float32), WINDOWS["speech and padding"]
    made = clip.pipeline
    context = made.context(clip.conditions, clip.clips, window, FRAMES, low_memory=False)

    def repeated(modality: Any) -> Any:
        index = modality.index.flatten()
        layers = [type(layer)(*(_rows(of, index) for of in layer)) for layer in modality.layers]
        own = torch.arange(len(index)).view_as(modality.index)
        return Modality.routed(layers, own, len(index))

    spelt = replace(
        context,
        image=repeated(context.image),
        audio=repeated(context.audio),
        emotion=repeated(context.emotion),
    )
    pose = clip.conditions.pose.expand(3, len(window), -1, -1, -1)
    copies = replace(clip.conditions, pose=pose)
    time = made.networks.unet.embed_time(sampler.timestep(SIGMA), IDS)
    scaled = sampler.scale_input(latents()[window], SIGMA).to(made.dtype)
    shared = made.predict(scaled, time, clip.conditions, context, low_memory=False)
    assert difference(made.predict(scaled, time, copies, spelt, low_memory=False), shared) < 2e-5


def _rows(rows: Any, index: Tensor) -> Any:
    return rows[index] if isinstance(rows, Tensor) else type(rows)(*(part[index] for part in rows))


def roundings(network: nn.Module) -> int:
    """About how many there are one after another: each layer's, and that of the activation or sum after it."""
    return 2 * sum(isinstance(module, nn.Linear | nn.Conv2d | nn.Conv3d | nn.GroupNorm | nn.LayerNorm)
                   for module in network.modules())  # fmt: skip


def half_precision_error(dtype: torch.dtype, device: torch.device) -> tuple[float, float]:
    """Relative error of a call against fp32 (not TF32), and its bound.

    A rounding errs by at most the unit roundoff u, which is half of eps, of each number. Independent errors of a
    chain of n roundings add up to √n · u of the norm at most, where layers and sums neither amplify nor damp them,
    as random weights of unit gain do not. Processors round inside a layer too, in attention and in gates, each kind in
    its own way: twice the bound is allowed.
    """
    window = WINDOWS["speech and padding"]
    with full_precision():
        wanted = ours(plain(FRAMES, torch.float32, device), window)
    clip = plain(FRAMES, dtype, device)
    found = ours(clip, window).float()
    bound = torch.finfo(dtype).eps / 2 * math.sqrt(roundings(clip.pipeline.networks.unet))
    return difference(found, wanted), bound


@torch.inference_mode()
def test_bfloat16_errs_by_its_roundings() -> None:
    """See `half_precision_error`."""
    error, bound = half_precision_error(torch.bfloat16, torch.device("cpu"))
    assert bound / 100 < error < 2 * bound


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU: half precision as it runs there is not checked")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@torch.inference_mode()
def test_half_precision_on_the_gpu_errs_by_its_roundings(dtype: torch.dtype) -> None:
    """See `half_precision_error`."""
    error, bound = half_precision_error(dtype, torch.device("cuda"))
    assert bound / 100 < error < 2 * bound


def test_the_tiny_network_is_as_deep_as_the_published_one() -> None:
    assert TINY.unet.layers_per_block == 2
    assert len(TINY.unet.block_out_channels) == 4
