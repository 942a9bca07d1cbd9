"""How each module of the goldens is run: from a case to all its outputs by name."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from transformers.models.whisper.configuration_whisper import WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from engines.base import FaceBox
from engines.dice_talk import audio_features, face, portrait, sampler
from engines.dice_talk.audio_features import LogMel, SpeechEncoder, SpeechFeatures
from engines.dice_talk.conditioning import EmotionModel, PoseGuider, TokenProjection
from engines.dice_talk.context import Context, Modality, level_masks
from engines.dice_talk.interpolation import IFNet, double_rate
from engines.dice_talk.unet import AUDIO, EMOTION, UNet, UNetConfig
from engines.dice_talk.windows import WINDOW, windows
from tests.parity import pipelines
from tests.parity.golden import Array, Case

Outputs = dict[str, Any]


def token_sizes(case: Case, output: str) -> tuple[int, int, int]:
    """Hidden channels, tokens and their channels of a token projection, of which the index keeps an output."""
    tokens, channels = case.shape(output)[-2:]
    return case.config.get("intermediate_dim", 1024), tokens, channels


def token_projection(case: Case) -> Outputs:
    features = case.tensor("audio_embeds")
    module = case.seed(TokenProjection(math.prod(features.shape[2:]), *token_sizes(case, "tokens")))
    tokens = module(features.flatten(0, 1)).unflatten(0, features.shape[:2])
    return {"tokens": tokens, "tokens_zero": module(torch.zeros_like(features[:1, 0]))[None]}


def pose_guider(case: Case) -> Outputs:
    config = case.config
    module = case.seed(PoseGuider(config["conditioning_embedding_channels"], tuple(config["block_out_channels"])))

    def run(clip: Tensor) -> Tensor:  # (b, 3, frames, H, W)
        maps = module(clip.transpose(1, 2).flatten(0, 1))
        return maps.unflatten(0, (len(clip), -1)).transpose(1, 2)

    return {"from_mask": run(face_mask(case).expand(1, 3, 1, -1, -1)), "from_random": run(case.tensor("random"))}


def face_mask(case: Case, rows: str = "mask_rows", columns: str = "mask_cols") -> Tensor:
    """The mask that a case keeps as two profiles, (H, W)."""
    return torch.outer(case.tensor(rows), case.tensor(columns)) / 9


def emotion_model(case: Case) -> Outputs:
    module = case.seed(EmotionModel(*token_sizes(case, "cond")))
    prior = case.tensor("emo_prior").reshape(1, -1)
    both = module(torch.cat([prior, torch.zeros_like(prior)]))
    return {
        "cond": both[None, :1],
        "uncond": both[None, 1:],
        "three_frames": module(case.tensor("priors3").flatten(0, 1).flatten(1))[None],
        "mid_query_tokens": module.emo_linear(prior)[None],
        "mid_bank_tokens": module.bank_tokens()[None],
    }


def unet(case: Case) -> Outputs:
    module = case.seed(UNet(UNetConfig.from_json(case.config)))
    sample = case.tensor("sample")
    branches, frames = sample.shape[:2]
    per_frame = torch.arange(branches * frames).reshape(branches, frames)
    image, audio, emotion = (case.tensor(f"{name}_tokens") for name in ("image", "audio", "emotion"))
    image_index = per_frame if len(image) == branches * frames else per_frame[:, :1].expand_as(per_frame) // frames
    mask = face_mask(case, "face_mask_rows", "face_mask_cols")
    context = Context(
        image=Modality.routed(module.project_image(image), image_index, len(image)),
        audio=Modality.routed(module.project_adapter(AUDIO, audio), per_frame, len(audio)),
        emotion=Modality.routed(module.project_adapter(EMOTION, emotion), per_frame, len(emotion)),
        masks=level_masks(mask, len(module.config.block_out_channels), torch.float32),
    )
    found: Outputs = {}
    with _recorded(module, found):
        time = module.embed_time(case.input("timestep"), torch.tensor(case.input("added_time_ids")[0]))
        found["sample"] = module(sample, time, case.tensor("spatial_condition"), context)
    for name in ("time_embedding", "add_embedding"):  # one row serves all branches
        found[name] = found[name].expand(branches, -1)
    temporal = found["down0_attn0_temporal_cross"]
    found["down0_attn0_temporal_cross"] = temporal.unflatten(1, (-1, frames)).flatten(0, 1)
    return found


@contextmanager
def _recorded(module: UNet, found: Outputs) -> Iterator[None]:
    """Write down what the blocks give, so that a mismatch names its block."""
    first: Any = module.down_blocks[0]
    attention = first.attentions[0]
    watched: dict[str, nn.Module] = {
        "time_embedding": module.time_embedding,
        "add_embedding": module.add_embedding,
        "down0_resnet0": first.resnets[0],
        "down0_attn0_spatial_self": attention.transformer_blocks[0].attn1,
        "down0_attn0_spatial_cross": attention.transformer_blocks[0].attn2,
        "down0_attn0_temporal_cross": attention.temporal_transformer_blocks[0].attn2,
        "down0_attn0": attention,
        "mid": module.mid_block,
        **{f"down{number}": block for number, block in enumerate(module.down_blocks)},
        **{f"up{number}": block for number, block in enumerate(module.up_blocks)},
    }

    def recorder(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        return lambda _, __, output: found.__setitem__(name, output)

    handles = [part.register_forward_hook(recorder(name)) for name, part in watched.items()]
    handles.append(
        first.register_forward_pre_hook(
            lambda _, arguments: found.__setitem__("after_conv_in_plus_condition", arguments[0])
        )
    )
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def mask_downsampling(case: Case) -> Outputs:
    found: Outputs = {}
    for name, record in case.outputs.items():
        params = record["params"]
        key = f"mask_{params['height']}x{params['width']}"
        masks = level_masks(face_mask(case, f"{key}_rows", f"{key}_cols"), 4, torch.float32)
        found[name] = masks[params["grid"][0], params["grid"][1]].flatten()
    return found


def waveform(case: Case) -> Array:
    """The test signal as int16."""
    noise = case.input("waveform_noise")
    t = np.arange(len(noise))
    envelope = np.abs(t % 11200 - 5600) / 5600
    envelope[(t // 24000) % 5 == 3] = 0
    tones = (((t * 220) // 8000) & 1) * 2 - 1 + (((t * 1310) // 8000) & 1) - 0.5
    pcm: Array = np.floor((0.5 * noise + 0.2 * tones) * envelope * 20000 + 0.5).astype(np.int16)
    return pcm


def whisper_encoder(case: Case) -> SpeechEncoder:
    encoder = WhisperEncoder(WhisperConfig(**case.config.get("whisper", WHISPER_TINY)))
    return SpeechEncoder(case.seed(encoder, "whisper", "encoder."))


def audio(case: Case) -> Outputs:
    pcm = waveform(case)
    samples = (pcm / 32768).astype(np.float32)
    pieces = [samples[start : start + 480_000] for start in range(0, len(samples), 480_000)]
    encoder = whisper_encoder(case)
    tokens = torch.cat([encoder(piece) for piece in pieces])
    with SpeechFeatures.of(audio_features._regroup(iter([samples])), encoder, Path()) as features:
        clips = features.clips(range(features.frames))
    mel = LogMel()
    return {
        "pcm": pcm,
        "mel": torch.cat([mel(piece) for piece in pieces], dim=-1),
        "audio_len": np.array([features._tokens // 2]),
        "tokens": tokens[None],
        "clips": clips,
    }


def resampling(case: Case) -> Outputs:
    stereo = (waveform(case) / 32768).astype(np.float32).reshape(-1, 2)
    mono = stereo.mean(axis=1)
    blocks = [mono[start : start + 5000] for start in range(0, len(mono), 5000)]  # seams must not show
    return {"resampled": np.concatenate(list(audio_features.resample(blocks, 44100)))}


def crop(case: Case) -> Outputs:
    boxes, params = case.input("boxes"), case.input("params")
    found = [
        portrait.crop_box(FaceBox(*map(float, box)), float(ratio), int(width), int(height))
        for box, (ratio, height, width) in zip(boxes, params, strict=True)
    ]
    return {"crop": np.array(found)}


def _box(x: float, y: float, width: float, height: float) -> FaceBox:
    return FaceBox(x, y, x + width, y + height)


def geometry(case: Case) -> Outputs:
    rectangles, sizes = [], []
    found: Outputs = {}
    wanted = {record["params"]["item"] for record in case.outputs.values() if record.get("params")}
    for item, (width, height, x, y, box_width, box_height, area, side) in enumerate(case.input("params").tolist()):
        size = int(width), int(height)
        rectangle = portrait.mask_rectangle(_box(x, y, box_width, box_height), *size, area)
        target = portrait.video_size(*size, int(side))
        rectangles.append(rectangle)
        sizes.append(target)
        if item in wanted:
            mask = np.asarray(portrait.resized_mask(rectangle, size, target)).astype(int)
            found[f"mask_row_{item}"] = mask[mask.sum(axis=1).argmax()]
            found[f"mask_col_{item}"] = mask[:, mask.sum(axis=0).argmax()]
    return {"rect": np.array(rectangles), "size": np.array(sizes), **found}


def image_tensors(case: Case) -> Outputs:
    made = portrait.tensors(
        case.input("image"), _box(*case.input("box_xywh")), case.config["image_size"], case.config["area"]
    )
    return {
        "ref_img": made.reference,
        "face_mask": made.mask[None],
        "clip_images": made.clip,
        "emo_feature": case.tensor("mu")[None, None],
    }


def schedule(case: Case) -> Outputs:
    return {
        name: np.array([windows(record["params"]["N"] + WINDOW, step) for step in range(record["shape"][0])])
        for name, record in case.outputs.items()
        if not record.get("informative")
    }


def scheduler(case: Case) -> Outputs:
    sample, v = case.tensor("sample"), case.tensor("v")
    found: Outputs = {"add_noise": case.tensor("ref_latent")[:, None] + sampler.SIGMA_MAX * case.tensor("noise")}
    for name, record in case.outputs.items():
        params = record.get("params") or {}
        levels = sampler.sigmas(params.get("steps", 1))
        if name.startswith("sigmas"):
            found[name] = np.array(levels)
        elif name.startswith("timesteps"):
            found[name] = np.array([sampler.timestep(sigma) for sigma in levels[:-1]])
        elif "step" in params:
            sigma, after = levels[params["step"]], levels[params["step"] + 1]
            x = sample * (sigma / sampler.SIGMA_MAX)
            scaled = name.startswith("scaled_input")
            found[name] = sampler.scale_input(x, sigma) if scaled else sampler.euler_step(x, v, sigma, after)
    return found


def interpolation(case: Case) -> IFNet:
    network: IFNet = case.seed(IFNet(case.config.get("width", 90)), "rife")
    return network


def rife(case: Case) -> Outputs:
    network = interpolation(case)
    found: Outputs = {}
    done: dict[str, tuple[Tensor, Tensor, Tensor]] = {}
    for name, record in case.outputs.items():
        params = record["params"]
        height, width = params["height"], params["width"]
        size = f"{height}x{width}"
        if size not in done:
            pair = (
                nn.functional.interpolate(
                    case.tensor(f"img{number}_{size}").clamp(0, 1), size=(height, width), mode="bilinear"
                )
                for number in (0, 1)
            )
            done[size] = network(*pair)
        found[name] = done[size][("merged", "flow", "mask").index(params["what"])]
    return found


def detector(case: Case) -> Outputs:
    found: Outputs = {}
    largest, sizes = [], []
    raw = case.inputs("raw_")
    for number in sorted(raw, key=int):
        height, width = case.input(f"size_{number}")
        size = face.network_size(height, width)
        faces = face.faces(np.asarray(raw[number]).reshape(-1, 16), size, (height, width))
        pick = faces.largest()
        largest.append(-1 if pick is None else pick)
        sizes.append(size)
        found[f"boxes_{number}"] = faces.boxes
        found[f"landmarks_{number}"] = faces.landmarks
        found[f"scores_{number}"] = faces.scores
        pattern = (np.arange(height * width * 3).reshape(height, width, 3) * 7 % 251).astype(np.uint8)
        found[f"net_input_{number}"] = face.network_input(np.ascontiguousarray(pattern[..., ::-1]), size)
        for stride in (8, 16, 32):
            found[f"grid_{number}_stride{stride}"] = face.grid(size, stride)
    return {**found, "largest": np.array(largest), "net_size": np.array(sizes)}


def full_chain(case: Case) -> Outputs:
    samples = (waveform(case) / 32768).astype(np.float32)
    config = case.config
    networks = pipelines.networks(case)
    encoder = whisper_encoder(case)
    features_size = audio_features.CLIP_TOKENS * math.prod(encoder.token_shape)
    projection = case.seed(TokenProjection(features_size, *token_sizes(case, "audio_tokens")), "audio_linear")
    emotions = case.seed(EmotionModel(*token_sizes(case, "emotion_token")), "emo_model")
    network = interpolation(case)
    mu = case.tensor("mu")
    tokens = emotions(torch.cat([mu, torch.zeros_like(mu)]))
    pipeline = pipelines.pipeline(networks, projection, tokens)
    buffer = io.BytesIO()  # the picture goes through a file, as a user's does
    Image.fromarray(case.input("image")).save(buffer, "PNG")
    picture = np.asarray(Image.open(buffer))
    made = portrait.tensors(picture, _box(*case.input("box_xywh")), config["image_size"], config["area"])
    with SpeechFeatures.of(iter([samples]), encoder, Path()) as features:
        clips = features.clips(range(features.frames))
        height, width = made.mask.shape
        noise = pipeline.noise(pipeline.generator(config["torch_seed"]), features.frames, height, width)
        latents = pipeline.denoise(pipeline.prepare(made, 0), noise, features.clips, pipelines.sampling(config))
        video = [frame for chunk in pipeline.decode(latents, features.frames, list) for frame in chunk]
    doubled = torch.stack(list(double_rate(network.middle, video)))
    return {
        "audio_tokens": projection(clips),
        "uncond_audio_token": projection(torch.zeros_like(clips[:1]))[0],
        "emotion_token": tokens[0],
        "uncond_emotion_token": tokens[1],
        "video": torch.stack(video, dim=1)[None],
        "doubled": doubled.transpose(0, 1)[None],
        "uint8": (doubled * 255).round().permute(0, 2, 3, 1),
    }


WHISPER_TINY = {
    "d_model": 384, "encoder_layers": 4, "encoder_attention_heads": 6, "encoder_ffn_dim": 1536, "num_mel_bins": 80,
    "max_source_positions": 1500,
}  # fmt: skip

RUNNERS: dict[str, Callable[[Case], Outputs]] = {
    "AudioProjModel": token_projection,
    "PoseGuider": pose_guider,
    "EmotionModel": emotion_model,
    "UNetSpatioTemporalConditionModel+2 adapters": unet,
    "face mask -> per-query weights": mask_downsampling,
    "waveform -> mel -> whisper encoder hidden states -> per-frame clips": audio,
    "librosa.load(path, sr=16000) of 44.1 kHz stereo PCM16": resampling,
    "process_bbox(bbox xyxy, expand_ratio, height, width) -> 4 ints": crop,
    "mask rectangle, resized size, resized mask": geometry,
    "image_audio_emo_to_tensor, one full example": image_tensors,
    "sliding windows of the denoising loop": schedule,
    "EulerDiscreteScheduler as configured for SVD-XT": scheduler,
    "DicePipeline": pipelines.run,
    "DicePipeline RNG order": pipelines.run_draws,
    "waveform + image + prior -> frames -> RIFE -> uint8": full_chain,
    "IFNet (RIFE HDv3), real size": rife,
    "preprocessing geometry and post-processing": detector,
}
