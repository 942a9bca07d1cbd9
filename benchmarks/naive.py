"""The denoising of DICE-Talk as the published form does it, nothing shared: a yardstick for tests and benchmarks.

Written from the specification (sections 6 to 8), step by step and with its redundancies: every branch and frame
carries its own copy of the time embedding, the tokens and the pose map; the temporal cross-attention's context is
repeated for each position and projected there; the one image token is attended to; the mask is resized in every
cross-attention and for every adapter. It takes the weights of a `UNet`, and nothing of its computation.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812  the usual name
from torch import Tensor

from engines.dice_talk.unet import UNet


class Inputs(NamedTuple):
    """Of one call with B branches of F frames; tokens and condition have B·F rows, branch after branch."""

    sample: Tensor  # (B, F, 8, h, w)
    timestep: float
    time_ids: Tensor  # (B, 3)
    condition: Tensor  # (B·F, C, h, w)
    image: Tensor  # (B·F, 1, D)
    audio: Tensor  # (B·F, 32, D)
    emotion: Tensor  # (B·F, 32, D)
    mask: Tensor  # (1, 1, H, W)


class _Call(NamedTuple):
    """What the layers need beside their input."""

    time: Tensor  # (B·F, time channels)
    frames: int
    spatial: tuple[Tensor, Tensor, Tensor]  # image, audio, emotion tokens of each frame
    temporal: tuple[Tensor, Tensor, Tensor]  # their means over the frames: B rows
    mask: Tensor
    scales: tuple[float, float]


def predict(network: UNet, inputs: Inputs) -> Tensor:
    """v (B, F, 4, h, w)."""
    unet: Any = network  # its parts, untyped
    branches, frames = inputs.sample.shape[:2]
    weight = network.conv_in.weight
    spatial = inputs.image, inputs.audio, inputs.emotion
    temporal = tuple(tokens.unflatten(0, (branches, frames)).mean(dim=1) for tokens in spatial)
    ids = torch.stack(
        [_sinusoid(column, network.config.addition_time_embed_dim) for column in inputs.time_ids.T], dim=1
    ).flatten(1)
    step = torch.full((branches,), inputs.timestep, device=weight.device)
    time = _mlp(unet.time_embedding, _sinusoid(step, network.config.block_out_channels[0]).to(weight.dtype))
    time = (time + _mlp(unet.add_embedding, ids.to(weight.dtype))).repeat_interleave(frames, dim=0)
    call = _Call(time, frames, spatial, temporal, inputs.mask, network.config.adapter_scales)

    x = unet.conv_in(inputs.sample.flatten(0, 1)) + inputs.condition
    skips = [x]
    for block in unet.down_blocks:
        for number, resnet in enumerate(block.resnets):
            x = _resnet(resnet, x, call)
            if block.attentions is not None:
                x = _transformer(block.attentions[number], x, call)
            skips.append(x)
        for downsampler in block.downsamplers:
            x = downsampler.conv(x)
            skips.append(x)
    x = _resnet(unet.mid_block.resnets[0], x, call)
    x = _transformer(unet.mid_block.attentions[0], x, call)
    x = _resnet(unet.mid_block.resnets[1], x, call)
    for block in unet.up_blocks:
        for number, resnet in enumerate(block.resnets):
            x = _resnet(resnet, torch.cat([x, skips.pop()], dim=1), call)
            if block.attentions is not None:
                x = _transformer(block.attentions[number], x, call)
        for upsampler in block.upsamplers:
            x = upsampler.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
    x = unet.conv_out(F.silu(unet.conv_norm_out(x)))
    return x.unflatten(0, (branches, frames))


def _sinusoid(values: Tensor, channels: int) -> Tensor:
    """(N,) → (N, channels), cosines first, fp32."""
    half = channels // 2
    exponents = torch.arange(half, device=values.device).float() / half
    angles = values.float().outer(torch.exp(-math.log(10000) * exponents))
    return torch.cat([torch.cos(angles), torch.sin(angles)], dim=1)


def _mlp(mlp: Any, x: Tensor) -> Tensor:
    return mlp.linear_2(F.silu(mlp.linear_1(x)))


def _mix(mixer: Any, spatial: Tensor, temporal: Tensor) -> Tensor:
    share = torch.sigmoid(mixer.mix_factor)
    return share * spatial + (1 - share) * temporal


def _resnet(block: Any, x: Tensor, call: _Call) -> Tensor:
    """(B·F, C, h, w) → the same with the block's channels."""
    part = block.spatial_res_block
    hidden = part.conv1(F.silu(part.norm1(x)))
    hidden = hidden + part.time_emb_proj(F.silu(call.time))[:, :, None, None]
    hidden = part.conv2(F.silu(part.norm2(hidden)))
    spatial = (part.conv_shortcut(x) if hasattr(part, "conv_shortcut") else x) + hidden

    part = block.temporal_res_block
    over_time = spatial.unflatten(0, (-1, call.frames)).permute(0, 2, 1, 3, 4)  # (B, C, F, h, w)
    hidden = part.conv1(F.silu(part.norm1(over_time)))
    time = part.time_emb_proj(F.silu(call.time)).unflatten(0, (-1, call.frames)).permute(0, 2, 1)
    hidden = hidden + time[:, :, :, None, None]
    hidden = part.conv2(F.silu(part.norm2(hidden)))
    return _mix(block.time_mixer, over_time, over_time + hidden).permute(0, 2, 1, 3, 4).flatten(0, 1)


