"""Every message of the native protocol: one frozen dataclass a frame type.

This module owns the vocabulary. It must not know when a message may come (`connection`) nor what a broker does with
it. Even field numbers must be understood, odd ones may be ignored (see `fields`). Durations on the wire are seconds
unless the name says otherwise.

Ranges of delivery tags are flat lists `[first, last, first, last, ...]`, both ends included, ascending. Runs of
messages are flat lists with `RUN_NUMBERS` integers a run.
"""

from __future__ import annotations

from typing import Any

from sluicemq.wire.fields import NAME_BYTES_MAX as NAME_BYTES_MAX
from sluicemq.wire.fields import (
    Message,
    binary,
    boolean,
    list_of,
    map_of_text,
    message,
    number,
    numbers,
    optional,
    ranges,
    text,
    unsigned,
    wire_field,
)
from sluicemq.wire.messages_of_cluster import *  # noqa: F403 - one vocabulary, in several modules for its length
from sluicemq.wire.messages_of_failover import *  # noqa: F403
from sluicemq.wire.messages_of_features import *  # noqa: F403
from sluicemq.wire.messages_of_operators import *  # noqa: F403
from sluicemq.wire.messages_of_requests import *  # noqa: F403
from sluicemq.wire.messages_of_stale_reads import *  # noqa: F403
from sluicemq.wire.messages_of_transactions import *  # noqa: F403

PROTOCOL_VERSION_MIN = 1
PROTOCOL_VERSION_MAX = 1

SECONDS_MAX = 10 * 366 * 86_400.0
"""Longest duration that any field takes: ten years."""

QUEUES_PAGE_MAX = 4096
"""Most queues in one answer, whatever `count_max` asks for."""

REPLAY_WAIT_SECONDS_MAX = 60.0
"""Longest time that a REPLAY waits for something to be published."""

RUN_NUMBERS = 9
"""Integers a run in DELIVER, PEEKED and REPLAYED: zxid, first index, count, bytes of its batch in the tail, published
at (milliseconds since 1970), producer, id of the first message of the whole batch, deliveries so far (this one
included; in PEEKED: without), attempts that are known to have begun before. The last two are 0 in REPLAYED."""

KNOWN_NUMBERS = 4
"""Integers a range of duplicates in PUBLISHED."""

RANGES_MAX = 1_024
"""Most ranges of tags in one SETTLE or EXTEND; who has more sends several frames."""

VERDICT_ACK = 1
VERDICT_NACK = 2
VERDICT_RELEASE = 3
"""Give back untouched: counts no attempt and keeps the message's place."""
VERDICT_HANDED_OVER = 4
"""Not an end: says that user code has the message now, so that an attempt has begun."""
VERDICT_REJECT = 5
"""The message dies now, whatever attempts it had left; the reason is kept."""
ACKS_QUORUM = 0
"""A publish is confirmed when a quorum of the brokers that vote has it on disk."""
ACKS_ALL = 1
"""When all of them have it."""
ACKS_LEADER = 2
"""When the broker that leads has it, though it be lost with that one."""
NOTES_MAX = 10_000
"""Most notes in one DELIVER; runs beyond them have none."""
CONSUMER_WEIGHT_MAX = 1000
"""Largest weight of a consumer."""

_seconds = number(0, SECONDS_MAX)
_name = text(NAME_BYTES_MAX)
_lost = numbers(64, multiple_of=2)
_tags = ranges(64)


# --- handshake ------------------------------------------------------------------------------------------------


@message(1)
class Hello(Message):
    """Client to broker, first frame: who I am and what I can."""

    version_min: int = wire_field(2, unsigned(16))
    version_max: int = wire_field(4, unsigned(16))
    role: str = wire_field(6, text(16), default="client")
    frame_bytes_max: int = wire_field(8, unsigned(32), default=0)
    heartbeat_seconds: float = wire_field(10, number(0, 3600), default=10.0)
    client_name: str = wire_field(1, _name, default="")
    client_version: str = wire_field(3, _name, default="")
    platform: str = wire_field(5, _name, default="")


