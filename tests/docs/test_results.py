"""The committed figures of the benchmarks meet the targets that stand beside them."""

from __future__ import annotations

import re

from tests.process import ROOT


def results(name: str) -> str:
    return (ROOT / "benchmarks" / "results" / name).read_text()


def rows(text: str) -> list[list[str]]:
    """The cells of every line of a table."""
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]


def seconds(cell: str) -> float:
    """Of "5 ms" or "2.25 s"."""
    ((number, unit),) = re.findall(r"^([\d.]+) (m?s)$", cell)
    return float(number) / (1000 if unit == "ms" else 1)


def test_the_preview_engine() -> None:
    header, _, *figures = rows(results("preview.md").partition("\n## ")[0])
    assert header == ["what", "figure", "target", "met"]
    assert len(figures) >= 11
    assert [row for row in figures if row[3] != "yes"] == []


def test_odd_uploads() -> None:
    text = results("uploads.md")
    ((uploads, errors, unexpected),) = re.findall(
        r"^(\d+) uploads, (\d+) server errors, (\d+) unexpected answers", text, re.M
    )
    assert (int(errors), int(unexpected)) == (0, 0)
    by_answer = {row[0]: row[1:] for row in rows(text)}
    count, median, worst = by_answer["all"]
    assert int(count) == int(uploads) >= 2000
    assert by_answer["target"][1:] == ["< 200 ms", "< 5 s"]
    assert seconds(median) < 0.2
    assert seconds(worst) < 5


def test_polls_of_the_service() -> None:
    ((target, figure),) = re.findall(
        r"^\| CPU for a status poll, ms \(target < ([\d.]+)\) \| ([\d.]+) \|", results("service.md"), re.M
    )
    assert float(target) == 0.3
    assert float(figure) < 0.3
