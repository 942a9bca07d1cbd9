"""The service's log: to the terminal and to a rotating file."""

from __future__ import annotations

import logging
import sys
from logging.handlers import RotatingFileHandler

from api.settings import Settings


def configure_logging(settings: Settings) -> None:
    """Set up the loggers of this process; call once, at its start."""
    options = settings.logging
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    if options.file is not None:
        options.file.parent.mkdir(parents=True, exist_ok=True)
        size = round(options.max_mb * 2**20)
        handlers.append(RotatingFileHandler(options.file, maxBytes=size, backupCount=options.backups, encoding="utf-8"))
    logging.basicConfig(level=logging.WARNING, format=options.format, handlers=handlers, force=True)
    for name in ("api", "engines", "media"):
        logging.getLogger(name).setLevel(options.level)
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # what is wrong with a form is in the answer
    logging.getLogger("uvicorn").setLevel(settings.server.log_level)
