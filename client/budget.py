"""How many repeats a client may ask for: a bucket of tokens. Pure: time comes from outside.

Repeating is right when one request in a hundred fails, and wrong when all do: then it multiplies the load of a broker
that is in trouble already. So every repeat costs a token; tokens come back with time, and with each success.
"""

from __future__ import annotations

TOKENS_MAX = 1_000.0
"""So many requests at once may be repeated, as when a leader changes under a busy client."""
TOKENS_PER_SECOND = 50.0
TOKENS_PER_SUCCESS = 0.1


class RetryBudget:
    """The bucket of one client.

    Args:
        now: The time, in seconds.
        tokens_max: Most tokens, and how many there are at first.
        per_second: How many come back by themselves.
        per_success: How many come back with each request that succeeds.

    """

    def __init__(
        self,
        now: float,
        tokens_max: float = TOKENS_MAX,
        per_second: float = TOKENS_PER_SECOND,
        per_success: float = TOKENS_PER_SUCCESS,
    ) -> None:
        self.tokens_max = tokens_max
        self.per_second = per_second
        self.per_success = per_success
        self._tokens = tokens_max
        self._at = now

    def tokens(self, now: float) -> float:
        """Return how many there are."""
        if now > self._at:
            self._tokens = min(self.tokens_max, self._tokens + (now - self._at) * self.per_second)
            self._at = now
        return self._tokens

    def spend(self, now: float) -> bool:
        """Take a token for a repeat; return False if there is none."""
        if self.tokens(now) < 1.0:
            return False
        self._tokens -= 1.0
        return True

    def succeeded(self) -> None:
        """A request was answered well."""
        self._tokens = min(self.tokens_max, self._tokens + self.per_success)
