"""The ways to run the denoising and decoding that benchmarks.dice_talk_gpu times side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks import naive, naive_denoising
from benchmarks.real_size import Size
from engines.dice_talk import sampler, vae
from engines.dice_talk.context import Context
from engines.dice_talk.interpolation import IFNet, double_rate
from engines.dice_talk.pipeline import (
    FPS,
    MOTION_BUCKET,
    MOTION_BUCKET_EXP,
    PADDING,
    Conditions,
    Networks,
    Pipeline,
    Sampling,
    T,
)  # fmt: skip
from engines.dice_talk.portrait import PortraitTensors
from engines.dice_talk.resnet import SpatioTemporalResBlock
from engines.dice_talk.transformer import SpatialBlock, TemporalBlock
from engines.dice_talk.windows import WINDOW, windows

SIGMA = 10.0  # any level: it has no influence on the work
IDENTITY, EXPRESSION = 3.0, 6.0  # nor have the scales of the guidance
NAIVE = "naive"
KERNELS = {  # of attention
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "mem_efficient": SDPBackend.EFFICIENT_ATTENTION,
}


class Attending(Pipeline):
    """Calls the UNet with one of KERNELS alone, and the plain computation for what it cannot do.

    The VAE has wider heads than some of them take, and would be left with the plain one: so they hold for the UNet's
    calls only. torch.compile settles on a kernel when it traces; that is inside such a call too, the first one.
    """

    def __init__(self, networks: Networks, kernel: str | None) -> None:
        """None: leave it to PyTorch."""
        super().__init__(networks)
        self._backends = None if kernel is None else [KERNELS[kernel], SDPBackend.MATH]

    def predict(
        self, scaled: Tensor, time: Tensor, conditions: Conditions, context: Context, low_memory: bool
    ) -> Tensor:
        """See Pipeline."""
        if self._backends is None:
            return super().predict(scaled, time, conditions, context, low_memory)
        with sdpa_kernel(self._backends):
            return super().predict(scaled, time, conditions, context, low_memory)


@dataclass
class Scene:
    """One job of random contents, and what makes it. The speech features are given, of a window again and again."""

    size: Size
    pipeline: Pipeline
    portrait: PortraitTensors
    conditions: Conditions
    features: Tensor  # of one window's audio
    rife: IFNet | None = None

    def attending(self, kernel: str | None) -> Scene:
        """The same with this one of KERNELS."""
        return replace(self, pipeline=Attending(self.pipeline.networks, kernel))

    def clips(self, frames: Sequence[int]) -> Tensor:
        """What these frames hear."""
        return self.features[[frame % WINDOW for frame in frames]]

    def latents(self, frames: int) -> Tensor:
        """Noisy ones, on the host."""
        shape = frames, *self.conditions.start.shape[1:]
        return torch.randn(shape, generator=torch.Generator().manual_seed(3))

    def prepare(self) -> Conditions:
        """The portrait and the mask encoded; the image encoder is a stand-in."""
        return self.pipeline.prepare(self.portrait, 0)


@torch.inference_mode()
def scene(size: Size, networks: Networks, pixels: tuple[int, int], rife: IFNet | None = None) -> Scene:
    """For pictures of `pixels` (width, height), on the networks' device; the same numbers in every precision."""
    generator = torch.Generator().manual_seed(2)
    width, height = pixels
    portrait = PortraitTensors(
        2 * torch.rand(3, height, width, generator=generator) - 1,
        torch.rand(height, width, generator=generator),
        torch.zeros(3, 224, 224),
    )
    features = torch.randn(WINDOW, size.audio_features, generator=generator)
    pipeline = Pipeline(networks)
    return Scene(size, pipeline, portrait, pipeline.prepare(portrait, 0), features, rife)


class Mode(NamedTuple):
    """A way to make a clip."""

    name: str
    window: Callable[[], Callable[[Tensor], Tensor]]  # gives a window of a step, from its noisy latents (F, 4, h, w)
    clip: Callable[[int, int], None]  # makes one of so many frames in so many steps, from preparation to pictures
    low_memory: bool = False


def product(name: str, made: Scene, *, low_memory: bool = False) -> Mode:
    """As the product does it."""

    def run(x: Tensor) -> Tensor:
        v = sampler.guide(predict(made, x, low_memory=low_memory), IDENTITY, EXPRESSION).cpu()
        return sampler.euler_step(x, v, SIGMA, SIGMA / 2)

    def order(work: Callable[[bool], T], /) -> T:
        return work(low_memory)

    def clip(frames: int, steps: int) -> None:
        conditions, sampling = made.prepare(), Sampling(steps, IDENTITY, EXPRESSION)
        latents = made.pipeline.denoise(conditions, made.latents(frames + PADDING), made.clips, sampling, run=order)
        for _ in made.pipeline.decode(latents, frames, _finish(made, frames), order):
            pass

    return Mode(name, lambda: run, clip, low_memory)


