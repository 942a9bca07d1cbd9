"""The command line: what it overrides, and what `python -m api.options` prints for start_server.sh."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from api.options import main, settings_from
from api.settings import PROJECT_ROOT, SettingsError


@pytest.fixture
def config(tmp_path: Path) -> str:
    path = tmp_path / "own.yaml"
    path.write_text("server: {host: 127.0.0.2, port: 1111}\nsynthesis: {engine: preview}\n")
    return str(path)


def test_the_command_line_wins_over_environment_and_file(config: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def found(*arguments: str) -> tuple[str, int, str]:
        settings = settings_from(["--config", config, *arguments])
        return settings.server.host, settings.server.port, settings.synthesis.engine

    assert found() == ("127.0.0.2", 1111, "preview")
    monkeypatch.setenv("DICE_TALK_SERVER__PORT", "2222")
    assert found() == ("127.0.0.2", 2222, "preview")
    assert found("--host", "::1", "--port", "3333", "--engine", "auto") == ("::1", 3333, "auto")


def test_the_configuration_file_may_come_from_the_environment(config: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DICE_TALK_CONFIG", config)
    assert settings_from([]).server.port == 1111


@pytest.mark.parametrize(("option", "value"), [("--port", "http"), ("--port", "0"), ("--engine", "sonic")])
def test_wrong_values_are_named_by_the_path_of_their_setting(option: str, value: str) -> None:
    with pytest.raises(SettingsError, match=r"server\.port|synthesis\.engine"):
        settings_from([option, value])


def test_printing_where_it_leads(
    config: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["options", "--config", config, "--port", "5"])
    assert main() == 0
    assert capsys.readouterr().out == f"127.0.0.2\n5\npreview\n{PROJECT_ROOT / 'checkpoints'}\n30\n"
    monkeypatch.setattr(sys, "argv", ["options", "--config", "/nothing.yaml"])
    assert main() == 2
    assert "/nothing.yaml does not exist" in capsys.readouterr().err


def test_it_does_not_load_the_service() -> None:
    program = "import sys, api.options; print(sorted({'fastapi', 'numpy', 'cv2', 'av'} & set(sys.modules)))"
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, cwd=PROJECT_ROOT)
    assert printed.stdout == b"[]\n"
