"""The command line that fetches and checks the checkpoints, against a hub on loopback."""

from __future__ import annotations

import hashlib
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from engines.base import Emotion
from engines.dice_talk.checkpoints import REQUIRED_FILES, missing_files
from tests.dice_talk.fake_hub import TOKEN, Hub, complete_hub, serving

ROOT = Path(__file__).resolve().parents[2]
UNET = "DICE-Talk/unet.pth"
SVD = "stabilityai/stable-video-diffusion-img2vid-xt"
CHUNK = 10 * 1024 * 1024  # what huggingface_hub writes at once
LARGE = 3 * CHUNK


@pytest.fixture
def hub() -> Iterator[Hub]:
    """A hub where the UNet's file is of more than one chunk."""
    made = complete_hub()
    files = made.repositories["EEEELY/DICE-Talk"]
    files[UNET] = random.Random(2).randbytes(1024) * (LARGE // 1024)
    files["not for us.bin"] = b"unused"
    with serving(made):
        yield made


class Program:
    """The command line in a copy of the package, whose sources know the hashes of the hub's priors."""

    def __init__(self, root: Path, hub: Hub) -> None:
        self.root = root
        self.directory = root / "checkpoints"
        package = root / "engines" / "dice_talk"
        package.mkdir(parents=True)
        for name in ("__init__.py", "base.py"):
            shutil.copy(ROOT / "engines" / name, package.parent)
        for file in (ROOT / "engines" / "dice_talk").glob("*.py"):
            shutil.copy(file, package)
        shutil.copy(ROOT / "engines" / "dice_talk" / "sources.json", package)
        hub.adapt(package / "sources.json")
        self.environment = hub.environment(root / "home")

    def start(self, *words: str, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "engines.dice_talk.checkpoints", *words],
            cwd=self.root,
            env=self.environment | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *words: str, **environment: str) -> tuple[int, str]:
        """Exit code and everything said, which is never a traceback."""
        with self.start(*words, **environment) as process:
            output, _ = process.communicate(timeout=120)
        assert "Traceback" not in output, output
        return process.returncode, output

    def files(self) -> set[str]:
        """What lies in the checkpoint directory, but for the record."""
        found = {str(path.relative_to(self.directory)) for path in self.directory.rglob("*") if path.is_file()}
        return found - {".downloaded.json"}

    def parts(self) -> list[Path]:
        return list(self.directory.rglob("*.part"))


@pytest.fixture
def program(tmp_path: Path, hub: Hub) -> Program:
    return Program(tmp_path / "a checkout", hub)


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_everything_needed_is_fetched_once_and_verified(program: Program, hub: Hub) -> None:
    code, output = program.run("download", TQDM_POSITION="-1")
    assert code == 0, output
    assert "To fetch: 24 of 24 files, 31.5 MB" in output
    assert "100%" in output, "there are progress bars"
    assert f"All 24 checkpoint files are in place in {program.directory}" in output
    assert program.files() == set(REQUIRED_FILES)
    assert missing_files(program.directory) == []
    assert (program.directory / UNET).read_bytes() == hub.repositories["EEEELY/DICE-Talk"][UNET]
    assert (program.directory / "emotions" / "fear.npy").read_bytes() == hub.priors["fear.npy"]
    assert len(hub.got(UNET)) == 2, "one at the hub, one where that sends it"

    code, output = program.run("verify")
    assert code == 0, output
    assert output.count("OK  ") == 24

    hub.requests.clear()
    code, output = program.run("download")
    assert code == 0, output
    assert "To fetch" not in output
    assert hub.bytes_asked_for() == []


@pytest.mark.parametrize("how", ["close", "reset"])
def test_a_broken_connection_is_taken_up_again(program: Program, hub: Hub, how: str) -> None:
    hub.cuts[UNET] = [(CHUNK + 1000, how), (CHUNK + 1000, how)]
    code, output = program.run("download")
    assert code == 0, output
    ranges = {request.range for request in hub.got(f"//{UNET}")}
    assert ranges == {None, f"bytes={CHUNK}-", f"bytes={2 * CHUNK}-"}
    assert program.run("verify")[0] == 0


