"""The denoising of a whole clip as the published form does it, on the naive UNet (specification, section 8).

All conditions of all frames are laid out for each of the three branches before the first step.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks import naive
from engines.dice_talk.conditioning import PoseGuider
from engines.dice_talk.unet import UNet

_FRAMES = 25  # of a window, and of the padding
_SHIFT = 7


class Job(NamedTuple):
    """What a clip of N frames is made from."""

    embedding: Tensor  # (1, D), of the portrait
    latents: Tensor  # (1, 4, h, w), of the portrait, not scaled
    mask: Tensor  # (H, W)
    audio: Tensor  # (N, 32, D)
    no_audio: Tensor  # (1, 32, D)
    emotion: Tensor  # (1, 32, D)
    no_emotion: Tensor  # (1, 32, D)


class Laid(NamedTuple):
    """The conditions of three branches of M = N + 25 frames: unconditional, reference only, full."""

    latents: Tensor  # (3, M, 4, h, w)
    image: Tensor  # (3, M, 1, D)
    audio: Tensor  # (3, M, 32, D)
    emotion: Tensor  # (3, M, 32, D)
    pose: Tensor  # (3, M, C, h, w)
    mask: Tensor  # (1, 1, H, W)


def lay_out(pose_guider: PoseGuider, job: Job) -> Laid:
    """One row for each branch and frame, and a pose map for each frame."""
    frames = len(job.audio)
    total = frames + _FRAMES
    token = job.embedding[None].expand(total, -1, -1)
    latents = job.latents.expand(total, -1, -1, -1)
    no_audio = job.no_audio.expand(total, -1, -1)
    no_emotion = job.no_emotion.expand(total, -1, -1)
    padding = _FRAMES
    mask = job.mask.to(job.latents.dtype).expand(total, 3, -1, -1)
    return Laid(
        torch.stack([torch.zeros_like(latents), latents, latents]),
        torch.stack([torch.zeros_like(token), token, token]),
        torch.stack([no_audio, no_audio, torch.cat([job.audio, no_audio[:padding]])]),
        torch.stack([no_emotion, no_emotion, torch.cat([job.emotion.expand(frames, -1, -1), no_emotion[:padding]])]),
        pose_guider(mask)[None].repeat(3, 1, 1, 1, 1),
        job.mask[None, None],
    )


def window_inputs(laid: Laid, x: Tensor, window: list[int], sigma: float, time_ids: Tensor) -> naive.Inputs:
    """A call's inputs from the noisy latents x (M, 4, h, w)."""
    scaled = (x[window] / math.sqrt(sigma**2 + 1)).to(laid.latents.device, laid.latents.dtype)
    sample = torch.cat([scaled[None].repeat(3, 1, 1, 1, 1), laid.latents[:, window]], dim=2)
    pose, image, audio, emotion = (
        tensor[:, window].flatten(0, 1) for tensor in (laid.pose, laid.image, laid.audio, laid.emotion)
    )
    return naive.Inputs(sample, 0.25 * math.log(sigma), time_ids.repeat(3, 1), pose, image, audio, emotion, laid.mask)


def denoise(
    unet: UNet, pose_guider: PoseGuider, job: Job, noise: Tensor, *, steps: int, identity: float, expression: float
) -> Tensor:
    """Unit noise (N + 25, 4, h, w) → scaled latents, in fp32. With the two guidance scales."""
    laid = lay_out(pose_guider, job)
    ids = torch.tensor([[12.5, 8.0, 16.0]], device=laid.latents.device)
    low, high = 0.002 ** (1 / 7), 700 ** (1 / 7)
    sigmas = [(high + number / max(1, steps - 1) * (low - high)) ** 7 for number in range(steps)] + [0.0]
    total = len(noise)
    x = 0.18215 * job.latents.float().cpu() + sigmas[0] * noise
    for step in range(steps):
        sigma, following = sigmas[step], sigmas[step + 1]
        summed, count = torch.zeros_like(x), torch.zeros(total)
        for start in range(0, total, _FRAMES):
            window = [(start - _SHIFT * step % _FRAMES + offset) % total for offset in range(_FRAMES)]
            v1, v2, v3 = naive.predict(unet, window_inputs(laid, x, window, sigma, ids)).float().cpu()
            v = v1 + identity * (v2 - v1) + expression * (v3 - v2)
            clean = x[window] / (sigma**2 + 1) - v * sigma / math.sqrt(sigma**2 + 1)
            summed[window] += x[window] + (x[window] - clean) / sigma * (following - sigma)
            count[window] += 1
        x = summed / count[:, None, None, None]
    return x
