"""Command-line options of the service.

`python -m api.options` prints the resolved settings that start_server.sh needs, one per line: host, port, engine
setting, checkpoint directory and shutdown grace in whole seconds. It does not import the service, so it starts
quickly. Exit code 2: invalid configuration.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from pathlib import Path

from api.settings import Settings, SettingsError, load_settings


def settings_from(arguments: list[str] | None = None) -> Settings:
    """Parse the command line (sys.argv if None) and load the resulting settings. Raises SettingsError."""
    parser = argparse.ArgumentParser(prog="python -m api.server", description="The DICE-Talk API service.")
    parser.add_argument("--host", help="address to listen on")
    parser.add_argument("--port", help="port to listen on")
    parser.add_argument("--config", help="configuration file (default: DICE_TALK_CONFIG, else config/api_config.yaml)")
    parser.add_argument("--engine", help="auto, dice_talk or preview")
    options = parser.parse_args(arguments)
    overrides = {
        "server": {name: value for name in ("host", "port") if (value := getattr(options, name)) is not None},
        "synthesis": {} if options.engine is None else {"engine": options.engine},
    }
    config = options.config or os.environ.get("DICE_TALK_CONFIG")
    return load_settings(None if config is None else Path(config), overrides)


def main() -> int:
    """Print the resolved settings; return the exit code."""
    try:
        settings = settings_from()
    except SettingsError as error:
        print(f"Invalid configuration.\n{error}", file=sys.stderr)
        return 2
    print(settings.server.host)
    print(settings.server.port)
    print(settings.synthesis.engine)
    print(settings.files.checkpoint_dir)
    print(math.ceil(settings.tasks.shutdown_grace))
    return 0


if __name__ == "__main__":
    sys.exit(main())
