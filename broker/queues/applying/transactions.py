"""TRANSACTION: messages for several queues and topics, and verdicts on leased ones, judged and done as one.

Everything is asked before anything is changed: whoever is paused, full or gone, and every lease that is over, voids all
of it. Verdicts come first, so what they free has room for what is published.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from sluicemq.broker.queues import entries as e
from sluicemq.broker.queues.applying.placing import Arrival, Demand, into_queue, into_topic, problem_of_groups
from sluicemq.broker.queues.applying.refusals import queue_not_found
from sluicemq.broker.queues.applying.settling import settle
from sluicemq.broker.queues.outcomes import Outcome
from sluicemq.broker.queues.outcomes_of_transactions import Transacted
from sluicemq.broker.queues.runs import Run, bytes_in, messages_in
from sluicemq.broker.queues.sequences import Producer
from sluicemq.broker.queues.tags import count_tags, range_pairs, ranges_problem
from sluicemq.wire.errors import InvalidRequest, LeaseLost, SluiceError
from sluicemq.wire.messages import VERDICT_ACK, VERDICT_NACK, VERDICT_REJECT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sluicemq.broker.queues.entries_of_transactions import Part, Settlement, Transaction
    from sluicemq.broker.queues.leases import LeaseTable
    from sluicemq.broker.queues.machine import Machine
    from sluicemq.broker.queues.outcomes import Effect

VERDICTS = frozenset((VERDICT_ACK, VERDICT_NACK, VERDICT_REJECT))
"""Verdicts that a transaction may hold. Frozen by the log's format."""


def transaction(machine: Machine, zxid: int, entry: Transaction) -> Outcome:
    """Do all of it, or nothing."""
    verdict = machine.producers.judge(entry.producer, entry.sequence, machine.log_time_ms)
    if isinstance(verdict, SluiceError):
        return Outcome(None, verdict)
    if not isinstance(verdict, Producer):
        return Outcome(Transacted(verdict, entry.count, True))
    try:
        parts, settlements = entry.split(), entry.verdicts()
        refusal = _refusal(machine, zxid, entry, parts, settlements)
    except ValueError as error:
        refusal = InvalidRequest(str(error))
    if refusal is not None:
        return Outcome(None, refusal)
    # Nothing is refused from here on.
    machine.producers.record(verdict, zxid)
    effects: list[Effect] = []
    for settlement in settlements:
        effects += _settle(machine, zxid, entry, settlement)
    for part, arrival in zip(parts, _arrivals(zxid, entry, parts, machine.log_time_ms), strict=True):
        queue, topic = machine.queue(part.target), machine.sources.get(part.target)
        if queue is not None:
            effects += into_queue(machine, zxid, queue, arrival, retain=True)
        elif topic is not None:
            effects += into_topic(machine, zxid, topic, arrival, retain=True)
    return Outcome(Transacted(zxid, entry.count, False), None, tuple(effects))


def _refusal(
    machine: Machine, zxid: int, entry: Transaction, parts: list[Part], settlements: list[Settlement]
) -> SluiceError | None:
    """Return why nothing of it is done, if anything stands against it."""
    problem = _problem_of(entry, settlements)
    if problem is not None:
        return InvalidRequest(problem)
    freed, lost = _look_at_leases(machine, entry.session, settlements)
    return lost or _demand(machine, zxid, entry, parts, freed)


def _problem_of(entry: Transaction, settlements: list[Settlement]) -> str | None:
    """Return what no honest leader proposes, or None."""
    if not entry.count and not settlements:
        return "a transaction needs at least one message or one verdict"
    if bool(entry.count) != bool(entry.payload):
        return f"a transaction of {entry.count} messages has a batch of {len(entry.payload)} bytes"
    if entry.count:
        problem = problem_of_groups(entry.groups, entry.count, len(entry.routes))
        if problem is not None:
            return problem
    seen: dict[int, list[tuple[int, int]]] = {}
    for settlement in settlements:
        problem = ranges_problem(settlement.tags)
        if problem is None and settlement.verdict not in VERDICTS:
            problem = f"verdict {settlement.verdict} has no place in a transaction"
        if problem is not None:
            return problem
        seen.setdefault(settlement.consumer, []).extend(range_pairs(settlement.tags))
    for ranges in seen.values():
        ranges.sort()
        if any(last >= first for (_, last), (first, _) in pairwise(ranges)):
            return "a message has two verdicts in one transaction"
    return None


def _table_of(machine: Machine, session: int, consumer: int) -> LeaseTable | None:
    found = machine.sessions.get(session)
    return None if found is None else found.leases.get(consumer)


def _look_at_leases(
    machine: Machine, session: int, settlements: list[Settlement]
) -> tuple[dict[int, tuple[int, int]], LeaseLost | None]:
    """Return how many messages and bytes each queue is rid of by acks, and why not, if any lease is over."""
    freed: dict[int, tuple[int, int]] = {}
    for settlement in settlements:
        table = _table_of(machine, session, settlement.consumer)
        runs = [] if table is None else table.look(settlement.tags)
        held, wanted = messages_in(runs), count_tags(settlement.tags)
        if table is None or held != wanted:
            return {}, LeaseLost(
                f"the leases of {wanted - held} of {wanted} messages that the transaction settles are over, so nothing "
                "of it was done: the messages come again",
                messages=wanted - held,
                reason="transaction",
            )
        if settlement.verdict == VERDICT_ACK:
            before = freed.get(table.queue_id, (0, 0))
            freed[table.queue_id] = before[0] + held, before[1] + bytes_in(runs)
    return freed, None


def _arrivals(zxid: int, entry: Transaction, parts: list[Part], now_ms: int) -> Iterator[Arrival]:
    for part in parts:
        run = Run(zxid, zxid, part.first, part.size, entry.count, len(entry.payload), now_ms)
        yield Arrival(run, part.groups, entry.routes)


def _demand(
    machine: Machine, zxid: int, entry: Transaction, parts: list[Part], freed: dict[int, tuple[int, int]]
) -> SluiceError | None:
    """Return why not all of it may come where it is to go."""
    demand = Demand(machine)
    for part, arrival in zip(parts, _arrivals(zxid, entry, parts, machine.log_time_ms), strict=True):
        queue, topic = machine.queue(part.target), machine.sources.get(part.target)
        if queue is not None:
            demand.of_queue(queue, arrival)
        elif topic is not None:
            demand.of_topic(topic, arrival)
        else:
            return queue_not_found(part.target)
    return demand.refusal(freed)


def _settle(machine: Machine, zxid: int, entry: Transaction, settlement: Settlement) -> tuple[Effect, ...]:
    outcome = settle(machine, zxid, as_settle(entry, settlement))
    assert outcome.error is None, "verdicts of a transaction were judged before"
    return outcome.effects


def as_settle(entry: Transaction, settlement: Settlement) -> e.SettleJudged:
    """Return the entry that would say of one verdict what the transaction says."""
    consumer, verdict, due_ms, tags, reason = settlement
    return e.SettleJudged(entry.log_time_ms, entry.session, consumer, verdict, tags, due_ms, reason)


def as_publish(entry: Transaction, part: Part, count: int) -> e.PublishGrouped:
    """Return what would publish one part alone, and need room for *count*: that tells what it needs and touches."""
    fields = (entry.log_time_ms, part.target, entry.producer, entry.sequence, count, 0, None, entry.payload)
    return e.PublishGrouped(*fields, part.groups, entry.routes)
