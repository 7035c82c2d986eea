"""GRANT: messages go from their queue to a consumer, each under a lease."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sluicemq.broker.queues.applying.refusals import add_tags
from sluicemq.broker.queues.leases import LeaseTable
from sluicemq.broker.queues.outcomes import Granted, LeasesGone, Outcome, Returned
from sluicemq.broker.queues.runs import Run
from sluicemq.broker.queues.tags import count_tags, range_pairs
from sluicemq.broker.queues.window import ID_BYTES, NO_ID

if TYPE_CHECKING:
    from sluicemq.broker.queues import entries as e
    from sluicemq.broker.queues.machine import Machine
    from sluicemq.broker.queues.queue import Queue


def grant(machine: Machine, zxid: int, entry: e.Grant) -> Outcome:
    """Lease the runs that the entry names, each in front of its queue, to its consumer."""
    del zxid
    queue = machine.queue(entry.queue)
    messages = sum(entry.runs[2::3])
    if queue is None:
        return _grant_of_nothing(machine, entry, messages)
    return _grant(machine, queue, entry, queue.take(entry.runs), messages)


def grant_placed(machine: Machine, zxid: int, entry: e.GrantPlaced) -> Outcome:
    """Lease the runs that the entry names, wherever they lie, to its consumer."""
    del zxid
    queue = machine.queue(entry.queue)
    messages = sum(entry.runs[3::4])
    if queue is None:
        return _grant_of_nothing(machine, entry, messages)
    return _grant(machine, queue, entry, queue.take_placed(entry.runs), messages)


def grant_identified(machine: Machine, zxid: int, entry: e.GrantIdentified) -> Outcome:
    """Lease likewise, and keep the ids of what is leased: an acknowledgement makes them known."""
    outcome = grant_placed(machine, zxid, entry)
    session = machine.sessions.get(entry.session)
    table = None if session is None else session.leases.get(entry.consumer)
    if table is not None and isinstance(outcome.value, Granted) and machine.queue(entry.queue) is not None:
        void = {tag for first, last in range_pairs(outcome.value.void) for tag in range(first, last + 1)}
        for position in range(len(entry.ids) // ID_BYTES):
            id_ = entry.ids[position * ID_BYTES : (position + 1) * ID_BYTES]
            tag = entry.first_tag + position
            if id_ != NO_ID and tag <= table.last_tag and tag not in void:
                table.ids[tag] = id_
    return outcome


def _grant_of_nothing(machine: Machine, entry: e.Grant, messages: int) -> Outcome:
    """Judge a grant of messages whose queue was deleted."""
    void: list[int] = []
    add_tags(void, entry.first_tag, messages)
    gone = LeasesGone(entry.session, entry.consumer, void, "queue_deleted")
    return Outcome(Granted(void), None, (gone,) if void and entry.session in machine.sessions else ())


def _grant(machine: Machine, queue: Queue, entry: e.Grant, taken: list[Run | int], messages: int) -> Outcome:
    if queue.lanes.has_expiry:
        machine.due_changed(queue)
    session = machine.sessions.get(entry.session)
    if session is None:
        outcome = _grant_to_nobody(queue, entry, taken, messages)
        machine.due_changed(queue)
        return outcome
    table = session.leases.get(entry.consumer)
    if table is None:
        table = LeaseTable(entry.session, entry.consumer, entry.queue)
    assert table.queue_id == entry.queue, "a consumer reads one queue"
    void = _lease(table, entry.first_tag, taken)
    if table.messages and entry.consumer not in session.leases:
        session.leases[entry.consumer] = queue.leases[entry.session, entry.consumer] = table
    queue.leased += messages - count_tags(void)
    if void:
        return Outcome(Granted(void), None, (LeasesGone(entry.session, entry.consumer, void, "purged"),))
    return Outcome(Granted(void))


def _grant_to_nobody(queue: Queue, entry: e.Grant, taken: list[Run | int], messages: int) -> Outcome:
    """Judge a grant to a session that has ended meanwhile: it counts as given and at once returned.

    The messages may have left through the connection before it broke, so the delivery counts; and the grants that
    follow in the log find the front of the queue as the leader saw it when it planned them.
    """
    runs = [run.settled_back(run.ready, 0) for run in taken if isinstance(run, Run)]
    void: list[int] = []
    add_tags(void, entry.first_tag, messages)
    effects = (Returned(queue.id, queue.give_back(runs)),) if runs else ()
    return Outcome(Granted(void), None, effects)


def _lease(table: LeaseTable, first_tag: int, taken: list[Run | int]) -> list[int]:
    """Lease the runs in *taken* to the table; return the tags of those that were not to be had."""
    void: list[int] = []
    if int not in set(map(type, taken)):
        if taken:
            table.grant(first_tag, taken)  # type: ignore[arg-type]
        return void
    tag = first_tag
    for run in taken:
        if isinstance(run, Run):
            table.grant(tag, [run])
            tag += run.size
        else:
            add_tags(void, tag, run)
            tag += run
    return void
