"""From the checkpoint's files to the networks: values, types, memory on the way, and what is said of damage."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from engines.base import SetupError
from engines.dice_talk.loading import TensorFile
from engines.dice_talk.networks import SVD, Loaded, load, load_unet
from engines.dice_talk.unet import UNet, UNetConfig

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
UNET, BASE = "DICE-Talk/unet.pth", f"{SVD}/unet/diffusion_pytorch_model.fp16.safetensors"
POSE, AUDIO, EMOTION = (f"DICE-Talk/{name}.pth" for name in ("pose_guider", "audio_linear", "emo_model"))
VAE, CLIP = f"{SVD}/vae/diffusion_pytorch_model.fp16.safetensors", f"{SVD}/image_encoder/model.fp16.safetensors"
WHISPER, RIFE, DETECTOR, PRIOR = (
    "whisper-tiny/model.safetensors",
    "RIFE/flownet.pkl",
    "yoloface_v5m.pt",
    "emotions/sad.npy",
)
CONFIGS = [f"{SVD}/{part}/config.json" for part in ("unet", "vae", "image_encoder")] + ["whisper-tiny/config.json"]
OWN = [UNET, POSE, AUDIO, EMOTION]

State = dict[str, Tensor]


@pytest.fixture
def copy(checkpoint: Path, tmp_path: Path) -> Path:
    """The checkpoint again; what changes a file has to replace it."""
    return Path(shutil.copytree(checkpoint, tmp_path / "copy", copy_function=os.link))


def read(path: Path) -> State:
    return load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=True)


def replace(path: Path, content: bytes) -> None:
    path.unlink()
    path.write_bytes(content)


def write(path: Path, state: Any) -> None:
    path.unlink()
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=path.suffix != ".pkl")


def load_all(directory: Path, dtype: torch.dtype = torch.float32) -> Loaded:
    return load(directory, CPU, dtype, interpolate=True)


def assert_equal(module: nn.Module, expected: State, dtype: torch.dtype) -> None:
    """Every parameter is the file's, in this type."""
    found = module.state_dict()
    assert found
    for key, value in found.items():
        assert value.dtype == dtype, key
        assert torch.equal(value, expected[key].to(dtype)), key


def test_all_networks_hold_what_the_files_say(checkpoint: Path) -> None:
    loaded = load_all(checkpoint)
    networks = loaded.networks
    whisper = {key.removeprefix("model.encoder."): value for key, value in read(checkpoint / WHISPER).items()}
    rife = {key.removeprefix("module."): value for key, value in read(checkpoint / RIFE).items()}
    assert loaded.interpolation is not None
    files: list[tuple[Any, State]] = [
        (networks.unet, read(checkpoint / UNET)),
        (networks.pose_guider, read(checkpoint / POSE)),
        (networks.audio_projection, read(checkpoint / AUDIO)),
        (networks.vae, read(checkpoint / VAE)),
        (loaded.speech._encoder, whisper),
        (loaded.interpolation, rife),
    ]
    for module, state in files:
        assert_equal(module, state, torch.float32)
    assert_equal(networks.image_encoder, read(checkpoint / CLIP), torch.float16)  # as in the file, until it is used


def tensors(thing: object) -> Iterator[Tensor]:
    """All that an object of the engine holds, whether it is registered or not."""
    inside: Iterable[object] = ()
    if isinstance(thing, Tensor):
        yield thing
    elif isinstance(thing, torch.jit.ScriptModule):
        inside = thing.state_dict().values()
    elif isinstance(thing, Mapping):
        inside = thing.values()
    elif isinstance(thing, list | tuple | set):
        inside = thing
    elif is_dataclass(thing):
        inside = [getattr(thing, field.name) for field in fields(thing)]
    elif isinstance(thing, nn.Module) or type(thing).__module__.startswith("engines."):
        inside = vars(thing).values()
    for value in inside:
        yield from tensors(value)


