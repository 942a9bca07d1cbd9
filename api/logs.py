"""The service's log: to the terminal and to a rotating file."""

from __future__ import annotations

import logging
import sys
from logging.handlers import RotatingFileHandler

from api.settings import Settings, used_as


def configure_logging(settings: Settings) -> None:
    """Set up the loggers of this process; call once, at its start. Raises SettingsError (no such file can be)."""
    options = settings.logging
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    if options.file is not None:
        size = max(1, round(options.max_mb * 2**20))  # 0 would mean: never rotated
        with used_as("logging.file"):
            options.file.parent.mkdir(parents=True, exist_ok=True)
            handlers.append(
                RotatingFileHandler(options.file, maxBytes=size, backupCount=options.backups, encoding="utf-8")
            )
    # Of libraries, warnings are enough.
    others = max(logging.WARNING, logging.getLevelNamesMapping()[options.level])
    logging.basicConfig(level=others, format=options.format, handlers=handlers, force=True)
    for name in ("api", "engines", "media"):
        logging.getLogger(name).setLevel(options.level)
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # what is wrong with a form is in the answer
    logging.getLogger("uvicorn").setLevel(settings.server.log_level)
