"""start_server.sh download, against a hub on loopback."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from signal import SIGINT

import pytest

from engines.dice_talk.checkpoints import missing_files
from tests.dice_talk.fake_hub import Hub, complete_hub, serving
from tests.scripts.checkout import Checkout, eventually


@pytest.fixture
def hub(checkout: Checkout, tmp_path: Path) -> Iterator[Hub]:
    """A hub that the checkout's scripts know."""
    with serving(complete_hub()) as made:
        made.adapt(checkout.root / "engines" / "dice_talk" / "sources.json")
        checkout.environment = made.environment(tmp_path / "home", checkout.environment)
        yield made


def test_the_checkpoints_are_fetched_to_where_the_settings_say(checkout: Checkout, hub: Hub, tmp_path: Path) -> None:
    (checkout.venv / ".installed-requirements.txt").unlink()
    directory = tmp_path / "large disk"
    code, output = checkout.run("download", DICE_TALK_FILES__CHECKPOINT_DIR=str(directory))
    assert code == 0, output
    assert f"All 24 checkpoint files are in place in {directory}" in output
    assert missing_files(directory) == []
    assert [f"-r {checkout.root}/requirements.txt" in call for call in checkout.calls] == [True]


def test_what_cannot_be_fetched_is_said_by_sentence_and_code(checkout: Checkout, hub: Hub) -> None:
    hub.gated.add("stabilityai/stable-video-diffusion-img2vid-xt")
    code, output = checkout.run("download")
    assert code == 5
    assert "accept the licence" in output
    assert "Traceback" not in output


def test_priors_can_come_from_elsewhere(checkout: Checkout, hub: Hub) -> None:
    code, output = checkout.run("download", "--emotions-url", f"{hub.url}/nowhere")
    assert (code, f"{hub.url}/nowhere/" in output) == (5, True)
    assert checkout.run("download", f"--emotions-url={hub.url}/emo")[0] == 0
    assert missing_files(checkout.root / "checkpoints") == []


def test_ctrl_c_ends_it_and_says_that_it_goes_on(checkout: Checkout, hub: Hub) -> None:
    hub.cuts["yoloface_v5m.pt"] = [(1, "stall")]
    script = checkout.launch("download")
    assert eventually(lambda: not hub.cuts["yoloface_v5m.pt"])
    script.signal_group(SIGINT)
    assert script.await_end() == 130
    assert "goes on from there" in script.output
    assert "Traceback" not in script.output


def test_wrong_settings_are_named(checkout: Checkout, hub: Hub) -> None:
    code, output = checkout.run("download", DICE_TALK_FILES__CHECKPOINT_DIR="")
    assert (code, "files.checkpoint_dir" in output) == (2, True)
    assert hub.requests == []