def test_nothing_is_left_without_memory_and_nothing_is_trained(checkpoint: Path) -> None:
    loaded = load_all(checkpoint)
    found = list(tensors(loaded))
    parameters = sum(1 for tensor in found if isinstance(tensor, nn.Parameter))
    assert parameters > 1000
    assert len(found) > parameters, "the search goes past parameters"
    assert {tensor.device for tensor in found} == {CPU}
    assert not any(tensor.requires_grad for tensor in found)
    networks = loaded.networks
    modules: list[Any] = [
        networks.unet, networks.vae, networks.image_encoder, networks.pose_guider, networks.audio_projection,
        loaded.speech._encoder, loaded.interpolation,
    ]  # fmt: skip
    assert not any(part.training for module in modules for part in module.modules())


def test_trained_weights_win_over_those_of_the_base(copy: Path) -> None:
    base, trained = read(copy / BASE), read(copy / UNET)
    write(copy / BASE, {key: value + 1 for key, value in base.items()})
    assert_equal(load_unet(copy, CPU, torch.float32), trained, torch.float32)


def test_what_was_not_trained_comes_from_the_base(copy: Path) -> None:
    base, trained = read(copy / BASE), read(copy / UNET)
    adapters = {key: value for key, value in trained.items() if ".processor." in key}
    also_trained = {key: base[key] + 1 for key in ("conv_in.weight", "mid_block.resnets.0.time_mixer.mix_factor")}
    write(copy / UNET, {**adapters, **also_trained})
    assert_equal(load_unet(copy, CPU, torch.float32), {**base, **adapters, **also_trained}, torch.float32)


@pytest.mark.parametrize(
    ("stored", "wanted"),
    [
        (torch.float16, torch.float16),
        (torch.float32, torch.float16),
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.bfloat16),
        (torch.float32, torch.bfloat16),
    ],
    ids=str,
)
def test_files_of_any_type_become_the_type_asked_for(copy: Path, stored: torch.dtype, wanted: torch.dtype) -> None:
    for name in OWN:
        write(copy / name, {key: value.to(stored) for key, value in read(copy / name).items()})
    loaded = load_all(copy, wanted)
    networks = loaded.networks
    assert_equal(networks.unet, read(copy / UNET), wanted)
    assert_equal(networks.pose_guider, read(copy / POSE), wanted)
    assert_equal(networks.audio_projection, read(copy / AUDIO), torch.float32)
    assert_equal(networks.image_encoder, read(copy / CLIP), torch.float16)  # as in the file, until it is used
    vae: Any = networks.vae
    assert {name for name, _ in vae.named_children()} == {"encoder", "decoder", "quant_conv"}
    for name, part in vae.named_children():
        state = {key.removeprefix(f"{name}."): value for key, value in read(copy / VAE).items()}
        assert_equal(part, state, wanted if name == "decoder" else torch.float32)
    assert {tensor.dtype for tensor in tensors(networks.emotion_layers)} == {wanted}
    assert {tensor.dtype for tensor in loaded.speech._encoder.parameters()} == {torch.float32}


def test_what_only_training_uses_is_passed_over(checkpoint: Path) -> None:
    assert {"classifier.fc1.weight", "codebook.fc.bias"} <= read(checkpoint / EMOTION).keys()
    assert "module.block_tea.conv0.0.0.weight" in read(checkpoint / RIFE)
    load_all(checkpoint)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        (f"{SVD}/scheduler/scheduler_config.json", "sigma_max"),
        (f"{SVD}/scheduler/scheduler_config.json", "prediction_type"),
        ("whisper-tiny/preprocessor_config.json", "hop_length"),
    ],
)
def test_checkpoints_made_with_other_constants_are_refused(copy: Path, name: str, key: str) -> None:
    values = json.loads((copy / name).read_text())
    values[key] = 17
    (copy / name).unlink()
    (copy / name).write_text(json.dumps(values))
    with pytest.raises(SetupError, match=f"{name} says {key} 17"):
        load_all(copy)


