"""What the UNet's cross-attentions look at: the distinct rows of tokens, and who uses which.

A call of the UNet works on B guidance branches of F frames each, but has few distinct rows of tokens: one image token
and its zero, the audio of F frames and the unconditional audio, one emotion and the unconditional one. The rows are
projected once in every layer; branches and frames pick theirs by index (specification, sections 6.4 and 8).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Generic, NamedTuple, Self, TypeVar

import torch
import torch.nn.functional as F  # noqa: N812  the usual name
from torch import Tensor

from engines.dice_talk.attention import Attended, KeyValue

Projected = TypeVar("Projected", Tensor, KeyValue)


class Layer(NamedTuple, Generic[Projected]):
    """One modality's distinct rows in one transformer: in its spatial and in its temporal cross-attention."""

    spatial: Projected
    temporal: Projected


@dataclass(frozen=True, slots=True)
class Modality(Generic[Projected]):
    """The projected rows of one modality, a Layer for each transformer, and who uses them."""

    layers: Sequence[Layer[Projected]]
    index: Tensor  # (B, F): the row of each branch and frame
    uses: Tensor  # (B, rows): how many of a branch's frames use each row

    @classmethod
    def routed(cls, layers: Sequence[Layer[Projected]], index: Tensor, rows: int) -> Self:
        """With the uses that follow from the index."""
        return cls(layers, index, F.one_hot(index, rows).sum(dim=1))

    def branch(self, number: int) -> Self:
        """For one of the branches alone."""
        one = slice(number, number + 1)
        return replace(self, index=self.index[one], uses=self.uses[one])


@dataclass(frozen=True, slots=True)
class Context:
    """Everything that the cross-attentions of one call look at."""

    image: Modality[Tensor]
    audio: Modality[KeyValue]
    emotion: Modality[KeyValue]
    masks: Mapping[tuple[int, int], Tensor]  # (h, w) of a level → the adapters' weights by position, (h·w, 1)
    feed_forward_rows: int | None = None  # how many rows a feed-forward works on at a time; None: all

    @property
    def branches(self) -> int:
        """B."""
        return self.image.index.shape[0]

    @property
    def frames(self) -> int:
        """F."""
        return self.image.index.shape[1]

    def branch(self, number: int) -> Context:
        """For one of the branches alone."""
        return replace(
            self,
            image=self.image.branch(number),
            audio=self.audio.branch(number),
            emotion=self.emotion.branch(number),
        )

    def per_frame(self, number: int) -> Attended:
        """For the spatial cross-attention of transformer `number`: each frame's own rows, B·F of them."""
        return Attended(
            self.image.layers[number].spatial[self.image.index.flatten()],
            *(
                KeyValue(*(rows[modality.index.flatten()] for rows in modality.layers[number].spatial))
                for modality in (self.audio, self.emotion)
            ),
        )

    def mean(self, number: int) -> Attended:
        """For the temporal cross-attention of transformer `number`: each branch's mean over its frames, B rows.

        The projections are linear, so the mean of the projected rows is the projection of the mean.
        """
        return Attended(
            _mean(self.image.uses, self.image.layers[number].temporal),
            *(
                KeyValue(*(_mean(modality.uses, rows) for rows in modality.layers[number].temporal))
                for modality in (self.audio, self.emotion)
            ),
        )


def _mean(uses: Tensor, rows: Tensor) -> Tensor:
    """Uses (B, R) of rows (R, ...) → (B, ...), the mean over the frames, summed in fp32 or better."""
    wide = torch.promote_types(rows.dtype, torch.float32)
    shares = uses.to(wide) / uses.sum(dim=1, keepdim=True)
    return torch.einsum("br,r...->b...", shares, rows.to(wide)).to(rows.dtype)


def level_masks(mask: Tensor, levels: int, dtype: torch.dtype) -> dict[tuple[int, int], Tensor]:
    """The face mask (H, W), 0..1, at the grid of each of the UNet's levels, flattened to (h·w, 1).

    Bicubic and not clamped: the overshoot beyond 0..1 is part of the model (specification, section 6.4).
    """
    height, width = mask.shape
    grids = [(height // 8, width // 8)]
    for _ in range(levels - 1):  # a 3×3 convolution of stride 2 rounds up
        grids.append(((grids[-1][0] + 1) // 2, (grids[-1][1] + 1) // 2))
    return {
        grid: F.interpolate(mask.float()[None, None], grid, mode="bicubic", align_corners=False)
        .reshape(-1, 1)
        .to(dtype)
        for grid in grids
    }
