"""SETTLE: a verdict on leased messages. What becomes of those that were not acknowledged is `unsettling`."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from sluicemq.broker.queues import entries as e
from sluicemq.broker.queues.applying.refusals import session_not_found
from sluicemq.broker.queues.applying.unsettling import unsettle
from sluicemq.broker.queues.keeping_order import leases_over
from sluicemq.broker.queues.outcomes import Outcome, Settled
from sluicemq.broker.queues.tags import add_range, ranges_problem, without
from sluicemq.broker.queues.window import KNOWN_NUMBERS
from sluicemq.wire.errors import InvalidRequest
from sluicemq.wire.messages import VERDICT_ACK, VERDICT_HANDED_OVER, VERDICT_NACK, VERDICT_REJECT, VERDICT_RELEASE

if TYPE_CHECKING:
    from sluicemq.broker.queues.chunks import Chunk
    from sluicemq.broker.queues.leases import LeaseTable
    from sluicemq.broker.queues.machine import Machine
    from sluicemq.broker.queues.outcomes import Effect
    from sluicemq.broker.queues.queue import Queue
    from sluicemq.broker.queues.sessions import Session


# Frozen by the log's format, see `MachineLimits`; a new verdict needs a number of its own.
VERDICTS = frozenset((VERDICT_ACK, VERDICT_NACK, VERDICT_RELEASE, VERDICT_HANDED_OVER, e.EXPIRED, e.ABANDONED))
VERDICTS_JUDGED = VERDICTS | {VERDICT_REJECT, e.SETTLED_BEFORE}

BY_CLIENTS = frozenset((VERDICT_ACK, VERDICT_NACK, VERDICT_RELEASE, VERDICT_REJECT))
"""Those with which a client settles: should it come back without having heard of it, it learns that they hold."""


def settle(machine: Machine, zxid: int, entry: e.Settle) -> Outcome:
    """Take the tags out of the consumer's table, and do with their messages what the verdict says."""
    problem = ranges_problem(entry.tags)
    verdicts = VERDICTS if type(entry) is e.Settle else VERDICTS_JUDGED
    if problem is None and entry.verdict not in verdicts:
        problem = f"verdict {entry.verdict} is unknown"
    if problem is not None:
        return Outcome(None, InvalidRequest(problem))
    session = machine.sessions.get(entry.session)
    if session is None:
        return Outcome(Settled(list(entry.tags), 0), session_not_found(entry.session))
    table = session.leases.get(entry.consumer)
    if table is None:
        return Outcome(Settled(list(entry.tags), 0))
    if entry.verdict == VERDICT_HANDED_OVER:
        return Outcome(Settled(table.mark(entry.tags), 0))
    if entry.verdict == e.SETTLED_BEFORE:
        return _settle_known(machine, zxid, entry, table)
    return _settle(machine, zxid, entry, session, table)


def _settle(machine: Machine, zxid: int, entry: e.Settle, session: Session, table: LeaseTable) -> Outcome:
    """End the leases, and do what the verdict says."""
    verdict = entry.verdict
    queue = machine.existing_queue(table.queue_id)
    taken = table.take(entry.tags)
    queue.leased -= taken.messages
    if not table.messages:
        del session.leases[entry.consumer]
        del queue.leases[entry.session, entry.consumer]
    if verdict in BY_CLIENTS:
        session.remember(entry.consumer, without(entry.tags, taken.lost) if taken.lost else entry.tags)
    value = Settled(taken.lost, taken.messages)
    if verdict == VERDICT_ACK:
        queue.acknowledge(taken.runs, taken.messages)
        if taken.ids:
            _remember_ids(machine, zxid, queue, taken.ids)
        return Outcome(value, None, leases_over(queue, taken.runs))
    effects = unsettle(machine, zxid, entry, queue, taken)
    machine.due_changed(queue)
    return Outcome(value, None, (*effects, *leases_over(queue, taken.runs)))


def _remember_ids(machine: Machine, zxid: int, queue: Queue, ids: bytes) -> None:
    """Note that messages with these ids were acknowledged, if the queue still wants to know."""
    if queue.settled_window is not None:
        queue.settled_window.add(ids, zxid, machine.log_time_ms)
        machine.due_changed(queue)


def _settle_known(machine: Machine, zxid: int, entry: e.Settle, table: LeaseTable) -> Outcome:
    """Settle those messages whose ids were acknowledged before; give back the others, whose ids count no more."""
    queue = machine.existing_queue(table.queue_id)
    known = known_tags(machine, queue, table, entry.tags)
    window = queue.settled_window
    settled = 0
    effects: list[Effect] = []
    if known:
        assert window is not None, "who knows ids has a window"
        for tag in table.tags_with_ids(known):
            del table.ids[tag]  # what was acknowledged before stays as old as it is
        outcome = settle(machine, zxid, dataclasses.replace(entry, verdict=VERDICT_ACK, tags=known))
        assert isinstance(outcome.value, Settled), "leases that were just looked at are there"
        settled = outcome.value.settled
        window.confirmed_total += settled
        effects += outcome.effects
    rest = without(entry.tags, known)
    if rest:
        back = settle(machine, zxid, dataclasses.replace(entry, verdict=VERDICT_RELEASE, tags=rest))
        assert isinstance(back.value, Settled), "likewise"
        effects += back.effects
        return Outcome(Settled(back.value.lost, settled + back.value.settled), None, tuple(effects))
    return Outcome(Settled([], settled), None, tuple(effects))


def known_tags(machine: Machine, queue: Queue, table: LeaseTable, tags: list[int]) -> list[int]:
    """Return the ranges of those of *tags* whose messages have ids that were acknowledged before."""
    known: list[int] = []
    if queue.settled_window is None:
        return known
    asked = table.tags_with_ids(tags)
    numbers = queue.settled_window.look(b"".join(map(table.ids.__getitem__, asked)), machine.log_time_ms)
    for first, count in zip(numbers[::KNOWN_NUMBERS], numbers[1::KNOWN_NUMBERS], strict=True):
        for position in range(first, first + count):
            add_range(known, asked[position], asked[position])
    return known


def missing_known(machine: Machine, entry: e.Settle) -> list[Chunk]:
    """Return the chunks of ids that are not in memory and that this verdict needs, if it needs any."""
    session = machine.sessions.get(entry.session)
    table = None if session is None else session.leases.get(entry.consumer)
    queue = None if table is None else machine.queue(table.queue_id)
    if table is None or queue is None or queue.settled_window is None or ranges_problem(entry.tags) is not None:
        return []
    ids = b"".join(map(table.ids.__getitem__, table.tags_with_ids(entry.tags)))
    return queue.settled_window.missing(ids, max(machine.log_time_ms, entry.log_time_ms))
