"""What a video costs before it is made: time from the arithmetic in it, memory from what the networks hold at once.

The arithmetic of a window follows from the loaded networks. Memory is a linear model, whose constants
benchmarks/memory.py counts.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from engines.dice_talk.arithmetic import AUDIO_ROWS, BRANCHES, OTHER_ROWS, TOKENS, window_flops
from engines.dice_talk.context import Context, Layer, Modality, Projected, level_masks
from engines.dice_talk.pipeline import PADDING
from engines.dice_talk.unet import AUDIO, EMOTION, UNet
from engines.dice_talk.windows import WINDOW, windows

GIB = 1 << 30

# Peak bytes beside the weights at the published widths in half precision, with a margin: fixed, and per pixel.
FIXED_BYTES = GIB // 4
NORMAL_BYTES_PER_PIXEL = 25_000
LOW_MEMORY_BYTES_PER_PIXEL = 5_000
_VISITOR_BYTES = 5 * GIB // 4  # the image encoder, when it comes to the device
_PUBLISHED_WIDTH = 320
_DEVICE_RESERVE = GIB // 2  # for what CUDA and its libraries hold beside the tensors

DECODED_FRAME = 1 / 8  # of a call of the UNet at the same size, with interpolation; 1 / 9 on an H100
_PREPARATION_SECONDS = 1.0
_COUNTED_SIDES = 64, 128, 256  # pixels


def window_call(unet: UNet, height: int, width: int) -> Callable[[], torch.Tensor]:
    """One call of the UNet for a window of a video of this size, in all three branches, with zeros for everything.

    The rows of the audio are projected in it; those of image and emotion are once in a job.
    """
    config, weight = unet.config, unet.conv_in.weight
    device, dtype = weight.device, weight.dtype

    def zeros(*shape: int) -> torch.Tensor:
        return torch.zeros(shape, device=device, dtype=dtype)

    def modality(layers: Sequence[Layer[Projected]], rows: int) -> Modality[Projected]:
        uses = torch.zeros(BRANCHES, rows, dtype=torch.long, device=device)
        uses[:, 0] = WINDOW
        return Modality(layers, torch.zeros(BRANCHES, WINDOW, dtype=torch.long, device=device), uses)

    width_of_tokens = config.cross_attention_dim
    image = unet.project_image(zeros(OTHER_ROWS, 1, width_of_tokens))
    emotion = unet.project_adapter(EMOTION, zeros(OTHER_ROWS, TOKENS, width_of_tokens))
    masks = level_masks(torch.zeros(height, width, device=device), len(config.block_out_channels), dtype)
    time_ids = torch.zeros(3)

    def call() -> torch.Tensor:
        audio = unet.project_adapter(AUDIO, zeros(AUDIO_ROWS, TOKENS, width_of_tokens))
        context = Context(
            modality(image, OTHER_ROWS), modality(audio, AUDIO_ROWS), modality(emotion, OTHER_ROWS), masks
        )
        sample = zeros(BRANCHES, WINDOW, config.in_channels, height // 8, width // 8)
        pose = zeros(1, 1, config.block_out_channels[0], height // 8, width // 8)
        return unet(sample, unet.embed_time(0.0, time_ids), pose, context)

    return call


@torch.inference_mode()
def window_seconds(unet: UNet, side: int) -> float:
    """Measured time of `window_call` for a square video."""
    call = window_call(unet, side, side)
    best = float("inf")
    for _ in range(2):  # the first one also loads the kernels
        started = time.perf_counter()
        call()[0, 0, 0, 0, 0].item()  # waits for it
        best = min(best, time.perf_counter() - started)
    return best


def device_memory(device: torch.device) -> int:
    """Bytes that the engine can count on: what is free now. On the CPU, what the machine has."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0]) - _DEVICE_RESERVE
    return host_memory()


def host_memory() -> int:
    """Bytes of main memory that the machine has."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def latent_bytes(size: tuple[int, int], frames: int) -> int:
    """Peak of what a job holds in main memory for each of its generated frames: the noise and the latents before and
    after a step.
    """
    return 3 * 4 * 4 * (size[0] // 8) * (size[1] // 8) * (frames + PADDING)


@dataclass(frozen=True, slots=True)
class CostModel:
    """Predicts for one device and one set of networks."""

    window: tuple[float, float, float]  # its FLOPs: fixed, per pixel of the video, per pair of them (self-attention)
    flops_per_second: float  # of the UNet, measured
    weights: int  # bytes on the device
    width: int  # channels of the UNet's first level
    item: int  # bytes of a number in the networks' precision

    @classmethod
    def of(cls, unet: UNet, weights: int) -> CostModel:
        """Three small sizes settle the three terms, and one is timed."""
        weight = unet.conv_in.weight
        counted = [window_flops(unet, side, side) for side in _COUNTED_SIDES]
        powers = np.vander([side**2 for side in _COUNTED_SIDES], increasing=True).astype(np.float64)
        fixed, per_pixel, per_pair = np.linalg.solve(powers, counted)
        # A small picture does not show what a GPU can do; a larger one takes minutes on a CPU.
        timed = -1 if weight.device.type == "cuda" else 0
        return cls(
            window=(float(fixed), float(per_pixel), float(per_pair)),
            flops_per_second=counted[timed] / window_seconds(unet, _COUNTED_SIDES[timed]),
            weights=weights,
            width=unet.config.block_out_channels[0],
            item=weight.dtype.itemsize,
        )

    def seconds(self, size: tuple[int, int], frames: int, steps: int) -> float:
        """Expected time for so many generated frames of `size` (width, height) on the idle device."""
        calls = steps * len(windows(frames + PADDING, 0)) + frames * DECODED_FRAME
        return _PREPARATION_SECONDS + calls * self.window_seconds(size)

    def window_seconds(self, size: tuple[int, int]) -> float:
        """Expected time of one call of the UNet."""
        return self.window_flops(size) / self.flops_per_second

    def window_flops(self, size: tuple[int, int]) -> float:
        """Expected FLOPs of one call of the UNet."""
        fixed, per_pixel, per_pair = self.window
        pixels = size[0] * size[1]
        return fixed + per_pixel * pixels + per_pair * pixels**2

    def peak_bytes(self, size: tuple[int, int], *, low_memory: bool) -> int:
        """Expected peak of the device's memory, whatever the length."""
        per_pixel = LOW_MEMORY_BYTES_PER_PIXEL if low_memory else NORMAL_BYTES_PER_PIXEL
        scale = self.width / _PUBLISHED_WIDTH * self.item / 2
        activations = FIXED_BYTES + per_pixel * size[0] * size[1]
        return self.weights + round(scale * max(activations, _VISITOR_BYTES))
