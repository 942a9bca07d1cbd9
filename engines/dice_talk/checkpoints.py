"""The official checkpoint files: where they belong, and a command line that fetches and checks them.

`python -m engines.dice_talk.checkpoints download|verify|path [--dir DIR] [--emotions-url URL]`

download  fetch what is missing or damaged; goes on where it was cut off
verify    compare every file with the hub's sizes and hashes; without the hub, with those noted at the download
path      print the checkpoint directory

The files come from the Hugging Face hub, whose settings hold (HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE, HTTPS_PROXY, ...),
and the emotion priors from a plain web server, or from the one that --emotions-url names.

Exit codes: 0 all is in place and right; 1 files are missing or damaged (verify), or huggingface_hub is not installed;
2 wrong usage; 5 something could not be fetched or, by verify, not be checked; 130 interrupted.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from pathlib import Path

from engines.dice_talk.sources import REQUIRED_FILES

__all__ = ["DEFAULT_DIR", "REQUIRED_FILES", "main", "missing_files"]

DEFAULT_DIR = Path(__file__).resolve().parents[2] / "checkpoints"

EXIT_WRONG, EXIT_NOT_FETCHED, EXIT_INTERRUPTED = 1, 5, 130


def missing_files(directory: Path) -> list[str]:
    """Those of REQUIRED_FILES that are not under `directory`."""
    return [name for name in REQUIRED_FILES if not (directory / name).is_file()]


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m engines.dice_talk.checkpoints",
        description=__doc__.partition("\n\n")[2],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("action", choices=("download", "verify", "path"))
    parser.add_argument("--dir", type=Path, default=DEFAULT_DIR, help="the checkpoint directory (default: %(default)s)")
    parser.add_argument("--emotions-url", type=_web_address, help="directory of the emotion priors on a web server")
    options = parser.parse_args(arguments)
    directory = options.dir.absolute()
    if options.action == "path":
        print(directory)
        return 0
    if importlib.util.find_spec("huggingface_hub") is None:
        print("huggingface_hub is not installed. `./start_server.sh download` installs and calls it.", file=sys.stderr)
        return EXIT_WRONG
    try:
        return _run(options.action, directory, options.emotions_url)
    except KeyboardInterrupt:
        kept = " What was fetched is kept: the same command goes on from there." if options.action == "download" else ""
        print(f"\nInterrupted.{kept}", file=sys.stderr)
        return EXIT_INTERRUPTED


def _run(action: str, directory: Path, emotions_url: str | None) -> int:
    from engines.dice_talk import download, hub  # noqa: PLC0415 - the service imports this module without them

    try:
        if action == "verify":
            return _verdict(directory, *download.verify(directory))
        download.download(directory, emotions_url)
    except hub.FetchError as error:
        print(error, file=sys.stderr)
        return EXIT_NOT_FETCHED
    except OSError as error:
        print(hub.disk_problem(error, directory), file=sys.stderr)
        return EXIT_NOT_FETCHED
    return 0


def _verdict(directory: Path, wrong: int, unchecked: int) -> int:
    if wrong:
        print(f"{wrong} of {len(REQUIRED_FILES)} files are missing or damaged: `download` mends that.", file=sys.stderr)
        return EXIT_WRONG
    if unchecked:
        print(f"{unchecked} files are there, but nothing is known to check them against.", file=sys.stderr)
        return EXIT_NOT_FETCHED
    print(f"All {len(REQUIRED_FILES)} checkpoint files in {directory} are right.")
    return 0


def _web_address(text: str) -> str:
    if not text.startswith(("http://", "https://")):
        raise argparse.ArgumentTypeError("must begin with http:// or https://")
    return text


if __name__ == "__main__":
    sys.exit(main())
