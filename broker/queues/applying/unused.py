"""EXPIRE_QUEUE: a queue that nobody used for as long as its setting `expires` says goes, with everything in it.

The leader knows who consumed it, and proposes this; here it is judged by what the log says: no message came and no
declaration, and nobody holds a lease. What the leader alone sees it says now and then by MARK_USED, so that the next
leader does not begin anew.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sluicemq.broker.queues.applying.dropping import drop_queue
from sluicemq.broker.queues.applying.refusals import queue_not_found
from sluicemq.broker.queues.outcomes import Deleted, Effect, MayExpire, Outcome
from sluicemq.wire.errors import Conflict

if TYPE_CHECKING:
    from sluicemq.broker.queues import entries_of_queues as q
    from sluicemq.broker.queues.machine import Machine
    from sluicemq.broker.queues.queue import Queue


def used(machine: Machine, queue: Queue) -> tuple[Effect, ...]:
    """Note that somebody declared the queue; return what the leader hears where it may expire."""
    queue.used_ms = machine.log_time_ms
    return () if queue.settings["expires"] is None else (MayExpire(queue.id),)


def mark_used(machine: Machine, zxid: int, entry: q.MarkUsed) -> Outcome:
    """Note that these queues are used, as far as they are still there."""
    del zxid
    for number in entry.queues:
        queue = machine.queue(number)
        if queue is not None:
            queue.used_ms = machine.log_time_ms
    return Outcome(None)


def expire_queue(machine: Machine, zxid: int, entry: q.ExpireQueue) -> Outcome:
    """Drop the queue, unless it was used meanwhile or is no longer one that expires."""
    del zxid
    queue = machine.queue(entry.queue)
    if queue is None:
        return Outcome(None, queue_not_found(entry.queue))
    seconds = queue.settings["expires"]
    used_ms = max(entry.unused_since_ms, queue.used_ms)
    if seconds is None or queue.leased or machine.log_time_ms - used_ms < seconds * 1000:
        return Outcome(None, Conflict(f"queue {queue.name!r:.300} is in use, so it stays", queue=queue.name))
    count = queue.messages + queue.dead.messages
    return Outcome(Deleted(count), None, tuple(drop_queue(machine, queue)))
