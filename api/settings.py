"""Settings: config/api_config.yaml and DICE_TALK_<SECTION>__<KEY> variables become one frozen object.

The command line wins over the environment, the environment over the file, the file over the defaults here.
Unknown keys, wrong types and impossible values raise SettingsError with the path of each key.
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
# What start_server.sh and test_api.py read; no settings of the service.
OTHER_VARIABLES = {
    f"{ENV_PREFIX}{name}" for name in ("CONFIG", "VENV", "PYTHON", "START_TIMEOUT", "STOP_TIMEOUT", "URL")
}

LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR"]

# Browsers send neither a path nor the scheme's own port, so one that has them would allow nobody.
_ORIGIN = re.compile(r"(?!http://.*:80$|https://.*:443$)[a-z][a-z0-9+.-]*://[^/?#@*\s]+")


def _from_root(path: Path) -> Path:
    if path == Path():
        raise ValueError("must not be empty")
    return path if path.is_absolute() else PROJECT_ROOT / path


ProjectPath = Annotated[Path, AfterValidator(_from_root)]
"""Relative paths start at the project, wherever the service was started from."""


class SettingsError(Exception):
    """The settings are wrong; the text names each key and what is the matter with it."""


@contextmanager
def used_as(path: str) -> Iterator[None]:
    """What the operating system refuses in here is the matter with the setting `path`. Raises SettingsError."""
    try:
        yield
    except OSError as error:
        raise SettingsError(f"{path}: {error.filename}: {error.strerror}.") from error


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    @field_validator("*", mode="before")
    @classmethod
    def _no_number(cls, value: object, info: ValidationInfo) -> object:
        kind = cls.model_fields[info.field_name or ""].annotation
        if isinstance(value, bool) and kind in (int, float):  # to YAML yes and on are booleans, to pydantic those are 1
            raise ValueError("must be a number")
        return value


class ServerSettings(_Section):
    """Where the service listens, and how patiently."""

    host: str = Field("0.0.0.0", min_length=1)  # noqa: S104  a service is there to be reached
    port: int = Field(8000, ge=1, le=65535)
    log_level: LogLevel = "WARNING"  # of the HTTP server's own messages
    idle_timeout: float = Field(60, gt=0, le=3600)  # seconds that a client may be silent within a request

    @field_validator("log_level", mode="before")
    @classmethod
    def _upper(cls, value: object) -> object:
        return value.upper() if isinstance(value, str) else value


class GpuSettings(_Section):
    """Which device the DICE-Talk engine uses and health reports, and how the engine uses it."""

    device_id: int = Field(0, ge=-1)  # -1: the CPU
    dtype: Literal["auto", "fp16", "bf16", "fp32"] = "auto"  # auto: fp16 on a GPU, fp32 on the CPU
    low_vram: Literal["auto", "on", "off"] = "auto"
    enable_interpolate_frame: bool = True

    @field_validator("low_vram", mode="before")
    @classmethod
    def _word(cls, value: object) -> object:
        if isinstance(value, bool):  # YAML reads on and off without quotes as booleans
            return "on" if value else "off"
        return value


class TaskSettings(_Section):
    """How many tasks run and wait, and how long they are kept."""

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
    """Directories and limits of the uploads."""

    upload_dir: ProjectPath = Path("uploads")
    output_dir: ProjectPath = Path("outputs")
    data_dir: ProjectPath = Path("data")
    checkpoint_dir: ProjectPath = Path("checkpoints")
    max_image_mb: float = Field(10, gt=0, allow_inf_nan=False)  # MB of 2**20 bytes
    max_audio_mb: float = Field(50, gt=0, allow_inf_nan=False)
    min_free_mb: float = Field(500, ge=0, allow_inf_nan=False)

    @property
    def upload_limits(self) -> dict[str, int]:
        """Form field of each upload → most bytes."""
        return {"image": round(self.max_image_mb * 2**20), "audio": round(self.max_audio_mb * 2**20)}

    @property
    def min_free_bytes(self) -> float:
        """`min_free_mb` in bytes."""
        return self.min_free_mb * 2**20

    @field_validator("output_dir", "data_dir")
    @classmethod
    def _apart(cls, path: Path, info: ValidationInfo) -> Path:
        for name in ("upload_dir", "output_dir"):
            other = info.data.get(name)  # none where it is wrong itself, or is this one
            if other is not None and other.resolve() == path.resolve():
                raise ValueError(f"must be another directory than {name}")
        return path


class SynthesisSettings(_Section):
    """The engine, and the values of the form fields a client leaves out."""

    engine: Literal["auto", "dice_talk", "preview"] = "auto"
    default_ref_scale: GuidanceScale = 3.0
    default_emo_scale: GuidanceScale = 6.0
    inference_steps: InferenceSteps = 25
    fps: FramesPerSecond = 25
    seed: Seed = 72589
    min_resolution: Resolution = 512
    expand_ratio: ExpandRatio = 0.5


class SecuritySettings(_Section):
    """Which web pages may call the service from a browser."""

    cors_origins: tuple[str, ...] = ("*",)
    cors_credentials: bool = False

    @field_validator("cors_origins")
    @classmethod
    def _are_origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        origins = tuple(origin.lower() for origin in origins)  # as browsers send them
        for origin in origins:
            if origin != "*" and not _ORIGIN.fullmatch(origin):
                raise ValueError(
                    f"{origin!r} is no origin; one looks like https://example.com, "
                    "with no path, no * in it, and a port only where it is not the usual one"
                )
        return origins

    @field_validator("cors_credentials")
    @classmethod
    def _no_credentials_for_all(cls, allowed: bool, info: ValidationInfo) -> bool:
        origins = info.data.get("cors_origins")  # none where they are wrong themselves
        if allowed and origins is not None and ("*" in origins or not origins):
            raise ValueError("needs cors_origins that name each origin: neither '*' nor none at all")
        return allowed


class LoggingSettings(_Section):
    """The service's log."""

    level: LogLevel = "INFO"
    format: str = Field("%(asctime)s - %(name)s - %(levelname)s - %(message)s", min_length=1)
    file: ProjectPath | None = Path("logs/api.log")  # null: only the terminal
    max_mb: float = Field(10, gt=0, allow_inf_nan=False)  # a file grows to this before it is rotated
    backups: int = Field(5, ge=1)

    @field_validator("format")
    @classmethod
    def _formats(cls, value: str) -> str:
        try:
            logging.Formatter(value).format(logging.makeLogRecord({}))
        except (KeyError, ValueError, TypeError) as error:
            raise ValueError(f"not a logging format: {error}") from error
        return value


