"""Fetches the checkpoint files that are missing or damaged, and checks those that are there.

huggingface_hub lists the files and moves the bytes, so its settings hold here: HF_ENDPOINT, HF_TOKEN, timeouts.
The half-fetched file is ours, for huggingface_hub deletes its own when it is cut off: NAME.DIGEST.part beside the
target. It gets the target's name once its hash is right.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.file_download import http_get
from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined] # documented, but not in __all__

from engines.dice_talk.hub import HUB, FetchError, RemoteFile, explained, files_of, priors, require_access
from engines.dice_talk.integrity import Fingerprint, Record, settle
from engines.dice_talk.sources import REPOSITORIES, REQUIRED_FILES

TRIES_WITHOUT_PROGRESS = 4


def download(directory: Path, emotions_url: str | None = None) -> None:
    """Make `directory` hold every checkpoint file. Raises FetchError, OSError; what was fetched until then is kept."""
    directory.mkdir(parents=True, exist_ok=True)
    with _alone_in(directory):
        print(f"Asking {HUB} for sizes and hashes.", flush=True)
        files = [*priors(emotions_url), *(file for repository in REPOSITORIES for file in files_of(repository))]
        record = Record(directory)
        wanted = list(_not_in_place(files, directory, record))
        if wanted:
            _announce(wanted, len(files), directory)
            _require_access(wanted)
        for number, file in enumerate(wanted, 1):
            print(f"{number}/{len(wanted)}  {file.name}  ({_readable(file.fingerprint.size)})", flush=True)
            _fetch(file, directory / file.name)
            record.put(file.name, file.fingerprint, file.source)
    print(f"All {len(files)} checkpoint files are in place in {directory}.")


def verify(directory: Path) -> tuple[int, int]:
    """Print a line for each checkpoint file; returns how many are wrong, and how many could not be checked."""
    known = {file.name: file.fingerprint for file in priors()}
    problems: dict[str, list[str]] = {}
    for repository in REPOSITORIES:
        try:
            known |= {file.name: file.fingerprint for file in files_of(repository)}
        except FetchError as error:
            problems.setdefault(str(error), []).append(repository.name)
    for problem, names in problems.items():
        print(f"{problem}\nChecked against what the hub said at the download: {', '.join(names)}.")
    record = Record(directory)
    states = []
    for name in REQUIRED_FILES:
        state = _state(directory / name, known.get(name), record.get(name))
        states.append(state)
        print(f"{state:<9}  {name}", flush=True)
    wrong, unchecked = states.count("missing") + states.count("damaged"), states.count("unchecked")
    if "older" in states:
        print("older: sound, as it was downloaded, but the hub has another version now. `download` would fetch that.")
    return wrong, unchecked


def _state(path: Path, now: Fingerprint | None, then: Fingerprint | None) -> str:
    """OK, missing, damaged, older or unchecked; `now` is what the hub says, `then` what it said at the download."""
    if not path.is_file():
        return "missing"
    try:
        if now is not None and now.matches(path):
            return "OK"
        if then is not None and then.matches(path):
            return "OK" if now is None else "older"
    except OSError:
        return "damaged"
    return "unchecked" if now is None and then is None else "damaged"


@contextmanager
def _alone_in(directory: Path) -> Iterator[None]:
    """Two downloads would append to the same half files. The lock ends with the process, however that ends."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise FetchError(f"Another download into {directory} is running.") from None
    else:
        yield
    finally:
        os.close(handle)


def _not_in_place(files: Iterable[RemoteFile], directory: Path, record: Record) -> Iterator[RemoteFile]:
    """Every file is read again, for only that tells a damaged one."""
    for file in files:
        if file.fingerprint.matches(directory / file.name):
            record.put(file.name, file.fingerprint, file.source)
        else:
            yield file


def _announce(wanted: list[RemoteFile], total: int, directory: Path) -> None:
    """Say how much there is to fetch, or that there is no room for it."""
    size = sum(file.fingerprint.size for file in wanted)
    left = sum(max(0, file.fingerprint.size - _length(_part(file, directory / file.name))) for file in wanted)
    begun = "" if left == size else f", of which {_readable(size - left)} are here already"
    print(f"To fetch: {len(wanted)} of {total} files, {_readable(size)}{begun}, into {directory}.", flush=True)
    free = shutil.disk_usage(directory).free
    if free < left:
        raise FetchError(
            f"There is not enough room: {_readable(left)} are still to fetch, and the disk of {directory} "
            f"has {_readable(free)} free. Make room, or choose another checkpoint directory."
        )


def _require_access(wanted: list[RemoteFile]) -> None:
    """Better refused at once than after the first gigabytes."""
    first_of = {file.repository: file for file in reversed(wanted) if file.repository is not None}
    for file in first_of.values():
        require_access(file)


def _fetch(file: RemoteFile, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    part = _part(file, target)
    while True:
        resumed = _length(part) > 0
        _transfer(file, part)
        if file.fingerprint.matches(part):
            break
        part.unlink(missing_ok=True)
        if not resumed:  # then the beginning may have been what was wrong: once more, from the start
            raise FetchError(
                f"{file.url} sent something else than {file.name}: size or hash is not {file.fingerprint.size} bytes, "
                f"{file.fingerprint.digest}. It was deleted. A proxy or mirror may be at fault."
            )
    settle(part, target)
    for stale in target.parent.glob(f"{target.name}.*.part"):  # of versions that are no longer asked for
        stale.unlink(missing_ok=True)


def _transfer(file: RemoteFile, part: Path) -> None:
    """Append to `part` what it lacks. Broken connections are taken up again, as long as they bring something."""
    headers = {"Accept-Encoding": "identity"}  # else a range would count compressed bytes
    if file.repository is not None:
        headers |= build_hf_headers()
    if _length(part) > file.fingerprint.size:
        part.unlink()
    fruitless = 0
    while True:
        before = _length(part)
        try:
            with explained(file.repository, file.url):
                _append(file, part, headers)
        except FetchError as error:
            fruitless = 0 if _length(part) > before else fruitless + 1
            if fruitless == TRIES_WITHOUT_PROGRESS or not _may_pass(error.__cause__):
                raise FetchError(f"{error} What was fetched is kept: the same command goes on from there.") from error
            time.sleep(2.0 ** (fruitless - 1))
        else:
            return


def _append(file: RemoteFile, part: Path, headers: dict[str, str]) -> None:
    with part.open("ab") as stream:
        try:
            http_get(
                file.url,
                stream,
                resume_size=stream.tell(),
                headers=headers,
                expected_size=file.fingerprint.size,
                displayed_filename=file.name,
            )
        except OSError as error:
            # Without a number it is http_get, which counted other than the expected bytes: the hash will tell.
            if error.errno is not None or isinstance(error, HfHubHTTPError):
                raise


def _may_pass(error: BaseException | None) -> bool:
    """Whether trying again may help."""
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code >= httpx2.codes.INTERNAL_SERVER_ERROR
    return isinstance(error, httpx2.TransportError) and not isinstance(error, httpx2.UnsupportedProtocol)


def _part(file: RemoteFile, target: Path) -> Path:
    return target.with_name(f"{target.name}.{file.fingerprint.digest.partition(':')[2][:12]}.part")


def _length(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _readable(size: int) -> str:
    for unit, bytes_each in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= bytes_each:
            return f"{size / bytes_each:,.1f} {unit}"
    return f"{size} bytes"
