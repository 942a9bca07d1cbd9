"""Arithmetic of a clip, counted on the meta device: `python -m benchmarks.flops` prints it beside the naive form's.

Matrix products, convolutions and attention count, a multiply-add as 2; norms and activations do not. The naive form
is benchmarks.naive for the UNet; what else the published form repeats is said in the table.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import meta, naive
from benchmarks.real_size import META, REAL, TOKENS, emotion_model, made, rife
from engines.dice_talk import vae
from engines.dice_talk.cost import window_call
from engines.dice_talk.pipeline import FPS, PADDING
from engines.dice_talk.unet import UNet
from engines.dice_talk.windows import WINDOW, windows

SIDE = 512  # of the pictures, in pixels
STEPS = 25
CLIPS = (2, 10, 60)  # seconds
_BRANCHES = 3
_SPEECH_WINDOW = 30  # seconds that the speech encoder takes at a time
_TERA = 1e12


def count(work: Callable[[], object]) -> int:
    """FLOPs of `work`."""
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def window(unet: UNet, height: int, width: int) -> int:
    """One window of a video of this size, with a UNet on the meta device."""
    with torch.inference_mode(), META:
        return count(window_call(unet, height, width))


def call() -> int:
    """One window in three branches, with the keys and values of its audio; those of image and emotion were before."""
    return window(meta.pipeline().networks.unet, SIDE, SIDE)


def naive_call() -> int:
    """The same as the published form does it."""
    rows, latents = _BRANCHES * WINDOW, SIDE // 8
    width, tokens = REAL.unet.block_out_channels[0], REAL.unet.cross_attention_dim
    inputs = naive.Inputs(
        sample=meta.empty(_BRANCHES, WINDOW, 8, latents, latents),
        timestep=1.0,
        time_ids=meta.empty(_BRANCHES, 3),
        condition=meta.empty(rows, width, latents, latents),
        image=meta.empty(rows, 1, tokens),
        audio=meta.empty(rows, TOKENS, tokens),
        emotion=meta.empty(rows, TOKENS, tokens),
        mask=meta.empty(1, 1, SIDE, SIDE),
    )
    unet = meta.pipeline().networks.unet  # out here: making it projects the emotions
    return count(lambda: naive.predict(unet, inputs))


@dataclass(frozen=True, slots=True)
class Part:
    """One kind of work of a clip."""

    name: str
    flops: float  # of one
    naive_flops: float
    times: Callable[[int], float]  # by the number of frames
    naive_times: Callable[[int], float]


def calls(frames: int) -> int:
    """How often a clip calls the UNet."""
    return sum(len(windows(frames + PADDING, step)) for step in range(STEPS))


def parts() -> list[Part]:
    """All of them; the speech and image encoders only where transformers is installed."""
    networks, wide = meta.pipeline().networks, torch.float32
    picture = meta.empty(1, 3, SIDE, SIDE, dtype=wide)
    latents = meta.empty(vae.CHUNK, 4, SIDE // 8, SIDE // 8, dtype=wide)
    between, emotions = rife(REAL, META), made(lambda: emotion_model(REAL), META, wide)
    encode = count(lambda: vae.encode(networks.vae, picture))
    decode = count(lambda: vae.decode(networks.vae, latents)) / vae.CHUNK
    pose = count(lambda: networks.pose_guider(picture.half()))
    audio = count(lambda: networks.audio_projection(meta.clips(range(1))))
    emotion = count(lambda: emotions(meta.empty(1, 256, dtype=wide)))
    pair = count(lambda: between(picture, picture))

    def decoded(frames: int) -> int:
        return sum(len(chunk) for chunk in vae.chunks(frames))

    found = [
        Part("UNet, a window", call(), naive_call(), calls, calls),
        Part("VAE decode, a frame", decode, decode, decoded, lambda frames: frames + PADDING),
        Part("VAE encode", encode, encode, lambda _: 1, lambda _: 2),
        Part("RIFE, a pair", pair, pair, lambda frames: frames - 1, lambda frames: frames - 1),
        Part("pose guider", pose, pose, lambda _: 1, lambda frames: frames + PADDING),
        # ours: in each window those of its real frames, at most; and once the unconditional one
        Part(
            "audio projection, a frame",
            audio,
            audio,
            lambda frames: 1 + WINDOW * calls(frames),
            lambda frames: 2 * frames,
        ),
        Part("emotion model", emotion, emotion, lambda _: 0, lambda frames: 2 * frames),  # ours: when loading
    ]
    try:
        found += _encoders()
    except ImportError:
        print("transformers is not installed: no speech and image encoder")
    return found


def _encoders() -> list[Part]:
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection  # noqa: PLC0415
    from transformers.models.whisper.configuration_whisper import WhisperConfig  # noqa: PLC0415
    from transformers.models.whisper.modeling_whisper import WhisperEncoder  # noqa: PLC0415

    vision = CLIPVisionConfig(
        hidden_size=1280, intermediate_size=5120, num_hidden_layers=32, num_attention_heads=16, image_size=224,
        patch_size=14, projection_dim=1024, hidden_act="gelu",
    )  # fmt: skip
    clip = made(lambda: CLIPVisionModelWithProjection(vision), META, torch.float16)
    hearing = WhisperConfig(d_model=384, encoder_layers=4, encoder_attention_heads=6, encoder_ffn_dim=1536)
    whisper = made(lambda: WhisperEncoder(hearing), META, torch.float32)
    image = count(lambda: clip(meta.empty(1, 3, 224, 224)))
    speech = count(lambda: whisper(meta.empty(1, 80, 3000, dtype=torch.float32)))

    def pieces(frames: int) -> int:
        return math.ceil(frames / FPS / _SPEECH_WINDOW)

    return [
        Part("CLIP", image, image, lambda _: 1, lambda _: 1),
        Part("whisper encoder, 30 s", speech, speech, pieces, pieces),
    ]


def table() -> str:
    """In Markdown."""
    found = parts()
    unet = found[0]
    lines = [
        f"One UNet call, {SIDE}×{SIDE} pixels, {WINDOW} frames, {_BRANCHES} branches: {unet.flops / _TERA:.3f} TFLOP; "
        f"naive {unet.naive_flops / _TERA:.3f}.",
        "",
        f"Whole clips, {STEPS} steps, TFLOP, ours / naive:",
        "",
        "| part | one | " + " | ".join(f"{seconds} s" for seconds in CLIPS) + " |",
        "|---" * (2 + len(CLIPS)) + "|",
    ]
    totals = [[0.0, 0.0] for _ in CLIPS]
    for part in found:
        cells = []
        for seconds, total in zip(CLIPS, totals, strict=True):
            frames = int(seconds * FPS)
            ours, plain = part.flops * part.times(frames), part.naive_flops * part.naive_times(frames)
            total[0] += ours
            total[1] += plain
            cells.append(f"{ours / _TERA:.2f} / {plain / _TERA:.2f}")
        lines.append(f"| {part.name} | {part.flops / _TERA:.4f} | " + " | ".join(cells) + " |")
    for label, scale in (("total", None), ("per second", CLIPS)):
        cells = [
            f"{ours / _TERA / (1 if scale is None else seconds):.0f} / "
            f"{plain / _TERA / (1 if scale is None else seconds):.0f}"
            for seconds, (ours, plain) in zip(CLIPS, totals, strict=True)
        ]
        lines.append(f"| {label} | | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
