"""The autoencoder of Stable Video Diffusion: portrait → latents, latents → frames (specification, section 8).

The networks are diffusers' own; this module runs them in the precision they need, and decodes in little memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
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
    """What `decoder` does to one chunk, with one set of activations alive, and what one frame or slice needs.

    The frames are a list, so that each one's input is freed as soon as its output is there. No layer makes a frame
    larger without the one that follows: the widest activations exist for one frame at a time.
    """
    frames = list(z.split(1))
    _each(decoder.conv_in, frames)
    middle = decoder.mid_block
    _resnet(middle.resnets[0], frames)
    for resnet, attention in zip(middle.resnets[1:], middle.attentions, strict=False):
        _resnet(resnet, frames, attention)
    upsample = None
    for block in decoder.up_blocks:
        for resnet in block.resnets:
            _resnet(resnet, frames, upsample)
            upsample = None
        if block.upsamplers is not None:
            upsample = block.upsamplers[0]
    _each(nn.Sequential(decoder.conv_norm_out, decoder.conv_act, decoder.conv_out), frames)
    return decoder.time_conv_out(torch.stack(frames, dim=2))[0].transpose(0, 1)


def _each(layer: Callable[[Tensor], Tensor], frames: list[Tensor]) -> None:
    """In place."""
    for number, frame in enumerate(frames):
        frames[number] = layer(frame)


def _resnet(block: Any, frames: list[Tensor], before: Callable[[Tensor], Tensor] | None = None) -> None:
    """A spatio-temporal block in place, with the layer that comes `before` it.

    It mixes α · temporal + (1 - α) · spatial, the other way round than the UNet's: that is spatial + α · what the
    temporal block adds.
    """
    spatial, temporal = block.spatial_res_block, block.temporal_res_block
    _each(lambda frame: spatial(frame if before is None else before(frame), None), frames)
    share = torch.sigmoid(block.time_mixer.mix_factor).to(frames[0].dtype)
    channels, height, width = frames[0].shape[1:]
    rows = max(1, _SLICE_ELEMENTS // (len(frames) * channels * width))
    slices = [slice(top, top + rows) for top in range(0, height, rows)]

    def entry(part: slice) -> Tensor:
        return torch.stack([frame[0, :, part] for frame in frames], dim=1)

    first = _normalisation(temporal.norm1, map(entry, slices))

    def hidden(part: slice) -> Tensor:
        return _over_frames(temporal.conv1, first(entry(part)))

    # The second norm spans everything: `hidden` is made twice, rather than kept.
    second = _normalisation(temporal.norm2, map(hidden, slices))
    for part in slices:
        added = _over_frames(temporal.conv2, second(hidden(part))).mul_(share)
        for number, frame in enumerate(frames):
            frame[0, :, part] += added[:, number]


def _normalisation(norm: nn.GroupNorm, parts: Iterable[Tensor]) -> Callable[[Tensor], Tensor]:
    """SiLU(norm x), where x is all the parts (C, F, rows, W) together, as a function of one of them."""
    of_parts: list[tuple[int, Tensor, Tensor]] = []  # numbers in a group, their variance and mean
    for part in parts:
        groups = _wide(part).unflatten(0, (norm.num_groups, -1)).flatten(1)
        of_parts.append((groups.shape[1], *torch.var_mean(groups, dim=1, correction=0)))
    total = sum(count for count, _, _ in of_parts)
    mean = sum((count / total * part for count, _, part in of_parts), start=torch.zeros(()))
    variance = sum(
        (count / total * (spread + (part - mean) ** 2) for count, spread, part in of_parts), start=torch.zeros(())
    )
    repeats = norm.num_channels // norm.num_groups
    scale = torch.rsqrt(variance + norm.eps).repeat_interleave(repeats) * _wide(norm.weight)
    shift = _wide(norm.bias) - mean.repeat_interleave(repeats) * scale

    def apply(part: Tensor) -> Tensor:
        wide = torch.addcmul(shift[:, None, None, None], _wide(part), scale[:, None, None, None])
        return F.silu(wide, inplace=True).to(part.dtype)

    return apply


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _over_frames(convolution: nn.Conv3d, x: Tensor) -> Tensor:
    """A (3, 1, 1) convolution of (C, F, rows, W), as one of images of F rows."""
    weight = convolution.weight.squeeze(-1)
    out = F.conv2d(x.flatten(2)[None], weight, convolution.bias, padding=(1, 0))
    return out[0].unflatten(2, x.shape[2:])
