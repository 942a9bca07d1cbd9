"""The fingerprint of the checkpoint that the engine loaded."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

import pytest
import torch

from engines.base import SetupError
from engines.dice_talk.checkpoints import REQUIRED_FILES
from engines.dice_talk.cost import CostModel
from engines.dice_talk.engine import DiceTalkEngine
from engines.dice_talk.networks import Loaded, load


def sums(directory: Path, *, without: str = "") -> str:
    """What `sha256sum FILE... | sha256sum` prints."""
    lines = [
        f"{hashlib.sha256((directory / name).read_bytes()).hexdigest()}  {name}\n"
        for name in sorted(REQUIRED_FILES)
        if name != without
    ]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def made(directory: Path, *, interpolate: bool = True) -> DiceTalkEngine:
    return DiceTalkEngine(directory, device_id=-1, dtype="auto", low_vram="auto", interpolate=interpolate)


@pytest.fixture(autouse=True)
def no_measuring(engine: DiceTalkEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """What videos cost takes seconds to find out and has nothing to do with files."""
    _, cost = engine._ready()
    monkeypatch.setattr(CostModel, "of", lambda *_: cost)


@pytest.fixture
def copy(checkpoint: Path, tmp_path: Path) -> Path:
    """The checkpoint elsewhere, with files of another time."""
    directory = Path(shutil.copytree(checkpoint, tmp_path / "copy"))
    for name in REQUIRED_FILES:
        os.utime(directory / name, (1, 1))
    return directory


def test_it_covers_every_file_and_neither_place_nor_time(engine: DiceTalkEngine, checkpoint: Path, copy: Path) -> None:
    assert engine.checkpoint == sums(checkpoint)
    again = made(copy)
    assert again.checkpoint == ""
    again.load()
    assert again.checkpoint == engine.checkpoint


def test_other_weights_of_one_byte_are_told_apart(engine: DiceTalkEngine, copy: Path) -> None:
    path = copy / "emotions" / "sad.npy"
    content = bytearray(path.read_bytes())
    place = content.index(b"\x3f")  # in the exponent of one of the numbers: another finite number
    content[place] ^= 1
    path.write_bytes(content)
    other = made(copy)
    other.load()
    assert other.checkpoint == sums(copy) != engine.checkpoint


def test_what_is_not_loaded_does_not_count(engine: DiceTalkEngine, copy: Path) -> None:
    (copy / "RIFE" / "flownet.pkl").unlink()
    native = made(copy, interpolate=False)
    native.load()
    assert native.checkpoint == sums(copy, without="RIFE/flownet.pkl") != engine.checkpoint


def test_files_that_are_exchanged_meanwhile_are_not_taken_for_those_loaded(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load_and_exchange(directory: Path, device: torch.device, dtype: torch.dtype, *, interpolate: bool) -> Loaded:
        loaded = load(directory, device, dtype, interpolate=interpolate)
        new = directory / "new"
        shutil.copy(directory / "DICE-Talk" / "unet.pth", new)
        new.replace(directory / "DICE-Talk" / "unet.pth")
        return loaded

    monkeypatch.setattr("engines.dice_talk.engine.load", load_and_exchange)
    engine = made(copy)
    with pytest.raises(SetupError, match=r"unet\.pth was changed while it was loaded"):
        engine.load()
    assert engine.checkpoint == ""
    with pytest.raises(SetupError, match="not loaded"):
        engine._ready()
