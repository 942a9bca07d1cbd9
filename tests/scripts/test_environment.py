"""What is installed when: the environment of start_server.sh, with installers that only take notes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.scripts.checkout import Checkout

TOOLS = ("bash", "cat", "dirname", "env", "flock", "grep", "ls", "mkdir", "readlink", "rm")


@pytest.fixture
def start(taken_port: int) -> list[str]:
    """A start that goes as far as the port, which is taken: everything is installed, nothing is left running."""
    return ["start", "--port", str(taken_port)]


def test_a_changed_requirements_file_is_installed_once(checkout: Checkout, start: list[str]) -> None:
    file = checkout.root / "requirements_api.txt"
    file.write_text(file.read_text() + "# changed\n")
    for _ in range(2):
        assert checkout.run(*start)[0] == 3
        assert checkout.calls == [f"uv pip install --python {checkout.venv}/bin/python -r {file} --quiet"]


def test_install_asks_the_installer_again(checkout: Checkout) -> None:
    code, output = checkout.run("install")
    assert (code, len(checkout.calls)) == (0, 1)
    assert "All dependencies are installed" in output


def test_pip_steps_in_for_uv(checkout: Checkout, start: list[str]) -> None:
    (checkout.venv / ".installed-requirements_api.txt").unlink()
    (checkout.notes / "uv.fails").touch()
    assert checkout.run(*start)[0] == 3
    requirements = checkout.root / "requirements_api.txt"
    assert checkout.calls[1:] == [f"pip install -r {requirements} --quiet"]


def test_a_failed_installation_is_said_and_repeated(checkout: Checkout, start: list[str]) -> None:
    (checkout.venv / ".installed-requirements_api.txt").unlink()
    for installer in ("uv", "pip"):
        (checkout.notes / f"{installer}.fails").touch()
    code, output = checkout.run(*start)
    assert code == 5
    assert "Could not install requirements_api.txt" in output
    (checkout.notes / "uv.fails").unlink()
    assert checkout.run(*start)[0] == 3
    assert len(checkout.calls) == 3


def test_a_missing_face_model_without_network_is_said(checkout: Checkout, start: list[str]) -> None:
    shutil.rmtree(checkout.root / "checkpoints")
    (checkout.notes / "pip.fails").touch()
    code, output = checkout.run(*start)
    assert code == 5
    assert "face model" in output
    assert "network" in output


@pytest.mark.parametrize("gpu", [False, True])
def test_what_dice_talk_needs_is_installed_when_it_may_run(checkout: Checkout, start: list[str], gpu: bool) -> None:
    """With a GPU, or when it is asked for."""
    (checkout.venv / ".installed-requirements.txt").unlink()
    if gpu:
        (checkout.notes / "programs" / "nvidia-smi").write_text("#!/bin/sh\n")
    assert checkout.run(*start, *([] if gpu else ["--engine=dice_talk"]))[0] == 3
    assert len(checkout.calls) == 1
    assert f"-r {checkout.root}/requirements.txt" in checkout.calls[0]


def test_uv_is_told_what_pip_is_configured_to(checkout: Checkout, start: list[str]) -> None:
    (checkout.notes / "pip.conf").write_text(
        ":env:.find-links='/wheels'\n"
        "global.cert='/a/certificate.pem'\n"
        "global.extra-index-url='https://one.example/simple\\nhttps://two.example/simple'\n"
        "global.find-links='/ignored'\n"
        "global.index-url='https://ignored.example/simple'\n"
        "install.index-url='https://pypi.example/simple'\n"
    )
    (checkout.venv / ".installed-requirements_api.txt").unlink()
    assert checkout.run(*start, SSL_CERT_FILE="/mine.pem")[0] == 3
    assert sorted((checkout.notes / "environment").read_text().splitlines()) == [
        "SSL_CERT_FILE=/mine.pem",
        "UV_DEFAULT_INDEX=https://pypi.example/simple",
        "UV_FIND_LINKS=/wheels",
        "UV_INDEX=https://one.example/simple https://two.example/simple",
        "UV_INDEX_STRATEGY=unsafe-best-match",
    ]


@pytest.mark.parametrize("harm", ["moved", "interrupted", "without its python"])
def test_a_broken_environment_is_made_anew(checkout: Checkout, harm: str) -> None:
    venv = checkout.venv
    if harm == "moved":
        venv = venv.rename(checkout.notes / "moved")
    elif harm == "interrupted":
        (venv / ".installing").touch()
    else:
        (venv / "bin" / "python").unlink()
    python = fake_python(checkout, '[[ $2 == venv ]] || { echo 3.12; exit; }\necho "asked for $*"; exit 1')
    code, output = checkout.run("install", DICE_TALK_VENV=str(venv), DICE_TALK_PYTHON=str(python))
    assert code == 4
    assert "recreating it" in output
    assert f"asked for -m venv --clear {venv}" in output


def test_a_directory_of_something_else_is_not_emptied(checkout: Checkout) -> None:
    code, output = checkout.run("install", DICE_TALK_VENV=str(checkout.root / "examples"))
    assert (code, "contains other files" in output) == (4, True)
    assert (checkout.root / "examples" / "portrait.jpg").exists()


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ("echo 3.10", "is Python 3.10, which is too old"),
        ("[[ $2 == *ensurepip* ]] && exit 1; echo 3.12", "apt install python3-venv"),
        (None, "No Python interpreter found"),
    ],
)
def test_a_python_that_will_not_do_gets_a_sentence(checkout: Checkout, body: str | None, sentence: str) -> None:
    if body:
        fake_python(checkout, body)
    programs = checkout.notes / "programs"
    for tool in TOOLS:
        (programs / tool).symlink_to(Path(shutil.which(tool) or pytest.skip(f"there is no {tool}")))
    empty = checkout.notes / "nothing yet"
    code, output = checkout.run("start", PATH=str(programs), DICE_TALK_VENV=str(empty))
    assert code == 4
    assert sentence in output
    assert "Python 3.11 or newer" in output


def fake_python(checkout: Checkout, body: str) -> Path:
    """A python3 on the PATH that does what `body` says."""
    python = checkout.notes / "programs" / "python3"
    python.write_text(f"#!/usr/bin/env bash\n{body}\n")
    python.chmod(0o755)
    return python
