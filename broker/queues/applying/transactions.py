"""TRANSACTION: messages for several queues and topics, and verdicts on leased ones, judged and done as one.

Everything is asked before anything is changed: whoever is paused, full or gone, and every lease that is over, voids all
of it. Verdicts come first, so what they free has room for what is published.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from sluicemq.broker.queues import entries as e
from sluicemq.broker.queues.applying.identifying import known_as
from sluicemq.broker.queues.applying.placing import Arrival, Demand, into_queue, into_topic, problem_of_groups
from sluicemq.broker.queues.applying.refusals import queue_not_found
from sluicemq.broker.queues.applying.settling import settle
from sluicemq.broker.queues.entries_of_transactions import ID_BYTES
from sluicemq.broker.queues.outcomes import Outcome
from sluicemq.broker.queues.outcomes_of_transactions import Transacted
from sluicemq.broker.queues.runs import Run, bytes_in, messages_in
from sluicemq.broker.queues.sequences import Producer
from sluicemq.broker.queues.tags import count_tags, range_pairs, ranges_problem
from sluicemq.broker.queues.window import KNOWN_NUMBERS, ranges_without
from sluicemq.wire.errors import InvalidRequest, LeaseLost, SluiceError
from sluicemq.wire.messages import VERDICT_ACK, VERDICT_NACK, VERDICT_REJECT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sluicemq.broker.queues.chunks import Chunk
    from sluicemq.broker.queues.entries_of_transactions import Part, Settlement, Transaction
    from sluicemq.broker.queues.leases import LeaseTable
    from sluicemq.broker.queues.machine import Machine
    from sluicemq.broker.queues.outcomes import Effect
    from sluicemq.broker.queues.window import IdWindow

VERDICTS = frozenset((VERDICT_ACK, VERDICT_NACK, VERDICT_REJECT))
"""Verdicts that a transaction may hold. Frozen by the log's format."""


def transaction(machine: Machine, zxid: int, entry: Transaction) -> Outcome:
    """Do all of it, or nothing."""
    machine.note_ids(entry.id_base, entry.count)
    verdict = machine.producers.judge(entry.producer, entry.sequence, machine.log_time_ms)
    if isinstance(verdict, SluiceError):
        return Outcome(None, verdict)
    if not isinstance(verdict, Producer):
        return Outcome(_done_before(machine, verdict, entry))
    try:
        parts, settlements = entry.split(), entry.verdicts()
    except ValueError as error:
        return Outcome(None, InvalidRequest(str(error)))
    known = {number: window.look(ids, machine.log_time_ms, zxid) for number, window, ids in _judged(machine, entry)}
    arrivals = list(_arrivals(zxid, entry, parts, known, machine.log_time_ms))
    refusal = _refusal(machine, entry, parts, arrivals, settlements)
    if refusal is not None:
        return Outcome(None, refusal)
    # Nothing is refused from here on.
    machine.producers.record(verdict, zxid, entry.id_base)
    for _, window, ids in _judged(machine, entry):
        window.judge(ids, zxid, machine.log_time_ms)
    effects: list[Effect] = []
    for settlement in settlements:
        effects += _settle(machine, zxid, entry, settlement)
    for part, arrival in zip(parts, arrivals, strict=True):
        effects += _arrive(machine, zxid, part, arrival)
    return Outcome(Transacted(zxid, entry.count, False, _in_order(known), entry.id_base), None, tuple(effects))


def _arrive(machine: Machine, zxid: int, part: Part, arrival: Arrival) -> list[Effect]:
    """Put what is new of a part where it is to go."""
    queue, topic = machine.queue(part.target), machine.sources.get(part.target)
    if not arrival.runs():
        return []
    if queue is not None:
        return into_queue(machine, zxid, queue, arrival)
    assert topic is not None, "it was asked for before"
    return into_topic(machine, zxid, topic, arrival)


def _done_before(machine: Machine, zxid: int, entry: Transaction) -> Transacted:
    """Return what is said of a transaction that was done by the entry *zxid*, and comes again."""
    found: dict[int, list[int]] = {}
    try:
        for number, window, ids in _judged(machine, entry):
            found[number] = known_as(window.look(ids, machine.log_time_ms), zxid)
    except ValueError:
        pass  # it is another one than the first time, but that holds
    return Transacted(zxid, entry.count, True, _in_order(found), machine.producers.id_base(entry))


def _judged(machine: Machine, entry: Transaction) -> Iterator[tuple[int, IdWindow, bytes]]:
    """Yield each queue or topic that judges ids: its number, its window, and the ids of all its messages, by index."""
    if not entry.ids:
        return
    of_target: dict[int, bytearray] = {}
    for part in entry.split():
        target = machine.queue(part.target) or machine.sources.get(part.target)
        if target is not None and target.window is not None and target.window.scope == part.scope - 1:
            ids = of_target.setdefault(part.target, bytearray(len(entry.ids)))
            start, end = part.first * ID_BYTES, (part.first + part.size) * ID_BYTES
            ids[start:end] = entry.ids[start:end]
    for number, found in of_target.items():
        target = machine.queue(number) or machine.sources.get(number)
        assert target is not None, "it was found before"
        assert target.window is not None, "likewise"
        yield number, target.window, bytes(found)


def _in_order(known: dict[int, list[int]]) -> list[int]:
    """Return the duplicates of all targets by index."""
    rows = [row for flat in known.values() for row in zip(*(iter(flat),) * KNOWN_NUMBERS, strict=True)]
    return [number for row in sorted(rows) for number in row]


def _refusal(
    machine: Machine, entry: Transaction, parts: list[Part], arrivals: list[Arrival], settlements: list[Settlement]
) -> SluiceError | None:
    """Return why nothing of it is done, if anything stands against it."""
    problem = _problem_of(entry, settlements)
    if problem is not None:
        return InvalidRequest(problem)
    freed, lost = _look_at_leases(machine, entry.session, settlements)
    return lost or _demand(machine, parts, arrivals, freed)


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


def _arrivals(
    zxid: int, entry: Transaction, parts: list[Part], known: dict[int, list[int]], now_ms: int
) -> Iterator[Arrival]:
    """Yield what comes of each part, without the messages that are *known*."""
    for part in parts:
        run = Run(zxid, zxid, part.first, part.size, entry.count, len(entry.payload), now_ms)
        duplicates = known.get(part.target)
        fresh = ranges_without(duplicates, entry.count) if duplicates else None
        yield Arrival(run, part.groups, entry.routes, fresh)


def _demand(
    machine: Machine, parts: list[Part], arrivals: list[Arrival], freed: dict[int, tuple[int, int]]
) -> SluiceError | None:
    """Return why not all of it may come where it is to go."""
    demand = Demand(machine)
    for part, arrival in zip(parts, arrivals, strict=True):
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


def missing_of_judging(machine: Machine, entry: Transaction) -> list[Chunk]:
    """Return the chunks of ids that are not in memory and that judging the transaction needs."""
    now_ms = max(machine.log_time_ms, entry.log_time_ms)
    return [chunk for _, window, ids in _judged(machine, entry) for chunk in window.missing(ids, now_ms)]
