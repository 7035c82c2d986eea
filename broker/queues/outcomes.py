"""What an entry did: the verdict for whoever asked for it, and the effects for the leader to perform.

Every broker computes the same outcomes; only the leader acts on them. This module must not know how they come about.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from sluicemq.broker.queues.outcomes_of_transactions import ChecksDue, Prepared, Resolved, Transacted

if TYPE_CHECKING:
    from sluicemq.broker.queues.runs import Run
    from sluicemq.wire.errors import SluiceError

# --- values: the answer to the request behind the entry ----------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class SessionOpened:
    """The session stands."""

    session: int


@dataclasses.dataclass(frozen=True, slots=True)
class SessionClosed:
    """The session is over; so many messages went back to their places."""

    messages: int


@dataclasses.dataclass(frozen=True, slots=True)
class Resumed:
    """The client goes on with the consumer.

    Of the tags that it named, those in *settled* it had settled before, and those in *lost* are not its own any more;
    it holds the others. *last_tag* is the highest that the log knows of as held; 0 if none is.
    """

    lost: list[int]
    settled: list[int]
    last_tag: int


@dataclasses.dataclass(frozen=True, slots=True)
class ProducerOpened:
    """The producer stands."""

    producer: int


@dataclasses.dataclass(frozen=True, slots=True)
class ProducerClosed:
    """The producer is forgotten; *known* is False when it was so already."""

    known: bool


@dataclasses.dataclass(frozen=True, slots=True)
class Published:
    """The batch is stored.

    Attributes:
        zxid: The entry that stored it; 0 for a duplicate so old that its receipt is forgotten.
        count: Messages in it.
        duplicate: Whether it was stored before, under this zxid.
        known: Which of its messages are not stored here, because others with their ids were stored before, in the
            numbers of `window.IdWindow.judge`.
        acks: Which brokers have it, as `wire.messages.ACKS_...`; never of the machine's knowledge.
        id_base: Id of the first message, for those without one of their own; 0: forgotten.

    """

    zxid: int
    count: int
    duplicate: bool
    known: list[int] = dataclasses.field(default_factory=list)
    acks: int = 0
    id_base: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class Granted:
    """Messages are under lease, but for the tags in *void*, whose messages were gone or elsewhere."""

    void: list[int]


@dataclasses.dataclass(frozen=True, slots=True)
class Settled:
    """The verdict holds for *settled* messages; the tags in *lost* had no lease any more."""

    lost: list[int]
    settled: int


@dataclasses.dataclass(frozen=True, slots=True)
class Clocked:
    """So many messages became ready because their time had come."""

    messages: int


@dataclasses.dataclass(frozen=True, slots=True)
class Declared:
    """The queue is as declared: `created`, `changed` or `unchanged`; changes as name -> [before, after]."""

    queue_id: int
    outcome: str
    changes: dict[str, list[Any]]


@dataclasses.dataclass(frozen=True, slots=True)
class Deleted:
    """The queue is gone, and so many messages with it."""

    count: int


@dataclasses.dataclass(frozen=True, slots=True)
class Subscribed:
    """The subscription is as wanted: `created`, `changed` or `unchanged`; changes as name -> [before, after]."""

    name: str
    topic: str
    outcome: str
    changes: dict[str, list[Any]]


@dataclasses.dataclass(frozen=True, slots=True)
class Filled:
    """So many messages more are in the subscription."""

    messages: int


@dataclasses.dataclass(frozen=True, slots=True)
class Cancelled:
    """So many delayed messages were found: they are gone, or are due at another time now."""

    messages: int


@dataclasses.dataclass(frozen=True, slots=True)
class Altered:
    """The queue is as wanted; changes as name -> [before, after]."""

    changes: dict[str, list[Any]]


@dataclasses.dataclass(frozen=True, slots=True)
class PolicyPut:
    """The policy is as wanted: `created`, `changed`, `dropped` or `unchanged`."""

    outcome: str


@dataclasses.dataclass(frozen=True, slots=True)
class SchedulePut:
    """The schedule is as wanted: `created`, `changed`, `dropped` or `unchanged`; *next_due_ms* is its first time."""

    outcome: str
    next_due_ms: int | None


@dataclasses.dataclass(frozen=True, slots=True)
class Fired:
    """Whether the schedule moved on, and did not stand elsewhere."""

    moved: bool


@dataclasses.dataclass(frozen=True, slots=True)
class Purged:
    """So many messages are gone."""

    count: int


@dataclasses.dataclass(frozen=True, slots=True)
class Forgotten:
    """So many messages are given up that were ready, leased or delayed, and so many retained batches."""

    messages: int
    batches: int


@dataclasses.dataclass(frozen=True, slots=True)
class Redriven:
    """So many dead letters are ready again."""

    count: int


@dataclasses.dataclass(frozen=True, slots=True)
class Moved:
    """So many messages went where they should, or were copied, or dropped; *duplicate*: that was done before."""

    count: int
    duplicate: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Discarded:
    """So many dead letters are gone."""

    count: int


Value: TypeAlias = (
    SessionOpened
    | SessionClosed
    | Resumed
    | ProducerOpened
    | ProducerClosed
    | Published
    | Granted
    | Settled
    | Clocked
    | Declared
    | Deleted
    | Purged
    | Cancelled
    | Altered
    | PolicyPut
    | SchedulePut
    | Fired
    | Redriven
    | Moved
    | Discarded
    | Subscribed
    | Filled
    | Forgotten
    | Transacted
    | Prepared
    | Resolved
    | ChecksDue
    | None
)

# --- effects: what the leader has to do now ----------------------------------------------------------------------


class Ready(NamedTuple):
    """Messages came in behind the tail of the queue: there may be something to dispatch."""

    queue_id: int


class Retained(NamedTuple):
    """Messages were published to a queue that retains them: whoever replays it may go on."""

    queue_id: int


class Returned(NamedTuple):
    """Runs went back to their former places: they are to be offered before all others. Sorted by place."""

    queue_id: int
    runs: list[Run]


class Removed(NamedTuple):
    """Ready runs that had gone back to their former places are not there any more: they expired, died or were moved."""

    queue_id: int
    runs: list[Run]


class QueuePurged(NamedTuple):
    """Nothing of what was ready is there any more."""

    queue_id: int


class MayExpire(NamedTuple):
    """The queue was declared, and goes when nobody uses it for long enough: the leader watches that."""

    queue_id: int


class FillsUp(NamedTuple):
    """The subscription has not caught up with what its topic retains: the leader proposes the next piece."""

    queue_id: int


class QueueGone(NamedTuple):
    """The queue is deleted; its consumers end."""

    queue_id: int
    name: str


class LeasesGone(NamedTuple):
    """These leases ended, or never began, without the consumer's doing: `expired`, `queue_deleted` or `purged`."""

    session: int
    consumer: int
    tags: list[int]
    reason: str