@message(2)
class Welcome(Message):
    """Broker to client: the version chosen, the limits that hold for both, and how one may authenticate."""

    version: int = wire_field(2, unsigned(16))
    frame_bytes_max: int = wire_field(4, unsigned(32))
    heartbeat_seconds: float = wire_field(6, number(0, 3600))
    mechanisms: list[str] = wire_field(8, list_of(text(64), 32))
    cluster_id: bytes = wire_field(10, binary(16))
    group_id: int = wire_field(12, unsigned(32), default=0)
    node_id: int = wire_field(1, unsigned(32), default=0)
    server_name: str = wire_field(3, _name, default="")
    server_version: str = wire_field(5, _name, default="")


@message(3)
class Authenticate(Message):
    """Client to broker: a mechanism and its response; sent again in answer to each CHALLENGE."""

    mechanism: str = wire_field(2, text(64))
    response: bytes = wire_field(4, binary(), default=b"")


@message(4)
class Challenge(Message):
    """Broker to client: the mechanism wants another response."""

    data: bytes = wire_field(2, binary(), default=b"")


@message(5)
class Authenticated(Message):
    """Broker to client: the identity that was proven."""

    identity: str = wire_field(1, _name, default="")


@message(6)
class Open(Message):
    """Client to broker: open a session, or resume one.

    A session that is *resumable* is kept for a while when its connection ends without CLOSE, and by the next leader.
    It is resumed by its number and the token of OPENED; *consumer_max* is the highest number of a consumer that the
    client has had on it. Where that cannot be, a new session is opened.
    """

    vhost: str = wire_field(2, _name, default="/")
    session: int = wire_field(4, unsigned(64), default=0)
    resume_token: bytes = wire_field(6, binary(64), default=b"")
    resumable: bool = wire_field(8, boolean, default=False)
    consumer_max: int = wire_field(10, unsigned(32), default=0)


@message(7)
class Opened(Message):
    """Broker to client: the session stands; limits that the client checks before it sends."""

    session: int = wire_field(2, unsigned(64))
    epoch: int = wire_field(4, unsigned(32))
    message_bytes_max: int = wire_field(10, unsigned(32))
    batch_bytes_max: int = wire_field(12, unsigned(32))
    batch_messages_max: int = wire_field(14, unsigned(32))
    resumed: bool = wire_field(6, boolean, default=False)
    resume_token: bytes = wire_field(8, binary(64), default=b"")


# --- at any time ----------------------------------------------------------------------------------------------


@message(8)
class Ping(Message):
    """Either side: are you there? Answered by PONG with the same correlation."""


@message(9)
class Pong(Message):
    """Answer to PING."""


@message(10)
class Close(Message):
    """Either side: last frame of the connection, with the reason where something went wrong."""

    error: dict[str, Any] | None = wire_field(2, optional(map_of_text), default=None)


@message(11)
class Error(Message):
    """Broker to client: the request of this correlation failed."""

    error: dict[str, Any] = wire_field(2, map_of_text)


@message(12)
class Blocked(Message):
    """Broker to client: publishing (to *destination*, or everywhere) is held back for now."""

    reason: str = wire_field(2, text())
    destination: str = wire_field(4, _name, default="")
    retry_after: float | None = wire_field(6, optional(_seconds), default=None)


@message(13)
class Unblocked(Message):
    """Broker to client: publishing goes on."""

    destination: str = wire_field(4, _name, default="")


# --- queues ---------------------------------------------------------------------------------------------------


@message(20)
class DeclareQueue(Message):
    """Make the queue as described, or converge the existing one. Answered by DECLARED."""

    name: str = wire_field(2, _name)
    settings: dict[str, Any] = wire_field(4, map_of_text, default={})
    check_only: bool = wire_field(6, boolean, default=False)


@message(21)
class Declared(Message):
    """What a declaration did: `created`, `changed` or `unchanged`, and each change as name -> [before, after].

    *warnings*: what may not have been meant, for people.
    """

    outcome: str = wire_field(2, text(16))
    changes: dict[str, Any] = wire_field(4, map_of_text, default={})
    warnings: list[str] = wire_field(5, list_of(text(), 16), default=[])


