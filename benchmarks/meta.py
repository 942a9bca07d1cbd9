"""The product's pipeline in its published size on the meta device: shapes without contents, for counting."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from benchmarks.real_size import META, REAL, TOKENS, networks
from engines.dice_talk.context import level_masks
from engines.dice_talk.pipeline import Conditions, Pipeline

_HALF = torch.float16


def empty(*shape: int, dtype: torch.dtype = _HALF) -> Tensor:
    """A tensor without contents."""
    return torch.empty(shape, device=META, dtype=dtype)


@functools.cache
def pipeline() -> Pipeline:
    """With networks that have no weights."""
    with torch.inference_mode():
        return Pipeline(networks(REAL, META, _HALF))


def conditions(width: int, height: int) -> Conditions:
    """What a job has computed before the first step, for pictures of this size."""
    made, config = pipeline(), REAL.unet
    rows, columns = height // 8, width // 8
    return Conditions(
        image_latents=empty(1, config.out_channels, rows, columns),
        start=empty(1, config.out_channels, rows, columns, dtype=torch.float32),
        image_layers=made.networks.unet.project_image(empty(2, 1, config.cross_attention_dim)),
        pose=empty(1, 1, config.block_out_channels[0], rows, columns),
        masks=level_masks(empty(height, width), len(config.block_out_channels), _HALF),
        emotion_row=0,
        no_audio=empty(1, TOKENS, config.cross_attention_dim),
    )


def clips(frames: Sequence[int]) -> Tensor:
    """The audio features of these frames."""
    return empty(len(frames), REAL.audio_features, dtype=torch.float32)
