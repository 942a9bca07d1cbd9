"""How long tasks take: the engine's estimate, corrected by what finished tasks really took."""

from __future__ import annotations

from collections.abc import Callable

_NEW_WEIGHT = 0.3  # of the newest task in the running mean
_TELLING_SECONDS = 10.0  # shorter tasks weigh less: warming up is much of them, and says nothing of long ones
_TRUSTED_PROGRESS = 0.2  # from here on a task's own speed is all that counts


class SpeedMeter:
    """Learns the ratio of real to estimated time."""

    def __init__(self) -> None:
        self._ratio = 1.0

    def learn(self, estimated: float, actual: float) -> None:
        """A task estimated at `estimated` seconds took `actual` ones."""
        if estimated > 0:
            weight = _NEW_WEIGHT * min(1.0, estimated / _TELLING_SECONDS)
            self._ratio += weight * (actual / estimated - self._ratio)

    def total(self, estimated: float) -> float:
        """Expected seconds of a task that has not begun."""
        return estimated * self._ratio

    def remaining(self, estimated: float, elapsed: float, progress: float) -> float:
        """Expected further seconds of a task that has run `elapsed` ones and come to `progress` (0..1)."""
        trust = min(1.0, progress / _TRUSTED_PROGRESS)
        own = elapsed / progress if progress > 0 else 0.0
        return max(0.0, trust * own + (1 - trust) * self.total(estimated) - elapsed)


class WorkClock:
    """How long a task has worked. Time in which its engine waits for another task does not count."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._before = 0.0  # seconds worked until it last stopped
        self._since: float | None = monotonic()  # None while it waits

    def run(self, running: bool) -> None:
        """Work begins, or stops; nothing changes when it did already."""
        if running != (self._since is not None):
            self._before = self.seconds()
            self._since = self._monotonic() if running else None

    def seconds(self) -> float:
        """Worked so far."""
        return self._before if self._since is None else self._before + self._monotonic() - self._since
