"""Sessions: a client comes, comes back, and goes; what it does not go on with goes back to its place."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sluicemq.broker.queues.applying.dropping import drop_queue
from sluicemq.broker.queues.applying.refusals import limit_reached, session_not_found
from sluicemq.broker.queues.applying.unsettling import abandon
from sluicemq.broker.queues.keeping_order import leases_over
from sluicemq.broker.queues.outcomes import (
    Effect,
    LeasesGone,
    Outcome,
    Resumed,
    SessionClosed,
    SessionGone,
    SessionOpened,
)
from sluicemq.broker.queues.sessions import Session
from sluicemq.broker.queues.tags import ranges_problem, without
from sluicemq.wire.errors import InvalidRequest

if TYPE_CHECKING:
    from sluicemq.broker.queues import entries as e
    from sluicemq.broker.queues.entries_of_sessions import MarkClosed, Resume
    from sluicemq.broker.queues.leases import LeaseTable
    from sluicemq.broker.queues.machine import Machine
    from sluicemq.broker.queues.runs import Run


def session_open(machine: Machine, zxid: int, entry: e.SessionOpen) -> Outcome:
    """Begin a session."""
    if len(machine.sessions) >= machine.limits.sessions_max:
        return limit_reached("sessions", machine.limits.sessions_max)
    machine.sessions[zxid] = Session(
        zxid, entry.vhost, entry.identity, entry.client_name, entry.resume_token, machine.log_time_ms
    )
    return Outcome(SessionOpened(zxid))


def session_close(machine: Machine, zxid: int, entry: e.SessionClose) -> Outcome:
    """End a session: its leases return to the places from which they were taken."""
    session = machine.sessions.pop(entry.session, None)
    if session is None:
        return Outcome(None, session_not_found(entry.session))
    given_back: dict[int, tuple[list[Run], bytearray]] = {}
    messages = 0
    for consumer, table in session.leases.items():
        queue = machine.existing_queue(table.queue_id)
        del queue.leases[entry.session, consumer]
        queue.leased -= table.messages
        messages += table.messages
        runs, handed = given_back.setdefault(queue.id, ([], bytearray()))
        for _, run, mark in table.pieces():
            runs.append(run)
            handed.append(mark)
    effects: list[Effect] = []
    for queue_id, (runs, handed) in given_back.items():
        queue = machine.existing_queue(queue_id)
        effects += abandon(machine, zxid, queue, runs, handed, entry.reason)
        machine.due_changed(queue)
        effects += leases_over(queue, runs)
    for queue_id in machine.sources.temporary_of(entry.session):
        effects += drop_queue(machine, machine.existing_queue(queue_id))
    effects.append(SessionGone(entry.session))
    return Outcome(SessionClosed(messages), None, tuple(effects))


RESUMED = "resumed"
"""Reason that a client is told for leases which it did not name when it came back."""


def resume(machine: Machine, zxid: int, entry: Resume) -> Outcome:
    """Let a client go on with a consumer: leases that it does not name return to the places they were taken from."""
    problem = ranges_problem(entry.tags) if entry.tags else None
    if problem is not None:
        return Outcome(None, InvalidRequest(problem))
    session = machine.sessions.get(entry.session)
    if session is None:
        return Outcome(None, session_not_found(entry.session))
    named = list(entry.tags)
    settled = session.settled_of(entry.consumer, named)
    table = session.leases.get(entry.consumer)
    if table is None:
        return Outcome(Resumed(without(named, settled), settled, 0))
    held = table.ranges()
    lost = without(without(named, settled), held)
    over = without(held, named)
    effects = _give_up(machine, zxid, session, table, over, entry.reason) if over else []
    return Outcome(Resumed(lost, settled, table.last_tag), None, tuple(effects))


def _give_up(
    machine: Machine, zxid: int, session: Session, table: LeaseTable, tags: list[int], reason: str
) -> list[Effect]:
    """End the leases of *tags*, all of which the table holds."""
    queue = machine.existing_queue(table.queue_id)
    taken = table.take(tags)
    queue.leased -= taken.messages
    if not table.messages:
        del session.leases[table.consumer]
        del queue.leases[session.number, table.consumer]
    effects = abandon(machine, zxid, queue, taken.runs, taken.handed, reason)
    machine.due_changed(queue)
    effects += leases_over(queue, taken.runs)
    effects.append(LeasesGone(session.number, table.consumer, tags, RESUMED))
    return effects


def mark_closed(machine: Machine, zxid: int, entry: MarkClosed) -> Outcome:
    """Note whose end closed its connection and who came back, as far as these sessions are still there."""
    del zxid
    for numbers, closed in ((entry.closed, True), (entry.back, False)):
        for number in numbers:
            session = machine.sessions.get(number)
            if session is not None:
                session.closed = closed
    return Outcome(None)
