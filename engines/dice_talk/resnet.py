"""The spatio-temporal residual block of the UNet, and its changes of resolution (specification, section 6.3)."""

from __future__ import annotations

import torch.nn.functional as F  # noqa: N812  the usual name
from torch import Tensor, nn

from engines.dice_talk.transformer import TimeMixer


class _ResBlock(nn.Module):
    """x + conv(SiLU(norm(conv(SiLU(norm x)) + projected time embedding))), on (N, C, ., .).

    `kernel` is (3, 3) within a frame. Over the frames it is (3, 1, 1) in the checkpoints, of which the last 1 is left
    out in the computation, for (N, C, F, h·w).
    """

    def __init__(
        self, channels: int, out_channels: int, time_channels: int, eps: float, kernel: tuple[int, ...]
    ) -> None:
        super().__init__()
        convolution = nn.Conv2d if len(kernel) == 2 else nn.Conv3d
        padding = tuple(size // 2 for size in kernel)
        self.norm1 = nn.GroupNorm(32, channels, eps=eps)
        self.conv1 = convolution(channels, out_channels, kernel, padding=padding)  # type: ignore[arg-type]
        self.time_emb_proj = nn.Linear(time_channels, out_channels)
        self.norm2 = nn.GroupNorm(32, out_channels, eps=eps)
        self.conv2 = convolution(out_channels, out_channels, kernel, padding=padding)  # type: ignore[arg-type]
        if channels != out_channels:
            self.conv_shortcut = nn.Conv2d(channels, out_channels, 1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """`time` (1, time channels) is the same for all branches and frames."""
        hidden = _convolve(self.conv1, F.silu(self.norm1(x)))
        hidden = hidden + self.time_emb_proj(F.silu(time))[:, :, None, None]
        hidden = _convolve(self.conv2, F.silu(self.norm2(hidden)))
        return (self.conv_shortcut(x) if hasattr(self, "conv_shortcut") else x) + hidden


def _convolve(convolution: nn.Conv2d | nn.Conv3d, x: Tensor) -> Tensor:
    weight = convolution.weight
    if weight.dim() == 5:
        weight = weight.squeeze(-1)
    return F.conv2d(x, weight, convolution.bias, padding=convolution.padding[:2])


class SpatioTemporalResBlock(nn.Module):
    """A residual block within the frames, one over them, and a learned mix of the two."""

    def __init__(self, channels: int, out_channels: int, time_channels: int, eps: float) -> None:
        super().__init__()
        self.spatial_res_block = _ResBlock(channels, out_channels, time_channels, eps, (3, 3))
        self.temporal_res_block = _ResBlock(out_channels, out_channels, time_channels, eps, (3, 1, 1))
        self.time_mixer = TimeMixer()

    def forward(self, x: Tensor, time: Tensor, frames: int) -> Tensor:
        """(B·F, C, h, w) → (B·F, out channels, h, w)."""
        spatial = self.spatial_res_block(x, time)
        grid = spatial.shape[-2:]
        # (B, C, F, h·w): a mere view when the channels are last in memory.
        over_time = spatial.unflatten(0, (-1, frames)).flatten(3).transpose(1, 2)
        temporal = self.temporal_res_block(over_time, time)
        mixed: Tensor = self.time_mixer(over_time, temporal)
        return mixed.transpose(1, 2).unflatten(3, grid).flatten(0, 1)


class Downsample(nn.Module):
    """Half the resolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x)
        return out


class Upsample(nn.Module):
    """Twice the resolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return out
