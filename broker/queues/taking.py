"""Many runs leave an index of ready runs at once, from anywhere in it, at the cost of a few.

A queue that is ordered by key hands out messages whose neighbours must wait: each is a run of its own, and most lie
close behind each other. To look for each of them, and to note each hole, cost ten times as much. What was dropped in
part since it was chosen leaves in the parts that are left (`take_left`). This module must not know queues or leases.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sluicemq.broker.queues.chunks import FIRST_WORD, ROW, RUN_BYTES, column
from sluicemq.broker.queues.runs import Run, first_of, messages_in

if TYPE_CHECKING:
    from collections.abc import Callable, Container

    from sluicemq.broker.queues.fifo import RunFifo
    from sluicemq.broker.queues.lanes import Lanes
    from sluicemq.broker.queues.returned import ReturnedRuns

NEAR_ROWS = 128
"""So many rows are looked at for the next run that is wanted, before it is looked for by its place."""


def take_rows(fifo: RunFifo, flat: list[int], position: int, elsewhere: Container[tuple[int, int]]) -> list[Run]:
    """Take runs out that `[ready, zxid, first, count, ...]` names from *position* on, as long as that is cheap.

    It is where each lies behind the one before, in one chunk and not far from it, and is wanted whole. What
    `RunFifo.missing_place` names was filled before.

    Args:
        fifo: Where they lie.
        flat: What is wanted.
        position: Where in *flat* to begin.
        elsewhere: Messages, by zxid and index, that are not meant where they lie here.

    Returns:
        The runs; none where the first one is not like that.

    """
    ordinal = fifo.find_place((flat[position], flat[position + 1], flat[position + 2]))
    if ordinal is None or (ordinal == fifo.head and fifo._front is not None):
        return []
    base, _ = fifo._part(ordinal)
    rows, bits = fifo._rows(base), fifo._bits(base)
    assert rows is not None, "the chunk of a run that is wanted is in memory"
    taken: list[Run] = []
    mask = 0
    row = ordinal - base
    while position < len(flat):
        firsts = column(rows, row, FIRST_WORD, row + NEAR_ROWS)
        at = behind = 0
        while position < len(flat):
            try:
                at = firsts.index(flat[position + 2], at)
            except ValueError:
                break
            run = Run._make(ROW.unpack_from(rows, (row + at) * RUN_BYTES))
            at += 1
            if run[0] == flat[position + 1] and run[1] == flat[position]:
                bit = 1 << (row + at - 1)
                if run[3] != flat[position + 3] or bits & bit or (run[0], run[2]) in elsewhere:
                    position = len(flat)
                    break
                taken.append(run)
                mask |= bit
                position += 4
                behind = at
        if not behind:
            break
        row += behind
    if taken:
        _leave(fifo, base, mask, taken)
    return taken


def _leave(fifo: RunFifo, base: int, mask: int, taken: list[Run]) -> None:
    """Let the rows in *mask* of the chunk that begins with the ordinal *base*, which are *taken*, leave."""
    front = fifo.head - base
    if front < 0 or not mask >> front & 1:
        fifo._punch(base, mask, messages_in(taken))
    elif mask >> front == (1 << len(taken)) - 1:
        fifo.consume(len(taken), messages_in(taken))
    else:
        fifo._punch(base, mask & ~(1 << front), messages_in(taken[1:]))
        fifo.consume(1, taken[0].size)


def take_left(
    lanes: Lanes, returned: ReturnedRuns, place: list[int], take: Callable[[int, int, int, int], Run | None]
) -> list[Run | int]:
    """Take what is left of a run of which something went since it was named, in order, each message once.

    What `Lanes.missing_placed` names was filled before.

    Args:
        lanes: Where a part may lie in front.
        returned: Where all other parts lie.
        place: `[ready, zxid, first, count]` of the run as it was.
        take: Takes a part of one run out; None where it is not there.

    Returns:
        Runs, and how many messages are not there before, between and behind them.

    """
    ready, zxid, first, count = place
    end = first + count
    taken: list[Run | int] = []
    parts = [*returned.within(ready, zxid, first, end), *lanes.fronts_within(ready, zxid, first, end)]
    for part in sorted(parts, key=first_of):
        begin, behind = max(part.first, first), min(part.first + part.size, end)
        if begin < behind:
            taken += [begin - first] if begin > first else []
            taken.append(take(ready, zxid, begin, behind - begin) or behind - begin)
            first = behind
    return [*taken, end - first] if first < end else taken
