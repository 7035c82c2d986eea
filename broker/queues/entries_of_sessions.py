"""Entries about sessions whose client went without a goodbye, or came back.

Shapes and numbers only, as in `entries`; what they do to the machine stands in `applying`.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from sluicemq.broker.queues.entry import Entry, number, pack
from sluicemq.wire.fields import Check, numbers, text


@dataclasses.dataclass(frozen=True, slots=True)
class Resume(Entry):
    """A client came back and goes on with a consumer: it keeps the leases that it names, the others are over.

    Attributes:
        session: Number of the session.
        consumer: Number of the consumer within it.
        tags: Ranges of the tags that the client still works on, or has settled without hearing of it; may be empty.
        reason: What the messages are told whose leases are over.

    """

    KIND = 43
    CHECKS: ClassVar[tuple[Check, ...]] = (number, number, number, numbers(64, multiple_of=2), text())

    session: int
    consumer: int
    tags: list[int]
    reason: str

    def header(self) -> bytes:
        """Return the header's bytes."""
        return pack(self.log_time_ms, self.session, self.consumer, self.tags, self.reason)


@dataclasses.dataclass(frozen=True, slots=True)
class MarkClosed(Entry):
    """What only a leader sees of connections that ended without a goodbye, for the leader after it.

    Attributes:
        closed: Numbers of sessions whose client's end closed the connection: it has died, or comes back at once.
        back: Numbers of sessions of which that was said, and whose client came back.

    """

    KIND = 83
    CHECKS: ClassVar[tuple[Check, ...]] = (number, numbers(64), numbers(64))

    closed: list[int]
    back: list[int]

    def header(self) -> bytes:
        """Return the header's bytes."""
        return pack(self.log_time_ms, self.closed, self.back)
