"""Runs: neighbouring messages of one batch that share one fate.

A run is the machine's only currency: whatever happens to messages happens to runs, which are split where a border
falls inside one. This module must not know queues, leases or sessions.
"""

from __future__ import annotations

from operator import itemgetter
from typing import TYPE_CHECKING, NamedTuple

from sluicemq.broker.queues.chunks import span_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

DELIVERIES_MAX = 65_535  # frozen by the log's format, see `MachineLimits`: it shows in the state
"""Deliveries and attempts of a message are counted up to here."""

PRIORITY_MAX = 9
"""Highest priority of a message; 0 is the lowest, and that of whoever names none."""

Place = tuple[int, int, int, int]
"""Where a run stands in its queue: its priority from above, then `ready`, `zxid` and `first`."""


class Run(NamedTuple):
    """Messages *first* to *first + size - 1* of the batch that the entry *zxid* published.

    Attributes:
        zxid: The PUBLISH entry; together with an index, the address of a message.
        ready: The entry that made the messages ready; behind the priority it decides on the place in the queue.
        first: Index of the first message within the batch.
        size: How many messages.
        batch_count: Messages in the whole batch.
        batch_bytes: Bytes of the whole batch.
        published_ms: Log time of the PUBLISH entry.
        deliveries: Leases that these messages have had; a lease that still runs is not among them.
        attempts: Hand-overs to user code that are known to have begun, without the running lease.
        key: crc32c of the key that the messages share, where the queue is ordered by keys; 0: none.
        expires_ms: Log time from which on the messages are not delivered any more; 0: never.
        note: Number of the queue's note that says why they were given back or died; 0: none.
        priority: 0 to 9; higher ones are delivered first.

    """

    zxid: int
    ready: int
    first: int
    size: int
    batch_count: int
    batch_bytes: int
    published_ms: int
    deliveries: int = 0
    attempts: int = 0
    key: int = 0
    expires_ms: int = 0
    note: int = 0
    priority: int = 0

    @property
    def place(self) -> Place:
        """What the queue is ordered by."""
        return (PRIORITY_MAX - self.priority, self.ready, self.zxid, self.first)

    @property
    def whole(self) -> bool:
        """Whether the run is the whole batch, so that its bytes can be forwarded untouched."""
        return self.size == self.batch_count

    def outside(self, other: Run) -> list[Run]:
        """Return what of this run is not part of *other*: itself, nothing, or one or two parts."""
        first, behind = max(self.first, other.first), min(self.first + self.size, other.first + other.size)
        if first >= behind or self.zxid != other.zxid or self.place[:2] != other.place[:2]:
            return [self]
        parts = []
        if first > self.first:
            parts.append(self.split(first - self.first)[0])
        if behind < self.first + self.size:
            parts.append(self.split(behind - self.first)[1])
        return parts

    def split(self, count: int) -> tuple[Run, Run]:
        """Return the first *count* messages and the rest; both must have at least one message."""
        assert 0 < count < self.size, "a run is split inside"
        zxid, ready, first, size, *shared = self
        return Run(zxid, ready, first, count, *shared), Run(zxid, ready, first + count, size - count, *shared)

    def bytes_of(self, count: int) -> int:
        """Return about how many bytes *count* messages of the batch take: its mean, rounded up."""
        return -(-self.batch_bytes * count // self.batch_count)

    def settled_back(self, ready: int, attempts: int, note: int | None = None) -> Run:
        """Return the run after a lease has ended without an ack: one delivery and *attempts* more.

        Args:
            ready: Its new place.
            attempts: How many attempts more.
            note: Why; None: the run keeps the note that it has.

        """
        return Run(
            self.zxid,
            ready,
            self.first,
            self.size,
            self.batch_count,
            self.batch_bytes,
            self.published_ms,
            min(self.deliveries + 1, DELIVERIES_MAX),
            min(self.attempts + attempts, DELIVERIES_MAX),
            self.key,
            self.expires_ms,
            self.note if note is None else note,
            self.priority,
        )


first_of = itemgetter(2)
size_of = itemgetter(3)
"""`run.size`, for loops that run in C."""
expires_ms_of = itemgetter(10)
"""`run.expires_ms`, likewise."""
priority_of = itemgetter(12)
"""`run.priority`, for loops that run in C."""
_order_of = itemgetter(1, 0, 2)


def by_place(runs: Iterable[Run]) -> list[Run]:
    """Return *runs* in the order of their places."""
    ordered = sorted(runs, key=_order_of)
    if any(map(priority_of, ordered)):
        ordered.sort(key=priority_of, reverse=True)
    return ordered


def messages_in(runs: Iterable[Run]) -> int:
    """Return how many messages *runs* hold."""
    return sum(map(size_of, runs))


def bytes_in(runs: Iterable[Run]) -> int:
    """Return about how many bytes *runs* take; however they are split, their parts take as many together."""
    return sum([span_bytes(run.batch_bytes, run.batch_count, run.first, run.size) for run in runs])


def fronted(run: Run, front: tuple[int, int]) -> Run:
    """Return *run* with another (first, size)."""
    zxid, ready, _first, _size, *shared = run
    return Run(zxid, ready, *front, *shared)


def flat_runs(runs: Sequence[Run]) -> list[int]:
    """Return *runs* as a GRANT names them: `[zxid, first, size, ...]`."""
    flat: list[int] = []
    for run in runs:
        flat += (run[0], run[2], run[3])
    return flat


def joined(runs: Iterable[Run]) -> list[Run]:
    """Return *runs* with neighbours made one where nothing but a border tells them apart.

    Leases fall to pieces as consumers settle; without this a batch that comes back message by message would stay in
    a thousand pieces for ever.
    """
    result: list[Run] = []
    last: Run | None = None
    for run in runs:
        if (
            last is not None
            and last.zxid == run.zxid
            and last.first + last.size == run.first
            and last.ready == run.ready
            and last[7:] == run[7:]
        ):
            last = result[-1] = last._replace(size=last.size + run.size)
        else:
            result.append(run)
            last = run
    return result
