"""Small networks with random weights, and the same job for the product's pipeline and for the plain reference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from benchmarks.naive_denoising import Job
from benchmarks.real_size import TINY, TOKENS, ImageEncoder, networks
from engines.dice_talk.conditioning import TokenProjection
from engines.dice_talk.pipeline import Conditions, Pipeline, project_emotions
from engines.dice_talk.portrait import PortraitTensors

HEIGHT, WIDTH = 128, 64
EMOTION, NO_EMOTION = 1, 0


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class _Given(TokenProjection):
    """Stands where the audio projection does, whose rounding depends on how many frames it takes at once.

    Takes the number of a frame, plus 1, for its features; 0 is silence.
    """

    def __init__(self, tokens: Tensor) -> None:
        super().__init__(1, 1, 1, 1)
        self._tokens = tokens

    def forward(self, features: Tensor) -> Tensor:
        return self._tokens[features.flatten().long()]


@dataclass
class Plain:
    """One clip, twice."""

    pipeline: Pipeline
    conditions: Conditions
    job: Job

    def clips(self, frames: Sequence[int]) -> Tensor:
        """See `_Given`."""
        return torch.tensor(frames)[:, None] + 1


def plain(frames: int, dtype: torch.dtype, device: torch.device | None = None) -> Plain:
    """A clip of so many frames. Call it, and use what it gives, in inference mode."""
    device = device or torch.device("cpu")
    width = TINY.unet.cross_attention_dim
    emotions, token = random(2, TOKENS, width, seed=1), random(1, width, seed=2)
    audio = random(frames + 1, TOKENS, width, seed=4).to(device)

    built = networks(TINY, device, dtype)
    parts = replace(
        built,
        emotion_layers=project_emotions(built.unet, emotions),
        audio_projection=_Given(audio),
        image_encoder=ImageEncoder(token),  # type: ignore[arg-type]
        no_emotion=NO_EMOTION,
    )
    # An ellipse with values between 0 and 1 along its rim.
    rows, columns = torch.linspace(-1, 1, HEIGHT)[:, None], torch.linspace(-1, 1, WIDTH)[None]
    mask = (3 - 3 * (rows**2 + columns**2)).clamp(0, 1)
    portrait = PortraitTensors(random(3, HEIGHT, WIDTH, seed=3).tanh(), mask, torch.zeros(3, 224, 224))
    pipeline = Pipeline(parts)
    conditions = pipeline.prepare(portrait, EMOTION)
    tokens = emotions.to(device, dtype)
    job = Job(
        embedding=token.to(device, dtype),
        latents=conditions.image_latents,
        mask=mask.to(device),
        audio=audio[1:].to(dtype),
        no_audio=audio[:1].to(dtype),
        emotion=tokens[EMOTION][None],
        no_emotion=tokens[NO_EMOTION][None],
    )
    return Plain(pipeline, conditions, job)
