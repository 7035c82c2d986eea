"""Messages by which operators look at messages and move them: what became of one, which there are, where they shall go.

As in `messages`: vocabulary only, and even field numbers must be understood.
"""

from __future__ import annotations

from typing import Any

from sluicemq.wire.fields import NAME_BYTES_MAX, Message, list_of, map_of_text, message, text, unsigned, wire_field

__all__ = [
    "EXPLAINED_EVENTS_MAX",
    "Explain",
    "Explained",
]

EXPLAINED_EVENTS_MAX = 2_000
"""Most events, or places, in one EXPLAINED."""

_name = text(NAME_BYTES_MAX)
_rows = list_of(map_of_text, EXPLAINED_EVENTS_MAX)


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
