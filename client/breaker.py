"""A circuit breaker: whether and when to try an address again. Pure: time and chance come from outside.

    closed     it worked lately, or failed a few times: tried again soon, after a wait that doubles
    open       it failed several times in a row: left alone for long, and longer each time
    half-open  that time is over: one attempt finds out

A success closes it from anywhere; a failure while it is half-open opens it again. It must not know what is tried.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from math import inf

from sluicemq.client.backoff import Backoff

FAILURES_MAX = 5
"""With so many failures in a row it opens."""
CLOSED_BACKOFF = Backoff(0.05, 2.0, floor_share=0.5)
OPEN_BACKOFF = Backoff(2.0, 30.0, floor_share=0.5)


class State(Enum):
    """How a breaker stands."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


class CircuitBreaker:
    """The breaker of one address.

    Args:
        chance: Gives numbers from 0 to 1, evenly.
        failures_max: With so many failures in a row it opens.

    Attributes:
        failures: How many there were in a row.
        not_before: When it may be tried again.
        not_before_alone: The same where every other choice is open, too: then one must not wait for long.

    """

    def __init__(self, chance: Callable[[], float], failures_max: int = FAILURES_MAX) -> None:
        self.failures = 0
        self.not_before = self.not_before_alone = -inf
        self._chance = chance
        self._failures_max = failures_max

    def state(self, now: float) -> State:
        """Return how it stands."""
        if self.failures < self._failures_max:
            return State.CLOSED
        return State.OPEN if now < self.not_before else State.HALF_OPEN

    def may_try(self, now: float) -> bool:
        """Whether it is time to try (again)."""
        return now >= self.not_before

    def failed(self, now: float) -> None:
        """Note a failure at this time."""
        self.failures += 1
        self.not_before = self.not_before_alone = now + CLOSED_BACKOFF.delay(self.failures, self._chance)
        beyond = self.failures - self._failures_max
        if beyond >= 0:
            self.not_before = now + OPEN_BACKOFF.delay(beyond + 1, self._chance)

    def succeeded(self) -> None:
        """Note a success."""
        self.failures = 0
        self.hurry()

    def rest(self, until: float) -> None:
        """It works, though it has nothing to offer before that time."""
        self.not_before = self.not_before_alone = until

    def hurry(self) -> None:
        """Somebody who knows says that it works: one attempt may be made at once."""
        self.not_before = self.not_before_alone = -inf
