"""Entries of transactions and of half messages: several changes that stand in the log as one, or wait for a decision.

Shapes and numbers only, as in `entries`; what they do to the machine stands in `applying`. Both kinds that publish hold
one batch, whatever it is made of, so that a message's address is (zxid, index) as everywhere.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, NamedTuple, Self

from sluicemq.broker.queues.entry import GROUP_NUMBERS, Entry, number, pack
from sluicemq.broker.queues.entry import name as name_kind
from sluicemq.wire.batch import SUBJECT_BYTES_MAX
from sluicemq.wire.columns import BATCH_VALUES_MAX
from sluicemq.wire.fields import NAME_BYTES_MAX, Check, binary, boolean, list_of, numbers, text, unsigned

ID_BYTES = 16
"""Bytes of the hash of a message's id, as in `entries.PublishIdentified`."""
PART_NUMBERS = 4
"""Integers a part of `Transaction.parts`."""
BY_SUBJECT = 0xFFFF_FFFF
"""Number of the route of a part, or of a half message, whose messages have their subjects as routes."""
SETTLEMENT_NUMBERS = 3
"""Integers of a settlement before its ranges of tags."""

Routes = tuple[tuple[int, str | None], ...]
"""(first index, route) of the parts of a batch, as `Publish.route` says it of a whole batch."""


class Part(NamedTuple):
    """Neighbouring messages of a transaction's batch that were published to one name.

    Attributes:
        target: Number of the queue or topic.
        first: Index of the first message.
        size: How many.
        groups: What they say about delivery, as in `entries.PublishGrouped`.
        scope: 0: their ids are not judged; else one more than what `PublishIdentified.scope` says.

    """

    target: int
    first: int
    size: int
    groups: list[int]
    scope: int


class Settlement(NamedTuple):
    """A verdict within a transaction: consumer, verdict, when a nacked message comes again, ranges of tags, reason."""

    consumer: int
    verdict: int
    due_time_ms: int
    tags: list[int]
    reason: str


@dataclasses.dataclass(frozen=True, slots=True)
class Transaction(Entry):
    """Messages for several queues and topics, and verdicts on leased ones: all of it holds, or nothing.

    Attributes:
        producer: Number of the producer.
        sequence: Its number among all batches and transactions of the producer, from 1.
        count: Messages in the batch; 0 where there is no batch.
        body_bytes: Bytes of all bodies together.
        parts: `PART_NUMBERS` a part, in the order of the batch: number of the queue or topic; how many messages;
            number of the route that they share, from 1, 0 = none, `BY_SUBJECT`: each has its own; scope as in `Part`.
        groups: As in `entries.PublishGrouped`, of all messages; none reaches from one part into the next.
        routes: What of topics' names follows behind the topics, each once.
        session: The session that holds what is settled; 0: none that exists.
        settlements: For each verdict: consumer, verdict, log time at which a nacked message becomes ready again, how
            many ranges of tags, then these, ascending.
        reasons: Why, a text a verdict.
        ids: A hash of 16 bytes for each message, zeros for those whose ids nobody judges; nothing where all are such.
        payload: The batch.
        id_base: As of `entries_of_publishing.Publish`.

    """

    KIND = 33
    CHECKS: ClassVar[tuple[Check, ...]] = (
        number,
        number,
        number,
        unsigned(32),
        unsigned(32),
        numbers(64, multiple_of=PART_NUMBERS),
        numbers(64, multiple_of=GROUP_NUMBERS),
        list_of(text(SUBJECT_BYTES_MAX)),
        number,
        numbers(64),
        list_of(text()),
        binary(ID_BYTES * BATCH_VALUES_MAX),
        number,
    )

    producer: int
    sequence: int
    count: int
    body_bytes: int
    parts: list[int]
    groups: list[int] = dataclasses.field(repr=False)
    routes: list[str]
    session: int
    settlements: list[int]
    reasons: list[str]
    ids: bytes = dataclasses.field(default=b"", repr=False)
    payload: bytes | memoryview = dataclasses.field(default=b"", repr=False)
    id_base: int = dataclasses.field(default=0, kw_only=True)

    @property
    def route(self) -> Routes:
        """The routes of its parts."""
        routes: list[tuple[int, str | None]] = []
        first = 0
        for _target, count, route, _scope in zip(*(iter(self.parts),) * PART_NUMBERS, strict=True):
            routes.append((first, _route(route, self.routes)))
            first += count
        return tuple(routes)

    def split(self) -> list[Part]:
        """Return the parts with their groups.

        Raises:
            ValueError: Parts, groups and count contradict each other; the text says how.

        """
        parts: list[Part] = []
        first = place = 0
        groups = self.groups
        for target, count, route, scope in zip(*(iter(self.parts),) * PART_NUMBERS, strict=True):
            if route not in (0, BY_SUBJECT) and route > len(self.routes):
                raise ValueError(f"a part names a route that is none of the {len(self.routes)}")
            start, left = place, count
            while left > 0 and place < len(groups):
                left -= groups[place]
                place += GROUP_NUMBERS
            if left or not count:
                raise ValueError(f"a part of {count} messages does not end with a group")
            parts.append(Part(target, first, count, groups[start:place], scope))
            first += count
        if first != self.count or place != len(groups):
            raise ValueError(f"parts of {first} messages, but the batch has {self.count}")
        if len(self.ids) not in (0, ID_BYTES * self.count):
            raise ValueError(f"{len(self.ids)} bytes are no ids of {self.count} messages")
        return parts

    def verdicts(self) -> list[Settlement]:
        """Return the settlements.

        Raises:
            ValueError: Their numbers contradict each other; the text says how.

        """
        found: list[Settlement] = []
        flat, place = self.settlements, 0
        while place < len(flat):
            head = flat[place : place + SETTLEMENT_NUMBERS + 1]
            end = place + SETTLEMENT_NUMBERS + 1 + 2 * (head[-1] if len(head) > SETTLEMENT_NUMBERS else len(flat))
            if end > len(flat) or len(found) >= len(self.reasons):
                raise ValueError("settlements and reasons do not add up")
            consumer, verdict, due_ms, _ = head
            tags = flat[place + SETTLEMENT_NUMBERS + 1 : end]
            found.append(Settlement(consumer, verdict, due_ms, tags, self.reasons[len(found)]))
            place = end
        if len(found) != len(self.reasons):
            raise ValueError("settlements and reasons do not add up")
        return found

    def bare(self) -> Transaction:
        """Return the entry without what only its apply needed: for records that are never applied again."""
        return dataclasses.replace(self, groups=[], settlements=[], reasons=[], ids=b"", payload=b"")

    def header(self) -> bytes:
        """Return the header's bytes."""
        return pack(
            self.log_time_ms,
            self.producer,
            self.sequence,
            self.count,
            self.body_bytes,
            self.parts,
            self.groups,
            self.routes,
            self.session,
            self.settlements,
            self.reasons,
            self.ids,
            self.id_base,
        )

    @classmethod
    def from_fields(cls, fields: list[Any], payload: bytes | memoryview) -> Self:
        """Return the entry with these checked *fields*; used by `decode_entry`."""
        return cls(*[*fields[:-1], payload], id_base=fields[-1])


