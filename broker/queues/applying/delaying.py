"""CANCEL and RESCHEDULE: delayed messages that somebody names go, or are due at another time."""

from __future__ import annotations

from operator import itemgetter
from typing import TYPE_CHECKING

from sluicemq.broker.queues.applying.refusals import queue_not_found
from sluicemq.broker.queues.delayed_removing import missing_removed, remove
from sluicemq.broker.queues.keeping_order import line_up
from sluicemq.broker.queues.outcomes import Cancelled, LeasesOver, Outcome
from sluicemq.broker.queues.runs import Run, joined, messages_in

if TYPE_CHECKING:
    from sluicemq.broker.queues import entries_of_queues as q
    from sluicemq.broker.queues.chunks import Chunk
    from sluicemq.broker.queues.delayed_removing import Named
    from sluicemq.broker.queues.machine import Machine
    from sluicemq.broker.queues.outcomes import Effect
    from sluicemq.broker.queues.queue import Queue
    from sluicemq.broker.queues.routing.topic import Topic

_address_of = itemgetter(0, 2)


def cancel(machine: Machine, zxid: int, entry: q.Cancel) -> Outcome:
    """Drop those of the messages that still wait for the time that they are named with."""
    del zxid
    queue = machine.queue(entry.queue)
    if queue is None:
        topic = machine.sources.get(entry.queue)
        return Outcome(None, queue_not_found(entry.queue)) if topic is None else _cancel_of_topic(machine, entry, topic)
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
        topic = machine.sources.get(entry.queue)
        if topic is not None:
            return _reschedule_of_topic(machine, entry, topic)
        return Outcome(None, queue_not_found(entry.queue))
    taken = _take(queue, entry.runs)
    messages = messages_in(taken)
    moved = _living_from(taken, max(entry.due_ms, machine.log_time_ms))
    effects: tuple[Effect, ...] = ()
    if entry.due_ms > machine.log_time_ms:
        _put_off(queue, moved, entry.due_ms)
    elif moved:
        if queue.keys is not None:
            freed, moved = queue.keys.go_on(moved)
            effects = (LeasesOver(queue.id, freed),)
        effects = (*line_up(queue, moved, zxid), *effects)
    machine.due_changed(queue)
    return Outcome(Cancelled(messages), None, effects)


def _cancel_of_topic(machine: Machine, entry: q.Cancel, topic: Topic) -> Outcome:
    """Drop messages that a topic delays; they were nobody's yet."""
    taken = _take(topic, entry.runs)
    for run in taken:
        topic.routes.release(run.note, run.size)
    messages = messages_in(taken)
    topic.cancelled_total += messages
    machine.due_changed(topic)
    return Outcome(Cancelled(messages))


def _reschedule_of_topic(machine: Machine, entry: q.Reschedule, topic: Topic) -> Outcome:
    """Let messages that a topic delays be due at another time; those due at once are routed by the next CLOCK."""
    taken = _take(topic, entry.runs)
    due_ms = max(entry.due_ms, machine.log_time_ms)
    _put_off(topic, _living_from(taken, due_ms), due_ms)
    machine.due_changed(topic)
    return Outcome(Cancelled(messages_in(taken)))


def _living_from(runs: list[Run], start_ms: int) -> list[Run]:
    """Return *runs* with lifetimes that begin at *start_ms* instead of when they were due, unless they live already."""
    return [
        run._replace(expires_ms=run.expires_ms + start_ms - run.ready) if run.expires_ms and not run.deliveries else run
        for run in runs
    ]


def _put_off(where: Queue | Topic, runs: list[Run], due_ms: int) -> None:
    """Let *runs* wait until *due_ms*, as they would lie there had they been published like that."""
    runs.sort(key=_address_of)
    if runs:
        where.delayed.add(due_ms, joined([run._replace(ready=due_ms) for run in runs]))


def _take(where: Queue | Topic, flat: list[int]) -> list[Run]:
    """Take what is there of `[due, zxid, first, count, ...]` out, in due order, of one time as they were published."""
    return remove(where.delayed, named_in(flat))


def named_in(flat: list[int]) -> list[Named]:
    """Return what `[due, zxid, first, count, ...]` names."""
    return list(zip(*(iter(flat),) * 4, strict=True))


def missing_delayed(queue: Queue | Topic, flat: list[int]) -> list[Chunk]:
    """Return the chunks that are not in memory and that taking these out needs, or putting them back."""
    missing = missing_removed(queue.delayed, named_in(flat)) + queue.delayed.missing_late()
    return list(dict.fromkeys(missing))
