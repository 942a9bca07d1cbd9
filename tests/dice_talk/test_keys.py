"""The networks have the parameters that the checkpoints hold, by name and shape, in the published size."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection, WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from benchmarks.real_size import META, REAL, audio_projection, emotion_model, rife, vae
from engines.dice_talk.conditioning import PoseGuider
from engines.dice_talk.unet import UNet, UNetConfig

KEYS: dict[str, Any] = json.loads((Path(__file__).parent / "keys.json").read_text())
CONFIGS = KEYS["configs"]


def unused_emotion() -> list[str]:
    unused = KEYS["emo_unused_at_inference"]
    return unused["always"] + unused["retrieval_false_output_independent"]


def without(shapes: dict[str, list[int]], unused: list[str]) -> dict[str, list[int]]:
    assert set(unused) < set(shapes)
    return {key: shape for key, shape in shapes.items() if key not in unused}


NETWORKS: dict[str, tuple[Callable[[], Any], dict[str, list[int]]]] = {
    "unet": (lambda: UNet(UNetConfig.from_json(CONFIGS["unet"])), KEYS["unet_base"] | KEYS["unet_adapters"]),
    "pose_guider": (lambda: PoseGuider(REAL.unet.block_out_channels[0]), KEYS["pose_guider"]),
    "audio_linear": (lambda: audio_projection(REAL), KEYS["audio_linear"]),
    "emo_model": (lambda: emotion_model(REAL), without(KEYS["emo_model"], unused_emotion())),
    "rife": (lambda: rife(REAL, META), without(KEYS["rife_flownet"], KEYS["rife_unused_at_inference"])),
    "vae": (lambda: vae(REAL), KEYS["vae"]),
    "image_encoder": (
        lambda: CLIPVisionModelWithProjection(CLIPVisionConfig(**CONFIGS["image_encoder"])),
        KEYS["image_encoder"],
    ),
    "whisper": (
        lambda: WhisperEncoder(
            WhisperConfig(d_model=384, encoder_layers=4, encoder_attention_heads=6, encoder_ffn_dim=1536)
        ),
        {key.removeprefix("encoder."): shape for key, shape in KEYS["whisper_encoder"].items()},
    ),
}


@pytest.mark.parametrize(("build", "shapes"), NETWORKS.values(), ids=NETWORKS)
def test_parameters_are_the_checkpoints(build: Callable[[], Any], shapes: dict[str, list[int]]) -> None:
    with META:
        found = {key: list(tensor.shape) for key, tensor in build().state_dict().items()}
    assert found == shapes


def test_the_published_sizes_are_the_defaults() -> None:
    assert UNetConfig() == UNetConfig.from_json(CONFIGS["unet"]) == REAL.unet
