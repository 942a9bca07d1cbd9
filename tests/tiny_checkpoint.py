"""A small checkpoint in the layout of the official one: `python -m tests.tiny_checkpoint DIR`.

The networks are the real ones at small sizes, their weights come from names (`tests/seeded.py`), and the face detector
looks for skin colour. The engine loads it as it loads the official files; its videos are coloured noise.
"""

from __future__ import annotations

import argparse
import io
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  the usual name
from diffusers import AutoencoderKLTemporalDecoder
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection
from transformers.models.whisper.configuration_whisper import WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperModel

from engines.dice_talk.audio_features import CLIP_TOKENS
from engines.dice_talk.conditioning import PRIOR_CHANNELS, EmotionModel, PoseGuider, TokenProjection
from engines.dice_talk.interpolation import IFNet
from engines.dice_talk.sources import PRIORS
from engines.dice_talk.unet import UNet, UNetConfig
from tests.seeded import seeded_array, seeded_state

Json = dict[str, Any]
State = dict[str, Tensor]

SVD = "stable-video-diffusion-img2vid-xt"
TOKENS = 4  # of the audio and of the emotion
TOKEN_CHANNELS = 64
HIDDEN = 64  # of the token projections
RIFE_WIDTH = 16
RIFE_TEACHER_CHANNELS = 14  # what the block that only training uses takes in

SCHEDULER: Json = {
    "_class_name": "EulerDiscreteScheduler",
    "_diffusers_version": "0.24.0.dev0",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "interpolation_type": "linear",
    "num_train_timesteps": 1000,
    "prediction_type": "v_prediction",
    "set_alpha_to_one": False,
    "sigma_max": 700.0,
    "sigma_min": 0.002,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "timestep_spacing": "leading",
    "timestep_type": "continuous",
    "trained_betas": None,
    "use_karras_sigmas": True,
}
UNET: Json = {
    "_class_name": "UNetSpatioTemporalConditionModel",
    "_diffusers_version": "0.24.0.dev0",
    "addition_time_embed_dim": 32,
    "block_out_channels": [32, 32, 32, 32],
    "cross_attention_dim": TOKEN_CHANNELS,
    "down_block_types": ["CrossAttnDownBlockSpatioTemporal"] * 3 + ["DownBlockSpatioTemporal"],
    "in_channels": 8,
    "layers_per_block": 1,
    "num_attention_heads": [1, 1, 1, 1],
    "num_frames": 25,
    "out_channels": 4,
    "projection_class_embeddings_input_dim": 96,
    "sample_size": 96,
    "transformer_layers_per_block": 1,
    "up_block_types": ["UpBlockSpatioTemporal"] + ["CrossAttnUpBlockSpatioTemporal"] * 3,
}
VAE: Json = {
    "_class_name": "AutoencoderKLTemporalDecoder",
    "_diffusers_version": "0.24.0.dev0",
    "block_out_channels": [32, 32, 64, 64],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "force_upcast": True,
    "in_channels": 3,
    "latent_channels": 4,
    "layers_per_block": 1,
    "out_channels": 3,
    "sample_size": 768,
    "scaling_factor": 0.18215,
}
IMAGE_ENCODER: Json = {
    "architectures": ["CLIPVisionModelWithProjection"],
    "attention_dropout": 0.0,
    "dropout": 0.0,
    "hidden_act": "gelu",
    "hidden_size": 32,
    "image_size": 224,
    "initializer_factor": 1.0,
    "initializer_range": 0.02,
    "intermediate_size": 64,
    "layer_norm_eps": 1e-05,
    "model_type": "clip_vision_model",
    "num_attention_heads": 2,
    "num_channels": 3,
    "num_hidden_layers": 2,
    "patch_size": 56,
    "projection_dim": TOKEN_CHANNELS,
    "torch_dtype": "float16",
    "transformers_version": "4.34.0.dev0",
}
WHISPER: Json = {
    "activation_dropout": 0.0,
    "activation_function": "gelu",
    "architectures": ["WhisperForConditionalGeneration"],
    "attention_dropout": 0.0,
    "bos_token_id": 1,
    "d_model": 32,
    "decoder_attention_heads": 2,
    "decoder_ffn_dim": 64,
    "decoder_layerdrop": 0.0,
    "decoder_layers": 1,
    "decoder_start_token_id": 1,
    "dropout": 0.0,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 64,
    "encoder_layerdrop": 0.0,
    "encoder_layers": 2,
    "eos_token_id": 1,
    "init_std": 0.02,
    "is_encoder_decoder": True,
    "max_source_positions": 1500,
    "max_target_positions": 8,
    "model_type": "whisper",
    "num_hidden_layers": 2,
    "num_mel_bins": 80,
    "pad_token_id": 1,
    "scale_embedding": False,
    "torch_dtype": "float32",
    "transformers_version": "4.27.0.dev0",
    "use_cache": True,
    "vocab_size": 16,
}
WHISPER_PREPROCESSOR: Json = {
    "chunk_length": 30,
    "feature_extractor_type": "WhisperFeatureExtractor",
    "feature_size": 80,
    "hop_length": 160,
    "n_fft": 400,
    "n_samples": 480000,
    "nb_max_frames": 3000,
    "padding_side": "right",
    "padding_value": 0.0,
    "processor_class": "WhisperProcessor",
    "return_attention_mask": False,
    "sampling_rate": 16000,
}


