"""Reading through a queue's index from any place on, page by page, while it changes: whoever browses holds nothing.

A place is where a run became ready; rows lie in that order. This module must not know who looks, nor what for.
"""

from __future__ import annotations

from bisect import bisect_left
from functools import partial
from typing import TYPE_CHECKING

from sluicemq.broker.queues.chunks import RUN_BYTES, ChunksMissing, ready_at

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sluicemq.broker.queues.fifo import RunFifo
    from sluicemq.broker.queues.queue import Queue
    from sluicemq.broker.queues.runs import Run


def ordinal_from(lane: RunFifo, ready: int) -> int:
    """Return the ordinal of the first row whose run became ready with the entry *ready*, or later.

    Raises:
        ChunksMissing: It lies in a chunk that is not in memory.

    """
    found = lane.head
    for base, rows, chunk in lane.parts_of(ready):
        if rows is None:
            raise ChunksMissing([chunk] if chunk is not None else [])
        count = len(rows) // RUN_BYTES
        row = bisect_left(range(count), ready, key=partial(ready_at, rows))
        found = base + row
        if row < count:
            break
    return max(found, lane.head)


def read_rows(lane: RunFifo, ordinal: int, runs_max: int) -> tuple[list[Run], int, Sequence[int]]:
    """Return at most *runs_max* runs from *ordinal* on, the ordinal behind them (at the end the same), and their own.

    Raises:
        ChunksMissing: The first of them lies in a chunk that is not in memory.

    """
    before = lane.read_ordinal
    ordinals, runs = lane.read_with_ordinals(ordinal, runs_max)
    following = max(lane.read_ordinal, ordinal)
    lane.read_ordinal = before  # who looks is no reader for whom chunks are kept in memory
    if not runs and (missing := lane.missing(ordinal, 1)):
        raise ChunksMissing(missing)
    return runs, following, ordinals


def read_leases(
    queue: Queue, place: tuple[int, int, int], runs_max: int
) -> tuple[list[tuple[tuple[int, int, int], Run]], tuple[int, int, int] | None]:
    """Return at most *runs_max* leased runs from *place* on, each with its own, and the next place (None: the end).

    A place is (session, consumer, tag); (0, 0, 0) lies before all.
    """
    found: list[tuple[tuple[int, int, int], Run]] = []
    for holder in sorted(queue.leases):
        if holder < place[:2]:
            continue
        from_tag = place[2] if holder == place[:2] else 0
        for first_tag, run, _ in queue.leases[holder].pieces(from_tag):
            if first_tag + run.size <= from_tag:
                continue
            if len(found) == runs_max:
                return found, (*holder, first_tag)
            if first_tag < from_tag:
                first_tag, run = from_tag, run.split(from_tag - first_tag)[1]
            found.append(((*holder, first_tag), run))
    return found, None
