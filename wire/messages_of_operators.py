"""Messages by which operators look at messages and move them: what became of one, which there are, where they shall go.

As in `messages`: vocabulary only, and even field numbers must be understood.
"""

from __future__ import annotations

from typing import Any

from sluicemq.wire.fields import (
    NAME_BYTES_MAX,
    Message,
    boolean,
    list_of,
    map_of_text,
    message,
    numbers,
    optional,
    text,
    unsigned,
    wire_field,
)

__all__ = [
    "EXPLAINED_EVENTS_MAX",
    "FOUND_DEAD",
    "FOUND_DELAYED",
    "FOUND_LEASED",
    "FOUND_NUMBERS",
    "FOUND_READY",
    "MOVED_NUMBERS",
    "Explain",
    "Explained",
    "Found",
    "Move",
    "Moved",
    "Search",
]

FOUND_READY, FOUND_LEASED, FOUND_DELAYED, FOUND_DEAD = "ready", "leased", "delayed", "dead"
"""The states of messages."""
FOUND_NUMBERS = 7
"""Integers a run in FOUND."""
MOVED_NUMBERS = 4
"""Integers a run in MOVE: the first four of those in FOUND."""

EXPLAINED_EVENTS_MAX = 2_000
"""Most events, or places, in one EXPLAINED."""

_name = text(NAME_BYTES_MAX)
_rows = list_of(map_of_text, EXPLAINED_EVENTS_MAX)


@message(178)
class Search(Message):
    """Look for messages of a queue in one state, without any change. Answered by FOUND.

    One answer looks at a bounded number of messages, and may hold none though there are some: ask again with its
    *cursor*. *from_ms* and *to_ms* (milliseconds since 1970) bound when they were published; *until_zxid* what came
    later. Without *bodies* only places are told. Other requests of the connection are answered meanwhile.
    """

    name: str = wire_field(2, _name)
    state: str = wire_field(4, text(16), default=FOUND_READY)
    message_id: str | None = wire_field(6, optional(text()), default=None)
    key: str | None = wire_field(8, optional(text()), default=None)
    subject: str | None = wire_field(10, optional(text()), default=None)
    headers: dict[str, Any] = wire_field(12, map_of_text, default={})
    from_ms: int = wire_field(14, unsigned(64), default=0)
    to_ms: int | None = wire_field(16, optional(unsigned(64)), default=None)
    until_zxid: int = wire_field(18, unsigned(64), default=0)
    cursor: list[int] = wire_field(20, numbers(64), default=[])
    count_max: int = wire_field(22, unsigned(32), default=100)
    bodies: bool = wire_field(24, boolean, default=True)


@message(179)
class Found(Message):
    """Messages that were found: runs as in PEEKED, with the messages in the tail where they were asked for.

    *places* holds `FOUND_NUMBERS` integers a run: its place (when it is due, of a delayed one), zxid, first index,
    count, and of a leased one session, consumer and tag of the first message. *cursor*: where the next page goes on;
    empty: there is none. *looked_at*: messages that were looked at. *last_zxid*: the last entry that counts here.
    """

    runs: list[int] = wire_field(2, numbers(64, multiple_of=9))
    places: list[int] = wire_field(4, numbers(64, multiple_of=FOUND_NUMBERS), default=[])
    cursor: list[int] = wire_field(6, numbers(64), default=[])
    looked_at: int = wire_field(8, unsigned(64), default=0)
    last_zxid: int = wire_field(10, unsigned(64), default=0)


@message(180)
class Move(Message):
    """Move messages to the queue *to*, or copy them there (*keep*); without *to* drop them. Answered by MOVED.

    *runs*: places as FOUND tells them, `MOVED_NUMBERS` integers a run. What is not there any more is left alone. It is
    done once, however often it is sent under its *producer* and *sequence*.
    """

    name: str = wire_field(2, _name)
    state: str = wire_field(4, text(16))
    runs: list[int] = wire_field(6, numbers(64, multiple_of=MOVED_NUMBERS))
    producer: int = wire_field(8, unsigned(64))
    sequence: int = wire_field(10, unsigned(64))
    to: str = wire_field(12, _name, default="")
    keep: bool = wire_field(14, boolean, default=False)


@message(181)
class Moved(Message):
    """So many of the messages went where they should."""

    messages: int = wire_field(2, unsigned(64))


@message(182)
class Explain(Message):
    """Ask for the life of one message: that at (*zxid*, *index*), or where *zxid* is 0 the one with an id.

    *name* is the queue or topic that it was published to, which says where ids of senders are remembered; *key* counts
    where they are unique within keys. Answered by EXPLAINED. Other requests of the connection are answered meanwhile.
    """

    zxid: int = wire_field(2, unsigned(64), default=0)
    index: int = wire_field(4, unsigned(32), default=0)
    message_id: str = wire_field(6, text(), default="")
    name: str = wire_field(8, _name, default="")
    key: str = wire_field(10, text(), default="")


@message(183)
class Explained(Message):
    """What the log and the queues say of a message.

    *facts*: as it was published; `history_complete` says whether the log reaches back to that. *events*: what happened,
    in order; a map each with `what`, `zxid`, `at_ms`, `queue` and more. *places*: where it is now; `queue`, `state` and
    more. *status*: the same in a few words.
    """

    facts: dict[str, Any] = wire_field(2, map_of_text)
    events: list[dict[str, Any]] = wire_field(4, _rows)
    places: list[dict[str, Any]] = wire_field(6, _rows, default=[])
    status: str = wire_field(8, text(), default="")
