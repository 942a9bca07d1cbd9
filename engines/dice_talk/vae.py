"""The autoencoder of Stable Video Diffusion: portrait → latents, latents → frames (specification, section 8).

The networks are diffusers' own; this module runs them in the precision they need, and decodes in little memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  the usual name
from diffusers import AutoencoderKLTemporalDecoder
from torch import Tensor, nn

SCALING = 0.18215
CHUNK = 10  # frames decoded together: the decoder convolves over them, so the borders are part of the result
_SLICE_ELEMENTS = 1 << 24  # that a sliced layer works on at a time


def encode(autoencoder: AutoencoderKLTemporalDecoder, picture: Tensor) -> Tensor:
    """(1, 3, H, W) in -1..1 → the mean of the latents (1, 4, h, w) in fp32, not scaled."""
    network: Any = autoencoder  # diffusers declares no types for its parts
    moments = network.quant_conv(network.encoder(picture.to(network.quant_conv.weight.dtype)))
    return moments.chunk(2, dim=1)[0].float()


def decode(autoencoder: AutoencoderKLTemporalDecoder, latents: Tensor, *, low_memory: bool = False) -> Tensor:
    """Scaled latents of one chunk (F, 4, h, w) → frames (F, 3, H, W) in fp32, about -1..1."""
    decoder: Any = autoencoder.decoder  # type: ignore[attr-defined]
    z = latents.to(decoder.conv_in.weight.dtype) / SCALING
    if low_memory:
        return _decode_sliced(decoder, z).float()
    indicator = torch.zeros(1, len(z), dtype=z.dtype, device=z.device)
    return decoder(z, image_only_indicator=indicator, num_frames=len(z)).float()


def chunks(frames: int) -> list[range]:
    """The chunks that hold real frames; the last one runs into the padding."""
    return [range(start, start + CHUNK) for start in range(0, frames, CHUNK)]


# -- the decoder in little memory: layers within a frame work frame by frame, layers over the frames row by row -------


def _decode_sliced(decoder: Any, z: Tensor) -> Tensor:
    """What `decoder` does to one chunk, with one full set of activations and a half instead of five."""
    x = _by_frame(decoder.conv_in, z)
    middle = decoder.mid_block
    x = _resnet(middle.resnets[0], x)
    for resnet, attention in zip(middle.resnets[1:], middle.attentions, strict=False):
        x = _resnet(resnet, _by_frame(attention, x))
    for block in decoder.up_blocks:
        for resnet in block.resnets:
            x = _resnet(resnet, x)
        if block.upsamplers is not None:
            x = _by_frame(block.upsamplers[0], x)
    head = nn.Sequential(decoder.conv_norm_out, decoder.conv_act, decoder.conv_out)
    x = _by_frame(head, x)
    return decoder.time_conv_out(x.transpose(0, 1)[None])[0].transpose(0, 1)


def _by_frame(layer: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    first = layer(x[:1])
    out = first.new_empty(len(x), *first.shape[1:])
    out[:1] = first
    for frame in range(1, len(x)):
        out[frame : frame + 1] = layer(x[frame : frame + 1])
    return out


def _resnet(block: Any, x: Tensor) -> Tensor:
    """A spatio-temporal block; it mixes α · temporal + (1 - α) · spatial, the other way round than the UNet's."""
    spatial = _by_frame(lambda frame: block.spatial_res_block(frame, None), x)
    del x
    temporal = block.temporal_res_block
    share = torch.sigmoid(block.time_mixer.mix_factor).to(spatial.dtype)
    hidden = _over_frames(temporal.norm1, temporal.conv1, spatial)
    hidden = _over_frames(temporal.norm2, temporal.conv2, hidden)
    for frame in range(len(spatial)):  # in place: spatial + α · what the temporal block adds
        spatial[frame] += share * hidden[frame]
    return spatial


def _over_frames(norm: nn.GroupNorm, convolution: nn.Conv3d, x: Tensor) -> Tensor:
    """conv(SiLU(norm x)) over the frames: x is (F, C, H, W), the norm's groups span frames and positions."""
    frames, channels, height, width = x.shape
    groups = norm.num_groups
    of_frames = [torch.var_mean(frame.float().reshape(groups, -1), dim=1, correction=0) for frame in x]
    variances, means = (torch.stack(values) for values in zip(*of_frames, strict=True))
    mean = means.mean(dim=0)
    variance = variances.mean(dim=0) + ((means - mean) ** 2).mean(dim=0)
    scale = torch.rsqrt(variance + norm.eps).repeat_interleave(channels // groups) * norm.weight.float()
    shift = norm.bias.float() - mean.repeat_interleave(channels // groups) * scale
    weight = convolution.weight.squeeze(-1)
    out = torch.empty_like(x)
    rows = max(1, _SLICE_ELEMENTS // (frames * channels * width))
    for top in range(0, height, rows):
        part = x[:, :, top : top + rows].float() * scale[None, :, None, None] + shift[None, :, None, None]
        part = F.silu(part).to(x.dtype).flatten(2).transpose(0, 1)[None]  # (1, C, F, positions)
        part = F.conv2d(part, weight, convolution.bias, padding=(1, 0))[0].transpose(0, 1)
        out[:, :, top : top + rows] = part.unflatten(2, (-1, width))
    return out
