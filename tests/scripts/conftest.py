"""A copy of the checkout whose path has a space, and an environment for it whose installers only take notes."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.scripts.checkout import REPOSITORY, Checkout

INSTALLER = """\
#!/bin/sh
# Stands in for uv and pip: notes its arguments and uv's settings, succeeds unless the file NAME.fails is there.
name=$(basename "$0")
echo "$name $*" >>"@NOTES@/calls"
env | grep -E '^(UV_|SSL_CERT_FILE=)' >"@NOTES@/environment"
test ! -e "@NOTES@/$name.fails"
"""
PIP = """\
import pathlib, sys
notes = pathlib.Path("@NOTES@")
if sys.argv[1:] == ["config", "list"]:
    print((notes / "pip.conf").read_text() if (notes / "pip.conf").exists() else "", end="")
    sys.exit()
with (notes / "calls").open("a") as calls:
    print("pip", *sys.argv[1:], file=calls)
if (notes / "pip.fails").exists():
    sys.exit("ERROR: no network")
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Iterator[Checkout]:
    root = tmp_path / "a checkout"
    _copy(root)
    venv = _make_environment(tmp_path)
    made = Checkout(root, _environment(venv, tmp_path), venv, tmp_path)
    for name in ("requirements_api.txt", "requirements.txt", "requirements_dev.txt"):
        made.stamp(name)
    yield made
    made.end_all()


@pytest.fixture(scope="package")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checkout]:
    """A checkout whose service runs, for the tests that only talk to it."""
    directory = tmp_path_factory.mktemp("running")
    _copy(directory / "a checkout")
    venv = _make_environment(directory)
    made = Checkout(directory / "a checkout", _environment(venv, directory), venv, directory)
    made.stamp("requirements_api.txt")
    made.stamp("requirements.txt")
    made.launch().await_text("Press Ctrl-C to stop.")
    yield made
    made.end_all()


@pytest.fixture
def taken_port() -> Iterator[int]:
    """A port that another program listens on."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        yield other.getsockname()[1]


def _copy(root: Path) -> None:
    root.mkdir()
    for directory in ("api", "config", "engines", "examples", "media", "scripts", ".ci"):
        shutil.copytree(REPOSITORY / directory, root / directory)
    shutil.copytree(REPOSITORY / "checkpoints" / "preview", root / "checkpoints" / "preview")
    for pattern in ("*.sh", "test_api.py", "requirements*.txt"):
        for file in REPOSITORY.glob(pattern):
            shutil.copy(file, root)


def _make_environment(directory: Path) -> Path:
    """Everything that this Python can import, but a pip and a uv that install nothing."""
    venv = directory / "an environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    site = next((venv / "lib").glob("python*/site-packages"))
    (site / "real.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    (site / "pip").mkdir()
    (site / "pip" / "__init__.py").touch()
    (site / "pip" / "__main__.py").write_text(PIP.replace("@NOTES@", str(directory)))
    (venv / "bin" / "pip").write_text(f"#!{venv}/bin/python\n")
    (venv / "bin" / "uv").write_text(INSTALLER.replace("@NOTES@", str(directory)))
    (venv / "bin" / "uv").chmod(0o755)
    return venv


def _environment(venv: Path, directory: Path) -> dict[str, str]:
    """The variables for the scripts, with a PATH on which there is no GPU, and a Chromium already."""
    programs = directory / "programs"
    programs.mkdir()
    for name in ("nvidia-smi", "chromium"):
        (programs / name).write_text("#!/bin/sh\nexit 9\n")
        (programs / name).chmod(0o755)
    mine = {name: value for name, value in os.environ.items() if not name.startswith(("DICE_TALK_", "UV_"))}
    return mine | {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "DICE_TALK_VENV": str(venv),
        "DICE_TALK_SERVER__HOST": "127.0.0.1",
        "DICE_TALK_SERVER__PORT": str(_free_port()),
    }


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port
