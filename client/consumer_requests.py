"""What a consumer asks the broker for, as frames. Must not know sessions."""

from __future__ import annotations

from dataclasses import dataclass

from sluicemq.client.tag_ranges import FlatRanges
from sluicemq.wire import messages as m


@dataclass(slots=True)
class ConsumerRequests:
    """The settings of one consumer.

    Attributes:
        queue: Name of its queue.
        name: Shown by the broker's tools.
        weight: Its share, or its rank.
        credit: Most messages that it may hold; may grow.
        credit_bytes: Most bytes of them.
        lease_seconds: How long a message is its own.

    """

    queue: str
    name: str
    weight: int
    credit: int
    credit_bytes: int
    lease_seconds: float

    def consume(self) -> m.Consume:
        """Return the request to begin."""
        return m.Consume(
            queue=self.queue,
            credit_messages=self.credit,
            credit_bytes=self.credit_bytes,
            lease_seconds=self.lease_seconds,
            weight=self.weight,
            name=self.name,
        )

    def resume(self, number: int, tags: FlatRanges, last_tag: int, *, cancelled: bool) -> m.ResumeConsumer:
        """Return the request to go on as consumer *number* with the leases of *tags*."""
        return m.ResumeConsumer(
            consumer=number,
            queue=self.queue,
            tags=tags,
            last_tag=last_tag,
            credit_messages=self.credit,
            credit_bytes=self.credit_bytes,
            lease_seconds=self.lease_seconds,
            weight=self.weight,
            cancelled=cancelled,
            name=self.name,
        )

    def change_credit(self, number: int) -> m.Credit:
        """Return the request to take the credit over."""
        return m.Credit(consumer=number, credit_messages=self.credit, credit_bytes=self.credit_bytes)
