"""Messages that wait for their time: buckets of runs by due time.

Nacks of one millisecond share a bucket, and within a bucket runs keep the order in which they came; so a bucket is a
`RunFifo` and a delayed run costs the same 44 bytes as a ready one. This module must not know clocks: what is due, it
is told.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sortedcontainers import SortedDict

from sluicemq.broker.queues.runs import Run, RunFifo

if TYPE_CHECKING:
    from collections.abc import Iterator


class DelayedRuns:
    """The delayed runs of one queue.

    Attributes:
        messages: Messages in all of them.

    """

    __slots__ = ("_buckets", "messages")

    def __init__(self) -> None:
        self.messages = 0
        self._buckets: SortedDict[int, RunFifo] = SortedDict()

    @property
    def next_due_ms(self) -> int | None:
        """When the first of them is due, in log time; None when there are none."""
        return self._buckets.peekitem(0)[0] if self._buckets else None

    def add(self, due_ms: int, runs: list[Run]) -> None:
        """Let *runs* wait until *due_ms*."""
        bucket = self._buckets.get(due_ms)
        if bucket is None:
            bucket = self._buckets[due_ms] = RunFifo()
        before = bucket.messages
        bucket.extend(runs)
        self.messages += bucket.messages - before

    def take_due(self, runs_max: int) -> list[Run]:
        """Take at most *runs_max* runs out of the first bucket."""
        due_ms, bucket = self._buckets.peekitem(0)
        before = bucket.messages
        runs: list[Run] = bucket.read(bucket.head, runs_max)
        bucket.consume(len(runs), sum(run.size for run in runs))
        self.messages -= before - bucket.messages
        if not bucket:
            del self._buckets[due_ms]
        return runs

    def __iter__(self) -> Iterator[tuple[int, RunFifo]]:
        return iter(self._buckets.items())
