"""PUBLISH: the entry that holds messages, in as many versions as there is to say about them.

This module must not know what becomes of the messages. How a header becomes bytes stands in `entry`; all entries are
gathered in `entries`, whose docstring says what they have in common.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, Self

from sluicemq.broker.queues.entry import GROUP_NUMBERS, Entry, number, pack
from sluicemq.wire.batch import SUBJECT_BYTES_MAX
from sluicemq.wire.columns import BATCH_VALUES_MAX
from sluicemq.wire.fields import Check, binary, list_of, numbers, optional, text, unsigned

COMMON_FIELDS = 8
"""What the headers of all versions begin with: the log's time to the id base."""


@dataclasses.dataclass(frozen=True, slots=True)
class Publish(Entry):
    """One batch for one queue; the payload is the batch as the client built it.

    Attributes:
        queue: Number of the queue.
        producer: Number of the producer.
        sequence: Number of the batch among all of the producer, from 1.
        count: Messages in the batch.
        body_bytes: Bytes of all bodies together.
        origin: Where a mirrored batch came from: (cluster id, position); None for all others.
        payload: The batch.
        id_base: Id of the first message, for those without an id of their own, see `wire.message_ids`; 0: they have
            none.

    """

    KIND = 6
    CHECKS: ClassVar[tuple[Check, ...]] = (
        number,
        number,
        number,
        number,
        unsigned(32),
        unsigned(32),
        optional(binary()),
        number,
    )

    queue: int
    producer: int
    sequence: int
    count: int
    body_bytes: int
    origin: bytes | None = None
    payload: bytes | memoryview = dataclasses.field(default=b"", repr=False)
    id_base: int = dataclasses.field(default=0, kw_only=True)

    @property
    def payload_bytes(self) -> int:
        """Bytes of the batch."""
        return len(self.payload)

    @property
    def route(self) -> str | None:
        """The route that all messages share, "" for none; None: each has its own, which is its subject."""
        return ""

    def header(self) -> bytes:
        """Return the header's bytes."""
        return pack(*self.fields())

    def fields(self) -> tuple[Any, ...]:
        """Return what the header says, in the order of `CHECKS`; a later version adds to it at the end."""
        return (
            self.log_time_ms,
            self.queue,
            self.producer,
            self.sequence,
            self.count,
            self.body_bytes,
            self.origin,
            self.id_base,
        )

    @classmethod
    def from_fields(cls, fields: list[Any], payload: bytes | memoryview) -> Self:
        """Return the entry with these checked *fields*; used by `decode_entry`."""
        log_time_ms, queue, producer, sequence, count, body_bytes, origin, base = fields[:COMMON_FIELDS]
        common = log_time_ms, queue, producer, sequence, count, body_bytes, origin, payload
        return cls(*common, *fields[COMMON_FIELDS:], id_base=base)


@dataclasses.dataclass(frozen=True, slots=True)
class PublishGrouped(Publish):
    """A batch whose messages differ in when, for how long, how soon, in what order or where they are delivered.

    What the leader read in the batch's columns, so that nobody who applies it has to. A batch without any of this is a
    `Publish`.

    Attributes:
        groups: Neighbouring messages that share all of it, `GROUP_NUMBERS` a group: how many; log time at which they
            are due, 0 = at once; for how many milliseconds from then on, 0 = for ever; priority, 0 to 9; crc32c of the
            key, 0 = none; number of the route in *routes*, from 1, 0 = none. Together they are *count* messages.
        routes: What of a topic's name follows behind the topic, each once.

    """

    VERSION = 2
    CHECKS: ClassVar[tuple[Check, ...]] = (
        *Publish.CHECKS,
        numbers(64, multiple_of=GROUP_NUMBERS),
        list_of(text(SUBJECT_BYTES_MAX)),
    )

    groups: list[int] = dataclasses.field(default_factory=list, repr=False)
    routes: list[str] = dataclasses.field(default_factory=list, repr=False)

    @property
    def route(self) -> str | None:
        """The route that all messages share, "" for none; None: each has its own, which is its subject."""
        return shared_route(self.groups, self.routes)

    def fields(self) -> tuple[Any, ...]:
        """Return what the header says, in the order of `CHECKS`."""
        return *Publish.fields(self), self.groups, self.routes


@dataclasses.dataclass(frozen=True, slots=True)
class PublishIdentified(PublishGrouped):
    """A batch whose messages have ids of their own, for a queue or topic that looks out for duplicates.

    Attributes:
        scope: Within what the ids are unique, as the leader took it when it made the hashes: a place in
            `wire.settings.DEDUP_SCOPES`.
        ids: A hash of 16 bytes for each message, zeros for one without an id.

    """

    VERSION = 3
    CHECKS: ClassVar[tuple[Check, ...]] = (*PublishGrouped.CHECKS, unsigned(8), binary(16 * BATCH_VALUES_MAX))

    scope: int = 0
    ids: bytes = dataclasses.field(default=b"", repr=False)

    def fields(self) -> tuple[Any, ...]:
        """Return what the header says, in the order of `CHECKS`."""
        return *PublishGrouped.fields(self), self.scope, self.ids


def shared_route(groups: list[int], routes: list[str]) -> str | None:
    """Return the route that all of *groups* share, "" for none; None where they have several."""
    route_numbers = set(groups[GROUP_NUMBERS - 1 :: GROUP_NUMBERS])
    if len(route_numbers) > 1:
        return None
    shared = route_numbers.pop() if route_numbers else 0
    return routes[shared - 1] if shared else ""
