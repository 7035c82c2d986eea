"""Messages about coming back: to a session after its connection was lost, and to whichever broker leads.

As in `messages`: vocabulary only, and even field numbers must be understood.
"""

from __future__ import annotations

from sluicemq.wire.fields import (
    NAME_BYTES_MAX,
    Message,
    boolean,
    list_of,
    message,
    number,
    numbers,
    ranges,
    text,
    unsigned,
    wire_field,
)

__all__ = [
    "ADDRESSES_MAX",
    "ADDRESS_CHARACTERS_MAX",
    "Brokers",
    "ConsumerResumed",
    "ResumeConsumer",
    "Resumed",
]

ADDRESSES_MAX = 100
"""Most addresses in one BROKERS."""
ADDRESS_CHARACTERS_MAX = 300
"""Longest address, as HOST:PORT."""

_SECONDS_MAX = 10 * 366 * 86_400.0


@message(130)
class ResumeConsumer(Message):
    """Go on with a consumer of the session that was resumed. Answered by CONSUMER_RESUMED, then DELIVER frames come.

    *tags* are those that the client still works on, or gave a verdict on without hearing an answer: their leases are
    kept, counted from now; all others of the consumer are over. *last_tag* is the highest that was delivered. With
    *cancelled* nothing is delivered any more, as after CANCEL_CONSUMER. The rest is as in CONSUME.
    """

    consumer: int = wire_field(2, unsigned(32))
    queue: str = wire_field(4, text(NAME_BYTES_MAX))
    tags: list[int] = wire_field(6, ranges(64))
    last_tag: int = wire_field(8, unsigned(64))
    credit_messages: int = wire_field(10, unsigned(32))
    credit_bytes: int = wire_field(12, unsigned(64))
    lease_seconds: float = wire_field(14, number(0.05, _SECONDS_MAX))
    weight: int = wire_field(16, unsigned(16), default=1)
    cancelled: bool = wire_field(18, boolean, default=False)
    name: str = wire_field(1, text(NAME_BYTES_MAX), default="")


@message(131)
class ConsumerResumed(Message):
    """The consumer goes on. Of the tags that were named, those in *settled* have their verdict, as it was given before
    the connection was lost; those in *lost* are leased to this consumer no longer, and may be delivered again; all
    others are leased, and wait for a verdict. What is delivered from now on has tags from *next_tag* on.
    """

    next_tag: int = wire_field(2, unsigned(64))
    lost: list[int] = wire_field(4, numbers(64, multiple_of=2), default=[])
    settled: list[int] = wire_field(6, numbers(64, multiple_of=2), default=[])
    active: bool = wire_field(1, boolean, default=True)
    topic: str = wire_field(3, text(NAME_BYTES_MAX), default="")


@message(132)
class Resumed(Message):
    """Client to broker: every consumer with which the client goes on was named; all others are over. No answer."""


@message(133)
class Brokers(Message):
    """Broker to client, unasked: where the leader is, "" if that is not known, and where all brokers are."""

    leader: str = wire_field(2, text(ADDRESS_CHARACTERS_MAX), default="")
    addresses: list[str] = wire_field(4, list_of(text(ADDRESS_CHARACTERS_MAX), ADDRESSES_MAX), default=[])