def plain(name: str, made: Scene) -> Mode:
    """As the published form denoises; it decodes the padding, too."""

    def window() -> Callable[[Tensor], Tensor]:
        return _naive_window(made)

    def clip(frames: int, steps: int) -> None:
        networks, noise = made.pipeline.networks, made.latents(frames + PADDING)
        job = naive_job(made, made.prepare(), frames)
        latents = naive_denoising.denoise(
            networks.unet, networks.pose_guider, job, noise, steps=steps, identity=IDENTITY, expression=EXPRESSION
        )
        del job
        for _ in made.pipeline.decode(latents, len(latents), _finish(made, frames)):
            pass

    return Mode(name, window, clip)


def window_calls(frames: int, steps: int) -> int:
    """How often a clip calls the UNet."""
    return sum(len(windows(frames + PADDING, step)) for step in range(steps))


def decoded_frames(mode: Mode, frames: int) -> int:
    """How many a clip of so many decodes."""
    return frames + PADDING if mode.name == NAIVE else sum(map(len, vae.chunks(frames)))


def _finish(made: Scene, frames: int) -> Callable[[Tensor], None]:
    """Doubles the rate of the first `frames`, and brings pictures to the host."""
    before: Tensor | None = None
    left = frames

    def finish(chunk: Tensor) -> None:
        nonlocal before, left
        shown, left = chunk[:left], left - min(left, len(chunk))
        if len(shown) and made.rife is not None:
            for frame in double_rate(made.rife.middle, shown, before):
                frame.mul(255).round().to(torch.uint8).cpu()
            before = shown[-1].clone()

    return finish


def naive_job(made: Scene, conditions: Conditions, frames: int) -> naive_denoising.Job:
    """The same job for the published form."""
    networks, device, dtype = made.pipeline.networks, made.pipeline.device, made.pipeline.dtype
    token = networks.image_encoder(made.portrait.clip[None].to(device, dtype)).image_embeds
    return naive_denoising.Job(
        embedding=token.to(device, dtype),
        latents=conditions.image_latents,
        mask=made.portrait.mask.to(device),
        audio=networks.audio_projection(made.clips(range(frames)).to(device)).to(dtype),
        no_audio=conditions.no_audio,
        emotion=torch.ones_like(conditions.no_audio),
        no_emotion=torch.zeros_like(conditions.no_audio),
    )


def _naive_window(made: Scene) -> Callable[[Tensor], Tensor]:
    pipeline = made.pipeline
    laid = naive_denoising.lay_out(pipeline.networks.pose_guider, naive_job(made, made.conditions, WINDOW))
    ids = torch.tensor([[FPS, MOTION_BUCKET, MOTION_BUCKET_EXP]], device=pipeline.device)

    def run(x: Tensor) -> Tensor:
        whole = torch.cat([x, torch.zeros_like(x)[:PADDING]])
        inputs = naive_denoising.window_inputs(laid, whole, list(range(WINDOW)), SIGMA, ids)
        branches = naive.predict(pipeline.networks.unet, inputs)
        return sampler.euler_step(x, sampler.guide(branches.float(), IDENTITY, EXPRESSION).cpu(), SIGMA, SIGMA / 2)

    return run


def predict(made: Scene, x: Tensor, *, low_memory: bool) -> Tensor:
    """v of the three branches (3, F, 4, h, w), in fp32 on the device, for noisy latents x (F, 4, h, w)."""
    pipeline = made.pipeline
    ids = torch.tensor([FPS, MOTION_BUCKET, MOTION_BUCKET_EXP])
    time = pipeline.networks.unet.embed_time(sampler.timestep(SIGMA), ids)
    scaled = sampler.scale_input(x, SIGMA).to(pipeline.device, pipeline.dtype)
    context = pipeline.context(made.conditions, made.clips, range(WINDOW), WINDOW, low_memory)
    return pipeline.predict(scaled, time, made.conditions, context, low_memory).float()


@contextmanager
def compiled(networks: Networks, backend: str) -> Iterator[None]:
    """Channels last in the UNet, and its residual blocks and halves of transformers compiled; undone at the end.

    They are many and of few kinds, so that this takes much less than compiling the whole.
    """
    limit = torch._dynamo.config.recompile_limit
    torch._dynamo.config.recompile_limit = 64  # one code, compiled for each kind
    regions: list[nn.Module] = []
    _lay_out_convolutions(networks, torch.channels_last)
    try:
        for module in networks.unet.modules():
            if isinstance(module, SpatioTemporalResBlock | SpatialBlock | TemporalBlock):
                module.compile(dynamic=False, backend=backend)
                regions.append(module)
        yield
    finally:
        for module in regions:
            module._compiled_call_impl = None
        _lay_out_convolutions(networks, torch.contiguous_format)
        torch._dynamo.config.recompile_limit = limit


def _lay_out_convolutions(networks: Networks, layout: torch.memory_format) -> None:
    for module in networks.unet.modules():
        if isinstance(module, nn.Conv2d):
            module.to(memory_format=layout)  # type: ignore[call-overload]
