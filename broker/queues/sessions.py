"""Sessions: who is connected, in the log's eyes, which leases go when a session ends, and what it has settled.

A session outlives its connection for a while, so that a client can come back to it and go on with what it was working
on. What it settled last is remembered, because the answer may have been lost with the connection: then the client
must learn that its verdict holds, and not that its lease is over. This module must not know connections.
"""

from __future__ import annotations

import dataclasses
from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING, NamedTuple

from sluicemq.broker.queues.tags import range_pairs, without

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sluicemq.broker.queues.leases import LeaseTable

SETTLED_RANGES_MAX = 256
"""Most ranges of settled tags remembered for a consumer; of more the lowest are forgotten, and count as lost."""
SETTLED_CONSUMERS_MAX = 1_000
"""Most consumers of a session whose settled tags are remembered; of more the one of the lowest number is forgotten."""


class FrozenSession(NamedTuple):
    """A session as it was at one moment; *row* is what it says of itself, as the image has it."""

    row: tuple[int, str, str, str, bytes, int, bool]
    tables: tuple[LeaseTable, ...]
    settled: tuple[tuple[int, list[int]], ...]


@dataclasses.dataclass(slots=True)
class Session:
    """One session.

    Attributes:
        number: Its number: the zxid of the entry that opened it.
        vhost: Its vhost.
        identity: Who opened it.
        client_name: What the client calls itself.
        resume_token: Digest of the secret with which the client may come back to it.
        opened_ms: Log time of its opening.
        closed: Its client's end closed the connection, and has not come back since.
        leases: The tables of its consumers that hold messages, by consumer.
        settled: Ranges of tags that the client settled, by consumer.
        frozen_for: Number of the last freeze that has what it needs of this session.

    """

    number: int
    vhost: str
    identity: str
    client_name: str
    resume_token: bytes
    opened_ms: int
    closed: bool = False
    leases: dict[int, LeaseTable] = dataclasses.field(default_factory=dict)
    settled: dict[int, list[int]] = dataclasses.field(default_factory=dict)
    frozen_for: int = 0

    def frozen(self) -> FrozenSession:
        """Return what the session is now."""
        row = (
            *(self.number, self.vhost, self.identity, self.client_name),
            *(self.resume_token, self.opened_ms, self.closed),
        )
        settled = tuple((consumer, tags.copy()) for consumer, tags in self.settled.items())
        return FrozenSession(row, tuple(self.leases.values()), settled)

    def remember(self, consumer: int, tags: Sequence[int]) -> None:
        """Note that the client settled these ranges of tags, none of which it had settled before."""
        known = self.settled.get(consumer)
        if known is None:
            if len(self.settled) >= SETTLED_CONSUMERS_MAX:
                del self.settled[min(self.settled)]
            known = self.settled[consumer] = []
        for first, last in range_pairs(tags):
            if known and known[-1] + 1 == first:  # in order, by far the most common
                known[-1] = last
            else:
                _insert(known, first, last)
        if len(known) > 2 * SETTLED_RANGES_MAX:
            del known[: len(known) - 2 * SETTLED_RANGES_MAX]

    def settled_of(self, consumer: int, tags: Sequence[int]) -> list[int]:
        """Return which of these ranges of tags the client has settled."""
        known = self.settled.get(consumer)
        return without(tags, without(tags, known)) if known else []


def _insert(known: list[int], first: int, last: int) -> None:
    """Put a range into the flat list *known*, joining it to those that it touches."""
    # Ranges begin at even places and end at odd ones; what touches the new one melts into it.
    start = bisect_left(known, first - 1)
    start -= start % 2
    end = bisect_right(known, last + 1)
    end += end % 2
    if start < end:
        first, last = min(first, known[start]), max(last, known[end - 1])
    known[start:end] = [first, last]
