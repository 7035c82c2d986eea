"""Messages about topics, delayed messages, dead letters, policies and schedules; the others stand in `messages`.

As there: vocabulary only, and even field numbers must be understood. Runs of messages that lie in a queue are flat
lists of `PLACED_NUMBERS` integers a run: its place (a delayed one: when it is due, in milliseconds since 1970), zxid,
first index, count.
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
    "LISTED_NUMBERS",
    "LIST_PAGE_MAX",
    "PLACED_NUMBERS",
    "AlterQueue",
    "Altered",
    "CancelDelayed",
    "Cancelled",
    "Dead",
    "DeclareTopic",
    "Delayed",
    "DeleteTopic",
    "Discard",
    "ListDead",
    "ListDelayed",
    "ListPolicies",
    "ListSchedules",
    "ListTopics",
    "Policies",
    "Policy",
    "PolicySet",
    "Redrive",
    "Redriven",
    "Reschedule",
    "Rescheduled",
    "Schedule",
    "Scheduled",
    "Schedules",
    "Subscribe",
    "Subscribed",
    "Topics",
    "Unsubscribe",
    "Unsubscribed",
]

PLACED_NUMBERS = 4
"""Integers a run in CANCEL_DELAYED, RESCHEDULE, REDRIVE and DISCARD."""
LISTED_NUMBERS = 8
"""Integers a run in DELAYED and DEAD: its place, zxid, first index, count, published at (milliseconds since 1970),
deliveries, attempts, number of its note in `notes`, from 1 (0 = none)."""
LIST_PAGE_MAX = 4096
"""Most rows in one answer, whatever `count_max` asks for."""

_name = text(NAME_BYTES_MAX)
_placed = numbers(64, multiple_of=PLACED_NUMBERS)
_listed = numbers(64, multiple_of=LISTED_NUMBERS)
_rows = list_of(map_of_text, LIST_PAGE_MAX)


# --- topics ---------------------------------------------------------------------------------------------------


@message(34)
class DeclareTopic(Message):
    """Make the topic as described, or converge the existing one. Answered by DECLARED."""

    name: str = wire_field(2, _name)
    settings: dict[str, Any] = wire_field(4, map_of_text, default={})
    check_only: bool = wire_field(6, boolean, default=False)


@message(36)
class DeleteTopic(Message):
    """Delete a topic; with *if_unused* only when nothing subscribes to it. Answered by DELETED."""

    name: str = wire_field(2, _name)
    if_unused: bool = wire_field(4, boolean, default=False)


@message(38)
class Subscribe(Message):
    """Make a queue that gets what is published to a topic and matches *pattern*. Answered by SUBSCRIBED.

    The pattern begins with the topic's name: dotted words, of which `*` stands for one and `#` for any number. Without
    a name the broker makes one. A subscription that is not durable ends with the session. *start*: 0 what is published
    from now on, 1 all that the topic retains, 2 what was published at *start_at* (milliseconds since 1970) or later, 3
    from the position (*start_at*, *start_index*) on.
    """

    pattern: str = wire_field(2, _name)
    name: str = wire_field(4, _name, default="")
    settings: dict[str, Any] = wire_field(8, map_of_text, default={})
    durable: bool = wire_field(10, boolean, default=True)
    start: int = wire_field(12, unsigned(8), default=0)
    start_at: int = wire_field(14, unsigned(64), default=0)
    start_index: int = wire_field(16, unsigned(32), default=0)


@message(39)
class Subscribed(Message):
    """The subscription stands: `created`, `changed` or `unchanged`, and each change as name -> [before, after].

    *warnings*: what may not have been meant, for people.
    """

    outcome: str = wire_field(2, text(16))
    name: str = wire_field(6, _name)
    topic: str = wire_field(8, _name)
    changes: dict[str, Any] = wire_field(4, map_of_text, default={})
    warnings: list[str] = wire_field(9, list_of(text(), 16), default=[])


@message(46)
class Unsubscribe(Message):
    """Delete a subscription with its messages. Answered by UNSUBSCRIBED."""

    name: str = wire_field(2, _name)


@message(47)
class Unsubscribed(Message):
    """How many messages went with the subscription."""

    messages: int = wire_field(2, unsigned(64))


@message(82)
class ListTopics(Message):
    """Ask for the topics whose names sort after *after*, at most *count_max*. Answered by TOPICS."""

    after: str = wire_field(2, _name, default="")
    count_max: int = wire_field(4, unsigned(32), default=1000)


@message(83)
class Topics(Message):
    """State of topics, a map each, sorted by name; *more* says that there are others after the last."""

    topics: list[dict[str, Any]] = wire_field(2, _rows)
    more: bool = wire_field(4, boolean, default=False)


# --- queues ---------------------------------------------------------------------------------------------------


@message(62)
class AlterQueue(Message):
    """Pause or resume a queue or topic (*object_kind*), or let keys go on that are parked. Answered by ALTERED.

    None changes nothing.
    """

    name: str = wire_field(2, _name)
    object_kind: str = wire_field(4, text(16), default="queue")
    pause_publish: bool | None = wire_field(6, optional(boolean), default=None)
    pause_deliver: bool | None = wire_field(8, optional(boolean), default=None)
    unpark: list[str] = wire_field(10, list_of(text(), 1000), default=[])


@message(63)
class Altered(Message):
    """Done; each change as name -> [before, after]."""

    changes: dict[str, Any] = wire_field(2, map_of_text, default={})


# --- delayed messages -----------------------------------------------------------------------------------------


@message(64)
class ListDelayed(Message):
    """Look at messages that wait for their time, in due order, from *from_ms* to before *to_ms*. Answered by DELAYED.

    The first *skip* of them are passed over.
    """

    name: str = wire_field(2, _name)
    from_ms: int = wire_field(4, unsigned(64), default=0)
    to_ms: int | None = wire_field(6, optional(unsigned(64)), default=None)
    skip: int = wire_field(8, unsigned(64), default=0)
    count_max: int = wire_field(10, unsigned(32), default=100)


@message(65)
class Delayed(Message):
    """Delayed messages, with when they are due; *more* says that there are others behind them."""

    runs: list[int] = wire_field(2, _listed)
    more: bool = wire_field(4, boolean, default=False)


@message(66)
class CancelDelayed(Message):
    """Drop these delayed messages. Answered by CANCELLED."""

    name: str = wire_field(2, _name)
    runs: list[int] = wire_field(4, _placed)


@message(67)
class Cancelled(Message):
    """How many messages are gone; the others were not delayed any more."""

    messages: int = wire_field(2, unsigned(64))


@message(68)
class Reschedule(Message):
    """Let these delayed messages be due at *due_ms* (milliseconds since 1970) instead. Answered by RESCHEDULED."""

    name: str = wire_field(2, _name)
    runs: list[int] = wire_field(4, _placed)
    due_ms: int = wire_field(6, unsigned(64))


@message(69)
class Rescheduled(Message):
    """How many messages are due then; the others were not delayed any more."""

    messages: int = wire_field(2, unsigned(64))


# --- dead letters ---------------------------------------------------------------------------------------------


@message(72)
class ListDead(Message):
    """Look at dead letters in the order of dying, behind the first *skip*. Answered by DEAD.

    Behind those that lie aside in the queue come ready messages that died in another one.
    """

    name: str = wire_field(2, _name)
    skip: int = wire_field(4, unsigned(64), default=0)
    count_max: int = wire_field(6, unsigned(32), default=100)


@message(73)
class Dead(Message):
    """Dead letters: runs as in PEEKED, with the messages in the tail.

    *places* holds two integers a run: its place, by which REDRIVE and DISCARD know it, and the number of its note in
    *notes*, from 1 (0 = none). A note is a map: `kind`, `text`, `at_ms`, and of one that died in another queue `origin`
    and `attempts`. The next page begins at *next_skip*, if there are *more*. *now_ms* is the broker's time.
    """

    runs: list[int] = wire_field(2, numbers(64, multiple_of=9))
    places: list[int] = wire_field(4, numbers(64, multiple_of=2), default=[])
    notes: list[dict[str, Any]] = wire_field(6, _rows, default=[])
    next_skip: int = wire_field(8, unsigned(64), default=0)
    more: bool = wire_field(10, boolean, default=False)
    now_ms: int = wire_field(12, unsigned(64), default=0)


@message(74)
class Redrive(Message):
    """Let dead letters be ready again: in the queue *to*, or where each came from. Answered by REDRIVEN."""

    name: str = wire_field(2, _name)
    runs: list[int] = wire_field(4, _placed)
    to: str = wire_field(6, _name, default="")


@message(75)
class Redriven(Message):
    """How many messages were dead letters and are not any more."""

    messages: int = wire_field(2, unsigned(64))


@message(76)
class Discard(Message):
    """Drop dead letters. Answered by REDRIVEN."""

    name: str = wire_field(2, _name)
    runs: list[int] = wire_field(4, _placed)


# --- policies and schedules -----------------------------------------------------------------------------------


@message(78)
class Policy(Message):
    """Set, replace or (without settings) drop a policy for queues whose names match. Answered by POLICY_SET.

    Of several that match, the one with the largest *order* holds.
    """

    name: str = wire_field(2, _name)
    pattern: str = wire_field(4, text(), default="#")
    order: int = wire_field(6, unsigned(32), default=0)
    settings: dict[str, Any] = wire_field(8, map_of_text, default={})


@message(79)
class PolicySet(Message):
    """Done; *queues* says for how many queues something changed, *warnings* what may not have been meant."""

    outcome: str = wire_field(2, text(16))
    queues: int = wire_field(4, unsigned(64), default=0)
    warnings: list[str] = wire_field(5, list_of(text(), 16), default=[])


@message(80)
class Schedule(Message):
    """Publish the batch in the tail again and again; without *cron* drop the schedule. Answered by SCHEDULED.

    *catch_up*: of times that were missed, `one`, `all` or `none` is published.
    """

    name: str = wire_field(2, _name)
    cron: str = wire_field(4, text(), default="")
    timezone: str = wire_field(6, text(), default="UTC")
    destination: str = wire_field(8, _name, default="")
    catch_up: str = wire_field(10, text(16), default="one")


@message(81)
class Scheduled(Message):
    """Done; *next_due_ms* (milliseconds since 1970) is the next time, None when there is none."""

    outcome: str = wire_field(2, text(16))
    next_due_ms: int | None = wire_field(4, optional(unsigned(64)), default=None)


@message(84)
class ListPolicies(Message):
    """Ask for all policies of the vhost whose names sort after *after*. Answered by POLICIES."""

    after: str = wire_field(2, _name, default="")
    count_max: int = wire_field(4, unsigned(32), default=1000)


@message(85)
class Policies(Message):
    """Policies, a map each, sorted by name; *more* says that there are others after the last."""

    policies: list[dict[str, Any]] = wire_field(2, _rows)
    more: bool = wire_field(4, boolean, default=False)


@message(86)
class ListSchedules(Message):
    """Ask for all schedules of the vhost whose names sort after *after*. Answered by SCHEDULES."""

    after: str = wire_field(2, _name, default="")
    count_max: int = wire_field(4, unsigned(32), default=1000)


@message(87)
class Schedules(Message):
    """Schedules, a map each, sorted by name; *more* says that there are others after the last."""

    schedules: list[dict[str, Any]] = wire_field(2, _rows)
    more: bool = wire_field(4, boolean, default=False)