class Settings(BaseSettings):
    """All settings; see config/api_config.yaml for what each is for."""

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
        return {} if value is None else value  # in YAML, a section whose keys are all commented out


def load_settings(config: Path | None = None, overrides: Mapping[str, Mapping[str, Any]] | None = None) -> Settings:
    """Read the settings. `overrides` (section → key → value) wins over everything. Raises SettingsError.

    `config` must exist where given; without it config/api_config.yaml is read if it is there.
    """
    if config is not None and not config.is_file():
        raise SettingsError(f"The configuration file {config} does not exist.")
    unknown = sorted(_unknown_variables(os.environ))
    if unknown:
        raise SettingsError(f"Unknown settings in the environment: {', '.join(unknown)}.")

    class Sourced(Settings):
        @classmethod
        def settings_customise_sources(  # no .env file, no secrets directory
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
        twice = list(_given_twice(yaml.compose(file.read_text("utf-8")))) if file.is_file() else []
        if twice:
            raise SettingsError("\n".join(twice))
        return Sourced(**{section: dict(values) for section, values in (overrides or {}).items()})  # type: ignore[arg-type]
    except ValidationError as error:
        raise SettingsError("\n".join(_sentences(error))) from error
    except SourceError as error:
        raise SettingsError(f'{error}. Lists are written as JSON, such as ["https://example.com"].') from error
    except (yaml.YAMLError, OSError, TypeError, ValueError, RecursionError) as error:
        raise SettingsError(f"The settings cannot be read: {error}") from error


def _unknown_variables(environ: Mapping[str, str]) -> Iterator[str]:
    known = {
        f"{ENV_PREFIX}{section}__{key}".upper()
        for section, field in Settings.model_fields.items()
        for key in type(field.default).model_fields
    }
    for name in environ:
        if name.startswith(ENV_PREFIX) and name not in known and name not in OTHER_VARIABLES:
            yield name


def _given_twice(node: yaml.Node | None, path: str = "") -> Iterator[str]:
    """Of two equal keys, YAML itself drops the first without a word."""
    if not isinstance(node, yaml.MappingNode):
        return
    seen: set[str] = set()
    for key, value in node.value:
        if key.value in seen:
            yield f"{path}{key.value}: given twice, again in line {key.start_mark.line + 1}."
        seen.add(key.value)
        yield from _given_twice(value, f"{path}{key.value}.")


def _sentences(error: ValidationError) -> Iterator[str]:
    for problem in error.errors():
        path = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            yield f"{path}: there is no such setting."
        else:
            given = "" if isinstance(problem["input"], dict) else f" (it is {problem['input']!r})"
            yield f"{path}: {problem['msg'].removeprefix('Value error, ')}{given}."
