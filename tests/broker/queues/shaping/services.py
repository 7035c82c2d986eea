"""Simulated services in virtual time, for the adaptive rate: what they can take is known, and changes.

One refuses what is beyond its capacity, as a web service does with 429; one lets it queue before its workers.

    python -m tests.broker.queues.shaping.services        # what share of its capacity each gets, second by second
"""

from __future__ import annotations

import heapq
import random
from typing import TYPE_CHECKING, Literal

from sluicemq.broker.queues.shaping.adaptive import AdaptiveRate
from sluicemq.broker.queues.shaping.buckets import Bucket
from sluicemq.wire.shaping import ADAPTIVE_DEFAULT

if TYPE_CHECKING:
    from collections.abc import Callable

Kind = Literal["refuses", "queues"]
HALVES_AT, RECOVERS_AT, END = 15.0, 30.0, 45.0
LATE_SECONDS = 0.001
"""So late the wake-ups are."""


class Service:
    """A service with a capacity in messages a second.

    Args:
        kind: What it does with what is beyond.
        capacity: Returns the capacity at a time.
        chance: Where its irregularity comes from.
        workers: How many messages it handles at a time, if it lets them queue.

    Attributes:
        took: How long each message took, where they queue.

    """

    def __init__(
        self, kind: Kind, capacity: Callable[[float], float], chance: random.Random, workers: int = 10
    ) -> None:
        self._kind = kind
        self._capacity = capacity
        self._chance = chance
        self._free_at = [0.0] * workers
        self._tokens = 2.0
        self._at = 0.0
        self.took: list[float] = []

    def handles(self, now: float) -> tuple[float, bool]:
        """Take one message; return when it is settled, and whether that is a nack."""
        capacity = self._capacity(now)
        if self._kind == "queues":
            begin = max(heapq.heappop(self._free_at), now)
            done = begin + len(self._free_at) / capacity * self._chance.uniform(0.8, 1.2) + 1 / capacity
            heapq.heappush(self._free_at, done)
            self.took.append(done - now)
            return done, False
        self._tokens = min(self._tokens + (now - self._at) * capacity, max(capacity * 0.05, 2.0))
        self._at = now
        if self._tokens < 1:
            return now + 0.002, True
        self._tokens -= 1
        return now + 0.02 * self._chance.uniform(0.5, 1.5), False


def halving(capacity: float) -> Callable[[float], float]:
    """Return a capacity that halves and recovers."""
    return lambda now: capacity / 2 if HALVES_AT <= now < RECOVERS_AT else capacity


def live(service: Service, *, latency: float | None, end: float = END) -> list[tuple[float, int]]:
    """Deliver to a service at an adaptive rate, messages without end; return when how many went."""
    rate = AdaptiveRate({**ADAPTIVE_DEFAULT, "latency": latency}, 0.0)
    bucket = Bucket(rate.rate, None, 0.0)
    under_way: list[tuple[float, float, bool]] = []
    sent: list[tuple[float, int]] = []
    now = 0.0
    while now < end:
        while under_way and under_way[0][0] <= now:
            done, begun, failed = heapq.heappop(under_way)
            rate.settled(1, done - begun, failed, done)
        if rate.look(now, len(under_way)):
            bucket.change(rate.rate, None, now)
        count = int(bucket.room(now))
        if count > 0:
            bucket.take(count)
            rate.delivered(count)
            sent.append((now, count))
            for _ in range(count):
                done, failed = service.handles(now)
                heapq.heappush(under_way, (done, now, failed))
        rate.waited_for()
        now = bucket.wait(1, now) + LATE_SECONDS
    return sent


def sent_within(sent: list[tuple[float, int]], begin: float, end: float) -> float:
    """Return how many messages a second went in a span of time."""
    return sum(count for at, count in sent if begin <= at < end) / (end - begin)


def main() -> None:
    """Say what share of its capacity each service gets."""
    for kind, latency in (("refuses", None), ("queues", 0.2)):
        for capacity in (50.0, 200.0, 1_000.0, 4_000.0):
            able = halving(capacity)
            service = Service("refuses" if kind == "refuses" else "queues", able, random.Random(1), 2)
            sent = live(service, latency=latency)
            shares = [sent_within(sent, at, at + 2.5) / able(at) for at in (2.5 * number for number in range(18))]
            print(f"{kind:>8} {capacity:>6,.0f}/s:", " ".join(f"{share:.2f}" for share in shares))


if __name__ == "__main__":
    main()
