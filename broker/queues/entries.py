"""The entries of the log: one frozen dataclass a kind, and how its header becomes bytes.

This module owns the numbers of the kinds and the shape of the headers. It must not know what an entry does to the
machine. A header is a msgpack array of the fields in the order in which they are declared. A kind, version or shape
that is unknown here is `EntryUnknown`: the caller stops, because to skip an entry is to become another machine than
the other brokers.

All times are milliseconds since 1970 (`_ms`); `log_time_ms` is the time that the leader gave to the entry.
Ranges of tags are flat lists `[first, last, first, last, ...]`, both ends included. Runs of messages in a GRANT are
flat lists `[zxid, first index, count, ...]`. Ranges of entries are flat lists of zxids, like those of tags.

Others stand in `entries_of_moving`, `entries_of_publishing`, `entries_of_queues`, `entries_of_sessions`,
`entries_of_topics` and `entries_of_transactions`.
Those about the brokers stand in `entries_of_cluster`.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, Self

import msgpack

from sluicemq.broker.queues.entries_of_cluster import Membership, NodeAddress
from sluicemq.broker.queues.entries_of_moving import Move
from sluicemq.broker.queues.entries_of_publishing import Publish, PublishGrouped, PublishIdentified, shared_route
from sluicemq.broker.queues.entries_of_queues import (
    Alter,
    Cancel,
    Discard,
    ExpireQueue,
    MarkUsed,
    Policy,
    Redrive,
    Reschedule,
)
from sluicemq.broker.queues.entries_of_sessions import MarkClosed, Resume
from sluicemq.broker.queues.entries_of_topics import Fill, Fire, Schedule, Subscribe, Unsubscribe
from sluicemq.broker.queues.entries_of_transactions import Checked, Prepare, Resolve, Transaction
from sluicemq.broker.queues.entry import GROUP_NUMBERS, Entry, EntryUnknown
from sluicemq.broker.queues.entry import name as _name
from sluicemq.broker.queues.entry import number as _number
from sluicemq.broker.queues.entry import pack as _pack
from sluicemq.wire.fields import (
    Check,
    binary,
    boolean,
    map_of_text,
    numbers,
    text,
    unsigned,
)

__all__ = [
    "ABANDONED",
    "BY_RETRY_POLICY",
    "ENTRIES",
    "EXPIRED",
    "GROUP_NUMBERS",
    "OTHER_VERSIONS",
    "RESERVED_KINDS",
    "SETTLED_BEFORE",
    "SPARSE",
    "Clock",
    "Declare",
    "Delete",
    "Entry",
    "EntryUnknown",
    "Epoch",
    "Forget",
    "Grant",
    "GrantIdentified",
    "GrantPlaced",
    "ProducerClose",
    "ProducerOpen",
    "ProducerOpenUnlimited",
    "Publish",
    "PublishGrouped",
    "PublishIdentified",
    "Purge",
    "SessionClose",
    "SessionOpen",
    "Settle",
    "SettleJudged",
    "decode_entry",
    "shared_route",
]

EXPIRED = 16
"""Verdict of a SETTLE that the broker itself writes when leases run out; the others are the wire's `VERDICT_*`.

The messages go behind the tail; an attempt counts where the message was marked as handed over.
"""

ABANDONED = 17
"""Verdict of a SETTLE that the broker itself writes for leases whose session has ended.

It settles like the wire's release, at the former place, but an attempt counts where the message was marked as handed
over: nobody says that the handler stopped in good order.
"""

SETTLED_BEFORE = 18
"""Verdict of a SETTLE that the broker itself writes for messages that it never sends, because others with their ids
were acknowledged before.

