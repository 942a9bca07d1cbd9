"""Many rounds, at points in an order that a seed decides, and what they came to."""

from __future__ import annotations

import random
import tempfile
import traceback
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos.points import POINTS
from tests.chaos.rounds import Chain

_ROUNDS_OF_A_CHAIN = 8


@dataclass
class Outcome:
    """Sums over all rounds."""

    rounds: Counter[str] = field(default_factory=Counter)  # by point
    accepted: int = 0
    again: int = 0  # tasks that were being worked off at a kill
    answers: int = 0  # ids that were asked for after a kill
    videos: int = 0  # downloads after a kill
    failures: list[str] = field(default_factory=list)  # one for each round in which something was lost, or left

    def add(self, chain: Chain) -> None:
        self.accepted += len(chain.ledger.requests)
        self.again += chain.invariants.again
        self.answers += chain.invariants.answers
        self.videos += chain.invariants.videos


def campaign(rounds: int, seed: int) -> Outcome:
    """Every point comes once before any comes again; which passing of it, and the workload, are chance's."""
    chance = random.Random(seed)
    points: list[str] = []
    while len(points) < rounds:
        points += chance.sample(list(POINTS), len(POINTS))
    outcome = Outcome()
    for first in range(0, rounds, _ROUNDS_OF_A_CHAIN):
        chain_points = points[first : min(first + _ROUNDS_OF_A_CHAIN, rounds)]
        with tempfile.TemporaryDirectory() as directory:
            _run(Path(directory), chain_points, chance, outcome)
    return outcome


def _run(directory: Path, points: list[str], chance: random.Random, outcome: Outcome) -> None:
    """Rounds on one directory; after a failure the rest has a new one."""
    with closing(Chain(directory / str(len(points)), chance.randint(1, 3))) as chain:
        while points:
            point = points.pop(0)
            occurrence = chance.randint(1, POINTS[point].most)
            outcome.rounds[point] += 1
            try:
                chain.round(point, occurrence, chance)
            except AssertionError:
                outcome.failures.append(f"{point}, no. {occurrence}:\n{traceback.format_exc()}")
                break
        outcome.add(chain)
    if points:
        _run(directory, points, chance, outcome)
