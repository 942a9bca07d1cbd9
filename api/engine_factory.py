"""Chooses and builds the engine: the only place that names one. Engines are imported when they are needed."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from api.device import why_no_cuda
from api.settings import Settings
from engines.base import Engine, SetupError

logger = logging.getLogger("api.engine")

_ON_A_CPU = "On a CPU DICE-Talk takes hours for a video; to run it there on purpose, set"


@dataclass(frozen=True, slots=True)
class Choice:
    """An engine that is not loaded yet, and why it is this one (None: the settings name it).

    `fallback` gives another one, told why this one could not be loaded (None: there is no other).
    """

    engine: Engine
    reason: str | None = None
    fallback: Callable[[str], Choice] | None = None


def choose_engine(settings: Settings) -> Choice:
    """Follow `synthesis.engine`. Raises SetupError when the engine it names cannot work here."""

    def preview_instead(reason: str) -> Choice:
        return Choice(_preview(settings), f"The preview engine is in use. {reason}")

    match settings.synthesis.engine:
        case "preview":
            return Choice(_preview(settings))
        case "dice_talk":
            return Choice(_dice_talk(settings))
        case "auto":
            try:
                return Choice(_dice_talk_on_gpu(settings), fallback=preview_instead)
            except SetupError as error:
                return preview_instead(str(error))


def missing_packages(error: ImportError) -> SetupError:
    """What to tell the person who runs the service when an engine cannot be imported."""
    name = error.name or "A Python package"
    problem = "is not installed"
    if not isinstance(error, ModuleNotFoundError):
        problem = "cannot be imported (the service's log says why)"
        logger.warning("%s cannot be imported", name, exc_info=error)
    return SetupError(
        f"{name} {problem}, which the engine needs. Install it with pip install -r requirements.txt; "
        "./start_server.sh does so itself where it sees a GPU or is given --engine dice_talk."
    )


def _preview(settings: Settings) -> Engine:
    from engines.preview.engine import PreviewEngine  # noqa: PLC0415

    return PreviewEngine(settings.files.checkpoint_dir / "preview")


def _dice_talk_on_gpu(settings: Settings) -> Engine:
    """For `auto`: nobody is to wait for hours who has not asked for it."""
    _check_checkpoints(settings.files.checkpoint_dir)
    if settings.gpu.device_id < 0:
        raise SetupError(f"gpu.device_id is -1. {_ON_A_CPU} synthesis.engine to dice_talk.")
    return _dice_talk(settings)


def _dice_talk(settings: Settings) -> Engine:
    gpu = settings.gpu
    _check_checkpoints(settings.files.checkpoint_dir)
    try:
        if gpu.device_id >= 0:
            _check_gpu(gpu.device_id)
        from engines.dice_talk.engine import DiceTalkEngine  # noqa: PLC0415
    except ImportError as error:
        raise missing_packages(error) from error
    return DiceTalkEngine(
        settings.files.checkpoint_dir,
        device_id=gpu.device_id,
        dtype=gpu.dtype,
        low_vram=gpu.low_vram,
        interpolate=gpu.enable_interpolate_frame,
    )


def _check_gpu(device_id: int) -> None:
    problem = why_no_cuda(device_id)
    if problem is not None:
        raise SetupError(f"{problem} {_ON_A_CPU} synthesis.engine to dice_talk and gpu.device_id to -1.")


def _check_checkpoints(directory: Path) -> None:
    from engines.dice_talk.checkpoints import missing_files  # noqa: PLC0415

    missing = missing_files(directory)
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise SetupError(
            f"DICE-Talk's checkpoints are not complete: {', '.join(missing[:3])}{more} "
            f"{'is' if len(missing) == 1 else 'are'} missing under {directory.name}/. "
            "Fetch them with ./start_server.sh download, or set synthesis.engine to preview."
        )
