"""Settings: every key can be set by file and environment, everything wrong is named by its path."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from api.logs import configure_logging
from api.server import create_app, main
from api.settings import DEFAULT_CONFIG, PROJECT_ROOT, Settings, SettingsError, load_settings
from tests.server import make_settings

# Another value for every key there is.
OTHER: dict[str, dict[str, Any]] = {
    "server": {"host": "127.0.0.1", "port": 9000, "log_level": "ERROR", "idle_timeout": 5.0},
    "gpu": {"device_id": -1, "dtype": "bf16", "low_vram": "on", "enable_interpolate_frame": False},
    "tasks": {
        "max_workers": 3, "max_queue": 7, "retention_hours": 1.5, "shutdown_grace": 0.0, "timeout_seconds": 60.0,
        "stall_seconds": 30.0, "max_attempts": 5,
    },
    "files": {
        "upload_dir": "elsewhere/u", "output_dir": "/data/o", "checkpoint_dir": "c", "max_image_mb": 1.0,
        "max_audio_mb": 2.0, "data_dir": "/data/d", "min_free_mb": 0.0,
    },
    "synthesis": {
        "engine": "preview", "default_ref_scale": 1.0, "default_emo_scale": 2.0, "inference_steps": 8, "fps": 60,
        "seed": 0, "min_resolution": 1024, "expand_ratio": 2.0,
    },
    "security": {"cors_origins": ["https://page.example"], "cors_credentials": True},
    "logging": {"level": "DEBUG", "format": "%(message)s", "file": None, "max_mb": 1.0, "backups": 1},
}  # fmt: skip
WRONG = [
    ("server.host", ""), ("server.port", 0), ("server.port", 65536), ("server.port", "http"),
    ("server.port", True), ("server.log_level", "LOUD"),
    ("server.idle_timeout", 0), ("server.idle_timeout", 3601), ("server.idle_timeout", float("nan")),
    ("gpu.device_id", -2), ("gpu.device_id", "cuda"), ("gpu.dtype", "fp8"), ("gpu.dtype", 16),
    ("gpu.low_vram", "maybe"), ("gpu.low_vram", 1), ("gpu.enable_interpolate_frame", "maybe"),
    ("tasks.max_workers", 0), ("tasks.max_workers", 65), ("tasks.max_workers", True), ("tasks.timeout_seconds", True),
    ("tasks.max_queue", 0), ("tasks.retention_hours", 0), ("tasks.retention_hours", float("inf")),
    ("tasks.retention_hours", 1e8), ("tasks.shutdown_grace", 1e10), ("tasks.timeout_seconds", float("nan")),
    ("tasks.shutdown_grace", -1), ("tasks.timeout_seconds", 0), ("files.max_image_mb", 0), ("files.max_audio_mb", -1),
    ("tasks.stall_seconds", 0), ("tasks.max_attempts", 0), ("tasks.max_attempts", 101), ("files.data_dir", ""),
    ("files.min_free_mb", -1), ("files.min_free_mb", float("inf")),
    ("files.upload_dir", 5), ("files.upload_dir", ""), ("files.output_dir", []), ("files.checkpoint_dir", None),
    ("synthesis.engine", "sonic"), ("synthesis.default_ref_scale", 11), ("synthesis.default_emo_scale", float("nan")),
    ("synthesis.inference_steps", 7), ("synthesis.fps", 61), ("synthesis.seed", 2**32),
    ("synthesis.min_resolution", 500),
    ("synthesis.expand_ratio", 0), ("security.cors_origins", "https://one"),
    ("security.cors_origins", ["https://one/"]), ("security.cors_origins", ["one"]),
    ("security.cors_origins", ["https://*.one"]), ("security.cors_origins", ["https://one:443"]),
    ("security.cors_credentials", "maybe"), ("security.cors_credentials", True),
    ("logging.level", "LOUD"), ("logging.format", "%(nothing)s"), ("logging.format", ""), ("logging.file", 3),
    ("logging.max_mb", 0), ("logging.backups", 0),
]  # fmt: skip
KEYS = [(section, key) for section, values in OTHER.items() for key in values]


def plain(settings: Settings) -> dict[str, dict[str, Any]]:
    return {section: dict(values) for section, values in settings.model_dump(mode="json").items()}


DEFAULTS = plain(Settings())


def absolute(section: str, key: str, value: Any) -> Any:
    return str(PROJECT_ROOT / value) if section == "files" and key.endswith("_dir") else value


def test_the_list_of_keys_above_is_complete() -> None:
    assert {name: set(values) for name, values in plain(Settings()).items()} == {k: set(v) for k, v in OTHER.items()}
    assert {path for path, _ in WRONG} >= {f"{section}.{key}" for section, key in KEYS}


def test_the_shipped_file_shows_every_default() -> None:
    assert plain(load_settings()) == plain(Settings())
    shipped = yaml.safe_load(DEFAULT_CONFIG.read_text())
    assert {name: set(values) for name, values in shipped.items()} == {k: set(v) for k, v in OTHER.items()}


def test_every_key_can_be_set_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump(OTHER))
    found = plain(load_settings(path))
    for section, key in KEYS:
        assert found[section][key] == absolute(section, key, OTHER[section][key])


@pytest.mark.parametrize(("section", "key"), KEYS)
def test_every_key_can_be_set_in_the_environment(section: str, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    value = OTHER[section][key]
    if key == "cors_credentials":
        monkeypatch.setenv("DICE_TALK_SECURITY__CORS_ORIGINS", '["https://page.example"]')
    text = value if isinstance(value, str) else json.dumps(value)
    monkeypatch.setenv(f"DICE_TALK_{section.upper()}__{key.upper()}", text)
    found = plain(load_settings())[section][key]
    assert found == absolute(section, key, value)
    assert found != DEFAULTS[section][key]


@pytest.mark.parametrize(("path", "value"), WRONG)
def test_every_wrong_value_is_named_by_its_path(tmp_path: Path, path: str, value: Any) -> None:
    section, key = path.split(".")
    file = tmp_path / "own.yaml"
    file.write_text(yaml.safe_dump({section: {key: value}}))
    with pytest.raises(SettingsError) as refused:
        load_settings(file)
    assert str(refused.value).startswith(f"{path}: ")


@pytest.mark.parametrize(("path", "value"), WRONG)
def test_every_wrong_value_stops_the_start(
    tmp_path: Path, path: str, value: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    section, key = path.split(".")
    file = tmp_path / "own.yaml"
    file.write_text(yaml.safe_dump({section: {key: value}}))
    # An address of documentation, which no machine has: were the value taken, the service would still not run.
    elsewhere = [] if key == "host" else ["--host", "192.0.2.1"]
    assert main(["--config", str(file), *elsewhere]) == 2
    said, _, named = capsys.readouterr().err.partition("\n")
    assert said == "Invalid configuration."
    assert named.startswith(f"{path}: ")
    assert named.count("\n") == 1


def test_the_process_names_every_key_that_is_wrong(tmp_path: Path) -> None:
    """All keys at once, as users start it; what is wrong alone is tried above."""
    wrong: dict[str, dict[str, Any]] = {}
    for path, value in WRONG:
        section, key = path.split(".")
        wrong.setdefault(section, {}).setdefault(key, value)
    wrong["security"]["cors_origins"] = ["*"]  # right, so that the other can be wrong beside it
    file = tmp_path / "own.yaml"
    file.write_text(yaml.safe_dump(wrong))
    ended = subprocess.run(
        [sys.executable, "-m", "api.server"],
        check=False, cwd=PROJECT_ROOT, env=os.environ | {"DICE_TALK_CONFIG": str(file)}, capture_output=True, text=True,
    )  # fmt: skip
    assert ended.returncode == 2
    first, *lines = ended.stderr.splitlines()
    assert first == "Invalid configuration."
    named = {line.split(":")[0] for line in lines}
    assert named == {f"{section}.{key}" for section, key in KEYS} - {"security.cors_origins"}


@pytest.mark.usefixtures("loggers_as_before")
@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("files.upload_dir", "/dev/null/uploads"),
        ("files.output_dir", "/dev/null"),
        ("files.output_dir", "/proc"),  # is there, but takes no files
        ("logging.file", "/dev/null/api.log"),
        ("logging.file", "/proc"),
    ],
)
def test_places_that_cannot_be_used_stop_the_start_too(tmp_path: Path, path: str, value: str) -> None:
    section, key = path.split(".")
    settings = make_settings(tmp_path, **{section: {key: value}})
    begin: Callable[[Settings], object] = configure_logging if section == "logging" else create_app
    with pytest.raises(SettingsError) as refused:
        begin(settings)
    assert str(refused.value).startswith(f"{path}: {value.removesuffix('/api.log')}")


def test_what_cannot_be_removed_there_stops_the_start_too(tmp_path: Path) -> None:
    (tmp_path / "uploads" / "1.part").mkdir(parents=True)  # no file, for once
    with pytest.raises(SettingsError, match=r"^files\.upload_dir: .*1\.part: "):
        create_app(make_settings(tmp_path))


def test_all_wrong_values_are_said_at_once(tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text("server: {prt: 1, port: x}\ntask: {}\n")
    with pytest.raises(SettingsError) as refused:
        load_settings(file)
    assert sorted(line.split(":")[0] for line in str(refused.value).splitlines()) == [
        "server.port",
        "server.prt",
        "task",
    ]


@pytest.mark.parametrize("origins", ["['*']", "[]"])
def test_credentials_need_origins_by_name(tmp_path: Path, origins: str) -> None:
    file = tmp_path / "own.yaml"
    file.write_text(f"security: {{cors_origins: {origins}, cors_credentials: true}}\n")
    with pytest.raises(SettingsError, match=r"^security\.cors_credentials: requires"):
        load_settings(file)


@pytest.mark.parametrize(
    "name", ["DICE_TALK_SERVER__PRT", "DICE_TALK_SERVR__PORT", "DICE_TALK_SERVER_PORT", "DICE_TALK_PORT"]
)
def test_misspelt_variables_are_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "1")
    with pytest.raises(SettingsError, match=name):
        load_settings()


@pytest.mark.parametrize("content", ["[1, 2]", "server: [", "just text", "server: 5"])
def test_a_file_that_is_no_settings_file(tmp_path: Path, content: str) -> None:
    file = tmp_path / "own.yaml"
    file.write_text(content)
    with pytest.raises(SettingsError):
        load_settings(file)


def test_what_is_given_twice_is_not_half_forgotten(tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text("server: {port: 1}\ntasks:\n  max_queue: 5\n  max_queue: 6\nserver: {host: h}\n")
    with pytest.raises(SettingsError) as refused:
        load_settings(file)
    assert str(refused.value).splitlines() == [
        "tasks.max_queue: duplicate key on line 4.",
        "server: duplicate key on line 5.",
    ]


def test_a_file_that_cannot_be_read() -> None:
    with pytest.raises(SettingsError, match="Cannot read the configuration"):
        load_settings(Path("/proc/self/mem"))


def test_a_section_may_be_empty(tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text("server:\n  # port: 9000\ntasks: {max_queue: 5}\n")
    assert load_settings(file).tasks.max_queue == 5


@pytest.mark.parametrize(
    ("written", "word"),
    [("on", "on"), ("off", "off"), ("'on'", "on"), ('"off"', "off"), ("auto", "auto"), ("true", "on"), ("no", "off")],
)
def test_low_vram_is_understood_with_quotes_and_without(tmp_path: Path, written: str, word: str) -> None:
    """YAML 1.1 makes booleans of bare words such as on and off."""
    file = tmp_path / "own.yaml"
    file.write_text(f"gpu: {{low_vram: {written}}}\n")
    assert load_settings(file).gpu.low_vram == word


@pytest.mark.parametrize("same", ["both", "other/../both", str(PROJECT_ROOT / "both")])
def test_the_directories_are_two(tmp_path: Path, same: str) -> None:
    file = tmp_path / "own.yaml"
    file.write_text(f"files: {{upload_dir: both, output_dir: {same}}}\n")
    with pytest.raises(SettingsError, match=r"^files\.output_dir: must be a different directory"):
        load_settings(file)


def test_a_list_in_the_environment_is_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DICE_TALK_SECURITY__CORS_ORIGINS", "https://a,https://b")
    with pytest.raises(SettingsError, match="Write lists as JSON"):
        load_settings()


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="does not exist"):
        load_settings(tmp_path / "nothing.yaml")


def test_settings_do_not_change() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_settings().server.port = 1  # type: ignore[misc]


def test_command_line_over_environment_over_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "own.yaml"
    file.write_text("server: {host: h1, port: 1}\ntasks: {max_queue: 5}\n")
    monkeypatch.setenv("DICE_TALK_SERVER__PORT", "2")
    monkeypatch.setenv("DICE_TALK_SERVER__HOST", "h2")
    settings = load_settings(file, {"server": {"port": 3}})
    assert (settings.server.host, settings.server.port, settings.tasks.max_queue) == ("h2", 3, 5)
