"""Logging setup: standard error and a rotating file."""

from __future__ import annotations

import logging
import sys
from logging.handlers import RotatingFileHandler

from api.settings import Settings, naming_setting


def configure_logging(settings: Settings) -> None:
    """Configure the loggers; call once at startup. Raises SettingsError if the log file cannot be opened."""
    options = settings.logging
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    if options.file is not None:
        # RotatingFileHandler never rotates with maxBytes=0.
        size = max(1, round(options.max_mb * 2**20))
        with naming_setting("logging.file"):
            options.file.parent.mkdir(parents=True, exist_ok=True)
            handlers.append(
                RotatingFileHandler(options.file, maxBytes=size, backupCount=options.backups, encoding="utf-8")
            )
    # Libraries log warnings and errors only.
    others = max(logging.WARNING, logging.getLevelNamesMapping()[options.level])
    logging.basicConfig(level=others, format=options.format, handlers=handlers, force=True)
    for name in ("api", "engines", "media"):
        logging.getLogger(name).setLevel(options.level)
    # Malformed forms are reported in the response; the parser's warnings would repeat that.
    logging.getLogger("python_multipart").setLevel(logging.ERROR)
    logging.getLogger("uvicorn").setLevel(settings.server.log_level)