def _transformer(module: Any, x: Tensor, call: _Call) -> Tensor:
    """(B·F, C, h, w) → the same."""
    height, width = x.shape[-2:]
    y = module.proj_in(module.norm(x).permute(0, 2, 3, 1).flatten(1, 2))
    block = module.transformer_blocks[0]
    y = y + _self_attention(block.attn1, block.norm1(y))
    y = y + _cross_attention(block.attn2, block.norm2(y), call.spatial, call, (height, width))
    y = y + _feed_forward(block.ff, block.norm3(y))

    branches = len(x) // call.frames
    places = torch.arange(call.frames, device=x.device).repeat(branches)
    z = y + _mlp(module.time_pos_embed, _sinusoid(places, y.shape[-1]).to(y.dtype))[:, None]
    z = z.unflatten(0, (branches, call.frames)).permute(0, 2, 1, 3).flatten(0, 1)  # (B·h·w, F, C)
    repeated = tuple(tokens.repeat_interleave(height * width, dim=0) for tokens in call.temporal)
    block = module.temporal_transformer_blocks[0]
    z = z + _feed_forward(block.ff_in, block.norm_in(z))
    z = z + _self_attention(block.attn1, block.norm1(z))
    z = z + _cross_attention(block.attn2, block.norm2(z), repeated, call, None)  # type: ignore[arg-type]
    z = z + _feed_forward(block.ff, block.norm3(z))
    z = z.unflatten(0, (branches, height * width)).permute(0, 2, 1, 3).flatten(0, 1)

    y = module.proj_out(_mix(module.time_mixer, y, z))
    return x + y.unflatten(1, (height, width)).permute(0, 3, 1, 2)


def _feed_forward(module: Any, x: Tensor) -> Tensor:
    passed, gate = module.net[0].proj(x).chunk(2, dim=-1)
    return module.net[2](passed * F.gelu(gate))


def _attention(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    """All (N, L, C), the heads side by side in C."""
    query, key, value = (x.unflatten(2, (heads, -1)).transpose(1, 2) for x in (query, key, value))
    return F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)


def _self_attention(module: Any, x: Tensor) -> Tensor:
    out = _attention(module.to_q(x), module.to_k(x), module.to_v(x), module.heads)
    return module.to_out[0](out)


def _cross_attention(
    module: Any, x: Tensor, tokens: tuple[Tensor, Tensor, Tensor], call: _Call, grid: tuple[int, int] | None
) -> Tensor:
    """Queries (N, L, C) and a set of tokens for each of the N; with a `grid` (h, w) the adapters are masked."""
    image, *adapted = tokens
    query = module.to_q(x)
    out = _attention(query, module.to_k(image), module.to_v(image), module.heads)
    for number, (context, scale) in enumerate(zip(adapted, call.scales, strict=True)):
        key, value = module.processor.to_k_ip[number](context), module.processor.to_v_ip[number](context)
        added = _attention(query, key, value, module.heads)
        if grid is not None:
            mask = F.interpolate(call.mask.float(), grid, mode="bicubic", align_corners=False)
            added = added * mask.flatten()[None, :, None].repeat(len(x), 1, x.shape[2]).to(x.dtype)
        out = out + scale * added
    return module.to_out[0](out)
