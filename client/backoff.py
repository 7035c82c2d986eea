"""How long to wait before the next attempt: exponential, with full jitter. Pure: chance comes from outside.

Full jitter means anything between nothing and the ceiling: what failed together does not come back together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

_EXPONENT_MAX = 64
"""Beyond, no float grows by doubling that anybody would wait for."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """Waits that double.

    Attributes:
        first_seconds: Ceiling of the first wait.
        seconds_max: Ceiling of all.
        floor_share: What part of the ceiling is waited at least; 0 is full jitter.

    """

    first_seconds: float
    seconds_max: float
    floor_share: float = 0.0

    def ceiling(self, failures: int) -> float:
        """Return the longest wait after so many failures in a row, from 1."""
        return min(self.seconds_max, self.first_seconds * 2.0 ** min(max(failures, 1) - 1, _EXPONENT_MAX))

    def delay(self, failures: int, chance: Callable[[], float]) -> float:
        """Return the wait after so many failures in a row, from 1.

        Args:
            failures: How many.
            chance: Gives numbers from 0 to 1, evenly.

        """
        return self.ceiling(failures) * (self.floor_share + (1.0 - self.floor_share) * chance())
