"""When messages of adaptive queues were delivered, by their tags: so a settlement tells how long they took.

Spans of tags, never messages: a delivery of thousands is one record. This module must not know queues.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sluicemq.broker.queues.tags import Span, TagLedger, range_pairs

if TYPE_CHECKING:
    from collections.abc import Sequence


class Deliveries:
    """What is delivered and not settled, of all consumers of queues with an adaptive rate."""

    def __init__(self) -> None:
        self._sessions: dict[int, dict[int, tuple[int, TagLedger]]] = {}

    def __bool__(self) -> bool:
        return bool(self._sessions)

    def delivered(self, queue_id: int, session: int, consumer: int, first: int, last: int, now: float) -> None:
        """Note that the tags *first* to *last* were delivered now."""
        consumers = self._sessions.setdefault(session, {})
        known = consumers.get(consumer)
        if known is None:
            known = consumers[consumer] = queue_id, TagLedger()
        known[1].append(Span(first, last, 0, (now, 0)))

    def take(self, session: int, consumer: int, tags: Sequence[int], now: float) -> tuple[int, int, float]:
        """Forget these tags; return their queue, how many were delivered, and how long ago, on the mean, in seconds.

        Tags that are not there are passed over; the queue of a consumer that has none is 0.
        """
        consumers = self._sessions.get(session, {})
        known = consumers.get(consumer)
        if known is None:
            return 0, 0, 0.0
        queue_id, ledger = known
        messages, seconds = 0, 0.0
        for first, last in range_pairs(tags):
            for span in ledger.cut(first, last)[0]:
                assert span.key is not None, "every delivery has its time"
                messages += len(span)
                seconds += len(span) * (now - span.key[0])
        if not len(ledger):
            del consumers[consumer]
            if not consumers:
                del self._sessions[session]
        return queue_id, messages, seconds / messages if messages else 0.0

    def forget(self, session: int) -> None:
        """Forget all that consumers of a session have."""
        self._sessions.pop(session, None)