They count as settled where apply finds that to be so, by the ids of the GRANT; all others go back to their places.
"""

GRANT_IDS_BYTES_MAX = 16 * 1024 * 1024
"""Most bytes of ids in one GRANT: a million messages."""

RESERVED_KINDS: dict[int, str] = {
    18: "FEATURE",
}
"""Kinds that later versions will write; met here, they are refused by name."""

SPARSE = 19
"""Kind of a record that is no entry: what is left of a PUBLISH in rewritten files (see `sparse`). It is never applied,
and refused like an unknown kind where an entry is expected."""


@dataclasses.dataclass(frozen=True, slots=True)
class Epoch(Entry):
    """First entry of a leader's epoch.

    Attributes:
        node_id: The leader.
        payload: Who votes, as the replication core's shell writes it; empty where a repair begins it.

    """

    KIND = 1
    CHECKS: ClassVar[tuple[Check, ...]] = (_number, unsigned(32))

    node_id: int
    payload: bytes | memoryview = dataclasses.field(default=b"", repr=False)

    def header(self) -> bytes:
        """Return the header's bytes."""
        return _pack(self.log_time_ms, self.node_id)

    @classmethod
    def from_fields(cls, fields: list[Any], payload: bytes | memoryview) -> Self:
        """Return the entry with these checked *fields*; used by `decode_entry`."""
        log_time_ms, node_id = fields
        return cls(log_time_ms, node_id, payload)


@dataclasses.dataclass(frozen=True, slots=True)
class SessionOpen(Entry):
    """A client's session begins; its number is the zxid of this entry."""

    KIND = 2
    CHECKS: ClassVar[tuple[Check, ...]] = (_number, _name, text(), _name, binary())

    vhost: str
    identity: str
    client_name: str
    resume_token: bytes

    def header(self) -> bytes:
        """Return the header's bytes."""
        return _pack(self.log_time_ms, self.vhost, self.identity, self.client_name, self.resume_token)


@dataclasses.dataclass(frozen=True, slots=True)
class SessionClose(Entry):
    """A session is over: all its leases return to the places from which they were taken."""

    KIND = 3
    CHECKS: ClassVar[tuple[Check, ...]] = (_number, _number, text())

    session: int
    reason: str

    def header(self) -> bytes:
        """Return the header's bytes."""
        return _pack(self.log_time_ms, self.session, self.reason)


@dataclasses.dataclass(frozen=True, slots=True)
class ProducerOpen(Entry):
    """A producer begins; its number is the zxid of this entry. A name (not empty) fences the older one of the name.

    Refused beyond the limits, unless somebody is there who was silent for long.
    """

    KIND = 4
    VERSION = 2
    CHECKS: ClassVar[tuple[Check, ...]] = (_number, _name, _name, text())

    vhost: str
    name: str
    identity: str

    def header(self) -> bytes:
        """Return the header's bytes."""
        return _pack(self.log_time_ms, self.vhost, self.name, self.identity)


@dataclasses.dataclass(frozen=True, slots=True)
class ProducerOpenUnlimited(ProducerOpen):
    """As version 1 was judged: never refused; beyond the limit the one that was silent longest is forgotten."""

    VERSION = 1


@dataclasses.dataclass(frozen=True, slots=True)
class ProducerClose(Entry):
    """A producer is done: its sequence may be forgotten."""

    KIND = 5
    CHECKS: ClassVar[tuple[Check, ...]] = (_number, _number)

    producer: int

    def header(self) -> bytes:
        """Return the header's bytes."""
        return _pack(self.log_time_ms, self.producer)


@dataclasses.dataclass(frozen=True, slots=True)
class Grant(Entry):
    """Messages go to a consumer, each under a lease; tags count on from *first_tag*, one a message."""

    KIND = 7
    CHECKS: ClassVar[tuple[Check, ...]] = (_number, _number, _number, unsigned(32), _number, numbers(64, multiple_of=3))

    queue: int
    session: int
    consumer: int
    first_tag: int
    runs: list[int]

    def header(self) -> bytes:
        """Return the header's bytes."""
        return _pack(self.log_time_ms, self.queue, self.session, self.consumer, self.first_tag, self.runs)


@dataclasses.dataclass(frozen=True, slots=True)
class GrantPlaced(Grant):
    """A grant of messages wherever they lie in their queue: runs are `[ready, zxid, first index, count, ...]`."""

    VERSION = 2
    CHECKS: ClassVar[tuple[Check, ...]] = (*Grant.CHECKS[:-1], numbers(64, multiple_of=4))


