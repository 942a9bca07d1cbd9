"""The committed figures of the benchmarks meet the targets that stand beside them."""

from __future__ import annotations

import re

from benchmarks import mutation
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


def test_the_journal() -> None:
    text = results("journal.md")
    by_name = {row[0]: row for row in rows(text)}
    for count in ("100", "1000", "10000"):
        registry, service = by_name[count][1:3]
        assert seconds(registry) < 2
        assert seconds(service) < 2
    assert "service (target < 2 s)" in by_name["tasks"]
    (listeners,) = (row for name, row in by_name.items() if name.startswith("500 clients"))
    by_column = dict(zip(by_name["who listens"], listeners, strict=True))
    assert float(by_column["slowdown of the worker (target at most 1.2)"]) <= 1.2
    assert int(by_column["events read a second"]) > 500  # two for each, less where the machine is slow


def test_mutants_of_what_keeps_tasks() -> None:
    text = results("mutation.md")
    header, _, *figures = rows(text.partition("\n## ")[0])
    assert header[2:] == ["mutants", "killed", "timeouts", "survived", "score (target at least 90%)"]
    assert [row[0] for row in figures] == [f"`{module}`" for module in mutation.TESTS]
    for _, _, mutants, killed, _, survived, score in figures:
        assert float(score.removesuffix("%")) >= 90
        assert int(killed) / int(mutants) >= 0.9
        assert int(survived) <= int(mutants) - int(killed)
    assert "not explained" not in text


def test_the_documents_say_what_was_measured_on_a_gpu() -> None:
    figures = results("dice_talk_nvidia_h100_80gb_hbm3.md")
    exact = next(row for row in rows(figures) if row[0] == "exact")
    window, clip, longer, peak = exact[1], exact[3], exact[4].removesuffix(" extrapolated"), exact[6].split()[1]
    said = {name: " ".join((ROOT / name).read_text().split()) for name in ("README.md", "README_API.md")}
    for text in said.values():
        assert window in text
    assert f"{clip} s per second; one of 10 s would take {longer} s per second (extrapolated)" in said["README.md"]
    assert f"2 秒的视频每秒耗时 {clip} 秒，10 秒的视频每秒约 {longer} 秒（推算）" in said["README_API.md"]
    page = (ROOT / "doc" / "dice_talk.md").read_text()
    assert f"{peak.strip('()')} GiB at 512×512" in page
    (beside,) = re.findall(r"^CUDA and its libraries.* held (\d\.\d+) GiB", figures, re.M)
    assert f"held {beside} GiB beside" in page
    measured = {row[0]: [cell.split()[0] for cell in (row[2], row[4])] for row in rows(figures) if "×" in row[0]}
    assert len(measured) == 4
    for document in (page, (ROOT / "README_API.md").read_text()):
        assert {row[0]: [row[2], row[4]] for row in rows(document) if row[0] in measured and len(row) == 5} == measured