@message(22)
class DeleteQueue(Message):
    """Delete a queue with its messages. Answered by DELETED."""

    name: str = wire_field(2, _name)
    if_empty: bool = wire_field(4, boolean, default=False)


@message(23)
class Deleted(Message):
    """How many messages went with the queue."""

    messages: int = wire_field(2, unsigned(64))


@message(24)
class ListQueues(Message):
    """Ask for the queues of the vhost whose names sort after *after*, at most *count_max*. Answered by QUEUES."""

    after: str = wire_field(2, _name, default="")
    count_max: int = wire_field(4, unsigned(32), default=1000)


@message(25)
class Queues(Message):
    """State of queues, a map each, sorted by name; *more* says that there are others after the last."""

    queues: list[dict[str, Any]] = wire_field(2, list_of(map_of_text, QUEUES_PAGE_MAX))
    more: bool = wire_field(4, boolean, default=False)


@message(26)
class QueueInfo(Message):
    """Ask for one queue. Answered by QUEUES with one map."""

    name: str = wire_field(2, _name)


@message(28)
class PurgeQueue(Message):
    """Drop every message of the queue that is ready or delayed; leased ones stay. Answered by PURGED."""

    name: str = wire_field(2, _name)


@message(29)
class Purged(Message):
    """How many messages were dropped."""

    messages: int = wire_field(2, unsigned(64))


@message(30)
class Peek(Message):
    """Look at ready messages without changing anything. Answered by PEEKED."""

    name: str = wire_field(2, _name)
    skip: int = wire_field(4, unsigned(64), default=0)
    count_max: int = wire_field(6, unsigned(32), default=10)


@message(31)
class Peeked(Message):
    """Messages as in DELIVER, without tags. *topic*: that which the queue is a subscription of, or was replayed."""

    runs: list[int] = wire_field(2, numbers(64, multiple_of=RUN_NUMBERS))
    destinations: list[str] = wire_field(3, list_of(text()), default=[])
    topic: str = wire_field(5, text(NAME_BYTES_MAX), default="")


@message(32)
class Replay(Message):
    """Read what a queue or topic retains, settled or not, without leases or any change. Answered by REPLAYED.

    Messages come in the order in which they became visible. Their places are the addresses of most; that of a prepared
    message is by the entry that committed it, that of what a topic delayed by the entry that made it ready. It begins
    at the place (*zxid*, *index*), or the next one behind; with *from_ms* with the first one visible then or later
    instead. It ends before the place (*end_zxid*, *end_index*) and before what became visible at *end_ms* or later,
    where these are given. (0, 0) is the oldest one that is retained, whatever was before; any other beginning from
    which not everything is retained any more is refused with `position_expired`. Other requests of the connection are
    answered meanwhile.
    """

    name: str = wire_field(2, _name)
    zxid: int = wire_field(4, unsigned(64), default=0)
    index: int = wire_field(6, unsigned(32), default=0)
    from_ms: int | None = wire_field(8, optional(unsigned(64)), default=None)
    end_zxid: int | None = wire_field(10, optional(unsigned(64)), default=None)
    end_index: int = wire_field(12, unsigned(32), default=0)
    end_ms: int | None = wire_field(14, optional(unsigned(64)), default=None)
    messages_max: int = wire_field(16, unsigned(32), default=1000)
    bytes_max: int = wire_field(18, unsigned(32), default=1024 * 1024)
    wait_seconds: float = wire_field(20, number(0, REPLAY_WAIT_SECONDS_MAX), default=0.0)


