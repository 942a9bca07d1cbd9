"""The small checkpoint is complete, always the same, and its face detector finds the example's face."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLTemporalDecoder
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from transformers import CLIPVisionModelWithProjection
from transformers.models.whisper.modeling_whisper import WhisperForConditionalGeneration

from engines.dice_talk.checkpoints import REQUIRED_FILES, missing_files
from engines.dice_talk.face import FaceDetector
from engines.dice_talk.priors import read_prior
from engines.dice_talk.unet import UNet, UNetConfig
from tests import tiny_checkpoint

PORTRAIT = Path(__file__).parents[2] / "examples" / "portrait.jpg"
FACE = 0.30, 0.26, 0.68, 0.60  # left, top, right, bottom as parts of the picture, measured by hand
FEATURES = [(0.40, 0.325), (0.58, 0.33), (0.485, 0.47)]  # the eyes and the middle of the mouth
KEYS = json.loads(Path(__file__).with_name("keys.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint.write(tmp_path_factory.mktemp("tiny"))


def read(path: Path) -> dict[str, Tensor]:
    state: dict[str, Tensor] = torch.load(path, weights_only=True)
    return state


def portrait(size: tuple[int, int]) -> NDArray[np.uint8]:
    with Image.open(PORTRAIT) as image:
        return np.asarray(image.convert("RGB").resize(size, Image.Resampling.LANCZOS))


def test_nothing_is_missing(checkpoint: Path) -> None:
    assert missing_files(checkpoint) == []
    assert sum(path.stat().st_size for path in checkpoint.rglob("*")) < 40e6


def test_all_writes_are_alike(checkpoint: Path, tmp_path: Path) -> None:
    again = tiny_checkpoint.write(tmp_path)
    for name in REQUIRED_FILES:
        if name.endswith((".safetensors", ".json", ".npy")):
            assert (again / name).read_bytes() == (checkpoint / name).read_bytes(), name
        elif name.endswith((".pth", ".pkl")):
            expected, found = read(checkpoint / name), read(again / name)
            assert list(found) == list(expected)
            assert all(torch.equal(found[key], expected[key]) for key in expected), name


def test_the_smaller_unet_file_holds_the_adapters_only(checkpoint: Path, tmp_path: Path) -> None:
    adapters = read(tiny_checkpoint.write(tmp_path, dtype=torch.float32, complete_unet=False) / "DICE-Talk/unet.pth")
    complete = read(checkpoint / "DICE-Talk/unet.pth")
    base = load_file(checkpoint / tiny_checkpoint.SVD / "unet" / "diffusion_pytorch_model.fp16.safetensors")
    assert all(".attn2.processor.to_" in key for key in adapters)
    assert adapters.keys() | base.keys() == complete.keys()
    assert not adapters.keys() & base.keys()
    assert {value.dtype for value in adapters.values()} == {torch.float32}
    assert {value.dtype for value in complete.values()} == {torch.float16}
    UNet(UNetConfig.from_json(tiny_checkpoint.UNET)).load_state_dict(complete)


@pytest.mark.parametrize(
    ("file", "network", "prefix"),
    [
        ("DICE-Talk/pose_guider.pth", "pose_guider", ""),
        ("DICE-Talk/audio_linear.pth", "audio_linear", ""),
        ("DICE-Talk/emo_model.pth", "emo_model", ""),
        ("RIFE/flownet.pkl", "rife_flownet", "module."),
    ],
)
def test_keys_are_the_official_ones(checkpoint: Path, file: str, network: str, prefix: str) -> None:
    assert {prefix + key for key in KEYS[network]} == read(checkpoint / file).keys()


def test_the_libraries_read_their_networks(checkpoint: Path) -> None:
    svd = checkpoint / tiny_checkpoint.SVD
    networks: list[tuple[Any, Path, dict[str, Any]]] = [
        (AutoencoderKLTemporalDecoder, svd / "vae", {"variant": "fp16", "low_cpu_mem_usage": False}),
        (CLIPVisionModelWithProjection, svd / "image_encoder", {"variant": "fp16"}),
        (WhisperForConditionalGeneration, checkpoint / "whisper-tiny", {}),
    ]
    for network, directory, options in networks:
        _, report = network.from_pretrained(directory, output_loading_info=True, **options)
        assert not report["missing_keys"], directory
        assert not report["unexpected_keys"], directory


def test_every_emotion_has_a_prior(checkpoint: Path) -> None:
    priors = [read_prior(path) for path in sorted((checkpoint / "emotions").iterdir())]
    assert len(priors) == 8
    assert len({prior.tobytes() for prior in priors}) == 8


@pytest.fixture(scope="module")
def detector(checkpoint: Path) -> FaceDetector:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # TorchScript is what the official file is
        return FaceDetector(torch.jit.load(checkpoint / "yoloface_v5m.pt"))


@pytest.mark.parametrize("size", [(248, 310), (512, 640), (64, 80), (992, 1240), (310, 310), (248, 400), (400, 310)])
def test_finds_the_face(detector: FaceDetector, size: tuple[int, int]) -> None:
    faces = detector.find(portrait(size))
    assert len(faces.boxes) == 1
    x, y, width, height = faces.boxes[0] / np.tile(size, 2)
    assert np.allclose([x, y, x + width, y + height], FACE, atol=0.06)
    assert all(x < across < x + width and y < down < y + height for across, down in FEATURES)
    eyes_and_mouth = faces.landmarks[0, [0, 1]], faces.landmarks[0, [3, 4]].mean(axis=0, keepdims=True)
    assert np.allclose(np.concatenate(eyes_and_mouth) / size, FEATURES, atol=0.05)


def test_finds_two_faces(detector: FaceDetector) -> None:
    faces = detector.find(np.concatenate([portrait((248, 310))] * 2, axis=1))
    assert len(faces.boxes) == 2


def plain(red: int, green: int, blue: int) -> NDArray[np.uint8]:
    return np.full((300, 256, 3), (red, green, blue), np.uint8)


def noise(shape: tuple[int, int, int], channels: tuple[int, ...]) -> NDArray[np.uint8]:
    picture = np.zeros(shape, np.uint8)
    values = np.random.default_rng(1).integers(0, 256, (*shape[:2], len(channels)), dtype=np.uint8)
    picture[..., list(channels)] = values
    return picture


@pytest.mark.parametrize(
    "picture",
    [
        plain(128, 128, 128),
        plain(255, 255, 255),
        plain(0, 0, 0),
        plain(220, 180, 150),
        noise((300, 256, 3), (0, 1, 2)),
        noise((64, 64, 3), (0, 1, 2)),
        noise((300, 256, 3), (2,)),
    ],
    ids=["grey", "white", "black", "skin", "noise", "coarse noise", "blue noise"],
)
def test_finds_no_face_in_plain_pictures(detector: FaceDetector, picture: NDArray[np.uint8]) -> None:
    assert len(detector.find(picture).boxes) == 0
