"""SETTLE: a verdict on leased messages. What becomes of those that were not acknowledged is `unsettling`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sluicemq.broker.queues import entries as e
from sluicemq.broker.queues.applying.refusals import session_not_found
from sluicemq.broker.queues.applying.unsettling import unsettle
from sluicemq.broker.queues.keeping_order import leases_over
from sluicemq.broker.queues.outcomes import Outcome, Settled
from sluicemq.broker.queues.tags import ranges_problem, without
from sluicemq.wire.errors import InvalidRequest
from sluicemq.wire.messages import VERDICT_ACK, VERDICT_HANDED_OVER, VERDICT_NACK, VERDICT_REJECT, VERDICT_RELEASE

if TYPE_CHECKING:
    from sluicemq.broker.queues.machine import Machine


# Frozen by the log's format, see `MachineLimits`; a new verdict needs a number of its own.
VERDICTS = frozenset((VERDICT_ACK, VERDICT_NACK, VERDICT_RELEASE, VERDICT_HANDED_OVER, e.EXPIRED, e.ABANDONED))
VERDICTS_JUDGED = VERDICTS | {VERDICT_REJECT}

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
    verdict = entry.verdict
    if verdict == VERDICT_HANDED_OVER:
        return Outcome(Settled(table.mark(entry.tags), 0))
    taken = table.take(entry.tags)
    queue = machine.existing_queue(table.queue_id)
    queue.leased -= taken.messages
    if not table.messages:
        del session.leases[entry.consumer]
        del queue.leases[entry.session, entry.consumer]
    if verdict in BY_CLIENTS:
        session.remember(entry.consumer, without(entry.tags, taken.lost) if taken.lost else entry.tags)
    value = Settled(taken.lost, taken.messages)
    if verdict == VERDICT_ACK:
        queue.acknowledge(taken.runs, taken.messages)
        return Outcome(value, None, leases_over(queue, taken.runs))
    effects = unsettle(machine, zxid, entry, queue, taken)
    machine.due_changed(queue)
    return Outcome(value, None, (*effects, *leases_over(queue, taken.runs)))
