"""The small networks that turn audio features, emotion priors and the face mask into conditions for the UNet.

Specification, sections 3 to 5; parameter names are those of the checkpoints, without what only training uses.
"""

from __future__ import annotations

import itertools

import torch.nn.functional as F  # noqa: N812  the usual name
from torch import Tensor, nn

from engines.dice_talk.attention import KeyValue, attend, split_heads

PRIOR_CHANNELS = 256
_BANK_ENTRIES = 64
_EMOTION_HEADS = 8


class TokenProjection(nn.Module):
    """Features → some tokens: three linear layers and a norm. The audio projection is one of these."""

    def __init__(self, channels: int, hidden: int, tokens: int, token_channels: int) -> None:
        super().__init__()
        self.tokens = tokens
        self.proj1 = nn.Linear(channels, hidden)
        self.proj2 = nn.Linear(hidden, hidden)
        self.proj3 = nn.Linear(hidden, tokens * token_channels)
        self.norm = nn.LayerNorm(token_channels)

    def forward(self, features: Tensor) -> Tensor:
        """(N, ...) with `channels` numbers in each row → (N, tokens, token channels)."""
        hidden = F.relu(self.proj2(F.relu(self.proj1(features.flatten(1)))))
        out: Tensor = self.norm(self.proj3(hidden).unflatten(1, (self.tokens, -1)))
        return out


class _Attention(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc_q = nn.Linear(channels, channels)
        self.fc_k = nn.Linear(channels, channels)
        self.fc_v = nn.Linear(channels, channels)

    def forward(self, queries: Tensor, bank: Tensor) -> Tensor:
        query, key, value = (
            split_heads(project(x), _EMOTION_HEADS)
            for project, x in ((self.fc_q, queries), (self.fc_k, bank), (self.fc_v, bank))
        )
        return attend(query, KeyValue(key, value))


class _Codebook(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.codebook = nn.Embedding(_BANK_ENTRIES, channels)


class EmotionModel(nn.Module):
    """An emotion prior asks a learned bank: attention of its tokens over those of all the bank's entries.

    All priors of a batch see the bank, so it is projected once for the conditional and the unconditional one.
    """

    def __init__(self, hidden: int, tokens: int, token_channels: int) -> None:
        super().__init__()
        self.emo_linear = TokenProjection(PRIOR_CHANNELS, hidden, tokens, token_channels)
        self.codebook = _Codebook(token_channels)
        self.kv_tokens_linear = TokenProjection(token_channels, hidden, tokens, token_channels)
        self.attention = _Attention(token_channels)

    def forward(self, priors: Tensor) -> Tensor:
        """Priors (N, 256), zeros for the unconditional branch → (N, tokens, token channels)."""
        bank = self.bank_tokens().flatten(0, 1)[None]
        queries = self.emo_linear(priors).flatten(0, 1)[None]
        out: Tensor = self.attention(queries, bank)
        return out[0].unflatten(0, (len(priors), -1))

    def bank_tokens(self) -> Tensor:
        """(entries, tokens, token channels)."""
        tokens: Tensor = self.kv_tokens_linear(self.codebook.codebook.weight)
        return tokens


class PoseGuider(nn.Module):
    """The face mask as a map that is added after the UNet's first convolution."""

    def __init__(self, channels: int, widths: tuple[int, ...] = (16, 32, 96, 256)) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(3, widths[0], 3, padding=1)
        self.blocks = nn.ModuleList()
        for width, wider in itertools.pairwise(widths):
            self.blocks.append(nn.Conv2d(width, width, 3, padding=1))
            self.blocks.append(nn.Conv2d(width, wider, 3, stride=2, padding=1))
        self.conv_out = nn.Conv2d(widths[-1], channels, 3, padding=1)

    def forward(self, mask: Tensor) -> Tensor:
        """Masks (N, 3, H, W), 0..1 → (N, channels, H/8, W/8)."""
        x = F.silu(self.conv_in(mask))
        for block in self.blocks:
            x = F.silu(block(x))
        out: Tensor = self.conv_out(x)
        return out
