"""The fingerprint of model files."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from engines.base import SetupError
from engines.fingerprint import Fingerprint

NAMES = ["b.bin", "a/weights.pth", "a/config.json", "c.npy"]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    for number, name in enumerate(NAMES):
        path = tmp_path / "models" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes([number]) * (3 << 20 if name == "b.bin" else 1000))
    return tmp_path / "models"


def fingerprint(directory: Path, names: list[str] = NAMES) -> str:
    with Fingerprint({name: directory / name for name in names}) as files:
        return files.result()


def test_it_is_what_sha256sum_says(directory: Path) -> None:
    sums = subprocess.run(["sha256sum", *sorted(NAMES)], cwd=directory, check=True, capture_output=True).stdout
    whole = subprocess.run(["sha256sum"], input=sums, check=True, capture_output=True).stdout.decode()
    assert fingerprint(directory) == whole.split()[0]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("place", [0, 500, -1])
def test_a_byte_of_any_file_changes_it(directory: Path, name: str, place: int) -> None:
    before = fingerprint(directory)
    content = bytearray((directory / name).read_bytes())
    content[place] ^= 1
    (directory / name).write_bytes(content)
    assert fingerprint(directory) != before


def test_names_and_sizes_count_too(directory: Path) -> None:
    before = fingerprint(directory)
    longer = directory / "c.npy"
    longer.write_bytes(longer.read_bytes() + b"\0")
    assert fingerprint(directory) != before
    shutil.copy(directory / "a/weights.pth", directory / "a/other.pth")
    names = ["a/other.pth" if name == "a/weights.pth" else name for name in NAMES]
    assert fingerprint(directory, names) != fingerprint(directory)
    assert fingerprint(directory, NAMES[1:]) != fingerprint(directory)


def test_place_time_and_order_make_no_difference(directory: Path, tmp_path: Path) -> None:
    before = fingerprint(directory)
    copy = Path(shutil.copytree(directory, tmp_path / "elsewhere" / "copy"))
    for name in NAMES:
        os.utime(copy / name, (1, 1))
    assert fingerprint(copy, NAMES[::-1]) == before


@pytest.mark.parametrize("change", ["written", "written, with its old time", "replaced", "removed"])
def test_a_file_that_changes_while_it_is_loaded_is_said(directory: Path, tmp_path: Path, change: str) -> None:
    path = directory / "a/weights.pth"
    before = path.stat()
    with Fingerprint({name: directory / name for name in NAMES}) as files:
        if change == "removed":
            path.unlink()
        elif change == "replaced":
            (tmp_path / "new").write_bytes(path.read_bytes())
            os.utime(tmp_path / "new", ns=(before.st_atime_ns, before.st_mtime_ns))
            (tmp_path / "new").replace(path)
        else:
            path.write_bytes(b"x" * before.st_size)
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + (change == "written")))
        with pytest.raises(SetupError, match=r"a/weights\.pth was changed while it was loaded"):
            files.result()


def test_a_file_that_cannot_be_read_is_said(directory: Path) -> None:
    with (
        Fingerprint({"a": directory / "a", "b.bin": directory / "b.bin"}) as files,
        pytest.raises(SetupError, match=r"models/a cannot be read \(Is a directory\)"),
    ):
        files.result()


def test_the_failure_to_load_comes_first(directory: Path) -> None:
    with pytest.raises(SetupError, match="no such network"), Fingerprint({"gone": directory / "gone"}):
        raise SetupError("no such network")
