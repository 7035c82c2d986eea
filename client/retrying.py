"""The discipline of repeats, for one client: how long to wait before one, and whether there may be one at all.

What the broker refuses for now, or what a lost connection left unanswered, is repeated for the user until the call's
deadline. Waits double and are spread by full jitter; repeats of requests cost tokens of a budget. It must not know
what is repeated.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from sluicemq.client.backoff import Backoff
from sluicemq.client.budget import RetryBudget
from sluicemq.client.errors import RetriesExhausted, SluiceError

REPEAT_BACKOFF = Backoff(0.1, 2.0)
LIMITED_BACKOFF = Backoff(0.01, 1.0)
"""Added to the time that the broker names for what it does not take yet, so that not all who wait come together."""
LIMITED_SECONDS_MAX = 5.0
"""So long a producer waits at most before it asks again whether its destination takes more."""


class Series:
    """Refusals in a row of one thing.

    Attributes:
        failures: How many.

    """

    __slots__ = ("_retrying", "failures")

    def __init__(self, retrying: Retrying) -> None:
        self._retrying = retrying
        self.failures = 0

    def pause(self, error: SluiceError) -> float:
        """Count a refusal; return how long to wait before the next try."""
        self.failures += 1
        return self._retrying.pause(error, self.failures)


class Retrying:
    """What one client keeps about its repeats.

    Args:
        now: The loop's clock.
        chance: Gives numbers from 0 to 1, evenly.

    """

    def __init__(self, now: Callable[[], float], chance: Callable[[], float] = random.random) -> None:
        self._now = now
        self._chance = chance
        self.budget = RetryBudget(now())

    def pause(self, error: SluiceError, failures: int) -> float:
        """Return how long to wait before repeating what was refused with *error*, so many times in a row, from 1."""
        return (error.retry_after or 0.0) + REPEAT_BACKOFF.delay(failures, self._chance)

    def pause_limited(self, error: SluiceError, failures: int) -> float:
        """Return likewise for what is beyond a limit of publishing: the broker knows when it is not.

        But limits are lifted, and queues deleted: so it is asked again now and then.
        """
        wait = min(error.retry_after or 0.0, LIMITED_SECONDS_MAX)
        return wait + LIMITED_BACKOFF.delay(failures, self._chance)

    def series(self) -> Series:
        """Return waits of their own, for something that is tried again and again."""
        return Series(self)

    def spend(self, what: str, error: SluiceError) -> None:
        """Take a token for one more try of *what*, which ended with *error*.

        Raises:
            RetriesExhausted: There is none.

        """
        if not self.budget.spend(self._now()):
            raise RetriesExhausted(
                f"{what} was not repeated: this client has repeated so much lately that it would only add to the load "
                f"(its budget is {self.budget.tokens_max:g} repeats, {self.budget.per_second:g} more each second); the "
                f"last try ended with: {error}",
                retry_after=1.0,
            ) from error

    def succeeded(self) -> None:
        """A request was answered well."""
        self.budget.succeeded()
