"""Decoding in little memory is decoding; chunks run into the padding."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLTemporalDecoder

from benchmarks.real_size import TINY, made
from benchmarks.real_size import vae as build
from engines.dice_talk import vae


def autoencoder(dtype: torch.dtype) -> AutoencoderKLTemporalDecoder:
    return made(lambda: build(TINY), torch.device("cpu"), dtype)


def latents(dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(vae.CHUNK, 4, 6, 4, generator=torch.Generator().manual_seed(1)).to(dtype)


@pytest.mark.parametrize("slice_elements", [1 << 24, 20_000])  # one slice each; several rows at a time, the last fewer
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_decoding_in_little_memory_gives_the_same_frames(
    dtype: torch.dtype, tolerance: float, slice_elements: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vae, "_SLICE_ELEMENTS", slice_elements)
    decoder: Any = autoencoder(dtype).decoder  # type: ignore[attr-defined]
    z = latents(dtype)
    with torch.inference_mode():
        plain = decoder(z, image_only_indicator=torch.zeros(1, len(z), dtype=dtype), num_frames=len(z))
        sliced = vae._decode_sliced(decoder, z)
    assert sliced.shape == plain.shape == (vae.CHUNK, 3, 48, 32)
    assert (sliced - plain).norm() < tolerance * plain.norm()


def test_decoding_in_little_memory_leaves_the_latents_alone() -> None:
    network, z = autoencoder(torch.float32), latents(torch.float32)
    before = z.clone()
    with torch.inference_mode():
        vae.decode(network, z, low_memory=True)
    assert torch.equal(z, before)


def test_portraits_are_encoded_in_the_encoders_precision() -> None:
    network: Any = autoencoder(torch.bfloat16)
    network.encoder.float()
    network.quant_conv.float()
    with torch.inference_mode():
        found = vae.encode(network, torch.zeros(1, 3, 48, 32))
    assert (found.dtype, found.shape) == (torch.float32, (1, 4, 6, 4))


@pytest.mark.parametrize(("frames", "last"), [(1, 10), (10, 10), (11, 20), (125, 130)])
def test_the_last_chunk_is_whole(frames: int, last: int) -> None:
    pieces = vae.chunks(frames)
    assert [len(piece) for piece in pieces] == [vae.CHUNK] * (last // vae.CHUNK)
    assert pieces[-1].stop == last
