"""Requests about transactions and prepared messages.

As in `requests`: unpack, ask for permission, hand on, reply. Must not decide about messages: stages and the machine do.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any

from sluicemq.broker.pipeline.transactions import Sender, Wanted
from sluicemq.broker.queues.applying.halves import target_of
from sluicemq.broker.server.answering import reply_with
from sluicemq.broker.server.authorization import authorize
from sluicemq.broker.server.duplicates import told
from sluicemq.wire import messages as m
from sluicemq.wire.errors import InvalidRequest, TransactionNotFound
from sluicemq.wire.positions import format_position
from sluicemq.wire.settings import check_name

if TYPE_CHECKING:
    from sluicemq.broker.queues.halves import Decision, Half
    from sluicemq.broker.queues.outcomes_of_transactions import Resolved, Transacted
    from sluicemq.broker.server.client_session import ClientSession, Handler
    from sluicemq.wire.fields import Message

_HEAD_NUMBERS = 4
"""Numbers of a settlement before its ranges."""
ROW_BYTES = 2_048
"""No row of TRANSACTIONS takes more: so a page is cut to what the client's frames can hold."""


def transact(session: ClientSession, message: Message, correlation: int, tail: memoryview) -> None:
    """TRANSACTION: TRANSACTED follows when all of it is durable, committed and judged."""
    assert isinstance(message, m.Transaction)
    if len(message.destinations) != len(message.counts):
        raise InvalidRequest(f"{len(message.destinations)} destinations, but {len(message.counts)} counts")
    for destination in dict.fromkeys(message.destinations):
        authorize(session.identity, "publish", (session.vhost, "queue", destination))
    wanted = _wanted(message.settlements, message.reasons)
    # Leases of another connection are lost, whatever it was: a number of a session proves nothing.
    holder = session.session if message.session == session.session else 0
    session.road.transactions.transact(
        Sender(session.vhost, session.identity, message.producer, message.sequence),
        list(zip(message.destinations, message.counts, strict=True)),
        tail,
        holder,
        wanted,
        reply_with(session, correlation, lambda value: _transacted(value, session.connection.frame_bytes_max)),
    )


def _transacted(value: Transacted, frame_bytes_max: int) -> Message:
    return m.Transacted(value.zxid, value.duplicate, *told(value.known, value.count, frame_bytes_max), value.id_base)


def _wanted(flat: list[int], reasons: list[str]) -> list[Wanted]:
    wanted: list[Wanted] = []
    place = 0
    while place < len(flat):
        head = flat[place : place + _HEAD_NUMBERS]
        start = place + _HEAD_NUMBERS
        end = start + 2 * head[-1]
        if len(head) < _HEAD_NUMBERS or end > len(flat) or len(wanted) >= len(reasons):
            break
        consumer, verdict, delay, _ = head
        seconds = (delay - 1) / 1000 if delay else None
        if seconds is not None and seconds > m.SECONDS_MAX:
            raise InvalidRequest(f"a delay of {seconds} seconds; allowed are {m.SECONDS_MAX:g}")
        wanted.append(Wanted(consumer, verdict, seconds, flat[start:end], reasons[len(wanted)]))
        place = end
    if place != len(flat) or len(wanted) != len(reasons):
        raise InvalidRequest("the settlements of a transaction and their reasons do not add up")
    return wanted


def prepare(session: ClientSession, message: Message, correlation: int, tail: memoryview) -> None:
    """PREPARE: PREPARED follows when it is durable and committed."""
    assert isinstance(message, m.Prepare)
    authorize(session.identity, "publish", (session.vhost, "queue", message.destination))
    check_name(message.group, "group")
    session.road.transactions.prepare(
        Sender(session.vhost, session.identity, message.producer, message.sequence),
        message.destination,
        message.group,
        message.check_after_seconds,
        tail,
        reply_with(session, correlation, lambda value: m.Prepared(value.zxid, value.duplicate, value.id_base)),
    )


