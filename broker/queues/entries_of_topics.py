"""Entries of topics and of schedules: subscriptions, what they catch up with, and messages that are sent repeatedly.

Shapes and numbers only, as in `entries`; what they do to the machine stands in `applying`.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, Self

from sluicemq.broker.queues.entry import GROUP_NUMBERS, Entry, name, number, pack
from sluicemq.wire.batch import SUBJECT_BYTES_MAX
from sluicemq.wire.fields import Check, boolean, list_of, map_of_text, numbers, text, unsigned


@dataclasses.dataclass(frozen=True, slots=True)
class Subscribe(Entry):
    """A queue shall exist that gets what is published to a topic, as far as it matches a pattern.

    Attributes:
        vhost: Vhost of both.
        topic: The topic's name.
        pattern: Which messages: dotted words, `*` for one of them, `#` for any number; empty: all.
        name: Name of the subscription, which is a queue.
        settings: Settings of that queue.
        session: Session with which it ends; 0: it stays.
        start: Which messages first: a `START_*`.
        start_at: What belongs to it: a time, or the zxid of a position.
        start_index: Index within the batch at which a start by position begins.

    """

    KIND = 26
    CHECKS: ClassVar[tuple[Check, ...]] = (
        number,
        name,
        text(),
        text(),
        text(),
        map_of_text,
        number,
        unsigned(8),
        number,
        unsigned(32),
    )

    vhost: str
    topic: str
    pattern: str
    name: str
    settings: dict[str, Any]
    session: int = 0
    start: int = 0
    start_at: int = 0
    start_index: int = 0

    def header(self) -> bytes:
        """Return the header's bytes."""
        return pack(
            self.log_time_ms,
            self.vhost,
            self.topic,
            self.pattern,
            self.name,
            self.settings,
            self.session,
            self.start,
            self.start_at,
            self.start_index,
        )


START_NOW = 0
START_BEGINNING = 1
START_TIME = 2
"""`start_at` is a log time in milliseconds."""
START_POSITION = 3
"""`start_at` is a zxid, and `start_index` the index within its batch."""


@dataclasses.dataclass(frozen=True, slots=True)
class Unsubscribe(Entry):
    """A subscription goes, with its messages."""

    KIND = 27
    CHECKS: ClassVar[tuple[Check, ...]] = (number, name, text())

    vhost: str
    name: str

    def header(self) -> bytes:
        """Return the header's bytes."""
        return pack(self.log_time_ms, self.vhost, self.name)


@dataclasses.dataclass(frozen=True, slots=True)
class Fill(Entry):
    """A subscription gets a piece of what its topic retains.

    Attributes:
        subscription: Number of the queue.
        runs: What matches of this piece, `[zxid, first index, count, ...]`, in order.
        next_zxid: Where the next piece begins.
        next_index: Index within that batch.
        done: Whether nothing is left: from now on it gets what is published.

    """

    KIND = 28
    CHECKS: ClassVar[tuple[Check, ...]] = (
        number,
        number,
        numbers(64, multiple_of=3),
        number,
        unsigned(32),
        boolean,
    )

    subscription: int
    runs: list[int]
    next_zxid: int
    next_index: int
    done: bool

    def header(self) -> bytes:
        """Return the header's bytes."""
        return pack(self.log_time_ms, self.subscription, self.runs, self.next_zxid, self.next_index, self.done)


@dataclasses.dataclass(frozen=True, slots=True)
class Schedule(Entry):
    """A batch is to be published again and again; the payload is the batch.

    Attributes:
        vhost: Vhost of schedule and destination.
        name: The schedule's name; another one of that name is replaced.
        cron: When, in five or six fields; empty: the schedule is dropped.
        timezone: Name of the time zone by which *cron* is read.
        destination: Name of the queue or topic.
        count: Messages in the batch.
        body_bytes: Bytes of all bodies together.
        next_due_ms: Log time of the first time.
        payload: The batch.

    """

    KIND = 31
    CHECKS: ClassVar[tuple[Check, ...]] = (
        number,
        name,
        text(),
        text(),
        text(),
        text(),
        unsigned(32),
        unsigned(32),
        number,
    )

    vhost: str
    name: str
    cron: str
    timezone: str
    destination: str
    count: int
    body_bytes: int
    next_due_ms: int
    payload: bytes | memoryview = dataclasses.field(default=b"", repr=False)

    def header(self) -> bytes:
        """Return the header's bytes."""
        return pack(
            self.log_time_ms,
            self.vhost,
            self.name,
            self.cron,
            self.timezone,
            self.destination,
            self.count,
            self.body_bytes,
            self.next_due_ms,
        )

    @classmethod
    def from_fields(cls, fields: list[Any], payload: bytes | memoryview) -> Self:
        """Return the entry with these checked *fields*; used by `decode_entry`."""
        entry = cls(*fields)
        return dataclasses.replace(entry, payload=payload)


@dataclasses.dataclass(frozen=True, slots=True)
class Fire(Entry):
    """The batch of a schedule is published; the payload is a copy of it, and what follows is as in `PublishGrouped`.

    Attributes:
        schedule: Number of the schedule: the zxid of its entry.
        due_ms: Which time this is, as the schedule knows it; another one is refused, so that none is published twice.
        next_due_ms: The time after it.
        queue: Number of the destination.
        count: Messages in the batch.
        body_bytes: Bytes of all bodies together.
        groups: See `PublishGrouped`; empty: all of them at once, for ever, with priority 0.
        routes: See `PublishGrouped`.
        payload: The batch.

    """

    KIND = 32
    CHECKS: ClassVar[tuple[Check, ...]] = (
        number,
        number,
        number,
        number,
        number,
        unsigned(32),
        unsigned(32),
        numbers(64, multiple_of=GROUP_NUMBERS),
        list_of(text(SUBJECT_BYTES_MAX)),
    )

    schedule: int
    due_ms: int
    next_due_ms: int
    queue: int
    count: int
    body_bytes: int
    groups: list[int] = dataclasses.field(default_factory=list, repr=False)
    routes: list[str] = dataclasses.field(default_factory=list, repr=False)
    payload: bytes | memoryview = dataclasses.field(default=b"", repr=False)

    def header(self) -> bytes:
        """Return the header's bytes."""
        return pack(
            self.log_time_ms,
            self.schedule,
            self.due_ms,
            self.next_due_ms,
            self.queue,
            self.count,
            self.body_bytes,
            self.groups,
            self.routes,
        )

    @classmethod
    def from_fields(cls, fields: list[Any], payload: bytes | memoryview) -> Self:
        """Return the entry with these checked *fields*; used by `decode_entry`."""
        entry = cls(*fields)
        return dataclasses.replace(entry, payload=payload)
