"""A window's time and the memory by the size of the picture, beside what engines/dice_talk/cost.py expects.

By that the service refuses what would not fit or take too long, and chooses between the modes.
"""

from __future__ import annotations

import time
from typing import NamedTuple

import torch

from benchmarks import modes
from benchmarks.measure import DOES_NOT_FIT, GIB, NO_TIME, Bench, Row, attempt, free
from engines.dice_talk import vae
from engines.dice_talk.cost import CostModel
from engines.dice_talk.windows import WINDOW

_SHARE = 1 / 4  # of the time budget
_CALLS = 6  # about what a size takes in one mode, in calls of the UNet


class Sized(NamedTuple):
    """A size in both modes: normal, little memory."""

    pixels: tuple[int, int]  # width, height
    rows: tuple[Row, Row]
    seconds: float  # expected, of a window
    bytes: tuple[int, int]  # expected peaks


def by_size(bench: Bench) -> list[Sized]:
    """Every size of the plan in both modes, in a share of the time that is left."""
    if not bench.plan.sizes:
        return []
    now = time.monotonic()
    deadline = now + _SHARE * (bench.plan.deadline - now)
    cost = CostModel.of(bench.networks.unet, bench.weights or 0)
    found = []
    for pixels in bench.plan.sizes:
        seconds = cost.window_seconds(pixels)
        fits_time = deadline - _CALLS * seconds
        normal, low = (_row(bench, pixels, low_memory=low, before=fits_time) for low in (False, True))
        peaks = cost.peak_bytes(pixels, low_memory=False), cost.peak_bytes(pixels, low_memory=True)
        found.append(Sized(pixels, (normal, low), seconds, peaks))
    return found


def _row(bench: Bench, pixels: tuple[int, int], *, low_memory: bool, before: float) -> Row:
    """All kinds of work once, and a window again; nothing when it is not `before` that time."""

    def work() -> object:
        scene = modes.scene(bench.plan.size, bench.networks, pixels, bench.scene.rife)
        row.mode = modes.product("", scene, low_memory=low_memory)
        row.mode.clip(vae.CHUNK, 1)
        window, x = row.mode.window(), scene.latents(WINDOW)
        row.call = bench.seconds(lambda: window(x))
        return row.call

    row = Row(modes.product("", bench.scene, low_memory=low_memory))
    if time.monotonic() >= before:
        row.note = NO_TIME
        return row
    with bench.peak(row):
        if attempt(work) is None:
            row.note = DOES_NOT_FIT
    return row


def table(found: list[Sized]) -> list[str]:
    """In Markdown; what is expected stands in brackets."""
    lines = [
        "| pixels | a window of a step | peak GiB | low_vram: a window | peak GiB |",
        "|---|---|---|---|---|",
    ]
    for size in found:
        cells = [f"{size.pixels[0]}×{size.pixels[1]}"]
        for row, expected in zip(size.rows, size.bytes, strict=True):
            call = row.note if row.call is None else f"{row.call.median * 1000:.1f} ms"
            peak = "–" if row.peak is None else f"{row.peak[0] / GIB:.2f}"
            cells += [f"{call} ({size.seconds * 1000:.1f})", f"{peak} ({expected / GIB:.2f})"]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def beside(device: torch.device) -> int | None:
    """Bytes that CUDA and its libraries hold beside PyTorch's allocations, and whatever else is on the card."""
    if device.type != "cuda":
        return None
    free()
    left, whole = torch.cuda.mem_get_info(device)
    return int(whole - left - torch.cuda.memory_reserved(device))
