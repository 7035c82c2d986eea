"""Outstanding deliveries: which leases run out when. Only a leader keeps it; an expiry becomes an entry of its own.

Times are seconds as floats on whatever clock the caller uses; this module must not know which. It works on spans of
tags, never on messages. Deadlines lie on a grid, so that neighbouring grants share a span: how many spans a consumer
has depends on how long its leases are, not on how often it was granted something.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from sortedcontainers import SortedDict

from sluicemq.broker.queues.tags import Span, TagLedger, add_range, range_pairs

if TYPE_CHECKING:
    from collections.abc import Sequence


DEADLINE_GRID_SECONDS = 0.05
"""Deadlines are rounded up to multiples of this: a lease never ends early, and at most so much late."""
EXPIRED_SPANS_MAX = 1_000
"""Most spans that one call of `expired` takes out, unless told otherwise: some milliseconds."""

_GRID_STEPS_A_SECOND = round(1 / DEADLINE_GRID_SECONDS)


def on_grid(deadline: float) -> float:
    """Return the first deadline of the grid that is not before *deadline*."""
    steps = math.ceil(deadline * _GRID_STEPS_A_SECOND)
    rounded = steps / _GRID_STEPS_A_SECOND
    return rounded if rounded >= deadline else (steps + 1) / _GRID_STEPS_A_SECOND  # the product was rounded down


class _Holder:
    """A consumer with what was delivered to it and not settled."""

    __slots__ = ("consumer", "ledger", "session")

    def __init__(self, session: int, consumer: int) -> None:
        self.session = session
        self.consumer = consumer
        self.ledger = TagLedger()


class Outstanding:
    """Delivered, unsettled messages of all consumers, with the deadline of each lease."""

    def __init__(self) -> None:
        self._sessions: dict[int, dict[int, _Holder]] = {}
        # By (deadline, serial number); the serial makes spans of one deadline differ.
        self._by_deadline: SortedDict[tuple[float, int], tuple[_Holder, Span]] = SortedDict()
        self._serial = 0

    def granted(self, session: int, consumer: int, first: int, last: int, bytes_: int, deadline: float) -> None:
        """Note that the tags *first* to *last* were delivered, and that their leases end at *deadline*, on the grid."""
        deadline = on_grid(deadline)
        holders = self._sessions.setdefault(session, {})
        holder = holders.get(consumer)
        if holder is None:
            holder = holders[consumer] = _Holder(session, consumer)
        before = holder.ledger.last
        if before is not None and before.last + 1 == first and before.key is not None and before.key[0] == deadline:
            before.last = last
            before.bytes += bytes_
            return
        span = Span(first, last, bytes_)
        self._register(holder, span, deadline)
        holder.ledger.append(span)

    def take(self, session: int, consumer: int, tags: Sequence[int]) -> tuple[int, int]:
        """Forget these tags, because they are settled or gone; return how many messages and bytes that were.

        Tags that are not outstanding are passed over.
        """
        holder = self._find(session, consumer)
        if holder is None:
            return 0, 0
        messages = bytes_ = 0
        for first, last in range_pairs(tags):
            for span in self._cut(holder, first, last):
                messages += len(span)
                bytes_ += span.bytes
        self._drop_empty(holder)
        return messages, bytes_

    def extend(self, session: int, consumer: int, tags: Sequence[int], deadline: float) -> list[int]:
        """Let the leases of these tags end at *deadline*, on the grid; return the ranges that are not outstanding."""
        deadline = on_grid(deadline)
        holder = self._find(session, consumer)
        if holder is None:
            return list(tags)
        lost: list[int] = []
        for first, last in range_pairs(tags):
            expected = first
            pending: Span | None = None
            for span in self._cut(holder, first, last):
                if span.first > expected:
                    add_range(lost, expected, span.first - 1)
                expected = span.last + 1
                if pending is not None and pending.last + 1 == span.first:
                    pending.last = span.last
                    pending.bytes += span.bytes
                else:
                    if pending is not None:
                        self._insert(holder, pending, deadline)
                    pending = Span(span.first, span.last, span.bytes)
            if pending is not None:
                self._insert(holder, pending, deadline)
            if expected <= last:
                add_range(lost, expected, last)
        return lost

    def expired(self, now: float, spans_max: int = EXPIRED_SPANS_MAX) -> list[tuple[int, int, list[int]]]:
        """Take out leases whose deadline is not after *now*: (session, consumer, ranges of tags ascending).

        Takes the earliest at most *spans_max* spans, so that a call is short: call again, after others had their turn,
        as long as `next_deadline()` is not after *now*.
        """
        found: dict[_Holder, list[Span]] = {}
        by_deadline = self._by_deadline
        for _ in range(min(spans_max, len(by_deadline))):
            (deadline, _serial), (holder, span) = by_deadline.peekitem(0)
            if deadline > now:
                break
            by_deadline.popitem(0)
            found.setdefault(holder, []).append(span)
        result = []
        for holder, spans in found.items():
            tags: list[int] = []
            for span in sorted(spans, key=_first_tag):
                add_range(tags, span.first, span.last)
            for first, last in range_pairs(tags):
                holder.ledger.cut(first, last)
            self._drop_empty(holder)
            result.append((holder.session, holder.consumer, tags))
        return result

    def next_deadline(self) -> float | None:
        """Return when the first lease ends; None when nothing is outstanding."""
        if not self._by_deadline:
            return None
        deadline: float = self._by_deadline.peekitem(0)[0][0]
        return deadline

    def consumers_of(self, session: int) -> list[int]:
        """Return the consumers of a session that hold anything."""
        return sorted(self._sessions.get(session, ()))

    def tags_of(self, session: int, consumer: int) -> list[int]:
        """Return the ranges of all outstanding tags of a consumer."""
        holder = self._find(session, consumer)
        return [] if holder is None else holder.ledger.ranges()

    def holds(self, session: int, consumer: int) -> bool:
        """Return whether anything of a consumer is outstanding."""
        return self._find(session, consumer) is not None

    def forget_session(self, session: int) -> None:
        """Forget everything of a session that has ended."""
        for consumer in list(self._sessions.get(session, ())):
            self.forget_consumer(session, consumer)

    def forget_consumer(self, session: int, consumer: int) -> None:
        """Forget everything of one consumer."""
        holder = self._find(session, consumer)
        if holder is not None:
            for span in holder.ledger:
                assert span.key is not None, "every outstanding span has its deadline"
                del self._by_deadline[span.key]
            del self._sessions[session][consumer]
            if not self._sessions[session]:
                del self._sessions[session]

    def __len__(self) -> int:
        return len(self._by_deadline)

    def _find(self, session: int, consumer: int) -> _Holder | None:
        holders = self._sessions.get(session)
        return None if holders is None else holders.get(consumer)

    def _register(self, holder: _Holder, span: Span, deadline: float) -> None:
        self._serial += 1
        span.key = (deadline, self._serial)
        self._by_deadline[span.key] = (holder, span)

    def _insert(self, holder: _Holder, span: Span, deadline: float) -> None:
        """Add *span*; neighbours with the same deadline become one span with it."""
        before, after = holder.ledger.beside(span)
        if after is not None and after.key is not None and after.key[0] == deadline:
            holder.ledger.cut(after.first, after.last)
            del self._by_deadline[after.key]
            span.last = after.last
            span.bytes += after.bytes
        if before is not None and before.key is not None and before.key[0] == deadline:
            before.last = span.last
            before.bytes += span.bytes
            return
        self._register(holder, span, deadline)
        holder.ledger.insert(span)

    def _cut(self, holder: _Holder, first: int, last: int) -> list[Span]:
        """Take spans out of the ledger and the deadlines out with them; a part that stays keeps its deadline."""
        taken, left = holder.ledger.cut(first, last)
        for span in taken:
            assert span.key is not None, "every outstanding span has its deadline"
            registered = self._by_deadline.get(span.key)
            # A part in front of a cut shares the key of the span behind it, which stays registered.
            if registered is not None and registered[1] is span:
                del self._by_deadline[span.key]
        if left is not None:
            assert left.key is not None, "every outstanding span has its deadline"
            self._register(holder, left, left.key[0])
        return taken

    def _drop_empty(self, holder: _Holder) -> None:
        if not len(holder.ledger):
            holders = self._sessions.get(holder.session)
            if holders is not None and holders.get(holder.consumer) is holder:
                del holders[holder.consumer]
                if not holders:
                    del self._sessions[holder.session]


def _first_tag(span: Span) -> int:
    return span.first
