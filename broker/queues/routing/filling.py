"""A subscription that begins in the past: what its topic retains comes first, then what is published.

The leader reads what the topic retains, piece by piece, and proposes what matches as FILL entries; only it can, because
what is retained has its routes in the log and not in memory. What is published or becomes ready meanwhile is matched at
once and **held**; once everything from before the subscription is through, the held rows follow, a bounded number with
each FILL, and when none is left the subscription is like any other. So nothing is missed, nothing comes twice, and new
messages come behind old ones. A piece counts only where the one before it ended: one that was proposed twice, as after
a restart, is refused.

This module must not know entries, the log or who reads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from sluicemq.broker.queues.fifo import RunFifo
from sluicemq.broker.queues.history import Place

if TYPE_CHECKING:
    from sluicemq.broker.queues.chunks import Chunk, ChunkPool, FifoImage
    from sluicemq.broker.queues.runs import Run

HELD_MOVED_MAX = 2_000
"""Most held rows that one FILL lets go. Frozen by the log's format."""


class FrozenFilling(NamedTuple):
    """A filling as it was at one moment."""

    queue: int
    next: Place
    end_zxid: int
    done: bool
    held: FifoImage


class Filling:
    """How far one subscription has caught up.

    Args:
        queue: Number of the subscription.
        place: Where the first piece begins.
        end_zxid: The SUBSCRIBE entry: what became visible before it is caught up with.
        pool: Keeps accounts of the chunks of `held`.

    Attributes:
        queue: As above.
        next: Where the next piece begins.
        end_zxid: As above.
        done: Whether all pieces are through, so that only held rows are left.
        held: Rows that came meanwhile, in order.

    """

    __slots__ = ("done", "end_zxid", "held", "next", "queue")

    def __init__(self, queue: int, place: Place, end_zxid: int, pool: ChunkPool | None = None) -> None:
        self.queue = queue
        self.next = place
        self.end_zxid = end_zxid
        self.done = False
        self.held = RunFifo(pool)

    def take_held(self) -> list[Run]:
        """Take the first of the held rows; `missing_held` was filled before."""
        runs = self.held.read(self.held.head, HELD_MOVED_MAX)
        if runs:
            self.held.consume(len(runs), sum(run.size for run in runs))
        return runs

    def missing_held(self) -> list[Chunk]:
        """Return the chunks that are not in memory among those that `take_held` needs."""
        return self.held.missing(self.held.head, HELD_MOVED_MAX)

    def frozen(self) -> FrozenFilling:
        """Return a copy that nothing changes any more."""
        return FrozenFilling(self.queue, self.next, self.end_zxid, self.done, self.held.image())

    @classmethod
    def restored(cls, queue: int, numbers: list[int], pool: ChunkPool | None) -> Filling:
        """Return the filling of an image, see `numbers_of`; `held` is replaced when its index follows."""
        zxid, index, end_zxid, done = numbers
        filling = cls(queue, Place(zxid, index), end_zxid, pool)
        filling.done = bool(done)
        return filling


def numbers_of(filling: FrozenFilling) -> list[int]:
    """Return all of it but what is held, as an image keeps it."""
    return [*filling.next, filling.end_zxid, int(filling.done)]