def resolve(session: ClientSession, message: Message, correlation: int, tail: memoryview) -> None:
    """RESOLVE: the first decision holds."""
    del tail
    assert isinstance(message, m.Resolve)
    authorize(session.identity, "resolve", (session.vhost, "vhost", session.vhost))
    session.road.transactions.resolve(
        session.vhost,
        message.transaction,
        message.commit,
        reply_with(session, correlation, lambda value: _resolved(value, session.connection.frame_bytes_max)),
    )


def _resolved(value: Resolved, frame_bytes_max: int) -> Message:
    known = value.known
    count = known[-4] + known[-3] if known else 0  # up to the last duplicate
    return m.Resolved(value.committed, value.again, *told(known, count, frame_bytes_max))


def register_checker(session: ClientSession, message: Message, correlation: int, tail: memoryview) -> None:
    """REGISTER_CHECKER: CHECKs may follow at once."""
    del tail
    assert isinstance(message, m.RegisterChecker)
    authorize(session.identity, "check", (session.vhost, "group", message.group))
    check_name(message.group, "group")
    undecided = session.road.checks.register(session.vhost, message.group, session)
    session.reply(correlation, m.CheckerRegistered(undecided))


def list_transactions(session: ClientSession, message: Message, correlation: int, tail: memoryview) -> None:
    """LIST_TRANSACTIONS: one page, oldest first."""
    del tail
    assert isinstance(message, m.ListTransactions)
    authorize(session.identity, "list", (session.vhost, "vhost", session.vhost))
    fitting = session.connection.frame_bytes_max // ROW_BYTES - 1
    count_max = max(1, min(message.count_max, m.TRANSACTIONS_PAGE_MAX, fitting))
    group = message.group
    found = (
        half
        for half in session.road.machine.halves.after(message.after)
        if half.vhost == session.vhost and (not group or half.group == group)
    )
    page = list(islice(found, count_max + 1))
    rows = [row_of(session, half) for half in page[:count_max]]
    last = page[len(rows) - 1].number if rows else message.after
    session.reply(correlation, m.Transactions(rows, len(page) > count_max, last))


async def show_transaction(session: ClientSession, message: Message, correlation: int, tail: memoryview) -> None:
    """SHOW_TRANSACTION: with its batch, while it is undecided."""
    del tail
    assert isinstance(message, m.ShowTransaction)
    authorize(session.identity, "peek", (session.vhost, "vhost", session.vhost))
    road = session.road
    number = message.transaction
    half = road.machine.halves.get(number)
    decision = road.machine.halves.decision(number)
    if half is not None and half.vhost == session.vhost:
        row = row_of(session, half)
        with road.bodies.reading():
            stored = (await road.bodies.load_to_show([number]))[number]
        session.reply(correlation, m.TransactionShown(row), [stored.batch.data])
    elif decision is not None and decision.vhost == session.vhost:
        session.reply(correlation, m.TransactionShown(_decided(decision)))
    else:
        name = format_position(0, number, 0)
        raise TransactionNotFound(
            f"there is no prepared message {name}: it was never prepared, or decided more than a day ago",
            transaction=name,
        )


def row_of(session: ClientSession, half: Half) -> dict[str, Any]:
    """Return what tools show of a half message."""
    queue, topic = target_of(session.road.machine, half)
    return {
        "transaction": format_position(0, half.number, 0),
        "state": "parked" if half.parked else "prepared",
        "destination": half.destination,
        "destination_exists": queue is not None or topic is not None,
        "group": half.group,
        "messages": half.messages,
        "bytes": half.batch_bytes,
        "prepared_at": half.prepared_ms,
        "checks": half.checks,
        "next_check_at": half.next_check_ms or None,
        "members": session.road.checks.members_of(half.vhost, half.group),
        "producer": half.producer,
        "sequence": half.sequence,
    }


def _decided(decision: Decision) -> dict[str, Any]:
    return {
        "transaction": format_position(0, decision.number, 0),
        "state": "committed" if decision.committed else "rolled_back",
        "decided_at": decision.decided_ms,
    }


HANDLERS: dict[type[Message], Handler] = {
    m.Transaction: transact,
    m.Prepare: prepare,
    m.Resolve: resolve,
    m.RegisterChecker: register_checker,
    m.ListTransactions: list_transactions,
    m.ShowTransaction: show_transaction,
}
