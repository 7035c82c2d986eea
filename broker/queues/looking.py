"""Looks into a queue that change nothing: what would come next, without taking it.

What is skipped is passed by counts, so that a look far into a long queue does not block the others. This module must
not know who looks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sluicemq.broker.queues.chunks import ChunksMissing

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sluicemq.broker.queues.fifo import RunFifo
    from sluicemq.broker.queues.lanes import Lanes
    from sluicemq.broker.queues.runs import Run

PEEK_RUNS = 64
"""Runs that a look into the queue reads at a time."""


def look_through(lanes: Lanes, returned: Iterable[Run], skip: int, count_max: int) -> list[Run]:
    """Return at most *count_max* messages of what is ready, in order, after the first *skip*.

    Raises:
        ChunksMissing: Some of them lie in a chunk that is not in memory.

    """
    found: list[Run] = []
    in_front = list(returned)
    for priority, lane in lanes.items():
        first = [run for run in in_front if run.priority == priority]
        skip, count_max = look_at(first, found, skip, count_max)
        if count_max <= 0:
            break
        if skip >= lane.messages:
            skip -= lane.messages
            continue
        count_max = look_into(lane, found, skip, count_max)
        skip = 0
    return found


def look_at(runs: Iterable[Run], found: list[Run], skip: int, count_max: int) -> tuple[int, int]:
    """Append to *found* what *runs* hold behind the first *skip* messages; return what is left of both numbers."""
    for run in runs:
        if count_max <= 0:
            break
        if skip >= run.size:
            skip -= run.size
            continue
        count_max -= _append_part(found, run, skip, count_max)
        skip = 0
    return skip, count_max


def look_into(lane: RunFifo, found: list[Run], skip: int, count_max: int) -> int:
    """Append to *found* what *lane* holds behind the first *skip* messages; return how many are still wanted.

    Raises:
        ChunksMissing: Some of them lie in a chunk that is not in memory.

    """
    ordinal, inside = lane.find(skip)
    while count_max > 0:
        runs = lane.read(ordinal, min(count_max, PEEK_RUNS))
        if not runs:
            missing = lane.missing(ordinal, 1)
            if missing:
                raise ChunksMissing(missing)
            break
        ordinal = lane.read_ordinal
        inside, count_max = look_at(runs, found, inside, count_max)
    return count_max


def _append_part(found: list[Run], run: Run, skip: int, count_max: int) -> int:
    """Append at most *count_max* messages of *run* after its first *skip* to *found*; return how many."""
    if skip:
        run = run.split(skip)[1]
    if run.size > count_max:
        run = run.split(count_max)[0]
    found.append(run)
    return run.size
