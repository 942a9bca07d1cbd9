"""Chooses and builds the engine: the only place that names one. Engines are imported when they are needed."""

from __future__ import annotations

from dataclasses import dataclass

from api.settings import Settings
from engines.base import Engine, SetupError


@dataclass(frozen=True, slots=True)
class Choice:
    """An engine that is not loaded yet, and why it is this one (None: the settings name it)."""

    engine: Engine
    reason: str | None = None


def choose_engine(settings: Settings) -> Choice:
    """Follow `synthesis.engine`. Raises SetupError when the engine it names cannot work here."""
    match settings.synthesis.engine:
        case "preview":
            return Choice(_preview(settings))
        case "dice_talk":
            return Choice(_dice_talk(settings))
        case "auto":
            try:
                return Choice(_dice_talk(settings))
            except SetupError as error:
                return Choice(_preview(settings), f"The preview engine is in use. {error}")


def _preview(settings: Settings) -> Engine:
    from engines.preview.engine import PreviewEngine  # noqa: PLC0415

    return PreviewEngine(settings.files.checkpoint_dir / "preview")


def _dice_talk(settings: Settings) -> Engine:
    from engines.dice_talk.checkpoints import missing_files  # noqa: PLC0415

    directory = settings.files.checkpoint_dir
    missing = missing_files(directory)
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise SetupError(
            f"DICE-Talk's checkpoints are not complete: {', '.join(missing[:3])}{more} "
            f"{'is' if len(missing) == 1 else 'are'} missing under {directory.name}/. "
            "Put the official files there, or set synthesis.engine to preview."
        )
    raise SetupError("This version does not contain the DICE-Talk engine yet; set synthesis.engine to preview.")
