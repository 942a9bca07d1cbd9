"""Settings, loaded from config/api_config.yaml and DICE_TALK_<SECTION>__<KEY> environment variables.

Precedence: command line, environment, file, defaults. Unknown keys, wrong types and out-of-range values raise
SettingsError with the path of each invalid key.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    YamlConfigSettingsSource,
)
from pydantic_settings import (
    SettingsError as SourceError,
)

from api.fields import ExpandRatio, FramesPerSecond, GuidanceScale, InferenceSteps, Resolution, Seed

PROJECT_ROOT = Path(__file__).resolve().parent.parent
DEFAULT_CONFIG = PROJECT_ROOT / "config" / "api_config.yaml"
ENV_PREFIX = "DICE_TALK_"
# Not settings: read by the command line, start_server.sh and test_api.py.
OTHER_VARIABLES = {
    f"{ENV_PREFIX}{name}" for name in ("CONFIG", "VENV", "PYTHON", "START_TIMEOUT", "STOP_TIMEOUT", "URL")
}

LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR"]

# Browsers send origins without a path or the scheme's default port, so a value with either would never match.
_ORIGIN = re.compile(r"(?!http://.*:80$|https://.*:443$)[a-z][a-z0-9+.-]*://[^/?#@*\s]+")


def _from_root(path: Path) -> Path:
    if path == Path():
        raise ValueError("must not be empty")
    return path if path.is_absolute() else PROJECT_ROOT / path


ProjectPath = Annotated[Path, AfterValidator(_from_root)]
"""A path; relative ones are resolved against the project root, not the working directory."""


class SettingsError(Exception):
    """Invalid configuration. The message names each invalid key and its problem, one per line."""


@contextmanager
def naming_setting(path: str) -> Iterator[None]:
    """Re-raise OSError as a SettingsError that names the setting `path`."""
    try:
        yield
    except OSError as error:
        raise SettingsError(f"{path}: {error.filename}: {error.strerror}.") from error


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    @field_validator("*", mode="before")
    @classmethod
    def _reject_booleans(cls, value: object, info: ValidationInfo) -> object:
        # YAML parses yes and on as booleans, which pydantic would accept as the number 1.
        kind = cls.model_fields[info.field_name or ""].annotation
        if isinstance(value, bool) and kind in (int, float):
            raise ValueError("must be a number")
        return value


class ServerSettings(_Section):
    """Listen address, log level and idle timeout of the HTTP server."""

    host: str = Field("0.0.0.0", min_length=1)  # noqa: S104  reachable from other machines
    port: int = Field(8000, ge=1, le=65535)
    log_level: LogLevel = "WARNING"  # uvicorn's own messages
    idle_timeout: float = Field(60, gt=0, le=3600)  # seconds without data within a request

    @field_validator("log_level", mode="before")
    @classmethod
    def _upper(cls, value: object) -> object:
        return value.upper() if isinstance(value, str) else value


class GpuSettings(_Section):
    """Device, precision and memory options of the DICE-Talk engine; health reports this device."""

    device_id: int = Field(0, ge=-1)  # -1: the CPU
    dtype: Literal["auto", "fp16", "bf16", "fp32"] = "auto"  # auto: fp16 on a GPU, fp32 on the CPU
    low_vram: Literal["auto", "on", "off"] = "auto"
    enable_interpolate_frame: bool = True

    @field_validator("low_vram", mode="before")
    @classmethod
    def _accept_booleans(cls, value: object) -> object:
        # YAML parses unquoted on and off as booleans.
        if isinstance(value, bool):
            return "on" if value else "off"
        return value


class TaskSettings(_Section):
    """Concurrency, queue size, retention and time limits of tasks."""

    max_workers: int = Field(2, ge=1, le=64)
    max_queue: int = Field(100, ge=1)
    retention_hours: float = Field(24, gt=0, le=87600)  # ten years
    shutdown_grace: float = Field(30, ge=0, le=86400)  # seconds
    timeout_seconds: float = Field(3600, gt=0, le=604800)
    stall_seconds: float = Field(600, gt=0, le=604800)
    max_attempts: int = Field(2, ge=1, le=100)

    @property
    def retention_seconds(self) -> float:
        """`retention_hours` in seconds."""
        return self.retention_hours * 3600


class FileSettings(_Section):
    """Storage directories, upload size limits and minimum free disk space."""

    upload_dir: ProjectPath = Path("uploads")
    output_dir: ProjectPath = Path("outputs")
    data_dir: ProjectPath = Path("data")
    checkpoint_dir: ProjectPath = Path("checkpoints")
    max_image_mb: float = Field(10, gt=0, allow_inf_nan=False)  # MB of 2**20 bytes
    max_audio_mb: float = Field(50, gt=0, allow_inf_nan=False)
    min_free_mb: float = Field(500, ge=0, allow_inf_nan=False)

    @property
    def upload_limits(self) -> dict[str, int]:
        """Maximum size in bytes by upload field."""
        return {"image": round(self.max_image_mb * 2**20), "audio": round(self.max_audio_mb * 2**20)}

    @property
    def min_free_bytes(self) -> float:
        """`min_free_mb` in bytes."""
        return self.min_free_mb * 2**20

    @field_validator("output_dir", "data_dir")
    @classmethod
    def _check_distinct(cls, path: Path, info: ValidationInfo) -> Path:
        for name in ("upload_dir", "output_dir"):
            # None if that setting is invalid or not validated yet.
            other = info.data.get(name)
            if other is not None and other.resolve() == path.resolve():
                raise ValueError(f"must be a different directory from {name}")
        return path


class SynthesisSettings(_Section):
    """Engine selection and defaults of the optional form fields."""

    engine: Literal["auto", "dice_talk", "preview"] = "auto"
    default_ref_scale: GuidanceScale = 3.0
    default_emo_scale: GuidanceScale = 6.0
    inference_steps: InferenceSteps = 25
    fps: FramesPerSecond = 25
    seed: Seed = 72589
    min_resolution: Resolution = 512
    expand_ratio: ExpandRatio = 0.5


class SecuritySettings(_Section):
    """CORS: the web pages that may call the service from a browser."""

    cors_origins: tuple[str, ...] = ("*",)
    cors_credentials: bool = False

    @field_validator("cors_origins")
    @classmethod
    def _check_origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        # Browsers send origins in lower case.
        origins = tuple(origin.lower() for origin in origins)
        for origin in origins:
            if origin != "*" and not _ORIGIN.fullmatch(origin):
                raise ValueError(
                    f"{origin!r} is not a valid origin; use the form https://example.com or http://localhost:3000, "
                    "without a path, a wildcard or the default port"
                )
        return origins

    @field_validator("cors_credentials")
    @classmethod
    def _check_credentials(cls, allowed: bool, info: ValidationInfo) -> bool:
        # None if cors_origins itself is invalid.
        origins = info.data.get("cors_origins")
        if allowed and origins is not None and ("*" in origins or not origins):
            raise ValueError("requires cors_origins to list each allowed origin; '*' and an empty list are not allowed")
        return allowed


class LoggingSettings(_Section):
    """Log level, format, file and rotation."""

    level: LogLevel = "INFO"
    format: str = Field("%(asctime)s - %(name)s - %(levelname)s - %(message)s", min_length=1)
    file: ProjectPath | None = Path("logs/api.log")  # null: standard error only
    max_mb: float = Field(10, gt=0, allow_inf_nan=False)  # size at which the file is rotated
    backups: int = Field(5, ge=1)

    @field_validator("format")
    @classmethod
    def _check_format(cls, value: str) -> str:
        try:
            logging.Formatter(value).format(logging.makeLogRecord({}))
        except (KeyError, ValueError, TypeError) as error:
            raise ValueError(f"is not a valid logging format: {error}") from error
        return value


class Settings(BaseSettings):
    """All settings; config/api_config.yaml documents each key."""

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", env_prefix=ENV_PREFIX, env_nested_delimiter="__", env_parse_none_str="null"
    )

    server: ServerSettings = ServerSettings()
    gpu: GpuSettings = GpuSettings()
    tasks: TaskSettings = TaskSettings()
    files: FileSettings = FileSettings()
    synthesis: SynthesisSettings = SynthesisSettings()
    security: SecuritySettings = SecuritySettings()
    logging: LoggingSettings = LoggingSettings()

    @field_validator("*", mode="before")
    @classmethod
    def _empty_section(cls, value: object) -> object:
        # YAML parses a section whose keys are all commented out as null.
        return {} if value is None else value


def load_settings(config: Path | None = None, overrides: Mapping[str, Mapping[str, Any]] | None = None) -> Settings:
    """Load and validate the settings. Raises SettingsError.

    `config` must exist if given; otherwise config/api_config.yaml is read if it exists. `overrides` (section → key →
    value) takes precedence over the environment and the file.
    """
    if config is not None and not config.is_file():
        raise SettingsError(f"Configuration file {config} does not exist.")
    unknown = sorted(_unknown_variables(os.environ))
    if unknown:
        raise SettingsError(
            f"Unknown environment variables: {', '.join(unknown)}. "
            f"Settings are named {ENV_PREFIX}<SECTION>__<KEY>; config/api_config.yaml lists them."
        )

    class Sourced(Settings):
        # Neither .env files nor a secrets directory are read.
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
            file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return init_settings, env_settings, YamlConfigSettingsSource(settings_cls, file, "utf-8")

    file = config or DEFAULT_CONFIG
    try:
        duplicates = list(_duplicate_keys(yaml.compose(file.read_text("utf-8")))) if file.is_file() else []
        if duplicates:
            raise SettingsError("\n".join(duplicates))
        return Sourced(**{section: dict(values) for section, values in (overrides or {}).items()})  # type: ignore[arg-type]
    except ValidationError as error:
        raise SettingsError("\n".join(_messages(error))) from error
    except SourceError as error:
        raise SettingsError(f'{error}. Write lists as JSON, for example ["https://example.com"].') from error
    except (yaml.YAMLError, OSError, TypeError, ValueError, RecursionError) as error:
        raise SettingsError(f"Cannot read the configuration: {error}") from error


def _unknown_variables(environ: Mapping[str, str]) -> Iterator[str]:
    known = {
        f"{ENV_PREFIX}{section}__{key}".upper()
        for section, field in Settings.model_fields.items()
        for key in type(field.default).model_fields
    }
    for name in environ:
        if name.startswith(ENV_PREFIX) and name not in known and name not in OTHER_VARIABLES:
            yield name


def _duplicate_keys(node: yaml.Node | None, path: str = "") -> Iterator[str]:
    """Yield a message for each duplicate key; PyYAML would silently keep only the last one."""
    if not isinstance(node, yaml.MappingNode):
        return
    seen: set[str] = set()
    for key, value in node.value:
        if key.value in seen:
            yield f"{path}{key.value}: duplicate key on line {key.start_mark.line + 1}."
        seen.add(key.value)
        yield from _duplicate_keys(value, f"{path}{key.value}.")


def _messages(error: ValidationError) -> Iterator[str]:
    """Yield one line per invalid setting: its path, the problem and the given value."""
    for problem in error.errors():
        path = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            yield f"{path}: unknown setting."
        else:
            given = "" if isinstance(problem["input"], dict) else f" (got {problem['input']!r})"
            yield f"{path}: {problem['msg'].removeprefix('Value error, ')}{given}."
