"""Which engine is chosen, and what is said when it is another than the one that was hoped for."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from api.engine import Choice, choose_engine
from api.settings import Settings
from engines.base import SetupError
from engines.dice_talk.checkpoints import REQUIRED_FILES
from tests.scripted_engine import ScriptedEngine
from tests.server import make_settings

INSTALL = "pip install -r requirements.txt"


class StandIn(ScriptedEngine):
    """In the place of DiceTalkEngine; notes what it was made with."""

    name = "dice_talk"

    def __init__(self, checkpoint_dir: Path, **options: Any) -> None:
        super().__init__()
        self.checkpoint_dir, self.options = checkpoint_dir, options


@dataclass
class Machine:
    """What is installed and plugged in, as far as the factory can see."""

    directory: Path
    monkeypatch: pytest.MonkeyPatch

    def __post_init__(self) -> None:
        self.install("engines.dice_talk.engine", SimpleNamespace(DiceTalkEngine=StandIn))
        self.gpus(1)
        for name in REQUIRED_FILES:
            path = self.directory / "checkpoints" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()

    def gpus(self, count: int, cuda: str | None = "13.0") -> None:
        devices = SimpleNamespace(is_available=lambda: count > 0, device_count=lambda: count)
        version = SimpleNamespace(cuda=cuda)
        self.install("torch", SimpleNamespace(cuda=devices, version=version, __version__="2.13.0"))

    def install(self, name: str, module: object) -> None:
        """`module` None: not installed."""
        self.monkeypatch.setitem(sys.modules, name, module)

    def settings(self, engine: str, **gpu: Any) -> Settings:
        files = {"checkpoint_dir": self.directory / "checkpoints"}
        return make_settings(self.directory, synthesis={"engine": engine}, gpu=gpu, files=files)

    def choose(self, engine: str, **gpu: Any) -> Choice:
        return choose_engine(self.settings(engine, **gpu))

    def refusal(self, engine: str, **gpu: Any) -> str:
        with pytest.raises(SetupError) as refused:
            self.choose(engine, **gpu)
        return str(refused.value)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


@pytest.mark.parametrize(
    ("device_id", "dtype", "low_vram", "interpolate"), [(1, "bf16", "on", False), (0, "fp32", "off", True)]
)
@pytest.mark.parametrize("engine", ["auto", "dice_talk"])
def test_with_checkpoints_and_a_gpu_it_is_dice_talk_as_the_settings_want_it(
    machine: Machine, engine: str, device_id: int, dtype: str, low_vram: str, interpolate: bool
) -> None:
    machine.gpus(2)
    options = {"device_id": device_id, "dtype": dtype, "low_vram": low_vram}
    choice = machine.choose(engine, **options, enable_interpolate_frame=interpolate)
    assert isinstance(choice.engine, StandIn)
    assert choice.reason is None
    assert choice.engine.checkpoint_dir == machine.directory / "checkpoints"
    assert choice.engine.options == {**options, "interpolate": interpolate}


def test_preview_needs_neither_checkpoints_nor_packages(machine: Machine) -> None:
    machine.install("torch", None)
    choice = machine.choose("preview")
    assert (choice.engine.name, choice.reason, choice.fallback) == ("preview", None, None)


@pytest.mark.parametrize(
    ("gpus", "cuda", "device_id", "says"),
    [
        (0, "13.0", 0, "PyTorch finds no CUDA GPU"),
        (0, None, 0, "2.13.0 is built without CUDA"),
        (1, "13.0", 1, "gpu.device_id is 1, but PyTorch finds only 1,"),
    ],
)
def test_without_the_gpu_it_is_said_what_is_missing(
    machine: Machine, gpus: int, cuda: str | None, device_id: int, says: str
) -> None:
    machine.gpus(gpus, cuda)
    refusal = machine.refusal("dice_talk", device_id=device_id)
    assert says in refusal
    assert "hours" in refusal
    assert "gpu.device_id to -1" in refusal
    choice = machine.choose("auto", device_id=device_id)
    assert choice.engine.name == "preview"
    assert choice.reason == f"The preview engine is in use. {refusal}"


def test_the_cpu_is_used_on_purpose_only(machine: Machine) -> None:
    machine.gpus(0)
    chosen = machine.choose("dice_talk", device_id=-1).engine
    assert isinstance(chosen, StandIn)
    assert chosen.options["device_id"] == -1
    auto = machine.choose("auto", device_id=-1)
    assert auto.engine.name == "preview"
    assert "set synthesis.engine to dice_talk" in (auto.reason or "")


@pytest.mark.parametrize("name", ["torch", "engines.dice_talk.engine"])
def test_packages_that_are_missing_are_named_with_the_way_to_get_them(machine: Machine, name: str) -> None:
    machine.install(name, None)
    refusal = machine.refusal("dice_talk")
    assert refusal.startswith(f"The engine needs {name}, which is not installed")
    assert INSTALL in refusal
    assert "./start_server.sh" in refusal
    assert machine.choose("auto").reason == f"The preview engine is in use. {refusal}"


def test_missing_checkpoints_are_named_before_anything_is_imported(machine: Machine) -> None:
    machine.install("torch", None)
    (machine.directory / "checkpoints" / "RIFE/flownet.pkl").unlink()
    for refusal in (machine.refusal("dice_talk"), machine.choose("auto").reason or ""):
        assert "weights are missing in checkpoints/: RIFE/flownet.pkl." in refusal
