"""Bad and odd uploads: `python -m benchmarks.uploads` prints how soon each kind is answered, --save keeps the table.

The same cases as in tests/http/odd, one after another, against a server process of their own. What is measured is a
client's time from the first byte of a request to the last of its answer; making the upload is not in it.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

from benchmarks.machine import machine
from tests.http.odd.all_cases import GROUPS, cases
from tests.http.odd.case import ROOT, Case, Outcome
from tests.http.odd.server import OddServer, odd_server

RESULTS = ROOT / "benchmarks" / "results" / "uploads.md"
MEDIAN_TARGET, WORST_TARGET = 0.2, 5.0  # seconds


@dataclass(frozen=True, slots=True)
class Answer:
    """One upload's fate; `seconds` until it was told."""

    case: Case
    outcome: Outcome
    seconds: float


def measure(share: float) -> tuple[list[Answer], float]:
    """Send a share of all cases; the answers, and the peak of the server's memory in MB."""
    answers = []
    with tempfile.TemporaryDirectory() as directory, odd_server(Path(directory), renders=False) as odd:
        for group in GROUPS:
            for case in cases(group, share):
                answers.append(_answer(odd, case))
        return answers, odd.peak_mb()


def _answer(odd: OddServer, case: Case) -> Answer:
    body = case.body()
    started = time.perf_counter()
    response = odd.send(case, body)
    seconds = time.perf_counter() - started
    code = "accepted" if response.status_code == 202 else response.json()["code"]
    return Answer(case, (response.status_code, code), seconds)


def table(share: float) -> str:
    """Run them and say what came out."""
    answers, peak = measure(share)
    unexpected = [answer for answer in answers if answer.outcome not in answer.case.outcomes]
    by_outcome: dict[Outcome, list[Answer]] = defaultdict(list)
    for answer in answers:
        by_outcome[answer.outcome].append(answer)
    worst = max(answers, key=lambda answer: answer.seconds)
    server_errors = sum(status >= 500 for status, _ in Counter(answer.outcome for answer in answers).elements())
    lines = [
        "# Bad and odd uploads: how soon they are answered",
        "",
        f"{machine()}; one upload after another to a server on the same machine, the preview engine looking for the "
        "face. Made by `python -m benchmarks.uploads --save`.",
        "",
        f"{len(answers)} uploads, {server_errors} server errors, {len(unexpected)} unexpected answers; the server's "
        f"memory peaked at {peak:.0f} MB.",
        "",
        "| answer | count | median | worst |",
        "|---|---|---|---|",
        *(_row(f"{status} `{code}`", by_outcome[status, code]) for status, code in sorted(by_outcome)),
        _row("all", answers),
        f"| target | | < {MEDIAN_TARGET * 1000:.0f} ms | < {WORST_TARGET:g} s |",
        "",
        f"The slowest: {worst.case.name}.",
        *(f"\nUnexpected: {answer.case.name}: {answer.outcome}" for answer in unexpected),
    ]
    return "\n".join(lines) + "\n"


def _row(name: str, answers: list[Answer]) -> str:
    seconds = [answer.seconds for answer in answers]
    return f"| {name} | {len(answers)} | {statistics.median(seconds) * 1000:.0f} ms | {max(seconds):.2f} s |"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Time to answer bad and odd uploads.")
    parser.add_argument("--save", action="store_true", help="write the table to benchmarks/results/")
    parser.add_argument("--share", type=float, default=1.0, help="send only this share of them, such as 0.1")
    options = parser.parse_args()
    text = table(options.share)
    print(text)
    if options.save:
        RESULTS.write_text(text)
