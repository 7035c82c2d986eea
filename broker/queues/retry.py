"""How long a message waits for its next attempt, by the retry policy of its queue.

Every broker computes this when it applies the entry, and all must find the same: delays grow by one multiplication a
step, never by a power, and chance is a checksum of the message and the attempt. This module must not know queues.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from struct import Struct
from typing import Any

from google_crc32c import value as crc32c

from sluicemq.broker.queues.runs import Run

JITTER_STEPS = 1_024  # frozen by the log's format: it shows in the state
"""A delay is shortened by one of so many shares: messages that failed together come due in few different
milliseconds, so that one entry puts them into few places."""
POLICIES_REMEMBERED_MAX = 256
"""Growing delays are computed once for each of so many policies."""

_IDENTITY = Struct("<QII")


class _Growth:
    """The delays of one policy in seconds, as far as anybody asked."""

    def __init__(self, initial: float, factor: float, longest: float) -> None:
        self._delays = [initial]
        self._factor = factor
        self._longest = longest

    def seconds(self, attempt: int) -> float:
        """Return the delay behind the attempt of this number, from 1."""
        delays = self._delays
        while len(delays) < attempt and delays[-1] < self._longest and self._factor > 1.0:
            delays.append(min(delays[-1] * self._factor, self._longest))
        return delays[min(attempt, len(delays)) - 1]


@lru_cache(POLICIES_REMEMBERED_MAX)
def _growth(initial: float, factor: float, longest: float) -> _Growth:
    return _Growth(initial, factor, longest)


def retry_delay_ms(settings: Mapping[str, Any], run: Run) -> int:
    """Return for how many milliseconds *run* waits, whose last attempt is counted and failed.

    Args:
        settings: Those of its queue.
        run: Messages that share one delay: that of the first.

    """
    policy = settings["retry"]
    attempt = max(run.attempts, 1)
    if policy is None:
        return round(float(settings["retry_delay"]) * 1000)
    if isinstance(policy, list):
        return round(float(policy[min(attempt, len(policy)) - 1]) * 1000)
    seconds = _growth(policy["initial"], policy["factor"], policy["max"]).seconds(attempt)
    if policy["jitter"]:
        chance = crc32c(_IDENTITY.pack(run.zxid, run.first, attempt)) * JITTER_STEPS >> 32
        seconds -= seconds * policy["jitter"] * (chance / JITTER_STEPS)
    return round(seconds * 1000)


def retry_times(settings: Mapping[str, Any], now_ms: int, runs: Iterable[Run]) -> dict[int, int]:
    """Return when *runs*, leased messages that are nacked now, come due, and how many runs do then."""
    times: dict[int, int] = {}
    for run in runs:
        due_ms = now_ms + retry_delay_ms(settings, run.settled_back(run.ready, 1))
        times[due_ms] = times.get(due_ms, 0) + 1
    return times
