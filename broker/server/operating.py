"""Requests of those who look after queues: delayed messages, pauses, policies and schedules.

As in `requests`: unpack, ask for permission, hand on, reply. Must not decide about messages: stages and the machine do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sluicemq.broker.pipeline import delays
from sluicemq.broker.server.authorization import authorize
from sluicemq.wire import messages as m
from sluicemq.wire.messages_of_features import LIST_PAGE_MAX

if TYPE_CHECKING:
    from sluicemq.broker.queues.queue import Queue
    from sluicemq.broker.server.client_session import ClientSession, Handler
    from sluicemq.wire.fields import Message

_OF_QUEUES = "queue"


def _queue(session: ClientSession, action: str, name: str) -> Queue:
    """Return the queue, if the session may do that with it."""
    authorize(session.identity, action, (session.vhost, _OF_QUEUES, name))
    return session.road.produce.find_queue(session.vhost, name)


# --- delayed messages -----------------------------------------------------------------------------------------


async def list_delayed(session: ClientSession, message: Message, correlation: int, tail: memoryview) -> None:
    """LIST_DELAYED: one page, in due order."""
    del tail
    assert isinstance(message, m.ListDelayed)
    queue = _queue(session, "peek", message.name)
    count_max = max(1, min(message.count_max, LIST_PAGE_MAX))
    runs = await delays.look(session.road, queue, message.from_ms, message.to_ms, message.skip, count_max + 1)
    rows: list[int] = []
    left = count_max
    for run in runs:
        size = min(run.size, left)
        if size:
            place = run.ready, run.zxid, run.first, size
            rows += (*place, run.published_ms, run.deliveries, run.attempts, 0)
            left -= size
    session.reply(correlation, m.Delayed(rows, sum(run.size for run in runs) > count_max))


async def cancel_delayed(session: ClientSession, message: Message, correlation: int, tail: memoryview) -> None:
    """CANCEL_DELAYED: answered when it is committed."""
    del tail
    assert isinstance(message, m.CancelDelayed)
    queue = _queue(session, "purge", message.name)
    session.reply(correlation, m.Cancelled(await delays.cancel(session.road, queue, message.runs)))


async def reschedule(session: ClientSession, message: Message, correlation: int, tail: memoryview) -> None:
    """RESCHEDULE: likewise."""
    del tail
    assert isinstance(message, m.Reschedule)
    queue = _queue(session, "publish", message.name)
    changed = await delays.reschedule(session.road, queue, message.runs, message.due_ms)
    session.reply(correlation, m.Rescheduled(changed))


HANDLERS: dict[type[Message], Handler] = {
    m.ListDelayed: list_delayed,
    m.CancelDelayed: cancel_delayed,
    m.Reschedule: reschedule,
}
"""Handler by message; `requests` takes them over."""
