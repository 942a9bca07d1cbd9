"""Kill a service at work many times: `python -m tests.chaos` prints what came of it, --save keeps it."""

from __future__ import annotations

import argparse
import sys
import time

from benchmarks.machine import machine
from tests.chaos.campaign import campaign
from tests.chaos.points import POINTS
from tests.process import ROOT

RESULTS = ROOT / "benchmarks" / "results" / "chaos.md"


def report(rounds: int, seed: int) -> tuple[str, list[str]]:
    """What came of them, as text; and what went wrong."""
    begun = time.monotonic()
    outcome = campaign(rounds, seed)
    minutes = (time.monotonic() - begun) / 60
    lines = [
        "# A service that is killed at work",
        "",
        f"{machine()}; {minutes:.1f} minutes. Made by `python -m tests.chaos --rounds {rounds} --seed {seed} --save`.",
        "",
        "A round: clients start, repeat, cancel, try again, delete and download tasks; the server kills its own "
        "process with SIGKILL at one of the points below, is started again, and must have lost nothing. Which passing "
        "of the point it is, the order of the requests and the number of workers are drawn from the seed.",
        "",
        "| | |",
        "|---|---|",
        f"| rounds | {outcome.rounds.total()} |",
        f"| points | {len(outcome.rounds)} of {len(POINTS)} |",
        f"| accepted tasks | {outcome.accepted} |",
        f"| tasks that a kill interrupted; they ran again, or were given up after two attempts | {outcome.again} |",
        f"| ids asked for after a kill | {outcome.answers} |",
        f"| videos downloaded after a kill, compared with their hash and decoded | {outcome.videos} |",
        "| rounds with a task lost or stuck, half a video, an orphan file, or two tasks for one key (target: 0) "
        f"| {len(outcome.failures)} |",
        "",
        "| the server is killed | rounds |",
        "|---|---|",
        *(f"| {point} | {outcome.rounds[point]} |" for point in POINTS),
    ]
    return "\n".join(lines) + "\n", outcome.failures


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Rounds in which a service at work is killed.")
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--save", action="store_true", help="write the table to benchmarks/results/")
    options = parser.parse_args()
    text, failures = report(options.rounds, options.seed)
    print(text)
    print(*failures, sep="\n")
    if options.save and not failures:
        RESULTS.write_text(text)
    sys.exit(len(failures) > 0)