def test_positions_in_the_image_encoders_file_are_passed_over(copy: Path) -> None:
    state = read(copy / CLIP)
    positions = len(state["vision_model.embeddings.position_embedding.weight"])
    write(copy / CLIP, state | {"vision_model.embeddings.position_ids": torch.zeros(1, positions, dtype=torch.int64)})
    embeddings: Any = load_all(copy).networks.image_encoder.vision_model.embeddings
    assert embeddings.position_ids.tolist() == [list(range(positions))]


def test_the_speech_encoder_may_be_saved_without_its_head(copy: Path) -> None:
    state = read(copy / WHISPER)
    write(copy / WHISPER, {key.removeprefix("model."): value for key, value in state.items()})
    encoder = load_all(copy).speech._encoder
    assert_equal(encoder, {key.removeprefix("model.encoder."): value for key, value in state.items()}, torch.float32)


def test_without_interpolation_its_file_is_not_needed(copy: Path) -> None:
    (copy / RIFE).unlink()
    assert load(copy, CPU, torch.float32, interpolate=False).interpolation is None


Damage = Callable[[Path], None]


def missing(path: Path) -> None:
    path.unlink()


def truncated(path: Path) -> None:
    replace(path, path.read_bytes()[: -max(16, path.stat().st_size // 100)])


def another_file(path: Path) -> None:
    replace(path, b"<!DOCTYPE html><title>404</title>" * 20)


def a_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def torchscript(path: Path) -> None:
    path.unlink()
    shutil.copy(path.parents[1] / DETECTOR, path)


def text(content: str) -> Damage:
    return lambda path: replace(path, content.encode())


def changed(**values: object) -> Damage:
    """A configuration that says something else."""
    return lambda path: replace(path, json.dumps(json.loads(path.read_text()) | values).encode())


def edited(edit: Callable[[State], object]) -> Damage:
    def damage(path: Path) -> None:
        state = read(path)
        edit(state)
        write(path, state)

    return damage


def without(key: str) -> Damage:
    return edited(lambda state: state.pop(key))


def with_tensor(key: str, value: Tensor) -> Damage:
    return edited(lambda state: state.update({key: value}))


def wider(key: str) -> Damage:
    return edited(lambda state: state.update({key: torch.cat([state[key], state[key]])}))


def saved(content: object) -> Damage:
    return lambda path: write(path, content)


ADAPTER = "mid_block.attentions.0.transformer_blocks.0.attn2.processor.to_k_ip.0.weight"
ONE = torch.ones(1)
DAMAGES: list[tuple[str, Damage, str]] = [
    *((name, missing, "missing") for name in (UNET, BASE, RIFE, DETECTOR, CONFIGS[0])),
    (PRIOR, missing, "cannot be read (No such file or directory)"),
    *((name, truncated, "damaged") for name in (UNET, VAE, RIFE, DETECTOR, CONFIGS[2])),
    *((name, another_file, "damaged") for name in (UNET, BASE, RIFE, DETECTOR)),
    (UNET, torchscript, "damaged"),
    (POSE, a_directory, "damaged"),
    (PRIOR, truncated, "not an emotion prior"),
    *((name, text("[]"), "damaged") for name in CONFIGS),
    (CONFIGS[0], changed(block_out_channels=None), "describes no network"),
    (CONFIGS[1], changed(down_block_types=["Unheard"]), "describes no network"),
    (CONFIGS[2], changed(num_attention_heads=3), "describes no network"),
    (CONFIGS[2], changed(projection_dim=32), "its projection_dim is 32, and the UNet's cross_attention_dim 64"),
    (CONFIGS[3], changed(encoder_layers=None), "describes no network"),
    (POSE, saved([ONE]), "not a file of tensors"),
    (POSE, saved({"conv_in.weight": "text"}), "not a file of tensors"),
    (POSE, saved({1: ONE}), "not a file of tensors"),
    (UNET, without(ADAPTER), f"{ADAPTER} is missing, 1 of 80 adapter weights in all"),
    (UNET, with_tensor("conv_in.lora", ONE), "conv_in.lora is unexpected"),
    (UNET, wider("conv_out.bias"), "conv_out.bias has the shape [8] instead of [4]"),
    (POSE, without("conv_in.weight"), "conv_in.weight is missing"),
    (POSE, with_tensor("conv_in.weight", ONE[0]), "conv_in.weight is a single number"),
    (AUDIO, without("norm.weight"), "norm.weight is missing"),
    (EMOTION, with_tensor("codebook.other", ONE), "codebook.other is unexpected"),
    (EMOTION, without("attention.fc_q.bias"), "attention.fc_q.bias is missing"),
    (VAE, without("decoder.conv_in.bias"), "decoder.conv_in.bias is missing"),
    (CLIP, wider("visual_projection.weight"), "visual_projection.weight has the shape [128, 32]"),
    (WHISPER, without("model.encoder.conv1.bias"), "conv1.bias is missing"),
    (RIFE, with_tensor("module.block3.conv0.0.0.bias", ONE), "block3.conv0.0.0.bias is unexpected"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "damage", "says"), DAMAGES, ids=[f"{number}-{name}" for number, (name, _, _) in enumerate(DAMAGES)]
)
def test_damage_is_told_with_the_file_and_what_to_do(copy: Path, name: str, damage: Damage, says: str) -> None:
    damage(copy / name)
    with pytest.raises(SetupError) as caught:
        load_all(copy)
    sentence = str(caught.value)
    assert name in sentence
    assert says in sentence
    assert "./start_server.sh download fetches it" in sentence
    assert sentence.endswith(".")
    assert "\n" not in sentence
    assert str(copy) not in sentence, "paths are relative to the checkpoint directory"


class Call:
    """Pickles as a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self._call = (function, arguments)

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self._call


@pytest.mark.parametrize("name", [UNET, RIFE])
@pytest.mark.parametrize("plain", [False, True])
def test_code_in_a_pickle_does_not_run(copy: Path, tmp_path: Path, name: str, plain: bool) -> None:
    trap = tmp_path / "trap"
    state: dict[str, Any] = {**read(copy / name), "module.trap": Call(os.mkdir, str(trap))}
    if plain:
        replace(copy / name, pickle.dumps(state))
    else:
        write(copy / name, state)
    with pytest.raises(SetupError, match=f"^{name} is damaged"):
        load_all(copy)
    assert not trap.exists()
    pickle.loads(pickle.dumps(state["module.trap"]))
    assert trap.exists(), "it is a trap"


FORMATS = ["x.pth", "x.pkl", "x.safetensors"]


@pytest.fixture(scope="module")
def small_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    directory = tmp_path_factory.mktemp("small")
    for name in FORMATS:
        (directory / name).touch()
        write(directory / name, {f"part.{number}": torch.rand(2, 3) for number in range(3)})
    return {name: (directory / name).read_bytes() for name in FORMATS}


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_any_damage_is_a_setup_error(
    small_files: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    name = data.draw(st.sampled_from(FORMATS))
    content = bytearray(small_files[name])
    del content[data.draw(st.just(len(content)) | st.integers(0, len(content))) :]
    if content:
        places = st.integers(0, len(content) - 1)
        for place, value in data.draw(st.lists(st.tuples(places, st.integers(0, 255)), max_size=3)):
            content[place] = value
    directory = tmp_path_factory.getbasetemp()
    (directory / name).unlink(missing_ok=True)  # an open mapping keeps the old one
    (directory / name).write_bytes(content)
    try:
        file = TensorFile(directory, name)
    except SetupError:
        assert bytes(content) != small_files[name]
    else:
        assert all(isinstance(value, Tensor) for value in file.values())


# How much memory loading takes

WIDE = {
    "block_out_channels": [64, 128, 256, 512],
    "num_attention_heads": [2, 4, 8, 8],
    "cross_attention_dim": 256,
}  # 120 million parameters


@pytest.fixture(scope="module")
def wide_unets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints of the same UNet by name: unet.pth complete in half precision, in full, and only its adapters."""
    with torch.device("meta"):
        unet = UNet(UNetConfig.from_json(WIDE))
    state = {
        key: torch.full_like(value, 0.5, dtype=torch.float16, device=CPU) for key, value in unet.state_dict().items()
    }
    adapters = {key: value for key, value in state.items() if ".processor." in key}
    root = tmp_path_factory.mktemp("wide")
    base = root / "base.safetensors"
    save_file({key: value for key, value in state.items() if key not in adapters}, base)
    trained = {
        "half": state,
        "full": {key: value.float() for key, value in state.items()},
        "adapters": adapters,
    }
    for name, content in trained.items():
        for file in (UNET, BASE):
            (root / name / file).parent.mkdir(parents=True)
        (root / name / BASE).with_name("config.json").write_text(json.dumps(WIDE))
        os.link(base, root / name / BASE)
        torch.save(content, root / name / UNET)
    return root


def status(key: str) -> int:
    """Bytes, from what the kernel says of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))


def measure(directory: Path, dtype: torch.dtype) -> tuple[float, float]:
    """Load the UNet and read all of it: the peaks of resident and of anonymous memory beyond what there was before, in
    sizes of the weights.
    """
    peak_anonymous = 0
    over = threading.Event()

    def watch() -> None:
        nonlocal peak_anonymous
        while not over.wait(0.005):
            peak_anonymous = max(peak_anonymous, status("RssAnon"))

    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    resident, anonymous = status("VmRSS"), status("RssAnon")
    watcher = threading.Thread(target=watch)
    watcher.start()
    unet = load_unet(directory, CPU, dtype)
    assert {float(parameter.max()) for parameter in unet.parameters()} == {0.5}
    over.set()
    watcher.join()
    size = sum(parameter.nbytes for parameter in unet.parameters())
    peak_anonymous = max(peak_anonymous, status("RssAnon"))
    return (status("VmHWM") - resident) / size, (peak_anonymous - anonymous) / size


def measure_each(root: str) -> None:
    """Print what `measure` says of each case, each in a process that has imported everything and loaded nothing."""
    for files, dtype in MOST:
        if not (child := os.fork()):
            print(json.dumps(measure(Path(root, files), getattr(torch, dtype))), flush=True)
            os._exit(0)
        assert not os.waitpid(child, 0)[1]


# Well above what was measured, and below what another copy of the weights, or of the file, would take.
MOST = {
    ("half", "float16"): (1.8, 0.7),  # mapped, not read: 1.06 and 0.05 were measured
    ("adapters", "float16"): (1.8, 0.7),  # 1.06, 0.05
    ("full", "float16"): (3.8, 1.7),  # the file has twice the size of the weights: 3.02, 1.04
    ("half", "float32"): (1.85, 1.35),  # and here half: 1.51, 1.02
}
"""Files and type: how much resident and anonymous memory loading may take, in sizes of the weights."""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_loading_takes_little_more_than_the_weights(wide_unets: Path) -> None:
    """Pages of files are resident as well, but the system takes them away when it needs the memory."""
    code = f"from tests.dice_talk.test_loading import measure_each; measure_each({str(wide_unets)!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert not done.returncode, done.stderr
    found = dict(zip(MOST, map(json.loads, done.stdout.splitlines()), strict=True))
    print(found)
    for case, (most, most_anonymous) in MOST.items():
        resident, anonymous = found[case]
        assert 0.9 < resident <= most, case
        assert anonymous <= most_anonymous, case
