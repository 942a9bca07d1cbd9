"""The face model file."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from engines.base import SetupError
from engines.preview import model, phones
from engines.preview.engine import PreviewEngine
from tests.preview.conftest import MODEL_DIR


def test_reads_both_networks() -> None:
    networks = model.read(MODEL_DIR / model.FILE_NAME)
    assert networks.detector[4:8] == b"TFL3"
    assert networks.mesh[4:8] == b"TFL3"


def test_missing_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"face_landmarker\.task is missing.*start_server\.sh install"):
        PreviewEngine(tmp_path).load()


def test_damaged_file_says_what_to_do(tmp_path: Path) -> None:
    content = bytearray((MODEL_DIR / model.FILE_NAME).read_bytes())
    content[1000] ^= 1
    (tmp_path / model.FILE_NAME).write_bytes(content)
    with pytest.raises(SetupError, match=r"damaged.*start_server\.sh install"):
        model.read(tmp_path / model.FILE_NAME)


def test_fetch_leaves_a_right_file_alone(tmp_path: Path) -> None:
    target = tmp_path / model.FILE_NAME
    target.write_bytes((MODEL_DIR / model.FILE_NAME).read_bytes())
    before = target.stat()
    assert model.main(["fetch", "--dir", str(tmp_path)]) == 0
    assert target.stat() == before


def test_failed_fetch_names_the_file_to_place_by_hand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_network(command: list[str], **options: object) -> None:
        raise subprocess.CalledProcessError(1, command, stderr="WARNING: retrying\nERROR: no route to host")

    monkeypatch.setattr(subprocess, "run", no_network)
    target = tmp_path / "models"
    assert model.main(["fetch", "--dir", str(target)]) == 1
    said = capsys.readouterr().err
    assert "no route to host" in said
    assert model.FILE_SHA256 in said
    assert str(target / model.FILE_NAME) in said
    assert not target.exists()


def test_verify_tells_by_its_exit_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert model.main(["verify", "--dir", str(MODEL_DIR)]) == 0
    assert model.main(["verify", "--dir", str(tmp_path)]) == 1
    assert "missing" in capsys.readouterr().err


def test_the_fingerprint_covers_the_face_model_and_the_recogniser(
    engine: PreviewEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(MODEL_DIR / model.FILE_NAME, tmp_path)
    again = PreviewEngine(tmp_path)
    assert again.checkpoint == ""
    again.load()
    assert again.checkpoint == engine.checkpoint

    copies = {}
    for number, (name, path) in enumerate(phones.model_files().items()):
        copies[name] = Path(shutil.copy(path, tmp_path / str(number)))
    monkeypatch.setattr(phones, "model_files", lambda: copies)
    again.load()
    assert again.checkpoint == engine.checkpoint
    seen = {engine.checkpoint}
    for path in copies.values():
        with path.open("r+b") as file:
            first = file.read(1)
            file.seek(0)
            file.write(bytes([first[0] ^ 1]))
        again.load()
        seen.add(again.checkpoint)
    assert len(seen) == 1 + len(copies)


def test_without_the_recogniser_the_face_model_alone_counts(
    engine: PreviewEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pocketsphinx", None)
    alone = PreviewEngine(MODEL_DIR)
    alone.load()
    line = f"{model.FILE_SHA256}  {model.FILE_NAME}\n"
    assert alone.checkpoint == hashlib.sha256(line.encode()).hexdigest() != engine.checkpoint


def test_the_recogniser_reads_the_files_of_the_fingerprint() -> None:
    """As its own configuration names them."""
    config = phones._decoder().config
    keys = ("dict", "allphone", "featparams", "mdef", "mean", "fdict", "sendump", "tmat", "var")
    assert sorted(map(str, phones.model_files().values())) == sorted(config[key] for key in keys)
    assert not any(config[key] for key in ("fsg", "jsgf", "keyphrase", "kws", "lda", "lm", "lmctl", "mixw", "mllr"))
