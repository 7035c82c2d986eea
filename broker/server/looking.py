"""EXPLAIN: what became of one message. Answered beside the client's other requests, because the log is read for it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from sluicemq.broker.server.authorization import authorize
from sluicemq.wire import messages as m
from sluicemq.wire.errors import InvalidRequest, LimitReached

if TYPE_CHECKING:
    from sluicemq.broker.queues.queue import Queue
    from sluicemq.broker.queues.routing.topic import Topic
    from sluicemq.broker.server.client_session import ClientSession, Handler
    from sluicemq.wire.fields import Message

ANSWERING_MAX = 64
"""Most requests of one connection that are answered beside each other."""


def explain(session: ClientSession, message: Message, correlation: int, tail: memoryview) -> None:
    """EXPLAIN: find the message and tell its life."""
    del tail
    assert isinstance(message, m.Explain)
    target: Queue | Topic | None = None
    if message.name:
        target = session.road.machine.sources.find(session.vhost, message.name)
        kind = "queue" if target is None else "topic"
        authorize(session.identity, "explain", (session.vhost, kind, message.name))
        target = target or session.road.produce.find_queue(session.vhost, message.name)
    else:
        authorize(session.identity, "explain", (session.vhost, "vhost", session.vhost))
    if bool(message.zxid) == bool(message.message_id):
        raise InvalidRequest("a message is named by its position or by its id: give one of them")
    refuse_too_many(session)
    answer = partial(_explain, session, message, correlation, target)
    session.answer_meanwhile(answer, message, correlation)


async def _explain(session: ClientSession, message: m.Explain, correlation: int, target: Queue | Topic | None) -> None:
    explaining = session.road.explaining
    zxid, index = message.zxid, message.index
    if message.message_id:
        zxid, index = await explaining.find(message.message_id, message.key or None, target)
    story = await explaining.explain(session.vhost, zxid, index)
    session.reply(correlation, m.Explained(story.facts, story.events, story.places, story.status))


def refuse_too_many(session: ClientSession) -> None:
    """Raise LimitReached where too many requests of the connection are being answered already."""
    if session.answering >= ANSWERING_MAX:
        raise LimitReached(
            f"{ANSWERING_MAX} requests of this connection wait for their answers: ask again when some are there",
            limit="session_answering_max",
            value=ANSWERING_MAX,
        )


HANDLERS: dict[type[Message], Handler] = {m.Explain: explain}
"""Handler by message; `requests` takes them over."""
