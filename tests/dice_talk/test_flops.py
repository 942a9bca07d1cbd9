"""The arithmetic of a window in the published size is what sharing leaves of it, and the plain form's is all."""

from __future__ import annotations

import pytest

from benchmarks import flops
from benchmarks.real_size import META, REAL
from engines.dice_talk.arithmetic import window_flops
from engines.dice_talk.unet import UNet, UNetConfig
from tests import tiny_checkpoint

UNEQUAL = UNetConfig(  # every width, number of heads and of layers is another one
    block_out_channels=(32, 64, 96), num_attention_heads=(1, 2, 3), layers_per_block=3, cross_attention_dim=48,
    addition_time_embed_dim=8, projection_class_embeddings_input_dim=24,
)  # fmt: skip


def test_a_window_takes_no_more_arithmetic_than_planned() -> None:
    """95.6 TFLOP; without any sharing it would be 104.9."""
    assert 94e12 < flops.call() <= 95.6e12


def test_the_plain_form_takes_what_was_counted_of_the_published_one() -> None:
    """To the last digit: so the reference leaves out none of its work, and adds none."""
    assert flops.naive_call() == 104_901_243_863_040


@pytest.mark.parametrize(("seconds", "calls"), [(2, 50), (10, 150), (60, 775)])
def test_calls_of_a_clip(seconds: int, calls: int) -> None:
    assert flops.calls(int(seconds * 12.5)) == calls


@pytest.mark.parametrize(
    ("config", "size"),
    [(REAL.unet, (512, 512)), (UNetConfig.from_json(tiny_checkpoint.UNET), (64, 64)), (UNEQUAL, (192, 320))],
    ids=["published", "tiny", "unequal"],
)
def test_what_the_shapes_say_is_what_a_call_does(config: UNetConfig, size: tuple[int, int]) -> None:
    """To the last digit."""
    with META:
        unet = UNet(config)
    assert window_flops(unet, *size) == flops.window(unet, *size)