@dataclasses.dataclass(frozen=True, slots=True)
class Prepare(Entry):
    """A batch is stored that nobody sees until a RESOLVE decides: a half message. Its number is this entry's zxid.

    Attributes:
        target: Number of the queue or topic.
        producer: Number of the producer.
        sequence: Its number among all batches of the producer, from 1.
        count: Messages in the batch.
        body_bytes: Bytes of all bodies together.
        destination: The name that it was published to.
        group: Name of the group whose members are asked what became of it.
        check_after_ms: After so many milliseconds of log time they are asked for the first time.
        route: Number of the route that all messages share, from 1, 0 = none, `BY_SUBJECT`: each has its own.
        groups: As in `entries.PublishGrouped`.
        routes: Likewise.
        payload: The batch.
        id_base: As of `entries_of_publishing.Publish`.
        scope: As in `Part`, whether or not there is a window yet: ids are judged when the half message is committed.
        ids: A hash of 16 bytes for each message, as in `Transaction`; nothing where no message has an id.

    """

    KIND = 34
    CHECKS: ClassVar[tuple[Check, ...]] = (
        number,
        number,
        number,
        number,
        unsigned(32),
        unsigned(32),
        text(NAME_BYTES_MAX),
        name_kind,
        unsigned(32),
        unsigned(32),
        numbers(64, multiple_of=GROUP_NUMBERS),
        list_of(text(SUBJECT_BYTES_MAX)),
        number,
        unsigned(32),
        binary(ID_BYTES * BATCH_VALUES_MAX),
    )

    target: int
    producer: int
    sequence: int
    count: int
    body_bytes: int
    destination: str
    group: str
    check_after_ms: int
    shared_route: int
    groups: list[int] = dataclasses.field(repr=False)
    routes: list[str]
    payload: bytes | memoryview = dataclasses.field(default=b"", repr=False)
    id_base: int = dataclasses.field(default=0, kw_only=True)
    scope: int = dataclasses.field(default=0, kw_only=True)
    ids: bytes = dataclasses.field(default=b"", repr=False, kw_only=True)

    @property
    def route(self) -> str | None:
        """The route that all messages share, "" for none; None: each has its own, which is its subject."""
        return _route(self.shared_route, self.routes)

    def bare(self) -> Prepare:
        """Return the entry without what only its apply needed: for records that are never applied again."""
        routes = [] if self.shared_route == BY_SUBJECT else self.routes
        return dataclasses.replace(self, groups=[], routes=routes, ids=b"", payload=b"")

    def header(self) -> bytes:
        """Return the header's bytes."""
        return pack(
            self.log_time_ms,
            self.target,
            self.producer,
            self.sequence,
            self.count,
            self.body_bytes,
            self.destination,
            self.group,
            self.check_after_ms,
            self.shared_route,
            self.groups,
            self.routes,
            self.id_base,
            self.scope,
            self.ids,
        )

    @classmethod
    def from_fields(cls, fields: list[Any], payload: bytes | memoryview) -> Self:
        """Return the entry with these checked *fields*; used by `decode_entry`."""
        *plain, id_base, scope, ids = fields
        return cls(*[*plain, payload], id_base=id_base, scope=scope, ids=ids)


def _route(route: int, routes: list[str]) -> str | None:
    if route == BY_SUBJECT:
        return None
    return routes[route - 1] if 0 < route <= len(routes) else ""


@dataclasses.dataclass(frozen=True, slots=True)
class Resolve(Entry):
    """A half message is decided: it becomes ready, or is gone. The first decision holds."""

    KIND = 35
    CHECKS: ClassVar[tuple[Check, ...]] = (number, number, boolean)

    half: int
    commit: bool

    def header(self) -> bytes:
        """Return the header's bytes."""
        return pack(self.log_time_ms, self.half, self.commit)


@dataclasses.dataclass(frozen=True, slots=True)
class Checked(Entry):
    """These half messages are due to be asked about: somebody is asked now, or they have been asked too often."""

    KIND = 36
    CHECKS: ClassVar[tuple[Check, ...]] = (number, numbers(64))

    halves: list[int]

    def header(self) -> bytes:
        """Return the header's bytes."""
        return pack(self.log_time_ms, self.halves)
