"""How long tasks take: the engine's estimate, corrected by what finished tasks really took."""

from __future__ import annotations

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
