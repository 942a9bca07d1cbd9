"""DICE-Talk's networks in their published size, or tiny, with no weights or random ones: nothing is downloaded.

The sizes are those of tests/dice_talk/keys.json, which was made from the published configuration.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, TypeVar

import torch
from diffusers import AutoencoderKLTemporalDecoder
from torch import Tensor, nn

from engines.dice_talk.conditioning import EmotionModel, PoseGuider, TokenProjection
from engines.dice_talk.interpolation import IFNet
from engines.dice_talk.pipeline import Networks, project_emotions
from engines.dice_talk.unet import UNet, UNetConfig

META = torch.device("meta")
EMOTIONS = 9  # rows of emotion tokens: the eight emotions and the unconditional one
TOKENS = 32  # of a frame's audio, and of an emotion

Built = TypeVar("Built")  # a module; mypy does not know that diffusers' are


@dataclass(frozen=True, slots=True)
class Size:
    """What the networks are made from."""

    unet: UNetConfig
    vae_widths: tuple[int, ...]
    audio_features: int  # of a frame: 10 moments of 5 layers of whisper-tiny
    hidden: int  # of the token projections
    pose_widths: tuple[int, ...]
    rife_width: int


REAL = Size(UNetConfig(), (128, 256, 512, 512), 10 * 5 * 384, 1024, (16, 32, 96, 256), 90)
TINY = Size(
    UNetConfig(
        block_out_channels=(32, 32, 64, 64),
        num_attention_heads=(2, 2, 4, 4),
        cross_attention_dim=48,
        addition_time_embed_dim=32,
        projection_class_embeddings_input_dim=96,
    ),
    (32, 32, 32, 64),
    20,
    32,
    (16, 16, 16, 32),
    16,
)


def vae(size: Size) -> AutoencoderKLTemporalDecoder:
    """Stable Video Diffusion's autoencoder."""
    return AutoencoderKLTemporalDecoder(
        block_out_channels=size.vae_widths,
        down_block_types=("DownEncoderBlock2D",) * len(size.vae_widths),
        layers_per_block=2,
    )


def audio_projection(size: Size) -> TokenProjection:
    """Of fp32, like the features it takes."""
    return TokenProjection(size.audio_features, size.hidden, TOKENS, size.unet.cross_attention_dim)


def emotion_model(size: Size) -> EmotionModel:
    """Runs once per process; its outcome is kept, see `networks`."""
    return EmotionModel(size.hidden, TOKENS, size.unet.cross_attention_dim)


def made(build: Callable[[], Built], device: torch.device, dtype: torch.dtype) -> Built:
    """A module with random weights on `device`, or none on the meta device."""
    with META:
        module: Any = build()
    nn.Module.to(module, dtype)  # diffusers' own warns of what does not concern us
    module.to_empty(device=device).eval().requires_grad_(False)
    if device != META:
        randomise(module)
    return module


def randomise(module: nn.Module, seed: int = 0) -> None:
    """Weights under which activations neither vanish nor overflow: near 1 for norms, 1 / √inputs for layers."""
    generators: dict[torch.device, torch.Generator] = {}
    for name, parameter in module.state_dict().items():
        generator = generators.setdefault(parameter.device, torch.Generator(parameter.device).manual_seed(seed))
        # drawn in fp32: the same numbers, but for their rounding, in every precision
        parameter.copy_(torch.randn(parameter.shape, generator=generator, device=parameter.device))
        if parameter.dim() > 1:
            parameter.mul_(1 / math.sqrt(math.prod(parameter.shape[1:])))
        elif name.endswith("mix_factor"):
            parameter.mul_(0.7)
        else:
            parameter.mul_(0.05)
            if "norm" in name and name.endswith("weight"):
                parameter.add_(1)


def networks(size: Size, device: torch.device, dtype: torch.dtype) -> Networks:
    """All that a job needs on the device, in the precisions of the product; the image encoder is a stand-in."""
    unet = made(lambda: UNet(size.unet), device, dtype)
    autoencoder = made(lambda: vae(size), device, dtype)
    parts: Any = autoencoder
    parts.encoder.float()
    parts.quant_conv.float()
    tokens = torch.empty(EMOTIONS, TOKENS, size.unet.cross_attention_dim, device=device)
    if device != META:
        tokens.normal_(generator=torch.Generator(device).manual_seed(1))
    return Networks(
        unet=unet,
        pose_guider=made(lambda: PoseGuider(size.unet.block_out_channels[0], size.pose_widths), device, dtype),
        audio_projection=made(lambda: audio_projection(size), device, torch.float32),
        vae=autoencoder,
        image_encoder=ImageEncoder(torch.ones(1, size.unet.cross_attention_dim, device=device, dtype=dtype)),  # type: ignore[arg-type]
        emotion_layers=project_emotions(unet, tokens),
        emotion_rows={},
        no_emotion=EMOTIONS - 1,
    )


def rife(size: Size, device: torch.device) -> IFNet:
    """Frame interpolation, in fp32."""
    return made(lambda: IFNet(size.rife_width), device, torch.float32)


class ImageEncoder(nn.Module):
    """Stands where CLIP does, which takes 0.3 of a job's thousands of TFLOP: gives every picture the same token."""

    def __init__(self, token: Tensor) -> None:
        super().__init__()
        self.token = nn.Parameter(token, requires_grad=False)

    def forward(self, picture: Tensor) -> Any:
        return SimpleNamespace(image_embeds=self.token.expand(len(picture), -1))
