"""FORGET: messages whose bytes are gone are given up wherever a queue or a topic has them.

A message that cannot be read is alive all the same, until the log says otherwise: a consumer that came to it would end
the broker. So a repair says it, for every index that may hold the message, and each broker that reads the log agrees.
They count as purged. This module must not know files, nor who decided that something is lost.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sluicemq.broker.queues.applying.refusals import queue_not_found
from sluicemq.broker.queues.dead_letters import discard
from sluicemq.broker.queues.giving_up import forget_delayed, forget_runs, missing_delayed, missing_runs
from sluicemq.broker.queues.halves import HALVES_ID
from sluicemq.broker.queues.keeping_order import leases_over
from sluicemq.broker.queues.lost import LostEntries, problem_of
from sluicemq.broker.queues.outcomes import Effect, Forgotten, LeasesGone, LeasesOver, Outcome, Removed
from sluicemq.broker.queues.runs import messages_in
from sluicemq.wire.errors import InvalidRequest

if TYPE_CHECKING:
    from sluicemq.broker.queues import entries as e
    from sluicemq.broker.queues.chunks import Chunk
    from sluicemq.broker.queues.machine import Machine
    from sluicemq.broker.queues.queue import Queue
    from sluicemq.broker.queues.routing.topic import Topic
    from sluicemq.broker.queues.runs import Run


def forget(machine: Machine, zxid: int, entry: e.Forget) -> Outcome:
    """Give up every message of a queue or of a topic that the entry names, or every half message."""
    del zxid
    topic, queue = machine.sources.get(entry.queue), machine.queue(entry.queue)
    if topic is None and queue is None and entry.queue != HALVES_ID:
        return Outcome(None, queue_not_found(entry.queue))
    problem = problem_of(entry.entries)
    if problem is not None:
        return Outcome(None, InvalidRequest(problem))
    lost = LostEntries(entry.entries)
    if entry.queue == HALVES_ID:
        return Outcome(Forgotten(messages_in(half.run for half in machine.halves.forget(lost)), 0))
    if topic is not None:
        value = _forget_in_topic(topic, lost)
        machine.due_changed(topic)
        return Outcome(value)
    assert queue is not None, "what is forgotten is a queue's or a topic's"
    batches = 0 if queue.history is None else queue.history.forget(lost)
    effects: list[Effect] = []
    gone = _forget_ready(queue, lost, effects)
    gone += _forget_delayed(queue, lost, effects)
    gone += _forget_leased(machine, queue, lost, effects)
    queue.gone(gone, "purged")
    messages = messages_in(gone) + _forget_dead(queue, lost)
    filling = machine.sources.filling_of(queue.id)
    if filling is not None:
        messages += messages_in(forget_runs(filling.held, lost))  # not the queue's yet, so it counts none of them
    machine.due_changed(queue)
    return Outcome(Forgotten(messages, batches), None, tuple(effects))


def _forget_in_topic(topic: Topic, lost: LostEntries) -> Forgotten:
    delayed = forget_delayed(topic.delayed, lost)
    for run in delayed:
        topic.routes.release(run.note, run.size)
    batches = 0 if topic.history is None else topic.history.forget(lost)
    return Forgotten(messages_in(delayed), batches)


def _forget_ready(queue: Queue, lost: LostEntries, effects: list[Effect]) -> list[Run]:
    """Whoever dispatches passes over holes by itself; what had come back it keeps apart."""
    gone = [run for lane in queue.lanes for run in forget_runs(lane, lost)]
    returned = queue.returned.forget(lost)
    if returned:
        effects.append(Removed(queue.id, returned))
    if queue.lanes.expiring is not None:
        forget_delayed(queue.lanes.expiring, lost)  # copies of ready ones
    return gone + returned


def _forget_delayed(queue: Queue, lost: LostEntries, effects: list[Effect]) -> list[Run]:
    gone = forget_delayed(queue.delayed, lost)
    if gone and queue.keys is not None:
        effects.append(LeasesOver(queue.id, queue.keys.go_on(gone)[0]))
    return gone


def _forget_leased(machine: Machine, queue: Queue, lost: LostEntries, effects: list[Effect]) -> list[Run]:
    gone: list[Run] = []
    for (session, consumer), table in sorted(queue.leases.items()):  # whatever order they came in
        tags = table.tags_of(lost)
        if not tags:
            continue
        taken = table.take(tags)
        gone += taken.runs
        queue.leased -= taken.messages
        effects.append(LeasesGone(session, consumer, tags, "purged"))
        if not table.messages:
            del machine.sessions[session].leases[consumer]
            del queue.leases[session, consumer]
    effects += leases_over(queue, gone)
    return gone


def _forget_dead(queue: Queue, lost: LostEntries) -> int:
    gone = forget_runs(queue.dead, lost)
    queue.notes.release_dead(gone)
    discard(queue, gone, "purged")
    return messages_in(gone)


def missing_of_forget(machine: Machine, entry: e.Forget) -> list[Chunk]:
    """Return the chunks that `forget` needs and that are not in memory."""
    if problem_of(entry.entries) is not None:
        return []
    lost = LostEntries(entry.entries)
    topic = machine.sources.get(entry.queue)
    if topic is not None:
        missing = missing_delayed(topic.delayed, lost)
        return missing if topic.history is None else missing + missing_runs(topic.history.runs, lost)
    queue = machine.queue(entry.queue)
    if queue is None:
        return []
    indexes = [*queue.lanes, queue.dead]
    filling = machine.sources.filling_of(queue.id)
    if filling is not None:
        indexes.append(filling.held)
    if queue.history is not None:
        indexes.append(queue.history.runs)
    missing = [chunk for index in indexes for chunk in missing_runs(index, lost)]
    if queue.lanes.expiring is not None:
        missing += missing_delayed(queue.lanes.expiring, lost)
    return missing + missing_delayed(queue.delayed, lost)
