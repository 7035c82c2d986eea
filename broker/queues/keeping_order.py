"""What follows when leases end, or messages come back, in queues with an order or with one active consumer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sluicemq.broker.queues.keys import keys_in
from sluicemq.broker.queues.outcomes import Effect, LeasesOver, Ready, Returned

if TYPE_CHECKING:
    from sluicemq.broker.queues.queue import Queue
    from sluicemq.broker.queues.runs import Run


def leases_over(queue: Queue, runs: list[Run]) -> tuple[Effect, ...]:
    """Return what the leader hears when leases on *runs* ended: whoever waited for that may go on."""
    if not queue.tells_leases or not runs:
        return ()
    return (LeasesOver(queue.id, [] if queue.keys is None else keys_in(runs)),)


def line_up(queue: Queue, runs: list[Run], zxid: int) -> tuple[Effect, ...]:
    """Make *runs* ready because of the entry *zxid*: those that had their turn keep their place among their key's.

    All others go behind the tail. The runs are in the order in which they are to stand there.
    """
    if queue.keys is None:
        queue.make_ready(runs, zxid)
        return (Ready(queue.id),)
    kept = [run for run in runs if run.key and run.deliveries]
    effects: list[Effect] = []
    if len(kept) < len(runs):
        queue.make_ready([run for run in runs if not run.key or not run.deliveries], zxid)
        effects.append(Ready(queue.id))
    if kept:
        effects.append(Returned(queue.id, queue.give_back(kept)))
    return tuple(effects)
