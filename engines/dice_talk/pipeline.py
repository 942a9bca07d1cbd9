"""The diffusion pipeline: from a prepared portrait, speech and emotion to frames (specification, section 8).

The latents stay in host memory between the steps, in fp32; the device sees one window at a time.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import torch
from diffusers import AutoencoderKLTemporalDecoder
from torch import Tensor
from torch.func import functional_call

from engines.dice_talk import sampler, vae
from engines.dice_talk.attention import KeyValue
from engines.dice_talk.conditioning import PoseGuider, TokenProjection
from engines.dice_talk.context import Context, Layer, Modality, level_masks
from engines.dice_talk.portrait import PortraitTensors
from engines.dice_talk.unet import AUDIO, EMOTION, UNet
from engines.dice_talk.windows import WINDOW, windows

if TYPE_CHECKING:
    from transformers import CLIPVisionModelWithProjection

PADDING = WINDOW  # frames on the circle beside the real ones
FPS = 12.5
MOTION_BUCKET, MOTION_BUCKET_EXP = 8.0, 16.0
_LOW_MEMORY_ROWS = 1 << 15  # of a feed-forward at a time

T = TypeVar("T")


class Run(Protocol):
    """Decides when and how a piece of work for the device is done: locking, cancelling, trying again."""

    def __call__(self, work: Callable[[bool], T], /) -> T:
        """`work` is told whether to do with little memory."""


def run_plainly(work: Callable[[bool], T]) -> T:
    """At once, with all the memory it wants."""
    return work(False)


@dataclass(frozen=True, slots=True)
class Networks:
    """Everything that runs on the device, and what was computed with it once and for all. All but the image encoder
    stay there.
    """

    unet: UNet
    pose_guider: PoseGuider
    audio_projection: TokenProjection  # fp32
    vae: AutoencoderKLTemporalDecoder  # its encoder in fp32
    image_encoder: CLIPVisionModelWithProjection  # on the CPU
    emotion_layers: Sequence[Layer[KeyValue]]  # the keys and values of all emotions' tokens
    emotion_rows: Mapping[str, int]  # which row is which emotion
    no_emotion: int  # the row of the unconditional branches


@dataclass(frozen=True, slots=True)
class Conditions:
    """What a job's denoising depends on, apart from its frames: computed once."""

    image_latents: Tensor  # (1, 4, h, w), concatenated to the noisy ones, not scaled
    start: Tensor  # (1, 4, h, w) fp32 on the host: the portrait, at which the noise starts, scaled
    image_layers: Sequence[Layer[Tensor]]  # rows: no image, the portrait
    pose: Tensor  # (1, 1, C, h, w)
    masks: Mapping[tuple[int, int], Tensor]
    emotion_row: int
    no_audio: Tensor  # (1, tokens, D)


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to denoise."""

    steps: int = 25
    identity: float = 3.0  # `ref_scale`: from the unconditional branch to the reference
    expression: float = 6.0  # `emo_scale`: from the reference to audio and emotion
    motion: float = 1.0  # `dynamic_scale`: multiplies both motion buckets


class Pipeline:
    """Drives the networks. One caller at a time, save for what `run` orders itself."""

    def __init__(self, networks: Networks) -> None:
        self.networks = networks
        weight = networks.unet.conv_in.weight
        self.device, self.dtype = weight.device, weight.dtype

    def generator(self, seed: int) -> torch.Generator:
        """Random numbers of one job, on the device: there the published code draws its own."""
        return torch.Generator(self.device).manual_seed(seed)

    def noise(self, generator: torch.Generator, frames: int, height: int, width: int) -> Tensor:
        """Unit noise for `frames` and the padding, (frames + PADDING, 4, h, w) in fp32 on the host.

        The draws come in the published order and precision, so that a seed means the same: first the noise for the
        portrait, whose strength is zero.
        """
        torch.randn(1, 3, height, width, generator=generator, device=self.device)
        shape = (1, frames + PADDING, 4, height // 8, width // 8)
        return torch.randn(shape, generator=generator, device=self.device, dtype=self.dtype)[0].cpu().float()

    def prepare(self, portrait: PortraitTensors, emotion_row: int, run: Run = run_plainly) -> Conditions:
        """Encode the portrait and the mask, once for the whole video."""
        return run(lambda _: self._conditions(portrait, emotion_row))

    def _conditions(self, portrait: PortraitTensors, emotion_row: int) -> Conditions:
        networks, device, dtype = self.networks, self.device, self.dtype
        token = self._image_token(portrait.clip)
        latents = vae.encode(networks.vae, portrait.reference[None].to(device))
        mask = portrait.mask.to(device)
        pose = networks.pose_guider(mask.to(dtype).expand(1, 3, -1, -1))
        silence = torch.zeros(1, networks.audio_projection.proj1.in_features, device=device)
        return Conditions(
            image_latents=latents.to(dtype),
            start=vae.SCALING * latents.cpu(),
            image_layers=networks.unet.project_image(torch.stack([torch.zeros_like(token), token])),
            pose=pose[:, None],
            masks=level_masks(mask, len(networks.unet.config.block_out_channels), dtype),
            emotion_row=emotion_row,
            no_audio=networks.audio_projection(silence).to(dtype),
        )

    def _image_token(self, picture: Tensor) -> Tensor:
        """(3, 224, 224) → (1, D). The encoder is a visitor on the device: large, and needed once in a job."""
        encoder: Any = self.networks.image_encoder
        visiting = {
            name: tensor.to(self.device, self.dtype if tensor.is_floating_point() else tensor.dtype)
            for name, tensor in (*encoder.named_parameters(), *encoder.named_buffers())
        }
        return functional_call(encoder, visiting, picture[None].to(self.device, self.dtype)).image_embeds

    def denoise(
        self,
        conditions: Conditions,
        noise: Tensor,
        clips: Callable[[Sequence[int]], Tensor],
        sampling: Sampling,
        *,
        run: Run = run_plainly,
        on_window: Callable[[int, int], None] | None = None,
    ) -> Tensor:
        """From unit noise (N + PADDING, 4, h, w) to scaled latents of the same shape, in fp32 on the host.

        `clips` gives what real frames hear, by their numbers. `on_window(done, total)` follows each window of each
        step.
        """
        unet = self.networks.unet
        levels = sampler.sigmas(sampling.steps)
        ids = torch.tensor([FPS, MOTION_BUCKET * sampling.motion, MOTION_BUCKET_EXP * sampling.motion])
        total = sampling.steps * len(windows(len(noise), 0))
        done = 0
        x = torch.add(conditions.start, noise, alpha=levels[0])
        del noise
        for step, (sigma, next_sigma) in enumerate(itertools.pairwise(levels)):
            after = torch.zeros_like(x)
            visits = torch.zeros(len(x), 1, 1, 1)
            for window in windows(len(x), step):
                before = x[window]  # as it was at the start of the step

                def piece(low_memory: bool) -> Tensor:  # it runs at once: what it takes from the loop has not moved on
                    time = unet.embed_time(sampler.timestep(sigma), ids)  # noqa: B023
                    scaled = sampler.scale_input(before, sigma).to(self.device, self.dtype)  # noqa: B023
                    context = self.context(conditions, clips, window, len(x) - PADDING, low_memory)  # noqa: B023
                    branches = self.predict(scaled, time, conditions, context, low_memory)
                    return sampler.guide(branches.float(), sampling.identity, sampling.expression).cpu()

                after[window] += sampler.euler_step(before, run(piece), sigma, next_sigma)
                visits[window] += 1
                done += 1
                if on_window is not None:
                    on_window(done, total)
            x = after.div_(visits)
        return x

    def decode(
        self, latents: Tensor, frames: int, finish: Callable[[Tensor], T], run: Run = run_plainly
    ) -> Iterator[T]:
        """Decode the first `frames` of the latents chunk by chunk.

        `finish` makes of a chunk, (n, 3, H, W) in 0..1 and fp32 on the device, what is wanted of it; it is part of the
        same piece of work, and is called again when that has to be done again.
        """
        for chunk in vae.chunks(frames):

            def decode_chunk(low_memory: bool) -> T:
                scaled = latents[chunk.start : chunk.stop].to(self.device)  # noqa: B023  it runs at once
                decoded = vae.decode(self.networks.vae, scaled, low_memory=low_memory)
                shown = decoded[: frames - chunk.start]  # noqa: B023
                return finish((shown * 0.5 + 0.5).clamp(0, 1))

            yield run(decode_chunk)

    def context(
        self,
        conditions: Conditions,
        clips: Callable[[Sequence[int]], Tensor],
        window: Sequence[int],
        real_frames: int,
        low_memory: bool,
    ) -> Context:
        """The three branches' context in a window: unconditional, reference only, full.

        Padding frames hear nothing and feel nothing, in the full branch too.
        """
        networks = self.networks
        real = [frame for frame in window if frame < real_frames]
        silent = len(real)  # the row of the unconditional audio
        tokens = conditions.no_audio
        if real:
            heard = networks.audio_projection(clips(real).to(self.device))
            tokens = torch.cat([heard.to(self.dtype), conditions.no_audio])
        numbers = iter(range(len(real)))
        audio = [next(numbers) if frame < real_frames else silent for frame in window]
        emotion = [conditions.emotion_row if frame < real_frames else networks.no_emotion for frame in window]
        absent = [0] * len(window)
        present = [1] * len(window)

        def index(*branches: list[int]) -> Tensor:
            return torch.tensor(branches, device=self.device)

        return Context(
            image=Modality.routed(conditions.image_layers, index(absent, present, present), 2),
            audio=Modality.routed(
                networks.unet.project_adapter(AUDIO, tokens),
                index([silent] * len(window), [silent] * len(window), audio),
                len(tokens),
            ),
            emotion=Modality.routed(
                networks.emotion_layers,
                index([networks.no_emotion] * len(window), [networks.no_emotion] * len(window), emotion),
                len(networks.emotion_layers[0].spatial.key),
            ),
            masks=conditions.masks,
            feed_forward_rows=_LOW_MEMORY_ROWS if low_memory else None,
        )

    def predict(
        self, scaled: Tensor, time: Tensor, conditions: Conditions, context: Context, low_memory: bool
    ) -> Tensor:
        """v of the three branches (3, F, 4, h, w); in little memory one by one."""
        unet = self.networks.unet
        noisy = scaled.expand(3, *scaled.shape)
        portrait = conditions.image_latents.expand_as(scaled)
        beside = torch.stack([torch.zeros_like(portrait), portrait, portrait])
        sample = torch.cat([noisy, beside], dim=2)
        if not low_memory:
            return unet(sample, time, conditions.pose, context)
        return torch.cat(
            [unet(sample[branch : branch + 1], time, conditions.pose, context.branch(branch)) for branch in range(3)]
        )


def project_emotions(unet: UNet, tokens: Tensor) -> list[Layer[KeyValue]]:
    """The keys and values of all emotions' tokens (rows, tokens, D), in the UNet's precision."""
    weight = unet.conv_in.weight
    return unet.project_adapter(EMOTION, tokens.to(weight.device, weight.dtype))
