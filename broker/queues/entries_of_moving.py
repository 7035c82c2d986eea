"""MOVE: messages that an operator chose go to another queue, are copied there, or are dropped.

Shape and numbers only, as in `entries`; what it does to the machine stands in `applying.moving`.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from sluicemq.broker.queues.entry import Entry, number, pack
from sluicemq.wire.fields import Check, boolean, numbers, unsigned

READY, DEAD = 0, 1
"""Where the messages are: among those that are ready, or among the dead letters that lie aside."""


@dataclasses.dataclass(frozen=True, slots=True)
class Move(Entry):
    """Chosen messages leave a queue, or are copied, as far as they are still where they were chosen.

    Attributes:
        producer: Number under which the operator's requests are counted, so that one that is sent twice is done once.
        sequence: Number of this one among them, from 1.
        queue: Where the messages are.
        to: Number of the queue that they go to; 0: nowhere, they are dropped.
        keep: Whether they stay where they are as well.
        state: `READY` or `DEAD`.
        runs: Places: `[ready, zxid, first index, count, ...]`, neighbours within one run each.

    """

    KIND = 54
    CHECKS: ClassVar[tuple[Check, ...]] = (
        number,
        number,
        number,
        number,
        number,
        boolean,
        unsigned(8),
        numbers(64, multiple_of=4),
    )

    producer: int
    sequence: int
    queue: int
    to: int
    keep: bool
    state: int
    runs: list[int]

    def header(self) -> bytes:
        """Return the header's bytes."""
        return pack(
            self.log_time_ms,
            self.producer,
            self.sequence,
            self.queue,
            self.to,
            self.keep,
            self.state,
            self.runs,
        )
