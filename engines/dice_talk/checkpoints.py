"""The official checkpoint files and where they belong under the checkpoint directory."""

from __future__ import annotations

from pathlib import Path

from engines.base import Emotion

REQUIRED_FILES = (
    "DICE-Talk/unet.pth",
    "DICE-Talk/pose_guider.pth",
    "DICE-Talk/audio_linear.pth",
    "DICE-Talk/emo_model.pth",
    "RIFE/flownet.pkl",
    "yoloface_v5m.pt",
    "stable-video-diffusion-img2vid-xt/scheduler/scheduler_config.json",
    "stable-video-diffusion-img2vid-xt/unet/config.json",
    "stable-video-diffusion-img2vid-xt/unet/diffusion_pytorch_model.fp16.safetensors",
    "stable-video-diffusion-img2vid-xt/vae/config.json",
    "stable-video-diffusion-img2vid-xt/vae/diffusion_pytorch_model.fp16.safetensors",
    "stable-video-diffusion-img2vid-xt/image_encoder/config.json",
    "stable-video-diffusion-img2vid-xt/image_encoder/model.fp16.safetensors",
    "whisper-tiny/config.json",
    "whisper-tiny/preprocessor_config.json",
    "whisper-tiny/model.safetensors",
    *(f"emotions/{emotion}.npy" for emotion in Emotion),
)


def missing_files(directory: Path) -> list[str]:
    """Those of REQUIRED_FILES that are not under `directory`."""
    return [name for name in REQUIRED_FILES if not (directory / name).is_file()]