@dataclasses.dataclass(frozen=True, slots=True)
class GrantIdentified(GrantPlaced):
    """A grant from a queue that remembers the ids of what is acknowledged.

    Attributes:
        ids: A hash of 16 bytes for each message, in the order of *runs*, zeros for one without an id of its own.

    """

    VERSION = 3
    CHECKS: ClassVar[tuple[Check, ...]] = (*GrantPlaced.CHECKS, binary(GRANT_IDS_BYTES_MAX))

    ids: bytes = dataclasses.field(default=b"", repr=False)

    def header(self) -> bytes:
        """Return the header's bytes."""
        return _pack(self.log_time_ms, self.queue, self.session, self.consumer, self.first_tag, self.runs, self.ids)


@dataclasses.dataclass(frozen=True, slots=True)
class Settle(Entry):
    """A verdict on leased messages.

    Attributes:
        session: Number of the session.
        consumer: Number of the consumer within the session.
        verdict: One of the wire's `VERDICT_*`, `EXPIRED` or `ABANDONED`.
        tags: Ranges of tags, ascending.
        due_time_ms: Log time at which a nacked message becomes ready again; 0 = at once.
        reason: Why, in the client's words; kept for whoever reads the log.

    """

    KIND = 8
    CHECKS: ClassVar[tuple[Check, ...]] = (
        _number,
        _number,
        unsigned(32),
        unsigned(8),
        numbers(64, multiple_of=2),
        _number,
        text(),
    )

    session: int
    consumer: int
    verdict: int
    tags: list[int]
    due_time_ms: int = 0
    reason: str = ""

    def header(self) -> bytes:
        """Return the header's bytes."""
        return _pack(
            self.log_time_ms, self.session, self.consumer, self.verdict, self.tags, self.due_time_ms, self.reason
        )


BY_RETRY_POLICY = 1 << 63
"""Due time of a `SettleJudged`: the machine finds it by the retry policy of the queue."""


@dataclasses.dataclass(frozen=True, slots=True)
class SettleJudged(Settle):
    """A verdict that may let messages die: as version 1, but that the queue's retry policy and `max_deliveries` hold.

    The verdict may be the wire's `VERDICT_REJECT`, and the due time `BY_RETRY_POLICY`.
    """

    VERSION = 2


@dataclasses.dataclass(frozen=True, slots=True)
class Clock(Entry):
    """Log time has come to *log_time_ms*: at most *items_max* runs whose time is up become ready."""

    KIND = 9
    CHECKS: ClassVar[tuple[Check, ...]] = (_number, unsigned(32))

    items_max: int

    def header(self) -> bytes:
        """Return the header's bytes."""
        return _pack(self.log_time_ms, self.items_max)


@dataclasses.dataclass(frozen=True, slots=True)
class Declare(Entry):
    """A queue shall exist with these settings; an existing one converges to them. *object_kind* is "queue"."""

    KIND = 10
    CHECKS: ClassVar[tuple[Check, ...]] = (_number, _name, text(16), text(), map_of_text)

    vhost: str
    object_kind: str
    name: str
    settings: dict[str, Any]

    def header(self) -> bytes:
        """Return the header's bytes."""
        return _pack(self.log_time_ms, self.vhost, self.object_kind, self.name, self.settings)


@dataclasses.dataclass(frozen=True, slots=True)
class Delete(Entry):
    """A queue shall go, with its messages; with *if_empty* only when it holds none.

    *queue* is the number that it had when this was proposed, for those who read the log: names go with their queues.
    """

    KIND = 11
    VERSION = 2
    CHECKS: ClassVar[tuple[Check, ...]] = (_number, _name, text(16), text(), boolean, _number)

    vhost: str
    object_kind: str
    name: str
    if_empty: bool
    queue: int = 0

    def header(self) -> bytes:
        """Return the header's bytes."""
        return _pack(self.log_time_ms, self.vhost, self.object_kind, self.name, self.if_empty, self.queue)


@dataclasses.dataclass(frozen=True, slots=True)
class Purge(Entry):
    """Every message of the queue that is ready or delayed shall go; leased ones stay."""

    KIND = 12
    CHECKS: ClassVar[tuple[Check, ...]] = (_number, _number)

    queue: int

    def header(self) -> bytes:
        """Return the header's bytes."""
        return _pack(self.log_time_ms, self.queue)


