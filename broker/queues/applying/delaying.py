"""CANCEL and RESCHEDULE: delayed messages that somebody names go, or are due at another time."""

from __future__ import annotations

from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING

from sluicemq.broker.queues.applying.refusals import queue_not_found
from sluicemq.broker.queues.keeping_order import line_up
from sluicemq.broker.queues.outcomes import Cancelled, LeasesOver, Outcome
from sluicemq.broker.queues.runs import Run, joined, messages_in

if TYPE_CHECKING:
    from sluicemq.broker.queues import entries_of_queues as q
    from sluicemq.broker.queues.chunks import Chunk
    from sluicemq.broker.queues.machine import Machine
    from sluicemq.broker.queues.outcomes import Effect
    from sluicemq.broker.queues.queue import Queue

_address_of = itemgetter(0, 2)
_due_of = itemgetter(1)


def cancel(machine: Machine, zxid: int, entry: q.Cancel) -> Outcome:
    """Drop those of the messages that still wait for the time that they are named with."""
    del zxid
    queue = machine.queue(entry.queue)
    if queue is None:
        return Outcome(None, queue_not_found(entry.queue))
    taken = _take(queue, entry.runs)
    effects: tuple[Effect, ...] = ()
    if taken and queue.keys is not None:
        effects = (LeasesOver(queue.id, queue.keys.go_on(taken)[0]),)
    queue.gone(taken, "purged")
    machine.due_changed(queue)
    return Outcome(Cancelled(messages_in(taken)), None, effects)


def reschedule(machine: Machine, zxid: int, entry: q.Reschedule) -> Outcome:
    """Let those of the messages that still wait be due at another time; at once, where that is past.

    How long those live that were never delivered counts from the new time; the others live already.
    """
    queue = machine.queue(entry.queue)
    if queue is None:
        return Outcome(None, queue_not_found(entry.queue))
    taken = _take(queue, entry.runs)
    messages = messages_in(taken)
    start_ms = max(entry.due_ms, machine.log_time_ms)
    moved = [
        run._replace(expires_ms=run.expires_ms + start_ms - run.ready) if run.expires_ms and not run.deliveries else run
        for run in taken
    ]
    effects: tuple[Effect, ...] = ()
    if entry.due_ms > machine.log_time_ms:
        # As they would lie there had they been published like that.
        moved.sort(key=_address_of)
        if moved:
            queue.delayed.add(entry.due_ms, joined([run._replace(ready=entry.due_ms) for run in moved]))
    elif moved:
        if queue.keys is not None:
            freed, moved = queue.keys.go_on(moved)
            effects = (LeasesOver(queue.id, freed),)
        effects = (*line_up(queue, moved, zxid), *effects)
    machine.due_changed(queue)
    return Outcome(Cancelled(messages), None, effects)


def _take(queue: Queue, flat: list[int]) -> list[Run]:
    """Take what is there of `[due, zxid, first, count, ...]` out, in due order."""
    taken: list[Run] = []
    for due_ms, zxid, first, size in zip(*(iter(flat),) * 4, strict=True):
        taken += queue.delayed.remove(due_ms, zxid, first, size)
    taken.sort(key=_due_of)
    return taken


def missing_delayed(queue: Queue, flat: list[int], due_ms: int | None = None) -> list[Chunk]:
    """Return the chunks that are not in memory and that taking these out needs, or putting them back until *due_ms*."""
    places = zip(flat[::4], flat[1::4], strict=True)
    missing = [chunk for place, _ in groupby(sorted(places)) for chunk in queue.delayed.missing_removed(*place)]
    if due_ms is not None:
        missing += queue.delayed.missing(due_ms, len(flat) // 4)
    return list(dict.fromkeys(missing))
