"""What becomes of messages whose leases ended without an ack: back to their places, behind the tail, or delayed.

Which of these, and what counts as an attempt, follows from the verdict. This module must not know sessions or the log.
"""

from __future__ import annotations

from itertools import repeat
from typing import TYPE_CHECKING

from sluicemq.broker.queues import entries as e
from sluicemq.broker.queues.keeping_order import line_up
from sluicemq.broker.queues.outcomes import Effect, LeasesGone, Returned
from sluicemq.broker.queues.runs import by_place, joined
from sluicemq.broker.queues.tags import without
from sluicemq.wire.messages import VERDICT_RELEASE

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sluicemq.broker.queues.leases import Taken
    from sluicemq.broker.queues.queue import Queue


def unsettle(zxid: int, entry: e.Settle, queue: Queue, taken: Taken, log_time_ms: int) -> tuple[Effect, ...]:
    """Put messages whose leases ended without an ack where the verdict wants them.

    Args:
        zxid: Number of the entry.
        entry: The entry; its verdict is none that settles.
        queue: Where the messages came from. Its first due time may change.
        taken: What the entry took out of the consumer's table.
        log_time_ms: The machine's time.

    Returns:
        What the leader has to do.

    """
    if not taken.runs:
        return ()
    if entry.verdict in (VERDICT_RELEASE, e.ABANDONED):
        if entry.verdict == VERDICT_RELEASE:  # a handler that was cancelled in good order made no attempt
            runs = [run.settled_back(run.ready, 0) for run in taken.runs]
        else:
            runs = [run.settled_back(run.ready, handed) for run, handed in zip(taken.runs, taken.handed, strict=True)]
        return (Returned(queue.id, queue.give_back(runs)),)
    if entry.verdict == e.EXPIRED:
        # A client that froze charges what user code had begun, not all that lay in its buffer.
        attempts: Iterable[int] = taken.handed
    else:
        attempts = repeat(1)
    runs = [run.settled_back(run.ready, count) for run, count in zip(taken.runs, attempts, strict=False)]
    runs = by_place(runs)
    effects: tuple[Effect, ...] = ()
    if entry.due_time_ms > log_time_ms:
        queue.delayed.add(entry.due_time_ms, joined(runs))
        if queue.keys is not None:
            queue.keys.wait(runs)
    else:
        effects = line_up(queue, runs, zxid)
    if entry.verdict == e.EXPIRED:
        tags = without(entry.tags, taken.lost)
        effects = (LeasesGone(entry.session, entry.consumer, tags, "expired"), *effects)
    return effects
