"""The documents, cut into what the tests look at: code blocks, tables, and the numbers in a text."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

from tests.process import ROOT

PAGES = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "doc").glob("*.md"))
DOCUMENTS = ("README.md", "README_API.md", *PAGES)
GUIDE, REFERENCE = "README_API.md", "doc/api_docs.md"
BOTH = (GUIDE, REFERENCE)  # the same facts in Chinese and in English
EXTENDING = "二次开发"  # the chapter of the guide whose blocks change the project

_MARK = re.compile(r"\*(?:Not run by the tests: |测试不运行这一段：)(.+)[.。]\*")
_FENCE = re.compile(r"(?P<indent>\s*)(?P<fence>`{3,}|~{3,})(?P<kind>.*)")
_UNITS = {"": 1.0, "万": 1e4, "亿": 1e8, "million": 1e6}


@dataclass(frozen=True)
class Block:
    """A fenced block of code; `reason` says why it is not run, `chapter` is the `##` heading above it."""

    document: str
    line: int
    kind: str
    code: str
    reason: str | None
    chapter: str

    @property
    def file(self) -> str | None:
        """The project's file that the block is, when its first line names one."""
        named = re.match(r"# ([\w/]+\.py)\n", self.code)
        return named[1] if named else None

    def __str__(self) -> str:
        return f"{self.document}:{self.line}"


@cache
def text(document: str) -> str:
    return (ROOT / document).read_text()


@cache
def blocks(document: str) -> tuple[Block, ...]:
    """All fenced blocks; one that is indented, not closed or fenced in another way is an error."""
    found: list[Block] = []
    chapter, before = "", ""
    start, kind, code = 0, "", [""]
    for number, line in enumerate(text(document).splitlines(), 1):
        fence = _FENCE.fullmatch(line)
        if fence is not None:
            assert (fence["indent"], fence["fence"]) == ("", "```"), f"{document}:{number}: an unusual fence"
        if start and fence is None:
            code.append(line + "\n")
        elif start:
            assert fence is not None
            assert fence["kind"] == "", f"{document}:{number}: the block of line {start} is not closed"
            mark = _MARK.fullmatch(before)
            found.append(Block(document, start, kind, "".join(code), mark and mark[1], chapter))
            start = 0
            before = ""
        elif fence is not None:
            start, kind, code = number, fence["kind"], []
        else:
            chapter = line[3:] if line.startswith("## ") else chapter
            before = line or before  # an empty line may part the mark from its block
    assert not start, f"{document}:{start}: a block is not closed"
    return tuple(found)


ALL_BLOCKS = tuple(block for document in DOCUMENTS for block in blocks(document))


@dataclass(frozen=True)
class Table:
    """Cells as they are written, by row; `heading` is the heading above."""

    heading: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def by_name(self) -> dict[str, tuple[str, ...]]:
        """The further cells of each row by the names, in backticks, of its first one."""
        names = [name for row in self.rows for name in words(row[0])]
        assert len(names) == len(set(names)), f"{self.heading}: {names}"
        return {name: row[1:] for row in self.rows for name in words(row[0])}


@cache
def tables(document: str) -> tuple[Table, ...]:
    found: list[Table] = []
    heading, lines = "", list[str]()
    for line in [*text(document).splitlines(), ""]:
        if line.startswith("|"):
            lines.append(line)
            continue
        if lines:
            cells = [tuple(cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]) for row in lines]
            assert all(len(row) == len(cells[0]) for row in cells), f"{document}: {lines[0]}"
            found.append(Table(heading, cells[0], tuple(cells[2:])))
            lines.clear()
        if line.startswith("#"):
            heading = line.lstrip("#").strip()
    return tuple(found)


def table(document: str, *, heading: str | None = None, column: int = 0, has: str) -> Table:
    """The one table with `has` among the names in a column."""
    found = [
        each
        for each in tables(document)
        if heading in (None, each.heading) and any(has in words(row[column]) for row in each.rows)
    ]
    assert len(found) == 1, f"{document}: {len(found)} tables with {has}"
    return found[0]


def exit_codes(document: str, program: str) -> dict[int, str]:
    """The table whose header names the program, or the first of the chapter when its header does not."""
    found = [each for each in tables(document) if program in " ".join(each.header)]
    assert len(found) == 1, f"{document}: {len(found)} tables of {program}"
    return {int(row[0]): row[1] for row in found[0].rows}


def words(cell: str) -> list[str]:
    """What stands in backticks."""
    return re.findall(r"`([^`]+)`", cell)


def numbers(cell: str) -> list[float]:
    """Its numbers in order, `5000 万` and `50 million` counted as one; digits in names such as MP3 are none."""
    plain = re.sub(r"`[^`]*`|\]\([^)]*\)", "", cell)
    found = re.findall(r"(?<![\w.])([-−]?\d+(?:,\d{3})*(?:\.\d+)?)(?: ?(万|亿|million))?", plain)
    return [float(digits.replace("−", "-").replace(",", "")) * _UNITS[unit] for digits, unit in found]


def bounds(cell: str) -> dict[str, float]:
    """A range as JSON schema names its ends: `1–64`, `≥ 1`, `> 0, ≤ 87600`, with `a multiple of 64`."""
    found: dict[str, float] = {}
    plain = cell.replace("−", "-")
    for pattern, names in {
        r"(-?[\d.]+)–([\d.]+)": ("minimum", "maximum"),
        r"≥ (-?[\d.]+)": ("minimum",),
        r"> (-?[\d.]+)": ("exclusiveMinimum",),
        r"≤ (-?[\d.]+)": ("maximum",),
        r"multiple of (\d+)": ("multipleOf",),
        r"(\d+) 的倍数": ("multipleOf",),
    }.items():
        match = re.search(pattern, plain)
        if match:
            found |= zip(names, map(float, match.groups()), strict=True)
    return found
