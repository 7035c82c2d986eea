"""Sessions: a client's connection begins and ends; what it held goes back to its place."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sluicemq.broker.queues.applying.dropping import drop_queue
from sluicemq.broker.queues.applying.refusals import limit_reached, session_not_found
from sluicemq.broker.queues.applying.unsettling import abandon
from sluicemq.broker.queues.keeping_order import leases_over
from sluicemq.broker.queues.outcomes import Effect, Outcome, SessionClosed, SessionGone, SessionOpened
from sluicemq.broker.queues.sessions import Session

if TYPE_CHECKING:
    from sluicemq.broker.queues import entries as e
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