def test_a_second_run_goes_on_where_the_first_was_stopped(program: Program, hub: Hub) -> None:
    hub.cuts[UNET] = [(CHUNK + 1000, "stall")]
    with program.start("download") as process:
        deadline = time.monotonic() + 60
        while not any(part.stat().st_size for part in program.parts() if "unet.pth" in part.name):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "goes on from there" in output
    assert "Traceback" not in output
    assert not (program.directory / UNET).exists()
    assert UNET in missing_files(program.directory)

    hub.requests.clear()
    code, output = program.run("download")
    assert code == 0, output
    assert "10.5 MB are here already" in output
    assert {request.range for request in hub.got(f"//{UNET}")} == {f"bytes={CHUNK}-"}
    assert program.run("verify")[0] == 0
    assert program.parts() == []


def test_a_server_without_ranges_starts_again(program: Program, hub: Hub) -> None:
    hub.understands_ranges = False
    hub.cuts[UNET] = [(CHUNK + 1000, "close")]
    assert program.run("download")[0] == 0
    assert program.run("verify")[0] == 0


def test_a_half_file_that_is_wrong_is_thrown_away(program: Program, hub: Hub) -> None:
    digest = hashlib.sha256(hub.repositories["EEEELY/DICE-Talk"][UNET]).hexdigest()
    target = program.directory / UNET
    target.parent.mkdir(parents=True)
    part = target.with_name(f"unet.pth.{digest[:12]}.part")
    part.write_bytes(b"something else")
    target.with_name("unet.pth.0123456789ab.part").write_bytes(b"an older version")
    assert program.run("download")[0] == 0
    assert {request.range for request in hub.got(f"//{UNET}")} == {"bytes=14-", None}
    assert program.run("verify")[0] == 0
    assert program.parts() == []


def test_damage_is_found_and_mended(program: Program, hub: Hub) -> None:
    hub.repositories["EEEELY/DICE-Talk"][UNET] = b"small, to be quick"
    assert program.run("download")[0] == 0
    flipped = {"RIFE/flownet.pkl", "whisper-tiny/config.json", "emotions/fear.npy"}
    cut = {UNET, "stable-video-diffusion-img2vid-xt/vae/config.json", "emotions/sad.npy"}
    gone = {"yoloface_v5m.pt", "whisper-tiny/preprocessor_config.json", "emotions/happy.npy"}
    for name in flipped:
        flip_a_byte(program.directory / name)
    for name in cut:
        path = program.directory / name
        path.write_bytes(path.read_bytes()[:-1])
    for name in gone:
        (program.directory / name).unlink()

    for offline in ("0", "1"):
        code, output = program.run("verify", HF_HUB_OFFLINE=offline)
        assert code == 1
        states = {line.split()[1]: line.split()[0] for line in output.splitlines() if "  " in line}
        assert {name for name, state in states.items() if state == "damaged"} == flipped | cut
        assert {name for name, state in states.items() if state == "missing"} == gone
        assert list(states.values()).count("OK") == 15
        assert "9 of 24 files are missing or damaged" in output

    hub.requests.clear()
    code, output = program.run("download")
    assert code == 0, output
    assert "To fetch: 9 of 24 files" in output
    asked = {request.path.rpartition("/")[2] for request in hub.bytes_asked_for()}
    assert asked == {Path(name).name for name in flipped | cut | gone}
    assert program.run("verify")[0] == 0


