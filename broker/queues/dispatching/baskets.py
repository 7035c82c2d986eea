"""What one pick takes: runs up to a number of messages and bytes, cut no more than must be.

This module must not know consumers or queues.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sluicemq.broker.queues.runs import Run

GRANT_RUNS_MAX = 1_024
"""Most runs of one pick. Finding the bodies of one, and packing its numbers, takes some microseconds a run, and nobody
else is served meanwhile: picks of 4,096 single messages were the longest turns while ten million of them drained."""
WHOLE_RUN_BYTES_MAX = 4 * 1024 * 1024
"""A run of no more bytes is not cut for the sake of one pick's limits."""


class Basket:
    """Collects runs up to a number of messages and bytes; one message is always taken.

    The maxima bound one pick; what is to spare is what credit allows beyond them, for the next. So a run that only this
    pick has no room for is left whole.

    Args:
        messages_max: Most messages.
        bytes_max: Most bytes, about.
        spare_messages: How many messages more the consumer's credit allows.
        spare_bytes: How many bytes more.

    Attributes:
        runs: What is in it.
        messages: Their messages.
        bytes: About their bytes.
        open: Whether more can be added.

    """

    __slots__ = ("bytes", "bytes_left", "messages", "messages_left", "open", "runs", "spare_bytes", "spare_messages")

    def __init__(self, messages_max: int, bytes_max: int, spare_messages: int, spare_bytes: int) -> None:
        self.runs: list[Run] = []
        self.messages = 0
        self.bytes = 0
        self.messages_left = messages_max
        self.bytes_left = bytes_max
        self.spare_messages = spare_messages
        self.spare_bytes = spare_bytes
        self.open = messages_max > 0

    def add(self, run: Run) -> Run | None:
        """Add as much of *run* as has room; return the rest, all of it at worst."""
        size = run[3]
        cost = run[5] if size == run[4] else run.bytes_of(size)
        if size <= self.messages_left and cost <= self.bytes_left:
            rest = None
        elif (
            self.runs
            and size <= self.messages_left + self.spare_messages
            and cost <= self.bytes_left + self.spare_bytes
        ):
            # Credit has room for all of it, only this pick has not: cutting a batch costs decoding and packing it.
            self.open = False
            return run
        elif size <= self.messages_left and cost <= min(self.bytes_left + self.spare_bytes, WHOLE_RUN_BYTES_MAX):
            rest = None
        else:
            count = min(size, self.messages_left)
            if run.bytes_of(count) > self.bytes_left:
                count = max(self.bytes_left, 0) * run.batch_count // run.batch_bytes
                if count == 0:
                    if self.runs:
                        self.open = False
                        return run
                    count = 1
            if count < size:
                run, rest = run.split(count)
                size = count
                self.open = False
            else:
                rest = None
            cost = run.bytes_of(size)
        self.runs.append(run)
        self.messages += size
        self.bytes += cost
        self.messages_left -= size
        self.bytes_left -= cost
        if self.messages_left <= 0 or self.bytes_left <= 0 or len(self.runs) >= GRANT_RUNS_MAX:
            self.open = False
        return rest