@message(33)
class Replayed(Message):
    """Messages as in PEEKED, at most as many as were asked for; fewer, or none, say nothing about what follows.

    The next REPLAY goes on at (*next_zxid*, *next_index*). *more*: there may be more before the end that was asked for.
    *complete*: nothing more can ever come before that end. *last_zxid* and *last_index*: the place behind the newest
    message that is retained. *destinations* and *topic* as in PEEKED. *places*: of each run that of its first message,
    two integers; those of the others follow. Empty: they are the messages' addresses.
    """

    runs: list[int] = wire_field(2, numbers(64, multiple_of=RUN_NUMBERS))
    next_zxid: int = wire_field(4, unsigned(64))
    next_index: int = wire_field(6, unsigned(32))
    more: bool = wire_field(8, boolean, default=False)
    last_zxid: int = wire_field(10, unsigned(64), default=0)
    last_index: int = wire_field(12, unsigned(32), default=0)
    complete: bool = wire_field(14, boolean, default=False)
    destinations: list[str] = wire_field(15, list_of(text()), default=[])
    topic: str = wire_field(17, text(NAME_BYTES_MAX), default="")
    places: list[int] = wire_field(18, numbers(64, multiple_of=2), default=[])


# --- producers ------------------------------------------------------------------------------------------------


@message(40)
class OpenProducer(Message):
    """Ask for a producer number; a name fences the older producer of that name. Answered by PRODUCER_OPENED."""

    name: str = wire_field(2, _name, default="")


@message(41)
class ProducerOpened(Message):
    """The producer's number: unique for ever; its batches are numbered from 1."""

    producer: int = wire_field(2, unsigned(64))


@message(42)
class CloseProducer(Message):
    """The producer is done; the broker may forget its sequence. Answered by PRODUCER_CLOSED."""

    producer: int = wire_field(2, unsigned(64))


@message(43)
class ProducerClosed(Message):
    """The producer is forgotten."""


@message(44)
class Publish(Message):
    """One batch (the tail) for one destination. Answered by PUBLISHED once it is safe, or by ERROR."""

    destination: str = wire_field(2, _name)
    producer: int = wire_field(4, unsigned(64))
    sequence: int = wire_field(6, unsigned(64))
    acks: int = wire_field(8, unsigned(8), default=ACKS_QUORUM)


@message(45)
class Published(Message):
    """The batch is durable on a majority and committed; *duplicate*: it was so already, at this very place.

    *acks* says who has it, where the PUBLISH asked for all brokers or for the leader only.

    *known* says which of its messages are not stored here, because a message with the same id was stored before:
    `KNOWN_NUMBERS` integers for neighbours whose originals are neighbours too: index of the first in the batch, count,
    zxid and index of the original of the first. Where that takes more than a frame, *known_bits* says which, one bit
    a message, the lowest of the first byte for the first, and nobody says where the originals are.

    *id_base* is the id of the first message, from which those of all without an id of their own follow; 0: forgotten.
    """

    zxid: int = wire_field(2, unsigned(64))
    duplicate: bool = wire_field(4, boolean, default=False)
    known: list[int] = wire_field(6, numbers(64, multiple_of=KNOWN_NUMBERS), default=[])
    known_bits: bytes = wire_field(8, binary(), default=b"")
    acks: int = wire_field(10, unsigned(8), default=ACKS_QUORUM)
    id_base: int = wire_field(12, unsigned(64), default=0)


# --- consumers ------------------------------------------------------------------------------------------------


@message(50)
class Consume(Message):
    """Start a consumer. Answered by CONSUMING, then DELIVER frames come.

    Credit bounds what is delivered and not settled yet, in messages and in bytes; at least one message is delivered
    however large it is. *weight*, 1 to 1000, counts where the queue shares out by weight, and when one consumer takes
    over from another.
    """

    queue: str = wire_field(2, _name)
    credit_messages: int = wire_field(4, unsigned(32))
    credit_bytes: int = wire_field(6, unsigned(64))
    lease_seconds: float = wire_field(8, number(0.05, SECONDS_MAX))
    weight: int = wire_field(10, unsigned(16), default=1)
    name: str = wire_field(1, _name, default="")


@message(51)
class Consuming(Message):
    """The consumer's number within the session; and whether it gets messages now, or waits for another one to go.

    *topic* is the name of the topic that the queue is a subscription of, where it is one.
    """

    consumer: int = wire_field(2, unsigned(32))
    active: bool = wire_field(1, boolean, default=True)
    topic: str = wire_field(3, _name, default="")


