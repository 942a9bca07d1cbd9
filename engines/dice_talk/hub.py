"""What the Hugging Face hub says about the checkpoint files, and what its refusals mean for a person."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx2  # what huggingface_hub makes its requests with: its errors come through
from huggingface_hub import HfApi, RepoFile, constants, get_hf_file_metadata, get_token, hf_hub_url
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

from engines.dice_talk.integrity import Fingerprint
from engines.dice_talk.sources import PRIORS, Repository

HUB = constants.ENDPOINT  # HF_ENDPOINT, if that was set
WEBSITE = "https://huggingface.co"  # where accounts are: a mirror has none


class FetchError(Exception):
    """Something could not be fetched; the text tells a person why, and what to do about it."""


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A checkpoint file where it comes from."""

    name: str  # its path under the checkpoint directory
    url: str
    fingerprint: Fingerprint
    source: str  # for the record
    repository: Repository | None  # None: a plain web server


def files_of(repository: Repository) -> list[RemoteFile]:
    """The files of a repository as they are now. Raises FetchError."""
    with explained(repository):
        api = HfApi()
        # By its commit, so that list and files belong together even if somebody uploads another version meanwhile.
        commit = api.model_info(repository.name, revision="main", timeout=constants.HF_HUB_ETAG_TIMEOUT).sha
        if commit is None:
            raise FetchError(f"{HUB} does not say which version of {repository.name} it has.")
        tree = api.list_repo_tree(repository.name, recursive=True, revision=commit)
        entries = {entry.path: entry for entry in tree if isinstance(entry, RepoFile)}
    files = []
    for path in repository.files:
        if path not in entries:
            raise FetchError(
                f"{repository.name} at {HUB} has no {path} any more: this program must learn its new name."
            )
        entry = entries[path]
        digest = f"git:{entry.blob_id}" if entry.lfs is None else f"sha256:{entry.lfs.sha256}"
        fingerprint = Fingerprint(entry.size, digest)
        url = hf_hub_url(repository.name, path, revision=commit)
        files.append(RemoteFile(repository.target(path), url, fingerprint, f"{repository.name}@{commit}", repository))
    return files


def priors(url: str | None = None) -> list[RemoteFile]:
    """The emotion priors, at `url` or where they were published."""
    base = (url or PRIORS.url).rstrip("/")
    return [
        RemoteFile(PRIORS.target(name), f"{base}/{name}.npy", Fingerprint(PRIORS.size, f"sha256:{sha256}"), base, None)
        for name, sha256 in PRIORS.sha256.items()
    ]


def require_access(file: RemoteFile) -> None:
    """Ask whether the hub would hand out this file. Raises FetchError."""
    with explained(file.repository, file.url):
        get_hf_file_metadata(file.url)


@contextmanager
def explained(repository: Repository | None, url: str = HUB) -> Iterator[None]:
    """Turn what goes wrong in here into a FetchError. `repository` (None: the priors) is asked for, at `url`."""
    try:
        yield
    except OfflineModeIsEnabled:
        raise FetchError("HF_HUB_OFFLINE is set: nothing is asked of the hub, and nothing fetched.") from None
    except HfHubHTTPError as error:
        raise FetchError(_refusal(error, repository, url)) from error
    except httpx2.HTTPError as error:
        raise FetchError(_no_connection(error, repository, url)) from error
    except (ValueError, KeyError, TypeError) as error:
        raise FetchError(f"{HUB} does not answer as a Hugging Face hub does. Is HF_ENDPOINT right?") from error


def _refusal(error: HfHubHTTPError, repository: Repository | None, url: str) -> str:
    status = error.response.status_code
    if repository is None:
        return f"The emotion priors: {url} answers {status}. --emotions-url names another place for them."
    what = f"{repository.name} at {HUB}"
    # By what is known of the repository, for not every mirror passes on the hub's header that says `gated`.
    if status in (401, 403) and (repository.gated or error.response.headers.get("X-Error-Code") == "GatedRepo"):
        token = (
            "An access token was sent, but its account may not have accepted the licence yet, or the token lacks the "
            "right to read gated repositories. "
            if get_token()
            else ""
        )
        return (
            f"{what} is gated ({repository.licence}). {token}Log in and accept the licence on "
            f"{WEBSITE}/{repository.name}, "
            f"make an access token on {WEBSITE}/settings/tokens, and set HF_TOKEN to it or run `hf auth login`."
        )
    if status in (401, 403):
        return (
            f"The hub refuses access to {what} ({status}). If HF_TOKEN is set, or `hf auth login` was run, "
            "that access token may have expired: this repository needs none."
        )
    if status == httpx2.codes.NOT_FOUND:
        return f"{what}, or a file of it, was not found. HF_ENDPOINT may name a mirror that lacks it."
    if status == httpx2.codes.TOO_MANY_REQUESTS:
        return f"{HUB} has had too many requests. Try again in a few minutes; with an access token more are allowed."
    return f"{what}: the server answers {status}. Try again later."


def _no_connection(error: httpx2.HTTPError, repository: Repository | None, url: str) -> str:
    way_out = "HF_ENDPOINT can name a mirror" if repository else "--emotions-url can name another place for the priors"
    return (
        f"{urlsplit(url).netloc} cannot be reached, or the connection broke ({_reason(error)}). "
        f"Check the network and, behind a proxy, HTTPS_PROXY; {way_out}."
    )


def _reason(error: Exception) -> str:
    return str(error).rstrip(".") or type(error).__name__


def disk_problem(error: OSError, directory: Path) -> str:
    """What an error of the file system means for a person."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"The disk of {directory} is full. Make room and repeat the command: what was fetched is kept."
    return f"{error.filename or directory}: {error.strerror or error}."
