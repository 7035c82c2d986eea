"""Entries by which operators change queues and their messages: pauses, delayed messages, dead letters, policies.

Shapes and numbers only, as in `entries`; what they do to the machine stands in `applying`. Runs are flat lists of four
integers a run: when it is due (a delayed one) or its place `ready` (a dead letter), zxid, first index, count.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

from sluicemq.broker.queues.entry import Entry, name, number, pack
from sluicemq.wire.fields import Check, map_of_text, numbers, text, unsigned

_runs = numbers(64, multiple_of=4)


@dataclasses.dataclass(frozen=True, slots=True)
class Alter(Entry):
    """Something about a queue or topic that is no setting: paused or not, a key parked or not.

    Attributes:
        vhost: Its vhost.
        object_kind: "queue" or "topic".
        name: Its name.
        changes: `pause_publish` and `pause_deliver` to true or false, `park` and `unpark` to lists of keys' numbers.

    """

    KIND = 21
    CHECKS: ClassVar[tuple[Check, ...]] = (number, name, text(16), text(), map_of_text)

    vhost: str
    object_kind: str
    name: str
    changes: dict[str, Any]

    def header(self) -> bytes:
        """Return the header's bytes."""
        return pack(self.log_time_ms, self.vhost, self.object_kind, self.name, self.changes)


@dataclasses.dataclass(frozen=True, slots=True)
class Cancel(Entry):
    """Delayed messages go. Runs begin with the time at which they are due."""

    KIND = 22
    CHECKS: ClassVar[tuple[Check, ...]] = (number, number, _runs)

    queue: int
    runs: list[int]

    def header(self) -> bytes:
        """Return the header's bytes."""
        return pack(self.log_time_ms, self.queue, self.runs)


@dataclasses.dataclass(frozen=True, slots=True)
class Reschedule(Entry):
    """Delayed messages are due at *due_ms* instead. Runs begin with the time at which they were due."""

    KIND = 23
    CHECKS: ClassVar[tuple[Check, ...]] = (number, number, _runs, number)

    queue: int
    runs: list[int]
    due_ms: int

    def header(self) -> bytes:
        """Return the header's bytes."""
        return pack(self.log_time_ms, self.queue, self.runs, self.due_ms)


@dataclasses.dataclass(frozen=True, slots=True)
class Redrive(Entry):
    """Dead letters become ready: in the queue *to*, or, where that is 0, in the one from which each came."""

    KIND = 24
    CHECKS: ClassVar[tuple[Check, ...]] = (number, number, _runs, number)

    queue: int
    runs: list[int]
    to: int

    def header(self) -> bytes:
        """Return the header's bytes."""
        return pack(self.log_time_ms, self.queue, self.runs, self.to)


@dataclasses.dataclass(frozen=True, slots=True)
class Discard(Entry):
    """Dead letters go, because an operator says so."""

    KIND = 25
    CHECKS: ClassVar[tuple[Check, ...]] = (number, number, _runs)

    queue: int
    runs: list[int]

    def header(self) -> bytes:
        """Return the header's bytes."""
        return pack(self.log_time_ms, self.queue, self.runs)


@dataclasses.dataclass(frozen=True, slots=True)
class Policy(Entry):
    """Settings for all queues whose names match a pattern and that were declared without them.

    Attributes:
        vhost: Whose queues.
        name: The policy's name; another one of that name is replaced.
        pattern: Which queues: dotted words, `*` for one of them, `#` for any number.
        order: Of several policies that match, the one with the largest order holds.
        settings: Settings of queues; none at all: the policy is dropped.

    """

    KIND = 29
    CHECKS: ClassVar[tuple[Check, ...]] = (number, name, text(), text(), unsigned(32), map_of_text)

    vhost: str
    name: str
    pattern: str
    order: int
    settings: dict[str, Any]

    def header(self) -> bytes:
        """Return the header's bytes."""
        return pack(self.log_time_ms, self.vhost, self.name, self.pattern, self.order, self.settings)


@dataclasses.dataclass(frozen=True, slots=True)
class ExpireQueue(Entry):
    """A queue goes because nobody used it, if that still holds: its last use was at *unused_since_ms*."""

    KIND = 30
    CHECKS: ClassVar[tuple[Check, ...]] = (number, number, number)

    queue: int
    unused_since_ms: int

    def header(self) -> bytes:
        """Return the header's bytes."""
        return pack(self.log_time_ms, self.queue, self.unused_since_ms)


@dataclasses.dataclass(frozen=True, slots=True)
class MarkUsed(Entry):
    """Somebody uses these *queues*, which expire, or did until now: what only their leader sees."""

    KIND = 60
    CHECKS: ClassVar[tuple[Check, ...]] = (number, numbers(64))

    queues: list[int]

    def header(self) -> bytes:
        """Return the header's bytes."""
        return pack(self.log_time_ms, self.queues)
