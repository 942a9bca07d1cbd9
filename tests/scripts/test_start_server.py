"""start_server.sh from the outside: what it says, its exit codes, and what it leaves behind."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import av
import httpx
import pytest

from tests.scripts.checkout import Checkout, eventually

READY = "Press Ctrl-C to stop."


@pytest.mark.parametrize("word", ["help", "--help", "-h"])
def test_help_names_every_command_option_and_exit_code(checkout: Checkout, word: str) -> None:
    code, output = checkout.run(word)
    assert code == 0
    for name in ("start", "stop", "status", "health", "install", "download", "demo"):
        assert f"\n  {name} " in output
    for name in ("--host", "--port", "--config", "--engine", "--output", "--emotions-url"):
        assert f"\n  {name} " in output
    assert [int(number) for number in re.findall(r"^  (\d)  ", output, re.MULTILINE)] == list(range(9))


@pytest.mark.parametrize("words", [["fly"], ["--colour"], ["start", "now"], ["--port"], ["--port="], ["--engine", ""]])
def test_wrong_usage_is_said(checkout: Checkout, words: list[str]) -> None:
    code, output = checkout.run(*words)
    assert code == 2
    assert "./start_server.sh help" in output


def test_a_service_from_start_to_stop(checkout: Checkout, tmp_path: Path) -> None:
    """Called through a link, from another directory, with no standard input, after an unclean end."""
    pid_file = checkout.root / "logs" / "server.pid"
    pid_file.parent.mkdir()
    pid_file.write_text("999999999\nhttp://127.0.0.1:1\n")
    link = tmp_path / "dice talk"
    link.symlink_to(checkout.root / "start_server.sh")
    script = checkout.launch_command(["bash", "-c", f'exec "{link}" <&-'])
    script.await_text(READY)
    for line in ("state     ready", checkout.url, f"{checkout.url}/docs", f"{checkout.url}/api/health", "preview"):
        assert f"{line}\n" in script.output
    assert "\r" not in script.output
    assert "\033" not in script.output
    assert os.getpgid(int(pid_file.read_text().split()[0])) == script.process.pid

    code, output = checkout.run("status")
    assert code == 0
    assert checkout.url in output
    code, output = checkout.run("health")
    assert (code, "healthy, ready, engine preview" in output) == (0, True)
    code, output = checkout.run("start")
    assert (code, "already running" in output) == (3, True)

    assert checkout.run("stop")[0] == 0
    assert script.await_end() == 0
    assert not pid_file.exists()
    assert checkout.run("stop")[0] == 0
    assert checkout.run("status")[0] == 7
    assert checkout.run("health")[0] == 1
    assert checkout.calls == [], "nothing may be installed when everything is there"


@pytest.mark.parametrize(
    ("number", "group"),
    [(signal.SIGTERM, False), (signal.SIGTERM, True), (signal.SIGINT, True), (signal.SIGHUP, True)],
)
def test_a_signal_lets_the_running_task_finish(checkout: Checkout, number: signal.Signals, group: bool) -> None:
    """A terminal signals the whole group, so that the service hears of it twice unless the script takes care."""
    script = checkout.launch()
    script.await_text(READY)
    start_task(checkout)
    (script.signal_group if group else script.signal)(number)
    assert script.await_end() == 0
    assert script.output.endswith("Stopped.\n")
    assert "completed after" in (checkout.root / "logs" / "api.log").read_text()


def test_a_second_signal_kills(checkout: Checkout) -> None:
    script = checkout.launch()
    script.await_text(READY)
    start_task(checkout)
    script.signal(signal.SIGTERM)
    script.await_text("Stopping")
    script.signal(signal.SIGTERM)
    assert script.await_end() == 1
    assert "Killed" in script.output
    assert "completed after" not in (checkout.root / "logs" / "api.log").read_text()


def test_stop_kills_a_service_that_takes_too_long(checkout: Checkout) -> None:
    script = checkout.launch()
    script.await_text(READY)
    start_task(checkout)
    code, output = checkout.run("stop", DICE_TALK_STOP_TIMEOUT="0")
    assert (code, "killing it" in output) == (0, True)
    assert script.await_end() == 1
    assert "exited unexpectedly" in script.output


@pytest.mark.parametrize("moment", ["Starting the service.", READY])
def test_ctrl_c_ends_an_idle_service_at_any_moment(checkout: Checkout, moment: str) -> None:
    script = checkout.launch()
    script.await_text(moment)
    script.signal_group(signal.SIGINT)
    assert script.await_end() == 0
    assert "Traceback" not in script.output
    assert script.output.endswith("Stopped.\n")
    assert not (checkout.root / "logs" / "server.pid").exists()


def test_a_service_whose_script_was_killed_is_found_and_stopped(checkout: Checkout) -> None:
    script = checkout.launch()
    script.await_text(READY)
    script.signal(signal.SIGKILL)
    script.process.wait()
    assert checkout.run("start")[0] == 3
    assert checkout.run("status")[0] == 0
    assert checkout.run("stop")[0] == 0
    script.await_end()


def test_a_gpu_that_fails_is_said_with_a_code_of_its_own(checkout: Checkout) -> None:
    """The preview engine is made to play one that has lost its GPU."""
    with (checkout.root / "engines" / "preview" / "engine.py").open("a") as source:
        source.write(LOSE_GPU)
    script = checkout.launch()
    script.await_text(READY)
    assert post_task(checkout).status_code == 202
    assert script.await_end() == 8
    assert "The service exited because the GPU failed" in script.output
    assert not (checkout.root / "logs" / "server.pid").exists()
    assert "gpu_failed: It has fallen off the bus." in (checkout.root / "logs" / "api.log").read_text()


LOSE_GPU = """