@message(52)
class Credit(Message):
    """Replace the consumer's credit (not an increment). No answer. Zero messages pauses it."""

    consumer: int = wire_field(2, unsigned(32))
    credit_messages: int = wire_field(4, unsigned(32))
    credit_bytes: int = wire_field(6, unsigned(64))


@message(53)
class Deliver(Message):
    """Messages for a consumer: tags count on from *first_tag*, one a message; the tail holds one batch a run.

    *notes* say why runs were given back, or died in another queue, a map each: `runs` (ranges of their numbers in
    *runs*, from 0: `[first, last, ...]`), `kind`, `text`, `at_ms`, `origin` (name of that queue) and `attempts` there.
    *destinations* say where each run was published to, where that is below the topic of CONSUMING; empty, or none left,
    for the topic itself: there a message's subject says the rest.
    """

    consumer: int = wire_field(2, unsigned(32))
    first_tag: int = wire_field(4, unsigned(64))
    runs: list[int] = wire_field(6, numbers(64, multiple_of=RUN_NUMBERS))
    notes: list[dict[str, Any]] = wire_field(8, list_of(map_of_text, NOTES_MAX), default=[])
    destinations: list[str] = wire_field(10, list_of(text()), default=[])


@message(54)
class Settle(Message):
    """A verdict on tags. Answered by SETTLED once committed.

    *delay_seconds* belongs to NACK: None = the queue's own retry delay, 0 = at once.
    """

    consumer: int = wire_field(2, unsigned(32))
    verdict: int = wire_field(4, unsigned(8))
    tags: list[int] = wire_field(6, _tags)
    delay_seconds: float | None = wire_field(8, optional(_seconds), default=None)
    reason: str = wire_field(1, text(), default="")


@message(55)
class Settled(Message):
    """The verdict is committed, but for the tags in *lost*, whose leases were over."""

    lost: list[int] = wire_field(2, _lost, default=[])


@message(56)
class LeasesLost(Message):
    """Broker to client, unasked: the leases of these tags are over (`expired`, `queue_deleted`, `purged`)."""

    consumer: int = wire_field(2, unsigned(32))
    tags: list[int] = wire_field(4, _lost)
    reason: str = wire_field(6, text(64), default="expired")


@message(57)
class Extend(Message):
    """Let the leases of these tags end *seconds* from now. Answered by EXTENDED."""

    consumer: int = wire_field(2, unsigned(32))
    tags: list[int] = wire_field(4, _tags)
    seconds: float = wire_field(6, number(0.05, SECONDS_MAX))


@message(58)
class Extended(Message):
    """Done, but for the tags in *lost*, whose leases were over."""

    lost: list[int] = wire_field(2, _lost, default=[])


@message(59)
class CancelConsumer(Message):
    """Deliver nothing more; what was delivered can still be settled. Answered by CONSUMER_CANCELLED."""

    consumer: int = wire_field(2, unsigned(32))


@message(60)
class ConsumerCancelled(Message):
    """No DELIVER for this consumer follows."""


@message(61)
class ConsumerEnded(Message):
    """Broker to client, unasked: the consumer is over.

    `queue_not_found`: its queue was deleted. `message_too_large`: the next message fits no frame that this connection
    takes; it stays in the queue for others, and the consumer has settled all that it got before.
    """

    consumer: int = wire_field(2, unsigned(32))
    error: dict[str, Any] = wire_field(4, map_of_text)


# --- operators ------------------------------------------------------------------------------------------------


@message(70)
class Statistics(Message):
    """Ask the broker for its own figures. Answered by STATISTICS_RESULT."""


@message(71)
class StatisticsResult(Message):
    """Figures by name: counters since start, CPU seconds, bytes; names only ever get added."""

    values: dict[str, Any] = wire_field(2, map_of_text)


MESSAGES: dict[int, type[Message]] = dict(
    sorted(
        (cls.TYPE, cls)
        for cls in Message.__subclasses__()
        # Those that brokers say to each other have numbers of their own (`peers`), and may be imported first.
        if hasattr(cls, "TYPE") and cls.__module__.startswith(__name__)
    )
)
"""Message class by frame type."""