def test_verify_without_the_hub(program: Program, hub: Hub) -> None:
    """It knows what the hub said at the download; of files that came otherwise it says that it knows nothing."""
    hub.repositories["EEEELY/DICE-Talk"][UNET] = b"small, to be quick"
    assert program.run("download")[0] == 0
    code, output = program.run("verify", HF_HUB_OFFLINE="1")
    assert code == 0, output
    assert output.count("HF_HUB_OFFLINE is set") == 1
    assert "Checked against what the hub said at the download: EEEELY/DICE-Talk, " in output

    for content in ("", "[]", '{"yoloface_v5m.pt": 7}'):
        (program.directory / ".downloaded.json").write_text(content)
        code, output = program.run("verify", HF_HUB_OFFLINE="1")
        assert code == 5
        assert output.count("unchecked  ") == 16
        assert output.count("OK  ") == 8, "the hashes of the priors are known in any case"
        assert "nothing is known to check them against" in output


def test_a_newer_version_at_the_hub_is_no_damage(program: Program, hub: Hub) -> None:
    files = hub.repositories["EEEELY/DICE-Talk"]
    files[UNET] = b"small, to be quick"
    assert program.run("download")[0] == 0
    files["yoloface_v5m.pt"] = b"another version"
    code, output = program.run("verify")
    assert code == 0
    assert "older      yoloface_v5m.pt" in output
    assert program.run("download")[0] == 0
    assert (program.directory / "yoloface_v5m.pt").read_bytes() == b"another version"


@pytest.mark.parametrize(("token", "tells_why"), [("", True), ("", False), ("hf_of_somebody_else", False)])
def test_a_gated_repository_is_explained_before_anything_is_fetched(
    program: Program, hub: Hub, token: str, tells_why: bool
) -> None:
    hub.gated.add(SVD)
    hub.tells_why_gated = tells_why
    code, output = program.run("download", **({"HF_TOKEN": token} if token else {}))
    assert code == 5
    assert f"accept the licence on https://huggingface.co/{SVD}" in output
    assert "HF_TOKEN" in output
    assert "`hf auth login`" in output
    assert ("An access token was sent" in output) == bool(token)
    assert hub.bytes_asked_for() == []


def test_a_refused_token_is_told_from_a_gated_repository(program: Program, hub: Hub) -> None:
    hub.gated.add("openai/whisper-tiny")
    hub.tells_why_gated = False
    code, output = program.run("download", HF_TOKEN="hf_expired")
    assert code == 5
    assert "refuses access to openai/whisper-tiny" in output
    assert "may have expired: this repository needs none" in output


def test_the_token_goes_to_the_hub_alone(program: Program, hub: Hub) -> None:
    hub.gated.add(SVD)
    code, output = program.run("download", HF_TOKEN=TOKEN)
    assert code == 0, output
    given = {request.path.startswith(("/cdn/", "/emo/")): request.authorization for request in hub.bytes_asked_for()}
    assert given == {True: None, False: f"Bearer {TOKEN}"}
    assert all(request.authorization is None for request in hub.requests if request.path.startswith(("/cdn/", "/emo/")))


def test_a_prior_with_another_hash_is_refused(program: Program, hub: Hub) -> None:
    hub.priors["happy.npy"] = bytes(1403)
    hub.priors["neutral.npy"] = bytes(70_000)
    code, output = program.run("download")
    assert code == 5
    assert "sent something else than emotions/happy.npy" in output
    assert not list((program.directory / "emotions").glob("happy*"))


def test_priors_can_come_from_elsewhere(program: Program, hub: Hub) -> None:
    sources = program.root / "engines" / "dice_talk" / "sources.json"
    sources.write_text(sources.read_text().replace(f"{hub.url}/emo", f"{hub.url}/nowhere"))
    code, output = program.run("download")
    assert code == 5
    assert f"{hub.url}/nowhere/" in output
    assert "answers 404. --emotions-url names another place" in output
    assert program.run("download", "--emotions-url", f"{hub.url}/emo/")[0] == 0


def test_wrong_content_of_the_hub_is_refused(program: Program, hub: Hub) -> None:
    hub.announced["yoloface_v5m.pt"] = 17
    code, output = program.run("download")
    assert code == 5
    assert "sent something else than yoloface_v5m.pt" in output
    assert not (program.directory / "yoloface_v5m.pt").exists()
    assert program.parts() == []


