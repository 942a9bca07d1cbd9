"""The spatio-temporal transformer of the UNet (specification, section 6.3)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from engines.dice_talk.attention import Attended, CrossAttention, FeedForward, SelfAttention
from engines.dice_talk.context import Context


def sinusoidal(positions: Tensor, channels: int) -> Tensor:
    """Embedding of real numbers (N,) as (N, channels) in fp32: the cosines first."""
    half = channels // 2
    exponents = torch.arange(half, dtype=torch.float32, device=positions.device) / half
    angles = positions.float()[:, None] * torch.exp(-math.log(10000.0) * exponents)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class EmbeddingMlp(nn.Module):
    """What is done to a sinusoidal embedding: Linear, SiLU, Linear."""

    def __init__(self, channels: int, hidden: int, out: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(channels, hidden)
        self.linear_2 = nn.Linear(hidden, out)

    def forward(self, embedding: Tensor) -> Tensor:
        hidden = nn.functional.silu(self.linear_1(embedding.to(self.linear_1.weight.dtype)))
        out: Tensor = self.linear_2(hidden)
        return out


class TimeMixer(nn.Module):
    """α · spatial + (1 - α) · temporal, α = sigmoid of a learned number."""

    def __init__(self) -> None:
        super().__init__()
        self.mix_factor = nn.Parameter(torch.zeros(1))

    def forward(self, spatial: Tensor, temporal: Tensor) -> Tensor:
        return torch.lerp(temporal, spatial, torch.sigmoid(self.mix_factor))


class SpatialBlock(nn.Module):
    """Attention within each frame; x is (B·F, h·w, C)."""

    def __init__(self, channels: int, context_channels: int, heads: int, scales: tuple[float, float]) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attn1 = SelfAttention(channels, heads)
        self.norm2 = nn.LayerNorm(channels)
        self.attn2 = CrossAttention(channels, context_channels, heads, scales)
        self.norm3 = nn.LayerNorm(channels)
        self.ff = FeedForward(channels)

    def forward(self, x: Tensor, attended: Attended, mask: Tensor, rows: int | None) -> Tensor:
        x = x + self.attn1(self.norm1(x))
        x = x + self.attn2(self.norm2(x), attended, mask)
        return x + self.ff(self.norm3(x), rows)


class TemporalBlock(nn.Module):
    """Attention over the frames at each position; z is (B, h·w, F, C).

    The cross-attention's context is one for all positions of a branch, so all of a branch's queries meet it at once.
    """

    def __init__(self, channels: int, context_channels: int, heads: int, scales: tuple[float, float]) -> None:
        super().__init__()
        self.norm_in = nn.LayerNorm(channels)
        self.ff_in = FeedForward(channels)
        self.norm1 = nn.LayerNorm(channels)
        self.attn1 = SelfAttention(channels, heads)
        self.norm2 = nn.LayerNorm(channels)
        self.attn2 = CrossAttention(channels, context_channels, heads, scales)
        self.norm3 = nn.LayerNorm(channels)
        self.ff = FeedForward(channels)

    def forward(self, z: Tensor, attended: Attended, rows: int | None) -> Tensor:
        z = z + self.ff_in(self.norm_in(z), rows)
        z = z + self.attn1(self.norm1(z).flatten(0, 1)).view_as(z)
        z = z + self.attn2(self.norm2(z).flatten(1, 2), attended, None).view_as(z)
        return z + self.ff(self.norm3(z), rows)


class SpatioTemporalTransformer(nn.Module):
    """Spatial block, temporal block, and a learned mix of the two; `number` counts them through the UNet."""

    def __init__(self, channels: int, context_channels: int, heads: int, scales: tuple[float, float]) -> None:
        super().__init__()
        self.number = -1
        self.norm = nn.GroupNorm(32, channels, eps=1e-6)
        self.proj_in = nn.Linear(channels, channels)
        self.transformer_blocks = nn.ModuleList([SpatialBlock(channels, context_channels, heads, scales)])
        self.time_pos_embed = EmbeddingMlp(channels, 4 * channels, channels)
        self.temporal_transformer_blocks = nn.ModuleList([TemporalBlock(channels, context_channels, heads, scales)])
        self.time_mixer = TimeMixer()
        self.proj_out = nn.Linear(channels, channels)

    @property
    def cross_attentions(self) -> tuple[CrossAttention, CrossAttention]:
        """The spatial and the temporal one."""
        blocks = self.transformer_blocks[0], self.temporal_transformer_blocks[0]
        return blocks[0].attn2, blocks[1].attn2  # type: ignore[return-value]

    def forward(self, x: Tensor, context: Context) -> Tensor:
        """(B·F, C, h, w) → the same."""
        grid = x.shape[-2:]
        rows = context.feed_forward_rows
        y = self.proj_in(self.norm(x).flatten(2).transpose(1, 2))
        y = self.transformer_blocks[0](y, context.per_frame(self.number), context.masks[grid[0], grid[1]], rows)
        # Positions count from the start of the window, whatever part of the video it shows.
        frames = torch.arange(context.frames, device=x.device)
        z = y.unflatten(0, (context.branches, context.frames)).transpose(1, 2)
        z = z + self.time_pos_embed(sinusoidal(frames, y.shape[-1]))
        z = self.temporal_transformer_blocks[0](z, context.mean(self.number), rows)
        y = self.proj_out(self.time_mixer(y, z.transpose(1, 2).flatten(0, 1)))
        return x + y.transpose(1, 2).unflatten(2, grid)
