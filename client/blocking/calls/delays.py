"""Calls as DelayCalls has them.

Made by a test from `sluicemq.client.delays`, see `tests/client/blocking/facade.py`; do not edit.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime

from sluicemq.client.blocking.calls._base import Base
from sluicemq.client.blocking.reading import Listing
from sluicemq.client.delays import DelayedMessage, Named
from sluicemq.client.options import Duration


class DelayCalls(Base):
    """These calls of the client."""

    def delayed(
        self, queue: str, *, since: datetime | None = None, until: datetime | None = None
    ) -> Iterator[DelayedMessage]:
        """Yield what waits in *queue*, or a topic, in the order in which it is due, a page at a time; nothing changes.

        What comes or goes meanwhile may be among them or not.

        Args:
            queue: Name of the queue, or of a topic for what that delays.
            since: Aware datetime: only what is due then or later.
            until: Aware datetime: only what is due before.

        Raises:
            QueueNotFound: Neither a queue nor a topic of that name.
            InvalidRequest: A time without a time zone.
        """
        return Listing(self._io, lambda: self._inner.delayed(queue, since=since, until=until))

    def cancel(self, queue: str, messages: Named | Iterable[Named]) -> int:
        """Drop delayed messages of *queue*; return how many of them still waited there.

        Args:
            queue: Name of the queue, or of a topic for what that delays.
            messages: One message or several: as `delayed` lists them, receipts, or positions.

        Raises:
            QueueNotFound: Neither a queue nor a topic of that name.
            InvalidRequest: A text that is no position.
            OutcomeUnknown: The connection broke before the answer. Asking again does no harm.
        """
        return self._io.call(self._inner.cancel, queue, messages)

    def reschedule(
        self,
        queue: str,
        messages: Named | Iterable[Named],
        *,
        at: datetime | None = None,
        delay: Duration | None = None,
    ) -> int:
        """Let delayed messages of *queue* be due at another time; return how many of them still waited there.

        Args:
            queue: Name of the queue, or of a topic for what that delays.
            messages: As for `cancel`.
            at: Aware datetime; a past one means at once.
            delay: Seconds or timedelta from now instead, by this machine's clock; 0 means at once.

        Raises:
            QueueNotFound: Neither a queue nor a topic of that name.
            InvalidRequest: A text that is no position, or not just one of *at* and *delay*.
            OutcomeUnknown: The connection broke before the answer. Asking again does no harm.
        """
        return self._io.call(self._inner.reschedule, queue, messages, at=at, delay=delay)
