"""Many rounds, at points in an order that a seed decides, and what they came to."""

from __future__ import annotations

import random
import tempfile
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos.points import POINTS
from tests.chaos.rounds import Chain

_ROUNDS_OF_A_CHAIN = 8


@dataclass
class Outcome:
    """Sums over all rounds; each `Chain.round` has raised where something was lost."""

    rounds: Counter[str] = field(default_factory=Counter)  # by point
    accepted: int = 0
    videos: int = 0


def campaign(rounds: int, seed: int) -> Outcome:
    """Every point comes once before any comes again; which passing of it, and the workload, are chance's."""
    chance = random.Random(seed)
    points: list[str] = []
    while len(points) < rounds:
        points += chance.sample(list(POINTS), len(POINTS))
    outcome = Outcome()
    for first in range(0, rounds, _ROUNDS_OF_A_CHAIN):
        workers = chance.randint(1, 3)
        with tempfile.TemporaryDirectory() as directory, closing(Chain(Path(directory), workers)) as chain:
            for point in points[first : min(first + _ROUNDS_OF_A_CHAIN, rounds)]:
                occurrence = chance.randint(1, POINTS[point].most)
                try:
                    chain.round(point, occurrence, chance)
                except BaseException as error:
                    error.add_note(f"In round {outcome.rounds.total() + 1} of seed {seed}: {point}, no. {occurrence}")
                    raise
                outcome.rounds[point] += 1
            outcome.accepted += len(chain.ledger.requests)
            outcome.videos += chain.invariants.videos
    return outcome
