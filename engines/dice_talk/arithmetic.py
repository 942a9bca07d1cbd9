"""Arithmetic of one call of the UNet for a window, from the shapes of its weights.

Products, convolutions and attention count; norms and activations do not. As in `cost.window_call`, the rows of the
audio are projected in the call; those of image and emotion were before.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from engines.dice_talk.resnet import SpatioTemporalResBlock
from engines.dice_talk.transformer import SpatioTemporalTransformer
from engines.dice_talk.unet import AUDIO, UNet
from engines.dice_talk.windows import WINDOW

BRANCHES = 3
TOKENS = 32  # of audio and emotion
AUDIO_ROWS = WINDOW + 1
OTHER_ROWS = 2  # of the image, of the emotion
_PICTURES = BRANCHES * WINDOW


@dataclass(frozen=True, slots=True)
class _Level:
    """How many positions a resolution of the UNet has."""

    area: int  # in a picture

    @property
    def positions(self) -> int:
        return _PICTURES * self.area

    def resnet(self, block: SpatioTemporalResBlock) -> int:
        """Multiply-adds of a residual block; the time embedding is one row for everything."""
        time = weights(block.spatial_res_block.time_emb_proj, block.temporal_res_block.time_emb_proj)
        return self.positions * (weights(block) - time) + time

    def transformer(self, block: SpatioTemporalTransformer) -> int:
        """Multiply-adds of a transformer."""
        channels = block.proj_in.out_features
        audio = context = 0
        for part in block.cross_attentions:
            audio += weights(part.processor.to_k_ip[AUDIO], part.processor.to_v_ip[AUDIO])
            context += weights(part.to_k, part.to_v, part.processor)
        frames = weights(block.time_pos_embed)
        projections = self.positions * (weights(block) - context - frames)
        projections += WINDOW * frames + AUDIO_ROWS * TOKENS * audio

        # Scores and values. A query meets the picture, all frames at its position, and twice both kinds of tokens.
        attention = 2 * channels * self.positions * (self.area + WINDOW + 2 * 2 * TOKENS)
        # The means over the frames: image rows have a value, the others have a key and a value for each token.
        rows = OTHER_ROWS + 2 * TOKENS * (AUDIO_ROWS + OTHER_ROWS)
        return projections + attention + BRANCHES * channels * rows


def window_flops(unet: UNet, height: int, width: int) -> int:
    """FLOPs for a window of a video of this size, two for a multiply-add."""
    levels, grid = [], (height // 8, width // 8)
    for _ in unet.down_blocks:
        levels.append(_Level(grid[0] * grid[1]))
        grid = (grid[0] + 1) // 2, (grid[1] + 1) // 2  # a 3×3 convolution of stride 2 rounds up
    total = levels[0].positions * weights(unet.conv_in, unet.conv_out)
    total += weights(unet.time_embedding, unet.add_embedding)
    last = len(levels) - 1
    blocks: list[tuple[Any, int]] = [*zip(unet.down_blocks, range(last + 1), strict=True), (unet.mid_block, last)]
    blocks += zip(unet.up_blocks, range(last, -1, -1), strict=True)
    for block, number in blocks:
        total += sum(levels[number].resnet(part) for part in block.resnets)
        total += sum(levels[number].transformer(part) for part in block.attentions or ())
        for change, step in ("downsamplers", 1), ("upsamplers", -1):
            total += sum(levels[number + step].positions * weights(part) for part in getattr(block, change, ()))
    return 2 * total


def weights(*modules: nn.Module) -> int:
    """How many there are; each is multiplied once at a position."""
    return sum(parameter.numel() for module in modules for parameter in module.parameters() if parameter.dim() > 1)