def write(directory: Path, *, dtype: torch.dtype = torch.float16, complete_unet: bool = True) -> Path:
    """Write all files under `directory`, which is returned.

    `dtype`: of the .pth files. `complete_unet`: whether unet.pth holds the whole UNet, or the adapters only.
    """
    decoder: Any = AutoencoderKLTemporalDecoder  # its constructor has no types
    with torch.device("meta"):  # only the shapes are wanted
        unet = _seeded(UNet(UNetConfig.from_json(UNET)), "unet")
        pose_guider = _seeded(PoseGuider(UNET["block_out_channels"][0]), "pose_guider", 1.6)
        vae = _seeded(decoder(**_sizes(VAE)), "vae")
        image_encoder = _seeded(CLIPVisionModelWithProjection(CLIPVisionConfig(**_sizes(IMAGE_ENCODER))), "clip")
        whisper = _seeded(WhisperModel(WhisperConfig(**_sizes(WHISPER))), "whisper")

    own = directory / "DICE-Talk"
    adapters = {key: value for key, value in unet.items() if ".processor." in key}
    _save_pth(own / "unet.pth", unet if complete_unet else adapters, dtype)
    _save_pth(own / "pose_guider.pth", pose_guider, dtype)
    _save_pth(own / "audio_linear.pth", _audio_projection(), dtype)
    _save_pth(own / "emo_model.pth", _emotion_model(), dtype)

    flownet = {f"module.{key}": value for key, value in _rife().items()}
    torch.save(flownet, _made(directory / "RIFE" / "flownet.pkl"), _use_new_zipfile_serialization=False)
    (directory / "yoloface_v5m.pt").write_bytes(face_detector())

    svd = directory / SVD
    _save_json(svd / "scheduler" / "scheduler_config.json", SCHEDULER)
    base = {key: value for key, value in unet.items() if key not in adapters}
    _save_network(svd / "unet", "diffusion_pytorch_model.fp16", UNET, base, torch.float16)
    _save_network(svd / "vae", "diffusion_pytorch_model.fp16", VAE, vae, torch.float16)
    _save_network(svd / "image_encoder", "model.fp16", IMAGE_ENCODER, image_encoder, torch.float16)

    published = {f"model.{key}": value for key, value in whisper.items()}  # with a decoder, which nobody needs
    _save_network(directory / "whisper-tiny", "model", WHISPER, published, torch.float32)
    _save_json(directory / "whisper-tiny" / "preprocessor_config.json", WHISPER_PREPROCESSOR)

    for emotion in PRIORS.sha256:
        mu = seeded_array(f"tiny/emotions/{emotion}", (1, PRIOR_CHANNELS), 0.86)
        np.save(_made(directory / PRIORS.target(emotion)), np.array({"mu": mu}, dtype=object), allow_pickle=True)
    return directory


def _audio_projection() -> State:
    features = CLIP_TOKENS * (WHISPER["encoder_layers"] + 1) * WHISPER["d_model"]
    with torch.device("meta"):
        return _seeded(TokenProjection(features, HIDDEN, TOKENS, TOKEN_CHANNELS), "audio_linear")


def _emotion_model() -> State:
    """With what only training uses, as in the published file."""
    with torch.device("meta"):
        shapes = _shapes(EmotionModel(HIDDEN, TOKENS, TOKEN_CHANNELS))
    classifier = (PRIOR_CHANNELS + TOKEN_CHANNELS, 64, 32, 22)
    for number in (1, 2, 3):
        shapes[f"classifier.fc{number}.weight"] = classifier[number], classifier[number - 1]
        shapes[f"classifier.fc{number}.bias"] = (classifier[number],)
    shapes["codebook.fc.weight"] = TOKEN_CHANNELS, PRIOR_CHANNELS
    shapes["codebook.fc.bias"] = (TOKEN_CHANNELS,)
    return _state(shapes, "emo_model", 1.8)


def _rife() -> State:
    """With the teacher block, which only training uses; it sees the true frame as well."""
    with torch.device("meta"):
        shapes = _shapes(IFNet(RIFE_WIDTH))
    teacher = {
        key.replace("block0.", "block_tea.", 1): shape for key, shape in shapes.items() if key.startswith("block0.")
    }
    first = "block_tea.conv0.0.0.weight"
    teacher[first] = teacher[first][0], RIFE_TEACHER_CHANNELS, *teacher[first][2:]
    return _state({**shapes, **teacher}, "rife", 1.25)


