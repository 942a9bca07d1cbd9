"""The frame between two frames: RIFE's IFNet HDv3 (specification, section 9)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
import torch.nn.functional as F  # noqa: N812  the usual name
from torch import Tensor, nn

_SCALES = (4, 2, 1)


def _conv(channels: int, out_channels: int, stride: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, out_channels, 3, stride, padding=1), nn.PReLU(out_channels))


def _up(channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.ConvTranspose2d(channels, channels // 2, 4, 2, padding=1),
        nn.PReLU(channels // 2),
        nn.ConvTranspose2d(channels // 2, out_channels, 4, 2, padding=1),
    )


def _resize(x: Tensor, factor: float) -> Tensor:
    return F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False, recompute_scale_factor=False)


class _Block(nn.Module):
    """Refines flow and mask at one scale."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.conv0 = nn.Sequential(_conv(channels, width // 2, 2), _conv(width // 2, width, 2))
        for number in range(4):
            self.add_module(f"convblock{number}", nn.Sequential(_conv(width, width, 1), _conv(width, width, 1)))
        self.conv1 = _up(width, 4)
        self.conv2 = _up(width, 1)

    def forward(self, x: Tensor, flow: Tensor, scale: int) -> tuple[Tensor, Tensor]:
        small = torch.cat([_resize(x, 1 / scale), _resize(flow, 1 / scale) * (1 / scale)], dim=1)
        features = self.conv0(small)
        for number in range(4):
            features = features + self.get_submodule(f"convblock{number}")(features)
        return _resize(self.conv1(features), scale) * scale, _resize(self.conv2(features), scale)


class IFNet(nn.Module):
    """Estimates the flow from the middle to both frames, coarse to fine, and blends what it fetches."""

    def __init__(self, width: int = 90) -> None:
        super().__init__()
        for number in range(len(_SCALES)):
            self.add_module(f"block{number}", _Block(11, width))

    def forward(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Frames (N, 3, H, W), 0..1, sides multiples of 16 → the middle frame, flow (N, 4, H, W) in pixels, mask."""
        flow = first.new_zeros(len(first), 4, *first.shape[-2:])
        mask = first.new_zeros(len(first), 1, *first.shape[-2:])
        grid = _base_grid(first)
        warped = first, second
        for number, scale in enumerate(_SCALES):
            block = self.get_submodule(f"block{number}")
            flow_0, mask_0 = block(torch.cat([*warped, mask], 1), flow, scale)
            flow_1, mask_1 = block(torch.cat([warped[1], warped[0], -mask], 1), _swap(flow), scale)
            flow = flow + (flow_0 + _swap(flow_1)) / 2
            mask = mask + (mask_0 - mask_1) / 2
            warped = _warp(first, flow[:, :2], grid), _warp(second, flow[:, 2:], grid)
        weight = torch.sigmoid(mask)
        return warped[0] * weight + warped[1] * (1 - weight), flow, weight

    def middle(self, first: Tensor, second: Tensor) -> Tensor:
        """The frame between two frames, all (3, H, W) in 0..1."""
        return self(first[None], second[None])[0][0].clamp(0, 1)


def _swap(flow: Tensor) -> Tensor:
    return flow[:, [2, 3, 0, 1]]


def _base_grid(image: Tensor) -> Tensor:
    height, width = image.shape[-2:]
    rows = torch.linspace(-1, 1, height, device=image.device)
    columns = torch.linspace(-1, 1, width, device=image.device)
    return torch.stack(torch.meshgrid(columns, rows, indexing="xy"))[None]


def _warp(image: Tensor, flow: Tensor, grid: Tensor) -> Tensor:
    height, width = image.shape[-2:]
    size = flow.new_tensor([(width - 1) / 2, (height - 1) / 2])[None, :, None, None]
    places = (grid + flow / size).permute(0, 2, 3, 1)
    return F.grid_sample(image, places, mode="bilinear", padding_mode="border", align_corners=True)


def double_rate(
    middle: Callable[[Tensor, Tensor], Tensor], frames: Iterable[Tensor], before: Tensor | None = None
) -> Iterator[Tensor]:
    """Each of N frames and, between two, their middle: 2N - 1 frames, one pair at a time.

    With the frame `before` them: its middle with the first one, too.
    """
    for frame in frames:
        if before is not None:
            yield middle(before, frame)
        yield frame
        before = frame
