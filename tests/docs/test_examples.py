"""Every bash and Python block of the documents runs as it stands, against a live server."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from media import video
from tests.http.test_process import ROOT, server

_BLOCK = re.compile(
    r"(?:<!-- not run by the tests: (?P<reason>[^\n]+) -->\n)?```(?P<kind>bash|python)\n(?P<code>.*?)```", re.S
)
DOCUMENTS = ("README.md", "README_API.md", "doc/api_docs.md")
LINKED = (*DOCUMENTS, "doc/dice_talk.md")


def blocks() -> Iterator[tuple[str, str, str]]:
    for name in DOCUMENTS:
        for number, match in enumerate(_BLOCK.finditer((ROOT / name).read_text()), 1):
            if match["reason"] is None:
                yield f"{name}-{number}", match["kind"], match["code"]


BLOCKS = list(blocks())


@pytest.fixture(scope="module")
def base_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with server(tmp_path_factory.mktemp("docs")) as (_, client):
        yield str(client.base_url).rstrip("/")


@pytest.mark.parametrize(("kind", "code"), [block[1:] for block in BLOCKS], ids=[block[0] for block in BLOCKS])
def test_a_block_runs(base_url: str, tmp_path: Path, kind: str, code: str) -> None:
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    program = {"bash": ["bash", "-euo", "pipefail", "-c"], "python": [sys.executable, "-c"]}[kind]
    ended = subprocess.run(
        [*program, code.replace("http://localhost:8000", base_url)],
        check=False, cwd=tmp_path, capture_output=True, text=True, timeout=180,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert '"error":' not in ended.stdout
    if "/download" in code:
        (made,) = tmp_path.glob("*.mp4")
        assert video.probe(made).frames >= 25


def test_the_documents_have_blocks_to_run() -> None:
    assert {block[0].rpartition("-")[0] for block in BLOCKS} == set(DOCUMENTS)
    assert {block[1] for block in BLOCKS} == {"bash", "python"}


def test_links_lead_somewhere() -> None:
    for name in LINKED:
        for path, anchor in re.findall(r"\]\(([^)#]*)#?([^)]*)\)", (ROOT / name).read_text()):
            if not path.startswith("http"):
                target = (ROOT / name).parent / path if path else ROOT / name
                assert target.exists(), f"{name}: {path}"
                assert not anchor or anchor in anchors(target), f"{name}: {path}#{anchor}"


def anchors(document: Path) -> set[str]:
    """What GitHub calls the headings of a document."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}