@dataclasses.dataclass(frozen=True, slots=True)
class Forget(Entry):
    """Messages are lost for good: nothing can be read any more of the entries that published them.

    Every message of the queue that these entries published is given up, wherever it is: ready, leased, delayed,
    retained. So it makes no difference when it comes again. Written by a repair, while no broker serves.

    Attributes:
        queue: Number of the queue.
        entries: Ranges of zxids, ascending; they may reach over entries of other queues.
        reason: Why, for whoever reads the log.

    """

    KIND = 20
    CHECKS: ClassVar[tuple[Check, ...]] = (_number, _number, numbers(64, multiple_of=2), text())

    queue: int
    entries: list[int]
    reason: str = ""

    def header(self) -> bytes:
        """Return the header's bytes."""
        return _pack(self.log_time_ms, self.queue, self.entries, self.reason)


ENTRIES: dict[int, type[Entry]] = {
    cls.KIND: cls
    for cls in (
        Epoch,
        SessionOpen,
        SessionClose,
        ProducerOpen,
        ProducerClose,
        Publish,
        Grant,
        Settle,
        Clock,
        Declare,
        Delete,
        Purge,
        Forget,
        Alter,
        Cancel,
        Reschedule,
        Policy,
        Subscribe,
        Unsubscribe,
        Fill,
        Schedule,
        Fire,
        Redrive,
        Discard,
        Move,
        ExpireQueue,
        MarkUsed,
        Transaction,
        Prepare,
        Resolve,
        Checked,
        Resume,
        MarkClosed,
        Membership,
        NodeAddress,
    )
}
"""Entry class by kind, as this version writes it."""

OTHER_VERSIONS: dict[tuple[int, int], type[Entry]] = {
    (cls.KIND, cls.VERSION): cls
    for cls in (ProducerOpenUnlimited, PublishGrouped, PublishIdentified, GrantPlaced, GrantIdentified, SettleJudged)
}
"""Entry class by kind and version: those that say more than the usual one, and those that stand in old logs only.

A class that is neither here nor in `ENTRIES` (those of `entries_of_queues` and
`entries_of_topics`) has nobody who applies it yet: it is written by nobody, and refused where it is met.
"""


def _versions_read(kind: int) -> str:
    versions = {ENTRIES[kind].VERSION, *(version for other, version in OTHER_VERSIONS if other == kind)}
    return " and ".join(map(str, sorted(versions)))


def decode_entry(kind: int, version: int, header: bytes | memoryview, payload: bytes | memoryview = b"") -> Entry:
    """Return the entry that a record of the log holds.

    Raises:
        EntryUnknown: Unknown kind or version, or fields of another number or shape than this version writes.

    """
    cls = ENTRIES.get(kind)
    if cls is None:
        known_as = f" ({RESERVED_KINDS[kind]})" if kind in RESERVED_KINDS else ""
        raise EntryUnknown(
            f"entry kind {kind}{known_as} is unknown to this version; install the version that wrote it", kind=kind
        )
    if version != cls.VERSION:
        cls = OTHER_VERSIONS.get((kind, version), cls)
    if version != cls.VERSION:
        raise EntryUnknown(
            f"version {version} of entry kind {kind} ({cls.__name__}) is unknown; this version reads "
            f"{_versions_read(kind)}",
            kind=kind,
            version=version,
        )
    try:
        fields = msgpack.unpackb(header, strict_map_key=False)
    except (ValueError, msgpack.UnpackException, TypeError, RecursionError) as error:
        raise EntryUnknown(f"header of {cls.__name__}: no msgpack value ({error!s:.200})", kind=kind) from None
    checks = cls.CHECKS
    if type(fields) is not list or len(fields) != len(checks):
        raise EntryUnknown(f"header of {cls.__name__}: no array of {len(checks)} fields", kind=kind)
    for position, check in enumerate(checks):
        problem = check(fields[position])
        if problem:
            raise EntryUnknown(f"header of {cls.__name__}: field {position} {problem}", kind=kind)
    return cls.from_fields(fields, payload)
