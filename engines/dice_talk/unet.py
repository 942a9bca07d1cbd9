"""The UNet: Stable Video Diffusion XT's, with DICE-Talk's changes (specification, section 6).

What is shared is computed once: B guidance branches and F frames stand side by side in the batch, but the time
embedding is one row, the spatial condition may have size 1 on either axis, and the context has distinct rows only.
Parameter names are those of the checkpoints.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import torch
import torch.nn.functional as F  # noqa: N812  the usual name
from torch import Tensor, nn

from engines.dice_talk.attention import KeyValue
from engines.dice_talk.context import Context, Layer
from engines.dice_talk.resnet import Downsample, SpatioTemporalResBlock, Upsample
from engines.dice_talk.transformer import EmbeddingMlp, SpatioTemporalTransformer, sinusoidal

AUDIO, EMOTION = 0, 1  # the adapters
_ATTENTION_EPS, _PLAIN_EPS = 1e-6, 1e-5  # of the group norms, see section 6.3


@dataclass(frozen=True, slots=True)
class UNetConfig:
    """Sizes; the defaults are the published ones."""

    block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280)
    num_attention_heads: tuple[int, ...] = (5, 10, 20, 20)
    layers_per_block: int = 2
    cross_attention_dim: int = 1024
    addition_time_embed_dim: int = 256
    projection_class_embeddings_input_dim: int = 768
    in_channels: int = 8
    out_channels: int = 4
    adapter_scales: tuple[float, float] = (1.0, 1.0)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """From a diffusers config.json; keys that say nothing about sizes are passed over."""
        known: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in values.items()
            if name in cls.__slots__
        }
        return cls(**known)


class _Block(nn.Module):
    """Residual blocks, each followed by a transformer where the block has them, then a change of resolution."""

    def __init__(
        self,
        config: UNetConfig,
        channels: list[int],
        out_channels: int,
        heads: int | None,
        eps: float,
        *,
        transformers: int | None = None,
    ) -> None:
        """`channels`: what each residual block takes in. With `heads`, `transformers` of them have one (None: all)."""
        super().__init__()
        time_channels = 4 * config.block_out_channels[0]
        self.resnets = nn.ModuleList(
            SpatioTemporalResBlock(width, out_channels, time_channels, eps) for width in channels
        )
        self.attentions: nn.ModuleList | None = None
        if heads is not None:
            self.attentions = nn.ModuleList(
                SpatioTemporalTransformer(out_channels, config.cross_attention_dim, heads, config.adapter_scales)
                for _ in channels[:transformers]
            )

    def layer(self, number: int, x: Tensor, time: Tensor, context: Context) -> Tensor:
        x = self.resnets[number](x, time, context.frames)
        return x if self.attentions is None else self.attentions[number](x, context)


class _DownBlock(_Block):
    downsamplers: nn.ModuleList  # one, or none in the last block

    def forward(self, x: Tensor, skips: list[Tensor], time: Tensor, context: Context) -> Tensor:
        for number in range(len(self.resnets)):
            x = self.layer(number, x, time, context)
            skips.append(x)
        for downsample in self.downsamplers:
            x = downsample(x)
            skips.append(x)
        return x


class _MidBlock(_Block):
    """Its second residual block has no transformer."""

    def forward(self, x: Tensor, time: Tensor, context: Context) -> Tensor:
        x = self.layer(0, x, time, context)
        return self.resnets[1](x, time, context.frames)


class _UpBlock(_Block):
    upsamplers: nn.ModuleList  # one, or none in the last block

    def forward(self, x: Tensor, skips: list[Tensor], time: Tensor, context: Context) -> Tensor:
        for number in range(len(self.resnets)):
            x = self.layer(number, torch.cat([x, skips.pop()], dim=1), time, context)
        for upsample in self.upsamplers:
            x = upsample(x)
        return x


class UNet(nn.Module):
    """Predicts v for all frames of a window in all guidance branches."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        widths = config.block_out_channels
        last = len(widths) - 1
        first_width, time_width = widths[0], 4 * widths[0]
        self.conv_in = nn.Conv2d(config.in_channels, first_width, 3, padding=1)
        self.time_embedding = EmbeddingMlp(first_width, time_width, time_width)
        self.add_embedding = EmbeddingMlp(config.projection_class_embeddings_input_dim, time_width, time_width)

        skips = [first_width]  # the channels of each skip connection
        self.down_blocks = nn.ModuleList()
        for level, width in enumerate(widths):
            channels = [skips[-1]] + [width] * (config.layers_per_block - 1)
            heads = config.num_attention_heads[level] if level < last else None
            block = _DownBlock(config, channels, width, heads, _PLAIN_EPS if heads is None else _ATTENTION_EPS)
            skips += [width] * config.layers_per_block
            block.downsamplers = nn.ModuleList([Downsample(width)] if level < last else [])
            skips += [width] * len(block.downsamplers)
            self.down_blocks.append(block)

        self.mid_block = _MidBlock(
            config, [widths[-1]] * 2, widths[-1], config.num_attention_heads[-1], _PLAIN_EPS, transformers=1
        )

        self.up_blocks = nn.ModuleList()
        below = widths[-1]  # the channels that come from the level below
        for level in range(last, -1, -1):
            width = widths[level]
            inputs = [below] + [width] * config.layers_per_block
            channels = [incoming + skips.pop() for incoming in inputs]
            heads = config.num_attention_heads[level] if level < last else None
            up_block = _UpBlock(config, channels, width, heads, _ATTENTION_EPS)
            up_block.upsamplers = nn.ModuleList([Upsample(width)] if level > 0 else [])
            self.up_blocks.append(up_block)
            below = width

        self.conv_norm_out = nn.GroupNorm(32, first_width, eps=_PLAIN_EPS)
        self.conv_out = nn.Conv2d(first_width, config.out_channels, 3, padding=1)
        for number, transformer in enumerate(self.transformers):
            transformer.number = number

    @property
    def transformers(self) -> list[SpatioTemporalTransformer]:
        """All of them, in the order of their numbers."""
        return [module for module in self.modules() if isinstance(module, SpatioTemporalTransformer)]

    def project_image(self, tokens: Tensor) -> list[Layer[Tensor]]:
        """Values of the image tokens (rows, 1, D) in every transformer."""
        return [
            Layer(*(attention.image_value(tokens) for attention in transformer.cross_attentions))
            for transformer in self.transformers
        ]

    def project_adapter(self, adapter: int, tokens: Tensor) -> list[Layer[KeyValue]]:
        """Keys and values of AUDIO or EMOTION tokens (rows, tokens, D) in every transformer."""
        return [
            Layer(*(attention.adapter_rows(adapter, tokens) for attention in transformer.cross_attentions))
            for transformer in self.transformers
        ]

    def embed_time(self, timestep: float, time_ids: Tensor) -> Tensor:
        """The time embedding (1, channels) of a continuous timestep and the ids (fps, motion bucket, its exp)."""
        device = self.conv_in.weight.device
        step = torch.tensor([timestep], dtype=torch.float32, device=device)
        ids = sinusoidal(time_ids.to(device), self.config.addition_time_embed_dim).flatten()[None]
        time: Tensor = self.time_embedding(sinusoidal(step, self.config.block_out_channels[0]))
        return time + self.add_embedding(ids)

    def forward(self, sample: Tensor, time: Tensor, condition: Tensor, context: Context) -> Tensor:
        """v (B, F, 4, h, w) for the scaled input `sample` (B, F, 8, h, w).

        `time` is from `embed_time`. `condition` is the pose guider's map (B or 1, F or 1, C, h, w).
        """
        x = self.conv_in(sample.flatten(0, 1))
        x = (x.unflatten(0, sample.shape[:2]) + condition).flatten(0, 1)
        skips = [x]
        for block in self.down_blocks:
            x = block(x, skips, time, context)
        x = self.mid_block(x, time, context)
        for block in self.up_blocks:
            x = block(x, skips, time, context)
        x = self.conv_out(F.silu(self.conv_norm_out(x)))
        return x.unflatten(0, sample.shape[:2])
