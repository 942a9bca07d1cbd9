"""Memory in the published size, counted on the meta device: what `Tracker` sees, and that it fits."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812  the usual name
from torch import Tensor, nn

from benchmarks import memory, meta
from benchmarks.tracker import Tracker
from engines.dice_talk import cost

MIB = 1 << 20


def megabytes(count: float) -> Tensor:
    return meta.empty(int(count * MIB / 2))


@torch.inference_mode()
def test_the_tracker_counts_what_lives_at_once() -> None:
    held = megabytes(5)
    with Tracker([held]) as tracker:
        first = megabytes(3)
        second = first + first
        assert tracker.live == 6 * MIB
        view = second[10:]
        del second  # the view keeps all of it
        assert tracker.live == 6 * MIB
        del view, first
        assert tracker.live == 0
        held + 1
        assert tracker.live == 0
    assert tracker.peak == 6 * MIB


@torch.inference_mode()
def test_the_tracker_sees_the_temporaries_of_composite_operations() -> None:
    """A group norm copies what is not dense."""
    norm = nn.GroupNorm(1, 64, device="meta", dtype=torch.float16)
    x = meta.empty(64, 128, 64)
    with Tracker([x, *norm.parameters()]) as tracker:
        norm(x.transpose(0, 1))
    assert 2 * MIB <= tracker.peak < 2.1 * MIB


@torch.inference_mode()
def test_attention_never_has_its_scores() -> None:
    """They would be 128 MiB; the output is 1 MiB, and there is a number for each query."""
    query = meta.empty(1, 1, 8192, 64)
    with Tracker([query]) as tracker:
        F.scaled_dot_product_attention(query, query, query)
    assert tracker.peak == MIB + 4 * 8192


def test_little_memory_is_enough_at_the_default_size() -> None:
    """6.0 GiB at 512×512 at most, weights included, for a video of any length."""
    weights = memory.weights()
    assert weights < 3.6 * memory.GIB
    activations = max(memory.peak_window(512, 512, low_memory=True), memory.peak_decode(512, 512, low_memory=True))
    at_once = max(activations, memory.peak_prepare(512, 512))
    assert at_once + weights < 4.8 * memory.GIB  # less than promised: what the allocator wastes comes on top
    expected = cost.FIXED_BYTES + cost.LOW_MEMORY_BYTES_PER_PIXEL * 512 * 512
    assert 0.7 * expected < activations < expected


def test_what_the_engine_expects_is_what_is_counted() -> None:
    """At a quarter of the pixels, to be quick; little memory above."""
    counted = max(memory.peak_window(256, 256, low_memory=False), memory.peak_decode(256, 256, low_memory=False))
    expected = cost.FIXED_BYTES + cost.NORMAL_BYTES_PER_PIXEL * 256 * 256
    assert 0.7 * expected < counted < expected
