"""What half precision costs: errors against fp32, in which TF32 takes no part."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from benchmarks import modes
from benchmarks.real_size import Size, networks
from engines.dice_talk import vae
from engines.dice_talk.windows import WINDOW


@contextmanager
def full_precision() -> Iterator[None]:
    """fp32 that is fp32: by default, convolutions on a GPU round their inputs to TF32."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def outcome(size: Size, device: torch.device, dtype: torch.dtype, side: int) -> tuple[Tensor, Tensor]:
    """A call of the UNet and a decoded chunk, on the host, in little memory; the weights rounded to `dtype`."""
    made = modes.scene(size, networks(size, device, dtype), (side, side))
    v = modes.predict(made, made.latents(WINDOW), low_memory=True)
    decoded = vae.decode(made.pipeline.networks.vae, made.latents(vae.CHUNK).to(device), low_memory=True)
    return v.cpu(), decoded.cpu()


def reference(size: Size, device: torch.device, side: int) -> tuple[Tensor, Tensor]:
    """The same in fp32."""
    with full_precision():
        return outcome(size, device, torch.float32, side)


def error(found: Tensor, wanted: Tensor) -> float:
    """Of the norms, relative."""
    return float((found - wanted).norm() / wanted.norm())
