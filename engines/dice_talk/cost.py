"""What a video costs before it is made: time from the arithmetic in it, memory from what the networks hold at once.

The arithmetic of a window is counted on the meta device for the loaded configuration. Memory is a linear model, whose
constants benchmarks/memory.py counts.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from engines.dice_talk.attention import KeyValue
from engines.dice_talk.context import Context, Layer, Modality
from engines.dice_talk.pipeline import PADDING
from engines.dice_talk.unet import AUDIO, EMOTION, UNet, UNetConfig
from engines.dice_talk.windows import WINDOW, windows

GIB = 1 << 30

# Peak bytes beside the weights at the published widths in half precision, with a margin: fixed, and per pixel.
FIXED_BYTES = GIB // 4
NORMAL_BYTES_PER_PIXEL = 25_000
LOW_MEMORY_BYTES_PER_PIXEL = 5_000
_PUBLISHED_WIDTH = 320
_DEVICE_RESERVE = GIB // 2  # for what CUDA and its libraries hold beside the tensors

_EFFICIENCY = 0.4  # of a bare matrix product's speed; the service corrects it by what jobs really take
_CALL_SECONDS = 0.03  # of a call of the UNet, however small: its thousands of kernels have to be started
DECODED_FRAME = 1 / 30  # of a call of the UNet at the same size
_PREPARATION_SECONDS = 1.0
_COUNTED_SIDES = 64, 128, 256  # pixels

BRANCHES = 3


def window_flops(config: UNetConfig, height: int, width: int) -> int:
    """FLOPs (two a multiply-add) of one UNet call for a window of a video of this size, in all three branches.

    The rows of the audio are projected in it; those of image and emotion are once in a job.
    """
    rows = {"image": 2, "audio": WINDOW + 1, "emotion": 2}
    with torch.device("meta"), torch.inference_mode():
        unet = UNet(config)
        index = torch.zeros(BRANCHES, WINDOW, dtype=torch.long)
        shares = {name: torch.zeros(BRANCHES, count) for name, count in rows.items()}
        tokens = {name: torch.zeros(count, 32, config.cross_attention_dim) for name, count in rows.items()}
        image: list[Layer[torch.Tensor]] = unet.project_image(tokens["image"][:, :1])
        emotion: list[Layer[KeyValue]] = unet.project_adapter(EMOTION, tokens["emotion"])
        sample = torch.zeros(BRANCHES, WINDOW, config.in_channels, height // 8, width // 8)
        with FlopCounterMode(display=False) as counter:
            grids = [(height >> level, width >> level) for level in range(3, 3 + len(config.block_out_channels))]
            context = Context(
                image=Modality(image, index, shares["image"]),
                audio=Modality(unet.project_adapter(AUDIO, tokens["audio"]), index, shares["audio"]),
                emotion=Modality(emotion, index, shares["emotion"]),
                masks={grid: torch.zeros(grid[0] * grid[1], 1) for grid in grids},
            )
            embedded = unet.embed_time(0.0, torch.zeros(3))
            pose = torch.zeros(1, 1, config.block_out_channels[0], height // 8, width // 8)
            unet(sample, embedded, pose, context)
    return int(counter.get_total_flops())


def device_speed(device: torch.device, dtype: torch.dtype) -> float:
    """FLOPs per second of a matrix product, measured."""
    side = 4096 if device.type == "cuda" else 1024
    square = torch.ones(side, side, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(3):  # the first one also loads the kernel
        started = time.perf_counter()
        product = square @ square
        product[0, 0].item()  # waits for it
        best = min(best, time.perf_counter() - started)
    return 2 * side**3 / best


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
    flops_per_second: float
    weights: int  # bytes on the device
    width: int  # channels of the UNet's first level
    item: int  # bytes of a number in the networks' precision

    @classmethod
    def of(cls, config: UNetConfig, flops_per_second: float, weights: int, item: int) -> CostModel:
        """Count three small sizes, which settle the three terms."""
        counted = [window_flops(config, side, side) for side in _COUNTED_SIDES]
        powers = np.vander([side**2 for side in _COUNTED_SIDES], increasing=True).astype(np.float64)
        fixed, per_pixel, per_pair = np.linalg.solve(powers, counted)
        return cls(
            window=(float(fixed), float(per_pixel), float(per_pair)),
            flops_per_second=_EFFICIENCY * flops_per_second,
            weights=weights,
            width=config.block_out_channels[0],
            item=item,
        )

    def seconds(self, size: tuple[int, int], frames: int, steps: int) -> float:
        """Expected time for so many generated frames of `size` (width, height) on the idle device."""
        calls = steps * len(windows(frames + PADDING, 0)) + frames * DECODED_FRAME
        return _PREPARATION_SECONDS + calls * self.window_seconds(size)

    def window_seconds(self, size: tuple[int, int]) -> float:
        """Expected time of one call of the UNet."""
        return _CALL_SECONDS + self.window_flops(size) / self.flops_per_second

    def window_flops(self, size: tuple[int, int]) -> float:
        """Expected FLOPs of one call of the UNet."""
        fixed, per_pixel, per_pair = self.window
        pixels = size[0] * size[1]
        return fixed + per_pixel * pixels + per_pair * pixels**2

    def peak_bytes(self, size: tuple[int, int], *, low_memory: bool) -> int:
        """Expected peak of the device's memory, whatever the length."""
        per_pixel = LOW_MEMORY_BYTES_PER_PIXEL if low_memory else NORMAL_BYTES_PER_PIXEL
        scale = self.width / _PUBLISHED_WIDTH * self.item / 2
        return self.weights + round(scale * (FIXED_BYTES + per_pixel * size[0] * size[1]))
