"""All networks of the engine from the official checkpoint layout."""

from __future__ import annotations

import json
import warnings
from collections import ChainMap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from diffusers import AutoencoderKLTemporalDecoder
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection, WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from engines.base import Emotion, SetupError
from engines.dice_talk import audio_features, sampler
from engines.dice_talk.audio_features import CLIP_TOKENS, SpeechEncoder
from engines.dice_talk.conditioning import EmotionModel, PoseGuider, TokenProjection
from engines.dice_talk.face import FaceDetector
from engines.dice_talk.interpolation import IFNet
from engines.dice_talk.loading import FETCH_AGAIN, TensorFile, fill
from engines.dice_talk.pipeline import Networks, project_emotions
from engines.dice_talk.priors import read_prior
from engines.dice_talk.sources import REQUIRED_FILES
from engines.dice_talk.unet import UNet, UNetConfig

SVD = "stable-video-diffusion-img2vid-xt"
_RIFE = "RIFE/flownet.pkl"
_CPU = torch.device("cpu")
_ADAPTERS = ".attn2.processor."
_CONSTANTS: dict[str, dict[str, Any]] = {
    f"{SVD}/scheduler/scheduler_config.json": {
        "prediction_type": "v_prediction",
        "sigma_max": sampler.SIGMA_MAX,
        "sigma_min": sampler.SIGMA_MIN,
        "timestep_type": "continuous",
        "use_karras_sigmas": True,
    },
    "whisper-tiny/preprocessor_config.json": {
        "feature_size": audio_features.MELS,
        "hop_length": audio_features.HOP,
        "n_fft": audio_features.FFT,
        "sampling_rate": audio_features.RATE,
    },
}

Made = TypeVar("Made", bound=nn.Module)


@dataclass(frozen=True, slots=True)
class Loaded:
    """What the engine works with. The speech encoder and the detector stay on the CPU: they are small, and prepare
    one job while the device works on another.
    """

    networks: Networks
    speech: SpeechEncoder
    detector: FaceDetector
    interpolation: IFNet | None


def model_files(*, interpolate: bool) -> list[str]:
    """What `load` reads, as paths under the checkpoint directory."""
    return [name for name in REQUIRED_FILES if interpolate or name != _RIFE]


def load(directory: Path, device: torch.device, dtype: torch.dtype, *, interpolate: bool) -> Loaded:
    """Read everything. Raises SetupError."""
    _check_constants(directory)
    unet = load_unet(directory, device, dtype)
    width = unet.config.cross_attention_dim
    speech = _speech_encoder(directory)
    emotions = _emotion_tokens(directory, width)
    return Loaded(
        networks=Networks(
            unet=unet,
            pose_guider=_pose_guider(directory, unet.config.block_out_channels[0], device, dtype),
            audio_projection=_audio_projection(directory, speech, width, device),
            vae=_vae(directory, device, dtype),
            image_encoder=_image_encoder(directory, width),
            emotion_layers=project_emotions(unet, emotions),
            emotion_rows={emotion: row for row, emotion in enumerate(Emotion)},
            no_emotion=len(Emotion),
        ),
        speech=speech,
        detector=_detector(directory),
        interpolation=_interpolation(directory, device) if interpolate else None,
    )


def _check_constants(directory: Path) -> None:
    """What this code has as constants must be what the checkpoints were made with."""
    for name, expected in _CONSTANTS.items():
        values = _config(directory, name)
        for key, value in expected.items():
            if values.get(key, value) != value:
                raise SetupError(
                    f"{name} says {key} {values[key]!r}, and this engine works with {value!r}: these are other "
                    f"checkpoints, or damaged ones. {FETCH_AGAIN}"
                )


def _made(build: Callable[[], Made]) -> Made:
    """A module without memory for its parameters."""
    with torch.device("meta"):
        return build()


def _configured(name: str, build: Callable[[], Made]) -> Made:
    """A module whose sizes come from the configuration file `name`."""
    try:
        return _made(build)
    except Exception as error:  # libraries fail in many ways on values that make no sense
        raise SetupError(f"{name} describes no network that can be built. {FETCH_AGAIN}") from error


