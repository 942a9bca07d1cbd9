"""Noise levels, the Euler step and the guidance (specification, sections 7 and 8)."""

from __future__ import annotations

import math

import numpy as np
from torch import Tensor

SIGMA_MIN, SIGMA_MAX = 0.002, 700.0
_RHO = 7.0


def sigmas(steps: int) -> list[float]:
    """Karras noise levels from SIGMA_MAX to SIGMA_MIN, and a final 0: steps + 1 numbers, rounded to fp32."""
    ramp = np.linspace(0, 1, steps)
    low, high = SIGMA_MIN ** (1 / _RHO), SIGMA_MAX ** (1 / _RHO)
    levels = (high + ramp * (low - high)) ** _RHO
    return [*(float(level) for level in levels.astype(np.float32)), 0.0]


def timestep(sigma: float) -> float:
    """What the UNet is told of a noise level."""
    return 0.25 * math.log(sigma)


def scale_input(x: Tensor, sigma: float) -> Tensor:
    """Noisy latents as the UNet takes them, of about unit variance."""
    return x / math.sqrt(sigma**2 + 1)


def guide(v: Tensor, identity: float, expression: float) -> Tensor:
    """From the branches v (3, ...), unconditional, reference alone and full, to one prediction (...)."""
    unconditional, reference, full = v
    return unconditional + identity * (reference - unconditional) + expression * (full - reference)


def euler_step(x: Tensor, v: Tensor, sigma: float, next_sigma: float) -> Tensor:
    """From noise level `sigma` to the next. x and v are fp32: at 700, half precision would lose the portrait."""
    scale = sigma**2 + 1
    denoised = x / scale - v * (sigma / math.sqrt(scale))
    return x + (x - denoised) / sigma * (next_sigma - sigma)
