"""Entries of topics and of schedules: subscriptions, what they catch up with, and messages that are sent repeatedly.

Shapes and numbers only, as in `entries`; what they do to the machine stands in `applying`.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, Self

from sluicemq.broker.queues.entry import Entry, name, number, pack
from sluicemq.wire.fields import Check, boolean, map_of_text, numbers, text, unsigned


@dataclasses.dataclass(frozen=True, slots=True)
class Subscribe(Entry):
    """A queue shall exist that gets what is published to a topic, as far as it matches a pattern.

    Attributes:
        vhost: Vhost of both.
        topic: The topic's name.
        pattern: Which messages, by what of their names follows behind the topic's: dotted words, `*` for one of them,
            `#` for any number; empty: those that are published to the topic itself.
        name: Name of the subscription, which is a queue; empty: one is made.
        settings: Settings of that queue.
        session: Session with which it ends; 0: it stays.
        start: Which messages first: a `START_*`.
        start_zxid: The position at which it begins.
        start_index: Index within that batch.

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
    start_zxid: int = 0
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
            self.start_zxid,
            self.start_index,
        )


START_NOW = 0
"""With what is published from now on."""
START_BEGINNING = 1
"""With the oldest message that the topic retains."""
START_POSITION = 2
"""With the first message at or behind the position; a leader makes one of a time."""


@dataclasses.dataclass(frozen=True, slots=True)
class Unsubscribe(Entry):
    """A subscription goes, with its messages. *queue* is its number, as in DELETE."""

    KIND = 27
    VERSION = 2
    CHECKS: ClassVar[tuple[Check, ...]] = (number, name, text(), number)

    vhost: str
    name: str
    queue: int = 0

    def header(self) -> bytes:
        """Return the header's bytes."""
        return pack(self.log_time_ms, self.vhost, self.name, self.queue)


FILL_NUMBERS = 9
"""Integers a run of `Fill`."""


@dataclasses.dataclass(frozen=True, slots=True)
class Fill(Entry):
    """A subscription gets a piece of what its topic retains, or of what was held back meanwhile.

    Attributes:
        subscription: Number of the queue.
        from_zxid: Where the piece begins; another one than expected is refused, so that none comes twice.
        from_index: Index within that batch.
        runs: What matches of this piece, in order, `FILL_NUMBERS` a run: zxid, first index, count, messages and bytes
            of the whole batch, log time of its publishing, log time at which the messages expire (0 = never),
            priority, crc32c of the key (0 = none).
        next_zxid: Where the next piece begins.
        next_index: Index within that batch.
        done: Whether nothing from before the subscription is left.

    """

    KIND = 28
    CHECKS: ClassVar[tuple[Check, ...]] = (
        number,
        number,
        number,
        unsigned(32),
        numbers(64, multiple_of=FILL_NUMBERS),
        number,
        unsigned(32),
        boolean,
    )

    subscription: int
    from_zxid: int
    from_index: int
    runs: list[int]
    next_zxid: int
    next_index: int
    done: bool

    def header(self) -> bytes:
        """Return the header's bytes."""
        return pack(
            self.log_time_ms,
            self.subscription,
            self.from_zxid,
            self.from_index,
            self.runs,
            self.next_zxid,
            self.next_index,
            self.done,
        )


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
        catch_up: What becomes of times that were missed: `one`, `all` or `none` of them is published.
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
        text(16),
    )

    vhost: str
    name: str
    cron: str
    timezone: str
    destination: str
    count: int
    body_bytes: int
    next_due_ms: int
    catch_up: str
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
            self.catch_up,
        )

    @classmethod
    def from_fields(cls, fields: list[Any], payload: bytes | memoryview) -> Self:
        """Return the entry with these checked *fields*; used by `decode_entry`."""
        entry = cls(*fields)
        return dataclasses.replace(entry, payload=payload)


@dataclasses.dataclass(frozen=True, slots=True)
class Fire(Entry):
    """A schedule moves on to its next time, after its batch was published or could not be.

    Attributes:
        schedule: Number of the schedule: the zxid of its entry.
        due_ms: Which time this was, as the schedule knows it; another one is passed over, so that none counts twice.
        next_due_ms: The time after it.
        published: Whether the batch was published, 1 or 0.
        problem: Why it was refused; "" where it was not, or where nobody tried.

    """

    KIND = 32
    CHECKS: ClassVar[tuple[Check, ...]] = (number, number, number, number, unsigned(8), text())

    schedule: int
    due_ms: int
    next_due_ms: int
    published: int
    problem: str = ""

    def header(self) -> bytes:
        """Return the header's bytes."""
        return pack(self.log_time_ms, self.schedule, self.due_ms, self.next_due_ms, self.published, self.problem)
