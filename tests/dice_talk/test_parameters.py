"""What of a job reaches the networks, where a mistake would still give a plausible video."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from engines.base import FaceBox, JobCancelledError
from engines.dice_talk import sampler, vae
from engines.dice_talk.engine import DiceTalkEngine
from engines.dice_talk.interpolation import double_rate
from engines.dice_talk.pipeline import Pipeline
from engines.dice_talk.portrait import PortraitTensors
from engines.dice_talk.synthesis import picture_of
from media import image, video
from tests.dice_talk import conftest
from tests.dice_talk.conftest import PORTRAIT, SPEECH
from tests.jobs import make_job

PARAMS = replace(conftest.PARAMS, inference_steps=1)


@pytest.fixture
def make(engine: DiceTalkEngine, tmp_path: Path) -> Callable[..., FaceBox]:
    """make(seconds, portrait, **changed parameters) makes a video, and says where the face was found."""

    def make(seconds: float = 0.1, portrait: Path = PORTRAIT, **changes: Any) -> FaceBox:
        face = engine.inspect(image.load(portrait)).face
        job = make_job(portrait, SPEECH, tmp_path / "video.mp4", seconds, face, replace(PARAMS, **changes))
        engine.synthesize(job, lambda *_: None, lambda: False)
        return face

    return make


def test_each_scale_weighs_its_own_step(
    engine: DiceTalkEngine, make: Callable[..., FaceBox], monkeypatch: pytest.MonkeyPatch
) -> None:
    """ref_scale: from nothing to the portrait, here 0 → 1; emo_scale: from there to speech and emotion, 1 → 3."""
    guided: list[Tensor] = []
    step = sampler.euler_step

    def branches(sample: Tensor, *_: Any) -> Tensor:
        return torch.tensor([0.0, 1.0, 3.0]).reshape(3, 1, 1, 1, 1).expand_as(sample[:, :, :4])

    def record(x: Tensor, v: Tensor, *levels: float) -> Tensor:
        guided.append(v)
        return step(x, v, *levels)

    monkeypatch.setattr(engine._ready()[0].networks.unet, "forward", branches)
    monkeypatch.setattr(sampler, "euler_step", record)
    make(ref_scale=2.0, emo_scale=5.0)
    assert guided
    assert all(torch.all(v == 2.0 * 1 + 5.0 * 2) for v in guided)


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_dynamic_scale_multiplies_both_motion_buckets(
    engine: DiceTalkEngine, make: Callable[..., FaceBox], monkeypatch: pytest.MonkeyPatch, scale: float
) -> None:
    unet = engine._ready()[0].networks.unet
    seen: list[list[float]] = []
    embed = unet.embed_time

    def record(timestep: float, ids: Tensor) -> Tensor:
        seen.append(ids.tolist())
        return embed(timestep, ids)

    monkeypatch.setattr(unet, "embed_time", record)
    make(dynamic_scale=scale)
    assert seen
    assert all(ids == [12.5, 8 * scale, 16 * scale] for ids in seen)


@pytest.mark.parametrize("crop", [True, False], ids=["cropped", "whole"])
def test_the_mask_lies_on_the_face_of_the_picture_that_is_animated(
    engine: DiceTalkEngine, make: Callable[..., FaceBox], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, crop: bool
) -> None:
    seen: list[PortraitTensors] = []

    def record(pipeline: Pipeline, portrait: PortraitTensors, *rest: Any) -> None:
        seen.append(portrait)
        raise JobCancelledError

    monkeypatch.setattr(Pipeline, "prepare", record)
    person = image.load(PORTRAIT)
    wide = np.full((person.shape[0] + 300, person.shape[1] + 400, 3), 90, np.uint8)
    wide[250 : 250 + person.shape[0], 350 : 350 + person.shape[1]] = person
    Image.fromarray(wide).save(tmp_path / "wide.png")
    with pytest.raises(JobCancelledError):
        make(portrait=tmp_path / "wide.png", crop=crop, min_resolution=256)
    (portrait,) = seen
    shown = engine.inspect(((portrait.reference * 0.5 + 0.5) * 255).round().byte().permute(1, 2, 0).numpy()).face
    rows, columns = (torch.nonzero(portrait.mask.amax(dim=axis) > 0.5).flatten() for axis in (1, 0))
    mask = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
    size = np.array([shown.right - shown.left, shown.bottom - shown.top] * 2)
    larger = np.array([shown.left, shown.top, shown.right, shown.bottom]) + size * [-0.05, -0.05, 0.05, 0.05]
    assert np.abs(mask - larger).max() <= 0.1 * size.max()  # the detector sees the smaller picture a little differently


@pytest.mark.parametrize("fails", ["never", "while decoding", "while interpolating"])
def test_chunks_join_without_a_seam(
    engine: DiceTalkEngine, make: Callable[..., FaceBox], monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    """Also when the second chunk does not fit the memory at first and is done again."""
    networks, network = engine._ready()[0].networks, engine._ready()[0].interpolation
    assert network is not None
    found: list[Tensor] = []
    pictures: list[Any] = []
    tries: list[bool] = []  # of decoding, whether in little memory
    pairs = 0
    denoise, decode, middle, write = Pipeline.denoise, vae.decode, network.middle, video.VideoWriter.write

    def full(when: str) -> None:
        if fails == when and tries == [False, False]:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    def record_latents(*arguments: Any, **named: Any) -> Tensor:
        found.append(denoise(*arguments, **named))
        return found[0]

    def decode_or_fail(network: Any, latents: Tensor, *, low_memory: bool = False) -> Tensor:
        tries.append(low_memory)
        full("while decoding")
        return decode(network, latents, low_memory=low_memory)

    def middle_or_fail(first: Tensor, second: Tensor) -> Tensor:
        nonlocal pairs
        pairs += 1
        if pairs == 9 + 10:  # the last pair of the second chunk
            full("while interpolating")
        return middle(first, second)

    def record_picture(writer: video.VideoWriter, picture: Any) -> None:
        pictures.append(picture.astype(int))
        write(writer, picture)

    with monkeypatch.context() as patch:
        patch.setattr(Pipeline, "denoise", record_latents)
        patch.setattr(vae, "decode", decode_or_fail)
        patch.setattr(network, "middle", middle_or_fail)
        patch.setattr(video.VideoWriter, "write", record_picture)
        make(1.7)
    assert tries == ([False, False, False] if fails == "never" else [False, False, True, True])
    frames = len(found[0]) - 25
    assert frames == 21  # three chunks
    with torch.inference_mode():
        decoded = [decode(networks.vae, found[0][start : start + 10]) for start in (0, 10, 20)]
        whole = (torch.cat(decoded)[:frames] * 0.5 + 0.5).clamp(0, 1)
        expected = [picture_of(frame).astype(int) for frame in double_rate(middle, whole)]
    expected += expected[-1:] * (len(pictures) - len(expected))
    assert len(pictures) == 42
    assert np.abs(np.subtract(pictures, expected)).max() <= 1
