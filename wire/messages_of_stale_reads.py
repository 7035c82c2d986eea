"""Messages with which any broker is looked at, whether it leads or not: what it shows may be stale, and says how far.

As in `messages`: vocabulary only, and even field numbers must be understood. They may come before the session is open,
since only a leader opens one.
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
    text,
    unsigned,
    wire_field,
)

__all__ = ["STALE_QUEUES_PAGE_MAX", "LookAtQueues", "QueuesSeen"]

STALE_QUEUES_PAGE_MAX = 1_000
"""Most queues in one QUEUES_SEEN, whatever `count_max` asks for."""

_name = text(NAME_BYTES_MAX)


@message(215)
class LookAtQueues(Message):
    """Ask any broker for queues of the vhost, as far as it has applied the log: the one called *name*, or, with "",
    at most *count_max* of those whose names sort after *after*. Answered by QUEUES_SEEN."""

    vhost: str = wire_field(2, _name, default="/")
    name: str = wire_field(4, _name, default="")
    after: str = wire_field(6, _name, default="")
    count_max: int = wire_field(8, unsigned(32), default=1000)


@message(216)
class QueuesSeen(Message):
    """State of queues as in QUEUES, without what only a leader knows; *mark* says how stale it is.

    Its keys: `node` answers, `role` is its own, `leader` is 0 where it knows none, `applied_zxid` is the last entry
    that it has applied, `heard_seconds` for how long it has not heard of a leader (0 if it leads, nil if it never has).
    """

    queues: list[dict[str, Any]] = wire_field(2, list_of(map_of_text, STALE_QUEUES_PAGE_MAX))
    mark: dict[str, Any] = wire_field(4, map_of_text)
    more: bool = wire_field(6, boolean, default=False)
