"""Admission: how many messages may be published to a queue or a topic now, and when more may.

One class an algorithm, all with the same two questions: `refuse` looks and changes nothing, `take` counts what was
admitted. Each costs the same however many messages a batch has. They stand before the log: what is refused is stored
nowhere, and a new leader begins to count anew. This module must not know who publishes.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from sluicemq.wire.shaping import publish_limit_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from sluicemq.wire.shaping import PublishLimit

SLOTS = 100
"""Into so many parts a sliding window is cut: whoever uses it up fully gets so many hundredths less than it allows."""
LOOKED_AT_MIN = 1_000
"""So many limiters are kept before anybody asks whether their queues and topics are still there."""
_NEARLY = 1e-9


class Refusal(NamedTuple):
    """Why a batch is not admitted.

    Attributes:
        messages_now: How many messages would be.
        messages_max: How many ever are at once; None: any number.
        seconds: When the batch would be, or as much of it as ever is at once.

    """

    messages_now: int
    messages_max: int | None
    seconds: float


class Limiter(ABC):
    """Counts what is published to one queue or topic."""

    @abstractmethod
    def refuse(self, messages: int, now: float) -> Refusal | None:
        """Return why so many messages are not admitted now; None: they are."""

    @abstractmethod
    def take(self, messages: int, now: float) -> None:
        """Count messages that were admitted now."""


class TokenBucket(Limiter):
    """Saves what was not used, up to a burst: so quiet times pay for busy ones."""

    def __init__(self, limit: PublishLimit, now: float) -> None:
        self._rate = limit.messages / limit.seconds
        self._burst = limit.burst
        self._level = float(limit.burst)
        self._at = now

    def _refill(self, now: float) -> None:
        self._level = min(self._level + max(now - self._at, 0.0) * self._rate, self._burst)
        self._at = max(now, self._at)

    def refuse(self, messages: int, now: float) -> Refusal | None:
        """See `Limiter`."""
        self._refill(now)
        if messages <= self._level + _NEARLY:
            return None
        wanted = min(messages, self._burst)
        seconds = max(wanted - self._level, 0.0) / self._rate
        return Refusal(max(int(self._level + _NEARLY), 0), self._burst, seconds)

    def take(self, messages: int, now: float) -> None:
        """See `Limiter`."""
        self._refill(now)
        self._level -= messages


class LeakyBucket(Limiter):
    """Runs out at an even rate, and takes what it has room for; a batch of any size once it is empty.

    With its burst of one message, batches follow each other at the rate: a large one keeps others waiting for longer.
    """

    def __init__(self, limit: PublishLimit, now: float) -> None:
        self._rate = limit.messages / limit.seconds
        self._size = limit.burst
        self._level = 0.0
        self._at = now

    def _leak(self, now: float) -> None:
        self._level = max(self._level - max(now - self._at, 0.0) * self._rate, 0.0)
        self._at = max(now, self._at)

    def refuse(self, messages: int, now: float) -> Refusal | None:
        """See `Limiter`."""
        self._leak(now)
        if self._level <= _NEARLY or self._level + messages <= self._size + _NEARLY:
            return None
        wanted = max(self._size - messages, 0)
        return Refusal(max(int(self._size - self._level + _NEARLY), 0), None, (self._level - wanted) / self._rate)

    def take(self, messages: int, now: float) -> None:
        """See `Limiter`."""
        self._leak(now)
        self._level += messages


class FixedWindow(Limiter):
    """So many messages in each minute by the clock, or whatever the window is."""

    def __init__(self, limit: PublishLimit, now: float) -> None:
        del now
        self._seconds = limit.seconds
        self._most = limit.burst
        self._window = -1
        self._taken = 0

    def refuse(self, messages: int, now: float) -> Refusal | None:
        """See `Limiter`."""
        window = math.floor(now / self._seconds)
        taken = self._taken if window == self._window else 0
        if taken + messages <= self._most:
            return None
        return Refusal(max(self._most - taken, 0), self._most, (window + 1) * self._seconds - now)

    def take(self, messages: int, now: float) -> None:
        """See `Limiter`."""
        window = math.floor(now / self._seconds)
        if window != self._window:
            self._window, self._taken = window, 0
        self._taken += messages


class SlidingWindow(Limiter):
    """So many messages in any span of time of that length; counted in `SLOTS` parts of it."""

    def __init__(self, limit: PublishLimit, now: float) -> None:
        del now
        self._slot_seconds = limit.seconds / SLOTS
        self._most = limit.burst
        self._slots: deque[tuple[int, int]] = deque()
        self._taken = 0

    def _slide(self, now: float) -> int:
        slot = math.floor(now / self._slot_seconds)
        while self._slots and self._slots[0][0] < slot - SLOTS:
            self._taken -= self._slots.popleft()[1]
        return slot

    def refuse(self, messages: int, now: float) -> Refusal | None:
        """See `Limiter`."""
        self._slide(now)
        if self._taken + messages <= self._most:
            return None
        left = self._taken + min(messages, self._most) - self._most
        seconds = 0.0
        for slot, count in self._slots:
            if left <= 0:
                break
            left -= count
            seconds = (slot + SLOTS + 1) * self._slot_seconds - now
        return Refusal(max(self._most - self._taken, 0), self._most, max(seconds, 0.0))

    def take(self, messages: int, now: float) -> None:
        """See `Limiter`."""
        slot = self._slide(now)
        if self._slots and self._slots[-1][0] == slot:
            messages_before = self._slots.pop()[1]
            self._slots.append((slot, messages_before + messages))
        else:
            self._slots.append((slot, messages))
        self._taken += messages


_LIMITERS: dict[str, type[TokenBucket | LeakyBucket | FixedWindow | SlidingWindow]] = {
    "token_bucket": TokenBucket,
    "leaky_bucket": LeakyBucket,
    "fixed_window": FixedWindow,
    "sliding_window": SlidingWindow,
}


class Admitted:
    """What is known of one queue or topic whose publishes are limited.

    Attributes:
        said: Its `publish_limit`.
        limiter: What counts.
        refused_total: Publishes that were refused.

    """

    __slots__ = ("limiter", "refused_total", "said")

    def __init__(self, said: str, now: float) -> None:
        self.refused_total = 0
        self.follow(said, now)

    def follow(self, said: str, now: float) -> None:
        """Count by another limit from now on."""
        self.said = said
        limit = publish_limit_of(said)
        self.limiter: Limiter = _LIMITERS[limit.algorithm](limit, now)


class Admission(NamedTuple):
    """The right to publish: what is refused afterwards for another reason does not use it, and counts nowhere.

    Attributes:
        admitted: So many messages, by what counts them.
        now: When it was given; to be used at the same moment.

    """

    admitted: list[tuple[Limiter, int]]
    now: float

    def use(self) -> None:
        """Count the messages: they are on the road."""
        for limiter, messages in self.admitted:
            limiter.take(messages, self.now)


NOT_LIMITED = Admission([], 0.0)


class Admissions:
    """The limiters of all queues and topics that have one, by number."""

    def __init__(self) -> None:
        self._known: dict[int, Admitted] = {}
        self._looked_at = LOOKED_AT_MIN

    def __len__(self) -> int:
        return len(self._known)

    def of(self, number: int, said: str, now: float) -> Admitted:
        """Return what is known of a queue or topic whose `publish_limit` is *said*."""
        known = self._known.get(number)
        if known is None:
            known = self._known[number] = Admitted(said, now)
        elif known.said != said:
            known.follow(said, now)
        return known

    def find(self, number: int) -> Admitted | None:
        """Return it, if anything was published there since it has a limit."""
        return self._known.get(number)

    def forget(self, number: int) -> None:
        """It is gone."""
        self._known.pop(number, None)

    def forget_unless(self, exists: Callable[[int], bool]) -> None:
        """Forget those that are gone, once they may be the larger half; topics go without a word."""
        if len(self._known) >= self._looked_at:
            self._known = {number: known for number, known in self._known.items() if exists(number)}
            self._looked_at = max(LOOKED_AT_MIN, 2 * len(self._known))