def test_a_full_disk_is_said_before_anything_is_fetched(program: Program, hub: Hub) -> None:
    hub.announced[UNET] = 10**18
    code, output = program.run("download")
    assert code == 5
    assert "There is not enough room: 1,000,000,000.0 GB are still to fetch" in output
    assert hub.bytes_asked_for() == []


def test_a_disk_that_fills_up_leaves_no_half_file(program: Program) -> None:
    """Stood in for by a limit on the size of files."""
    with subprocess.Popen(
        ["bash", "-c", 'ulimit -f 12000; exec "$0" -m engines.dice_talk.checkpoints download', sys.executable],
        cwd=program.root,
        env=program.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 5, output
    assert "File too large" in output
    assert "Traceback" not in output
    assert UNET in missing_files(program.directory)


def test_a_server_in_trouble_is_asked_again(program: Program, hub: Hub) -> None:
    """But not for ever."""
    hub.status = {"angry.npy": [502], UNET: [503] * 4}
    code, output = program.run("download")
    assert code == 5
    assert "the server answers 503. Try again later. What was fetched is kept" in output
    assert program.run("download")[0] == 0
    assert len(hub.got(f"//{UNET}")) == 5
    assert len(hub.got("angry.npy")) == 2


def test_no_network_is_a_sentence(program: Program) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    code, output = program.run("download", HF_ENDPOINT=f"http://127.0.0.1:{port}")
    assert code == 5
    assert f"127.0.0.1:{port} cannot be reached" in output
    assert "HF_ENDPOINT can name a mirror" in output
    code, output = program.run("download", HF_HUB_OFFLINE="1")
    assert (code, "HF_HUB_OFFLINE is set" in output) == (5, True)
    code, output = program.run("verify", HF_ENDPOINT=f"http://127.0.0.1:{port}")
    assert code == 1
    assert output.count("missing    ") == 24


def test_unusual_hubs_are_sentences(program: Program, hub: Hub) -> None:
    files = hub.repositories.pop("openai/whisper-tiny")
    code, output = program.run("download")
    assert (code, "openai/whisper-tiny" in output, "was not found" in output) == (5, True, True)
    hub.repositories["openai/whisper-tiny"] = files
    del files["model.safetensors"]
    code, output = program.run("download")
    assert (code, "has no model.safetensors any more" in output) == (5, True)
    code, output = program.run("download", HF_ENDPOINT=f"{hub.url}/emo/happy.npy?")
    assert (code, "Traceback" in output) == (5, False)


def test_a_directory_that_cannot_be_used_is_a_sentence(program: Program) -> None:
    (program.root / "file").touch()
    code, output = program.run("download", "--dir", "file")
    assert code == 5
    assert str(program.root / "file") in output


def test_a_second_download_into_the_directory_waits_for_nobody(program: Program, hub: Hub) -> None:
    hub.cuts[UNET] = [(CHUNK + 1000, "stall")]
    with program.start("download") as process:
        deadline = time.monotonic() + 60
        while not program.parts():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        code, output = program.run("download")
        process.kill()
        process.communicate()
    assert (code, "Another download into" in output) == (5, True)


def test_path_and_usage(program: Program, tmp_path: Path) -> None:
    assert program.run("path") == (0, f"{program.directory}\n")
    assert program.run("path", "--dir", str(tmp_path / "x")) == (0, f"{tmp_path / 'x'}\n")
    code, output = program.run("--help")
    assert (code, "Exit codes" in output) == (0, True)
    for words in ([], ["fly"], ["download", "--emotions-url", "ftp://x"]):
        assert program.run(*words)[0] == 2


def test_the_list_of_files_is_there_without_anything_heavy() -> None:
    code = (
        "import sys, engines.dice_talk.checkpoints\n"
        "print(*({'torch', 'huggingface_hub', 'httpx2', 'diffusers', 'transformers'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.split() == []
    assert {f"emotions/{emotion}.npy" for emotion in Emotion} < set(REQUIRED_FILES)
    assert len(set(REQUIRED_FILES)) == 24