def _config(directory: Path, name: str) -> dict[str, Any]:
    try:
        values = json.loads((directory / name).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SetupError(f"{name} is missing. ./start_server.sh download fetches it.") from None
    except (OSError, ValueError) as error:
        raise SetupError(f"{name} is damaged. {FETCH_AGAIN}") from error
    if not isinstance(values, dict):
        raise SetupError(f"{name} is damaged. {FETCH_AGAIN}")
    return values


def load_unet(directory: Path, device: torch.device, dtype: torch.dtype) -> UNet:
    """The base network's weights, and over them what DICE-Talk trained: at least the adapters. Raises SetupError."""
    name = f"{SVD}/unet/config.json"
    config = _config(directory, name)
    unet = _configured(name, lambda: UNet(UNetConfig.from_json(config)))
    base = TensorFile(directory, f"{SVD}/unet/diffusion_pytorch_model.fp16.safetensors")
    trained = TensorFile(directory, "DICE-Talk/unet.pth")
    adapters = [key for key in unet.state_dict() if _ADAPTERS in key]
    untrained = [key for key in adapters if key not in trained]
    if untrained:
        raise SetupError(
            f"{trained.name} does not fit the network: {untrained[0]} is missing, {len(untrained)} of "
            f"{len(adapters)} adapter weights in all. {FETCH_AGAIN}"
        )
    files: list[Any] = [trained, base]  # a ChainMap wants what can be changed, but it is only read
    fill(unet, ChainMap(*files), name=f"{trained.name} over {base.name}", device=device, dtype=dtype)
    return unet


def _pose_guider(directory: Path, channels: int, device: torch.device, dtype: torch.dtype) -> PoseGuider:
    file = TensorFile(directory, "DICE-Talk/pose_guider.pth")
    widths = [file.rows("conv_in.weight")]
    while f"blocks.{2 * len(widths) - 1}.weight" in file:
        widths.append(file.rows(f"blocks.{2 * len(widths) - 1}.weight"))
    guider = _made(lambda: PoseGuider(channels, tuple(widths)))
    fill(guider, file, name=file.name, device=device, dtype=dtype)
    return guider


def _audio_projection(directory: Path, speech: SpeechEncoder, width: int, device: torch.device) -> TokenProjection:
    file = TensorFile(directory, "DICE-Talk/audio_linear.pth")
    states, channels = speech.token_shape
    hidden, tokens = file.rows("proj1.weight"), file.rows("proj3.weight") // width
    projection = _made(lambda: TokenProjection(CLIP_TOKENS * states * channels, hidden, tokens, width))
    fill(projection, file, name=file.name, device=device, dtype=torch.float32)
    return projection


def _emotion_tokens(directory: Path, width: int) -> Tensor:
    """The tokens of all emotions and, last, of none: (9, tokens, width). The model is not needed after this."""
    file = TensorFile(directory, "DICE-Talk/emo_model.pth")
    hidden, tokens = file.rows("emo_linear.proj1.weight"), file.rows("emo_linear.proj3.weight") // width
    model = _made(lambda: EmotionModel(hidden, tokens, width))
    fill(model, file, name=file.name, device=_CPU, dtype=torch.float32, ignored=("classifier.", "codebook.fc."))
    priors = [_prior(directory, f"emotions/{emotion}.npy") for emotion in Emotion]
    with torch.inference_mode():
        return model(torch.cat([*priors, torch.zeros_like(priors[0])]))


def _prior(directory: Path, name: str) -> Tensor:
    path = directory / name
    try:
        return torch.from_numpy(read_prior(path))
    except ValueError as error:
        raise SetupError(f"{str(error).replace(str(path), name)} {FETCH_AGAIN}") from error


def _vae(directory: Path, device: torch.device, dtype: torch.dtype) -> AutoencoderKLTemporalDecoder:
    """Decoding in `dtype`, encoding in fp32."""
    name = f"{SVD}/vae/config.json"
    config = _config(directory, name)
    autoencoder = _configured(name, lambda: AutoencoderKLTemporalDecoder.from_config(config))
    file = TensorFile(directory, f"{SVD}/vae/diffusion_pytorch_model.fp16.safetensors")
    fill(
        autoencoder,
        file,
        name=file.name,
        device=device,
        dtype=lambda key: dtype if key.startswith("decoder.") else torch.float32,
    )
    return autoencoder


def _image_encoder(directory: Path, width: int) -> CLIPVisionModelWithProjection:
    """On the CPU and as it is in its file, so that it takes next to no memory there: it is used once in a job."""
    name = f"{SVD}/image_encoder/config.json"
    config = _config(directory, name)
    encoder = _configured(name, lambda: CLIPVisionModelWithProjection(CLIPVisionConfig.from_dict(config)))
    if encoder.config.projection_dim != width:
        raise SetupError(
            f"{name} does not fit the network: its projection_dim is {encoder.config.projection_dim}, and the UNet's "
            f"cross_attention_dim {width}. {FETCH_AGAIN}"
        )
    file = TensorFile(directory, f"{SVD}/image_encoder/model.fp16.safetensors")
    # In some versions the file holds the positions too, which are only a range.
    ignored = ("vision_model.embeddings.position_ids",)
    fill(encoder, file, name=file.name, device=_CPU, dtype=torch.float16, ignored=ignored)
    embeddings: Any = encoder.vision_model.embeddings
    embeddings.position_ids = torch.arange(embeddings.num_positions)[None]
    return encoder


def _speech_encoder(directory: Path) -> SpeechEncoder:
    name = "whisper-tiny/config.json"
    config = _config(directory, name)
    encoder = _configured(name, lambda: WhisperEncoder(WhisperConfig.from_dict(config)))
    file = TensorFile(directory, "whisper-tiny/model.safetensors", strip="model.encoder.")
    if not len(file):  # saved without the head
        file = TensorFile(directory, "whisper-tiny/model.safetensors", strip="encoder.")
    fill(encoder, file, name=file.name, device=_CPU, dtype=torch.float32)
    return SpeechEncoder(encoder)


def _detector(directory: Path) -> FaceDetector:
    name = "yoloface_v5m.pt"
    try:
        with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # TorchScript is what there is
            network = torch.jit.load(directory / name, map_location=_CPU)
        return FaceDetector(network.eval())
    except Exception as error:  # a damaged file can fail in any way
        raise SetupError(f"{name} is missing, damaged, or no TorchScript file. {FETCH_AGAIN}") from error


def _interpolation(directory: Path, device: torch.device) -> IFNet:
    file = TensorFile(directory, _RIFE, strip="module.")
    network = _made(lambda: IFNet(file.rows("block0.conv0.1.0.weight")))
    fill(network, file, name=file.name, device=device, dtype=torch.float32, ignored=("block_tea.",))
    return network
