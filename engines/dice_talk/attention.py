"""Attention in the UNet: self-attention, cross-attention with the audio and emotion adapters, feed-forward.

Specification, sections 6.3 and 6.4; parameter names are those of the checkpoints.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812  the usual name
from torch import Tensor, nn

# CUDA's attention kernels lay the groups of queries along an axis of the grid that takes no more. There is one for each
# position and branch in the attention over the frames: large pictures have more.
MAX_GROUPS = 65535


class KeyValue(NamedTuple):
    """Keys and values of some rows of tokens: both (rows, heads, tokens, head width)."""

    key: Tensor
    value: Tensor


class Attended(NamedTuple):
    """What one cross-attention looks at, for N groups of queries.

    `image` is the value of the only image token, (N, 1, C): a softmax over one key is 1, so that there is nothing to
    attend with. The adapters' rows are (N, heads, tokens, head width).
    """

    image: Tensor
    audio: KeyValue
    emotion: KeyValue


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(N, L, C) → (N, heads, L, C / heads)."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def attend(query: Tensor, rows: KeyValue) -> Tensor:
    """softmax(Q Kᵀ / √width) V with the heads joined again: (N, L, C)."""
    if len(query) > MAX_GROUPS:
        parts = zip(query.split(MAX_GROUPS), rows.key.split(MAX_GROUPS), rows.value.split(MAX_GROUPS), strict=True)
        return torch.cat([attend(part, KeyValue(key, value)) for part, key, value in parts])
    return F.scaled_dot_product_attention(query, rows.key, rows.value).transpose(1, 2).flatten(2)


class SelfAttention(nn.Module):
    """Attention of the rows of (N, L, C) among themselves."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(channels, channels, bias=False)
        self.to_k = nn.Linear(channels, channels, bias=False)
        self.to_v = nn.Linear(channels, channels, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (split_heads(project(x), self.heads) for project in (self.to_q, self.to_k, self.to_v))
        out: Tensor = self.to_out[0](attend(query, KeyValue(key, value)))
        return out


class _Adapters(nn.Module):
    """The projections that DICE-Talk adds to a cross-attention: index 0 audio, 1 emotion."""

    def __init__(self, channels: int, context_channels: int) -> None:
        super().__init__()
        self.to_k_ip = nn.ModuleList(nn.Linear(context_channels, channels, bias=False) for _ in range(2))
        self.to_v_ip = nn.ModuleList(nn.Linear(context_channels, channels, bias=False) for _ in range(2))


class CrossAttention(nn.Module):
    """Attention to the image token, the audio tokens and the emotion tokens, all with one query.

    The tokens are projected apart from the queries, by `image_value` and `adapter_rows`: their distinct rows are
    few, so nothing is projected once per position.
    """

    def __init__(self, channels: int, context_channels: int, heads: int, scales: tuple[float, float]) -> None:
        super().__init__()
        self.heads = heads
        self.scales = scales
        self.to_q = nn.Linear(channels, channels, bias=False)
        self.to_k = nn.Linear(context_channels, channels, bias=False)  # in the checkpoints; one key needs no key
        self.to_v = nn.Linear(context_channels, channels, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])
        self.processor = _Adapters(channels, context_channels)

    def image_value(self, tokens: Tensor) -> Tensor:
        """(rows, 1, context channels) → (rows, 1, C)."""
        value: Tensor = self.to_v(tokens)
        return value

    def adapter_rows(self, adapter: int, tokens: Tensor) -> KeyValue:
        """Keys and values of (rows, tokens, context channels); the adapter's scale is in the values."""
        key = self.processor.to_k_ip[adapter](tokens)
        value = self.processor.to_v_ip[adapter](tokens) * self.scales[adapter]
        return KeyValue(split_heads(key, self.heads), split_heads(value, self.heads))

    def forward(self, x: Tensor, attended: Attended, mask: Tensor | None) -> Tensor:
        """Queries (N, L, C); `mask` (L, 1) weighs both adapters by position, before `to_out`."""
        query = split_heads(self.to_q(x), self.heads)
        adapted = attend(query, attended.audio) + attend(query, attended.emotion)
        if mask is not None:
            adapted = adapted * mask
        out: Tensor = self.to_out[0](attended.image + adapted)
        return out


class _Geglu(nn.Module):
    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.proj = nn.Linear(channels, 2 * inner)

    def forward(self, x: Tensor) -> Tensor:
        passed, gate = self.proj(x).chunk(2, dim=-1)
        return passed * F.gelu(gate)


class FeedForward(nn.Module):
    """C → 8C, gated by its second half, → C."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        # `net.1` is where the training code had a dropout.
        self.net = nn.Sequential(_Geglu(channels, 4 * channels), nn.Identity(), nn.Linear(4 * channels, channels))

    def forward(self, x: Tensor, rows: int | None) -> Tensor:
        """`rows`: how many rows of (..., C) to work on at a time (low memory); None: all."""
        if rows is None:
            return self.net(x)
        flat = x.flatten(0, -2)
        out = torch.empty_like(flat)
        for start in range(0, len(flat), rows):
            out[start : start + rows] = self.net(flat[start : start + rows])
        return out.view_as(x)