def _sizes(config: Json) -> Json:
    """A configuration as the constructors take it."""
    return {
        key: value
        for key, value in config.items()
        if not key.startswith("_") and key not in ("model_type", "torch_dtype", "transformers_version")
    }


def _shapes(network: Any) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in network.state_dict().items()}


def _seeded(network: Any, name: str, gain: float = 1.0) -> State:
    return _state(_shapes(network), name, gain)


def _state(shapes: Mapping[str, tuple[int, ...]], name: str, gain: float) -> State:
    return {key: torch.from_numpy(value) for key, value in seeded_state(shapes, f"tiny/{name}", gain).items()}


def _made(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _save_pth(path: Path, state: State, dtype: torch.dtype) -> None:
    torch.save({key: value.to(dtype) for key, value in state.items()}, _made(path))


def _save_json(path: Path, values: Json) -> None:
    _made(path).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def _save_network(directory: Path, name: str, config: Json, state: State, dtype: torch.dtype) -> None:
    _save_json(directory / "config.json", config)
    tensors = {key: value.to(dtype) for key, value in state.items()}
    save_file(tensors, directory / f"{name}.safetensors", metadata={"format": "pt"})


class SkinDetector(nn.Module):
    """Faces are large connected areas of skin colour with something dark, such as eyes, in their upper halves.

    Called as the real detector is; gives three rows, of which those that are not faces have objectness 0.
    """

    def forward(self, image: Tensor, grids: list[Tensor]) -> Tensor:
        height, width = image.size(2), image.size(3)
        assert len(grids) == 3
        for number, grid in enumerate(grids):
            stride = 8 * 2**number
            assert grid.size(2) * stride == height
            assert grid.size(3) * stride == width
        colours = F.avg_pool2d(image, 4)  # in cells of 4 by 4 pixels
        red, green, blue = colours[:, 0:1], colours[:, 1:2], colours[:, 2:3]
        warm = (red > 0.4) & (red - blue > 0.1)
        tone = (red > 1.05 * green) & (red < 1.6 * green) & (green > blue) & (green / blue < red / green + 0.1)
        # hair is yellower than skin
        skin = (warm & tone).float()
        skin = (F.avg_pool2d(skin, 3, 1, 1) > 0.6).float()  # neither specks nor thin bridges
        light = colours.mean(dim=1)[0]
        rows = torch.zeros(1, 3, 16)
        for number in range(3):
            density = F.avg_pool2d(skin, 9, 1, 4).flatten()
            area = torch.zeros_like(skin)
            area.view(-1)[density.argmax()] = 1.0
            area = area * skin
            count = 0.0
            while float(area.sum()) > count:  # the area grows from its densest place to its edges
                count = float(area.sum())
                area = F.max_pool2d(area, 3, 1, 1) * skin
            skin = skin - area
            if count > 0.01 * area.numel():
                rows[0, number] = self.row(area[0, 0], light)
        return rows

    def row(self, area: Tensor, light: Tensor) -> Tensor:
        """The row of one area (rows, columns)."""
        across, down = area.amax(dim=0).nonzero().flatten(), area.amax(dim=1).nonzero().flatten()
        left, right = int(across[0]), int(across[-1]) + 1
        top, bottom = int(down[0]), int(down[-1]) + 1
        box = area[top:bottom, left:right]
        mean = float((light * area).sum() / area.sum())
        inside = light[top : (top + bottom) // 2, left + (right - left) // 5 : right - (right - left) // 5]
        dark = float((inside < 0.7 * mean).float().mean())
        filled = float(box.mean())
        aspect = (bottom - top) / (right - left)
        row = torch.zeros(16)
        if filled < 0.5 or aspect < 0.6 or aspect > 2.2 or dark < 0.005 or box.numel() > 0.9 * area.numel():
            return row
        x, y, w, h = 4.0 * left, 4.0 * top, 4.0 * (right - left), 4.0 * (bottom - top)
        places = [0.28, 0.25, 0.72, 0.25, 0.5, 0.45, 0.33, 0.65, 0.67, 0.65]  # eyes, nose, corners of the mouth
        for number in range(5):
            row[5 + 2 * number] = x + places[2 * number] * w
            row[6 + 2 * number] = y + places[2 * number + 1] * h
        row[0], row[1], row[2], row[3] = x + w / 2, y + h / 2, w, h
        row[4], row[15] = 0.5 + filled / 2, 0.99
        return row


def face_detector() -> bytes:
    """`SkinDetector` as a TorchScript file."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the official file is TorchScript too
        scripted: Any = torch.jit.script(SkinDetector().eval())
        torch.jit.save(scripted, buffer)
    return buffer.getvalue()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.tiny_checkpoint", description=__doc__)
    parser.add_argument("directory", type=Path)
    print(write(parser.parse_args().directory))


if __name__ == "__main__":
    main()
