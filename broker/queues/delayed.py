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

    from sluicemq.broker.queues.runs import FifoImage

# What every queue without delayed runs refers to, never changed: an index of one's own takes 1,600 bytes.
_NOTHING: SortedDict[int, RunFifo] = SortedDict()


class FrozenDelayed:
    """The delayed runs of one queue as they were at one moment: each bucket is copied when it is first touched."""

    __slots__ = ("_buckets", "_copies", "_due")

    def __init__(self, due: list[int], buckets: list[RunFifo]) -> None:
        self._due = due
        self._buckets = buckets
        self._copies: dict[int, FifoImage] = {}

    def keep(self, due_ms: int, bucket: RunFifo) -> None:
        """Copy the bucket of *due_ms*, which is about to change, unless that was done."""
        if self._buckets and due_ms not in self._copies:
            self._copies[due_ms] = bucket.image()

    def take(self) -> Iterator[tuple[int, FifoImage]]:
        """Yield each bucket with its due time, in any order, and keep nothing then; time may pass between two."""
        for due_ms, bucket in zip(self._due, self._buckets, strict=True):
            copy = self._copies.pop(due_ms) if due_ms in self._copies else bucket.image()
            yield due_ms, copy
        self.let_go()

    def let_go(self) -> None:
        """Keep nothing, now and later."""
        self._due = []
        self._buckets = []
        self._copies = {}


class DelayedRuns:
    """The delayed runs of one queue.

    Attributes:
        messages: Messages in all of them.

    """

    __slots__ = ("_buckets", "_frozen", "messages")

    def __init__(self) -> None:
        self.messages = 0
        self._frozen: FrozenDelayed | None = None
        self._buckets = _NOTHING

    @property
    def next_due_ms(self) -> int | None:
        """When the first of them is due, in log time; None when there are none."""
        return self._buckets.peekitem(0)[0] if self._buckets else None

    def add(self, due_ms: int, runs: list[Run]) -> None:
        """Let *runs* wait until *due_ms*."""
        bucket = self._buckets.get(due_ms)
        if bucket is None:
            if self._buckets is _NOTHING:
                self._buckets = SortedDict()
            bucket = self._buckets[due_ms] = RunFifo()
        elif self._frozen is not None:
            self._frozen.keep(due_ms, bucket)
        before = bucket.messages
        bucket.extend(runs)
        self.messages += bucket.messages - before

    def take_due(self, runs_max: int) -> list[Run]:
        """Take at most *runs_max* runs out of the first bucket."""
        due_ms, bucket = self._buckets.peekitem(0)
        if self._frozen is not None:
            self._frozen.keep(due_ms, bucket)
        before = bucket.messages
        runs: list[Run] = bucket.read(bucket.head, runs_max)
        bucket.consume(len(runs), sum(run.size for run in runs))
        self.messages -= before - bucket.messages
        if not bucket:
            del self._buckets[due_ms]
        return runs

    def frozen(self) -> FrozenDelayed | None:
        """Return the runs as they are now; None when there are none."""
        if not self._buckets:
            return None
        # Unordered, and no tuples: 1 ms for 100,000 buckets.
        self._frozen = FrozenDelayed(list(dict.keys(self._buckets)), list(dict.values(self._buckets)))
        return self._frozen

    def restore(self, due_ms: int, bucket: RunFifo) -> None:
        """Add a bucket from an image."""
        if self._buckets is _NOTHING:
            self._buckets = SortedDict()
        self._buckets[due_ms] = bucket
        self.messages += bucket.messages

    def __iter__(self) -> Iterator[tuple[int, RunFifo]]:
        return iter(self._buckets.items())
