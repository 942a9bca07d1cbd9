"""`kill -9` at any point loses nothing that was accepted, and leaves nothing that nobody needs."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.chaos.campaign import campaign
from tests.chaos.invariants import check_whole
from tests.chaos.points import POINTS
from tests.chaos.rounds import Chain
from tests.chaos.server import Server
from tests.process import finish, start


class Chains:
    """A chain for the next round: the last one, as long as it is short and nothing went wrong in it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._chain: Chain | None = None
        self._rounds = 0

    def round(self, point: str) -> None:
        if self._chain is None or self._rounds % 7 == 0:
            self.close()
            self._chain = Chain(self._directory / str(self._rounds))
        self._rounds += 1
        try:
            self._chain.round(point, POINTS[point].most, random.Random(point))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        if self._chain is not None:
            self._chain.close()
        self._chain = None


@pytest.fixture(scope="module")
def chains(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chains]:
    chains = Chains(tmp_path_factory.mktemp("chaos"))
    yield chains
    chains.close()


def test_without_a_kill_all_of_it_is_so_too(tmp_path: Path) -> None:
    with closing(Chain(tmp_path)) as chain:
        chain.undisturbed(random.Random(1))


@pytest.mark.parametrize("point", POINTS)
def test_nothing_is_lost(chains: Chains, point: str) -> None:
    chains.round(point)


@pytest.mark.full
def test_nothing_is_lost_in_a_hundred_rounds() -> None:
    seed = random.SystemRandom().randrange(1000)
    outcome = campaign(100, seed)
    assert outcome.failures == [], f"seed {seed}"
    assert outcome.rounds.total() == 100
    assert len(outcome.rounds) == len(POINTS)


@pytest.mark.parametrize(
    ("point", "occurrence"), [("in the middle of rendering", 20), ("in the middle of encoding", 1)]
)
def test_the_preview_engine_makes_the_video_again(tmp_path: Path, point: str, occurrence: int) -> None:
    server = Server(tmp_path, point=point, occurrence=occurrence, clips=False)
    try:
        server.wait_ready()
        task = start(server.client, duration=0.9, min_resolution=256)
        assert server.wait_killed() == point
    finally:
        server.close()
    left = list((tmp_path / "outputs").iterdir())
    assert {path.suffix for path in left if path.is_file()} == {".part"}
    assert [path.name for path in left if path.is_dir()] == ["workspaces"]
    again = Server(tmp_path, clips=False)
    try:
        again.wait_ready()
        status = finish(again.client, task)
        assert (status["status"], status["attempt"]) == ("COMPLETED", 2)
        check_whole(again.client.get(task["download_url"]).content, (256, 320), 22)
    finally:
        again.close()
    assert [path.suffix for path in (tmp_path / "outputs").iterdir()] == [".mp4"]