class LeasesOver(NamedTuple):
    """Leases on messages of the queue ended, whatever the verdict: others may have waited for that.

    Told only of queues that are ordered by key or whose mode is not shared.

    Attributes:
        queue_id: Number of the queue.
        keys: `[key, messages, ...]`: the keys of those messages, where the queue is ordered by key. No messages: the
            key was blocked and is not any more.

    """

    queue_id: int
    keys: list[int]


class GivenUp(NamedTuple):
    """Messages with a lifetime became dead letters because their last attempt failed: who sent one may wait for it.

    Attributes:
        queue_id: Where.
        runs: The messages.
        met: What the last attempt met, one of the kinds of `notes`.
        text: What whoever had it said.

    """

    queue_id: int
    runs: list[Run]
    met: int
    text: str


class SessionGone(NamedTuple):
    """The session is over, with all its consumers."""

    session: int


Effect: TypeAlias = (
    Ready
    | Retained
    | Returned
    | Removed
    | QueuePurged
    | FillsUp
    | QueueGone
    | LeasesGone
    | LeasesOver
    | SessionGone
    | MayExpire
    | GivenUp
)


class Outcome(NamedTuple):
    """What `Machine.apply` returns.

    Attributes:
        value: The answer; None where there is none, or where *error* stands instead.
        error: The verdict against the entry: nothing was changed. A SETTLE of an unknown session has both.
        effects: What the leader has to do, in this order.

    """

    value: Value = None
    error: SluiceError | None = None
    effects: tuple[Effect, ...] = ()
