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
    numbers,
    text,
    unsigned,
    wire_field,
)

__all__ = ["STALE_QUEUES_PAGE_MAX", "LookAtMessages", "LookAtQueues", "MessagesSeen", "QueuesSeen"]

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


@message(217)
class LookAtMessages(Message):
    """Ask any broker for ready messages of a queue, as far as it has applied the log. Answered by MESSAGES_SEEN, whose
    frame may be as large as HELLO and WELCOME say, though no session is open."""

    name: str = wire_field(2, _name)
    vhost: str = wire_field(4, _name, default="/")
    skip: int = wire_field(6, unsigned(64), default=0)
    count_max: int = wire_field(8, unsigned(32), default=10)


@message(218)
class MessagesSeen(Message):
    """Messages as in PEEKED; *mark* says how stale that is, as in QUEUES_SEEN."""

    runs: list[int] = wire_field(2, numbers(64, multiple_of=9))
    mark: dict[str, Any] = wire_field(4, map_of_text)
    destinations: list[str] = wire_field(6, list_of(text()), default=[])
    topic: str = wire_field(8, _name, default="")
