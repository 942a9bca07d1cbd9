"""The ways to run the denoising and decoding that benchmarks.dice_talk_gpu times side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmarks import naive, naive_denoising
from benchmarks.real_size import TOKENS, Size
from engines.dice_talk import sampler
from engines.dice_talk.context import level_masks
from engines.dice_talk.pipeline import (
    FPS,
    MOTION_BUCKET,
    MOTION_BUCKET_EXP,
    PADDING,
    Conditions,
    Networks,
    Pipeline,
)  # fmt: skip
from engines.dice_talk.resnet import SpatioTemporalResBlock
from engines.dice_talk.transformer import SpatialBlock, TemporalBlock
from engines.dice_talk.windows import WINDOW

SIGMA = 10.0  # any level: it has no influence on the work
KERNELS = "flash", "cudnn", "mem_efficient"  # of attention


@dataclass
class Scene:
    """One job's conditions, random, for pictures of `side` pixels."""

    size: Size
    pipeline: Pipeline
    conditions: Conditions
    features: Tensor  # of one window's audio

    def clips(self, frames: Sequence[int]) -> Tensor:
        """The same features for all windows."""
        return self.features[: len(frames)]


@torch.inference_mode()
def scene(size: Size, networks: Networks, side: int) -> Scene:
    """On the networks' device; the same numbers in every precision."""
    pipeline = Pipeline(networks)
    device, dtype, config = pipeline.device, pipeline.dtype, size.unet
    generator = torch.Generator().manual_seed(2)
    latents = torch.randn(1, 4, side // 8, side // 8, generator=generator).to(device)
    token = torch.randn(1, 1, config.cross_attention_dim, generator=generator).to(device, dtype)
    mask = torch.rand(side, side, generator=generator).to(device)
    silence = torch.randn(1, TOKENS, config.cross_attention_dim, generator=generator).to(device, dtype)
    pose = networks.pose_guider(mask.to(dtype).expand(1, 3, -1, -1))[:, None]
    conditions = Conditions(
        image_latents=latents.to(dtype),
        start=latents.cpu(),
        image_layers=networks.unet.project_image(torch.cat([torch.zeros_like(token), token])),
        pose=pose,
        masks=level_masks(mask, len(config.block_out_channels), dtype),
        emotion_row=0,
        no_audio=silence,
    )
    return Scene(size, pipeline, conditions, torch.randn(WINDOW, size.audio_features, generator=generator))


def naive_window(made: Scene, side: int) -> Callable[[Tensor], Tensor]:
    """A window of a step as the published form does it, from its noisy latents (F, 4, h, w) on."""
    pipeline, width = made.pipeline, made.size.unet.cross_attention_dim

    def token(count: int, tokens: int = TOKENS) -> Tensor:
        return torch.randn(count, tokens, width, device=pipeline.device, dtype=pipeline.dtype)

    job = naive_denoising.Job(
        embedding=token(1, 1)[0],
        latents=made.conditions.image_latents,
        mask=torch.rand(side, side, device=pipeline.device),
        audio=token(WINDOW),
        no_audio=token(1),
        emotion=token(1),
        no_emotion=token(1),
    )
    laid = naive_denoising.lay_out(pipeline.networks.pose_guider, job)
    ids = torch.tensor([[FPS, MOTION_BUCKET, MOTION_BUCKET_EXP]], device=pipeline.device)

    def run(x: Tensor) -> Tensor:
        whole = torch.cat([x, torch.zeros_like(x)[:PADDING]])
        inputs = naive_denoising.window_inputs(laid, whole, list(range(WINDOW)), SIGMA, ids)
        branches = naive.predict(pipeline.networks.unet, inputs)
        return sampler.euler_step(x, sampler.guide(branches.float(), 3.0, 6.0).cpu(), SIGMA, SIGMA / 2)

    return run


def predict(made: Scene, x: Tensor, *, low_memory: bool) -> Tensor:
    """v of the three branches (3, F, 4, h, w), in fp32 on the device, for noisy latents x (F, 4, h, w)."""
    pipeline = made.pipeline
    ids = torch.tensor([FPS, MOTION_BUCKET, MOTION_BUCKET_EXP])
    time = pipeline.networks.unet.embed_time(sampler.timestep(SIGMA), ids)
    scaled = sampler.scale_input(x, SIGMA).to(pipeline.device, pipeline.dtype)
    context = pipeline.context(made.conditions, made.clips, range(WINDOW), WINDOW, low_memory)
    return pipeline.predict(scaled, time, made.conditions, context, low_memory).float()


def window(made: Scene, *, low_memory: bool) -> Callable[[Tensor], Tensor]:
    """A window of a step as the product does it."""

    def run(x: Tensor) -> Tensor:
        v = sampler.guide(predict(made, x, low_memory=low_memory), 3.0, 6.0).cpu()
        return sampler.euler_step(x, v, SIGMA, SIGMA / 2)

    return run


def compile_regions(networks: Networks, backend: str) -> None:
    """Channels last, and the residual blocks and halves of transformers compiled, in place.

    They are many and of few kinds, so that this takes much less than compiling the whole.
    """
    torch._dynamo.config.recompile_limit = 64  # one code, compiled for each kind
    for module in networks.unet.modules():
        if isinstance(module, nn.Conv2d):
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if isinstance(module, SpatioTemporalResBlock | SpatialBlock | TemporalBlock):
            module.compile(dynamic=False, backend=backend)


def use_attention(kernel: str | None) -> None:
    """Allow only this one of KERNELS, and the plain computation for what it cannot do; None: leave it to PyTorch.

    Set for good, so that calls of compiled modules find what they were compiled with.
    """
    for name in KERNELS:
        getattr(torch.backends.cuda, f"enable_{name}_sdp")(kernel in (None, name))


def best_attention(work: Callable[[], object], seconds: Callable[[Callable[[], object]], float]) -> str | None:
    """The kernel of attention with which `work` is quickest; None: what PyTorch chooses."""
    found: dict[str | None, float] = {}
    for kernel in (None, *KERNELS):
        use_attention(kernel)
        found[kernel] = seconds(work)
    use_attention(None)
    return min(found, key=lambda kernel: found[kernel])