def _lose_gpu(*_: object) -> None:
    from engines.base import GpuFailedError

    raise GpuFailedError("It has fallen off the bus.")


PreviewEngine.synthesize = _lose_gpu
"""


def test_the_pid_of_another_program_is_left_alone(checkout: Checkout) -> None:
    pid_file = checkout.root / "logs" / "server.pid"
    pid_file.parent.mkdir()
    pid_file.write_text(f"{os.getpid()}\n{checkout.url}\n")
    code, output = checkout.run("stop")
    assert (code, "Removing stale PID file" in output) == (0, True)
    assert not pid_file.exists()


def test_a_taken_port_is_named_with_the_way_out(checkout: Checkout, taken_port: int) -> None:
    code, output = checkout.run(f"--port={taken_port}")
    assert code == 3
    assert f"Port {taken_port} is already in use" in output
    assert f"--port {taken_port + 1}" in output


def test_an_address_of_another_machine_is_refused(checkout: Checkout) -> None:
    code, output = checkout.run("--host", "192.0.2.1")
    assert (code, "Cannot listen on 192.0.2.1" in output) == (3, True)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--port", "99999"], "server.port"),
        (["--config", "nowhere.yaml"], "nowhere.yaml does not exist"),
    ],
)
def test_wrong_settings_are_named(checkout: Checkout, words: list[str], named: str) -> None:
    code, output = checkout.run(*words)
    assert code == 2
    assert named in output


def test_dice_talk_without_checkpoints_says_what_is_missing(checkout: Checkout) -> None:
    code, output = checkout.run("--engine", "dice_talk")
    assert code == 6
    assert "DICE-Talk/unet.pth" in output
    assert not (checkout.root / "logs" / "server.pid").exists()


def test_demo_brings_a_service_of_its_own_and_takes_it_away(checkout: Checkout) -> None:
    """The video goes to the caller's directory unless --output says otherwise."""
    code, output = checkout.run("demo")
    assert code == 0, output
    assert f"Video saved to {checkout.notes / 'demo.mp4'}" in output
    with av.open(checkout.notes / "demo.mp4") as video:
        frames = sum(1 for _ in video.decode(video=0))
    assert frames > 100
    assert checkout.run("status")[0] == 7


def test_demo_uses_the_service_that_runs(running: Checkout) -> None:
    output = running.notes / "of my own.mp4"
    assert running.run("demo", "--output", str(output))[0] == 0
    assert output.read_bytes()[4:8] == b"ftyp"
    assert running.run("status")[0] == 0


def start_task(checkout: Checkout) -> None:
    """Hand in the example, and wait until it is being worked on."""
    task = post_task(checkout)
    assert task.status_code == 202
    status = f"{checkout.url}/api/v1/synthesis/{task.json()['task_id']}/status"
    assert eventually(lambda: httpx.get(status, timeout=30).json()["status"] == "PROCESSING")


def post_task(checkout: Checkout) -> httpx.Response:
    examples = checkout.root / "examples"
    with (examples / "portrait.jpg").open("rb") as image, (examples / "speech_en.wav").open("rb") as audio:
        files = {"image": image, "audio": audio}
        form = {"emotion": "happy", "duration": "4"}
        return httpx.post(f"{checkout.url}/api/v1/synthesis/start", files=files, data=form, timeout=30)


def test_ctrl_c_ends_a_demo_and_leaves_the_service_that_ran_before(checkout: Checkout) -> None:
    checkout.launch().await_text("Press Ctrl-C to stop.")
    demo = checkout.launch("demo")
    demo.await_text("Task ")
    demo.signal_group(signal.SIGINT)
    assert demo.await_end() == 1  # and none of its processes is left
    assert "Video saved" not in demo.output
    assert checkout.run("status")[0] == 0
