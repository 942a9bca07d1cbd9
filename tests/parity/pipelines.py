"""Running the pipeline cases: the whole of denoising and decoding with small networks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AutoencoderKLTemporalDecoder
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from engines.dice_talk import vae
from engines.dice_talk.conditioning import PoseGuider, TokenProjection
from engines.dice_talk.pipeline import PADDING, Networks, Pipeline, Sampling, project_emotions
from engines.dice_talk.portrait import PortraitTensors
from engines.dice_talk.unet import UNet, UNetConfig
from tests.parity.golden import Case


@dataclass
class Parts:
    """The networks of a case."""

    unet: UNet
    pose_guider: PoseGuider
    vae: AutoencoderKLTemporalDecoder
    clip: CLIPVisionModelWithProjection


class GivenTokens(TokenProjection):
    """Stands where the audio projection does: takes the number of a frame for its features, gives its tokens."""

    def __init__(self, tokens: Tensor, silence: Tensor) -> None:
        super().__init__(1, 1, 1, 1)
        self._given = torch.cat([silence[None], tokens])

    def forward(self, features: Tensor) -> Tensor:
        return self._given[features.flatten().long()]


def networks(case: Case) -> Parts:
    config = case.config
    parts = Parts(
        UNet(UNetConfig.from_json({**config["unet"], "adapter_scales": config["adapter_scales"]})),
        PoseGuider(
            config["pose_guider"]["conditioning_embedding_channels"], tuple(config["pose_guider"]["block_out_channels"])
        ),
        AutoencoderKLTemporalDecoder(**config["vae"]),
        CLIPVisionModelWithProjection(CLIPVisionConfig(**config["clip"])),
    )
    case.seed(parts.unet, "unet")
    case.seed(parts.pose_guider, "pose")
    case.seed(parts.vae, "vae")
    case.seed(parts.clip, "clip")
    return parts


def pipeline(parts: Parts, projection: TokenProjection, emotions: Tensor) -> Pipeline:
    """`emotions`: the tokens of the only emotion, then the unconditional ones."""
    return Pipeline(
        Networks(
            unet=parts.unet,
            pose_guider=parts.pose_guider,
            audio_projection=projection,
            vae=parts.vae,
            image_encoder=parts.clip,
            emotion_layers=project_emotions(parts.unet, emotions),
            emotion_rows={"any": 0},
            no_emotion=1,
        )
    )


def sampling(config: dict[str, Any]) -> Sampling:
    return Sampling(config["steps"], config["guidance1"], config["guidance2"])


def run(case: Case) -> dict[str, Any]:
    parts = networks(case)
    projection = GivenTokens(case.tensor("audio_tokens"), case.tensor("uncond_audio_token"))
    made = pipeline(parts, projection, torch.stack([case.tensor("emotion_token"), case.tensor("uncond_emotion_token")]))
    calls: list[list[float]] = []

    def record(_: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> None:
        calls.append([value for x in (arguments[0], output) for value in _statistics(x)])

    parts.unet.register_forward_hook(record)
    mask = torch.outer(case.tensor("face_mask_rows"), case.tensor("face_mask_cols")) / 9
    conditions = made.prepare(PortraitTensors(case.tensor("ref_image")[0], mask, case.tensor("clip_image")[0]), 0)

    def clips(frames: Sequence[int]) -> Tensor:
        return torch.tensor(frames)[:, None] + 1

    noise = case.tensor("noise")[0]
    count = len(noise) - PADDING
    latents = made.denoise(conditions, noise, clips, sampling(case.config))
    frames = [
        vae.decode(parts.vae, latents[chunk.start : chunk.stop])[: count - chunk.start] for chunk in vae.chunks(count)
    ]
    return {
        "latents": latents[None],
        "frames": torch.cat(frames).transpose(0, 1)[None],
        "call_stats": torch.tensor(calls),
        "pose_features": conditions.pose,
        "image_latents": conditions.image_latents,
        "image_embedding": parts.clip(case.tensor("clip_image")).image_embeds,
    }


def _statistics(x: Tensor) -> tuple[float, float, float]:
    return x.mean().item(), x.abs().mean().item(), x.norm().item()


def run_draws(case: Case) -> dict[str, Any]:
    """Only the order of the random numbers; noise on the portrait, varying guidance and strength are not offered."""
    _, frames, *_ = case.shape("draw2")
    *_, height, width = case.shape("draw1")
    parts = networks(case)
    channels = parts.unet.config.cross_attention_dim
    made = pipeline(
        parts, GivenTokens(torch.zeros(1, 1, channels), torch.zeros(1, channels)), torch.zeros(2, 1, channels)
    )
    seed = case.config["torch_seed"]
    return {
        "draw1": torch.randn(1, 3, height, width, generator=made.generator(seed)),
        "draw2": made.noise(made.generator(seed), frames - PADDING, height, width)[None],
    }
