"""What `sources.json` says: which files the engine needs, and where they come from. Imports nothing heavy."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

SOURCES_FILE = Path(__file__).with_name("sources.json")


@dataclass(frozen=True, slots=True)
class Repository:
    """Some files of a repository of the Hugging Face hub."""

    name: str
    into: str  # the directory of the files under the checkpoint directory
    files: tuple[str, ...]  # paths in the repository
    gated: bool  # its licence must be accepted before the hub hands anything out
    licence: str

    def target(self, file: str) -> str:
        """Where a file of the repository belongs under the checkpoint directory."""
        return str(PurePosixPath(self.into) / file)


@dataclass(frozen=True, slots=True)
class Priors:
    """The emotion priors, which lie on a plain web server."""

    url: str  # of the directory
    into: str
    licence: str
    size: int  # of each
    sha256: Mapping[str, str]  # by name of the emotion

    def target(self, emotion: str) -> str:
        """Where a prior belongs under the checkpoint directory."""
        return f"{self.into}/{emotion}.npy"


def _read() -> tuple[tuple[Repository, ...], Priors]:
    content = json.loads(SOURCES_FILE.read_text(encoding="utf-8"))
    repositories = tuple(
        Repository(entry["repo"], entry["into"], tuple(entry["files"]), entry["gated"], entry["licence"])
        for entry in content["huggingface"]
    )
    emotions = content["emotions"]
    priors = Priors(emotions["url"], emotions["into"], emotions["licence"], emotions["size"], emotions["sha256"])
    return repositories, priors


REPOSITORIES, PRIORS = _read()

REQUIRED_FILES = (
    *(repository.target(file) for repository in REPOSITORIES for file in repository.files),
    *(PRIORS.target(emotion) for emotion in PRIORS.sha256),
)
"""Every file, as a path under the checkpoint directory."""
