"""EXPLAIN, SEARCH and MOVE: what became of a message, which there are, and where they shall go.

The first two are answered beside the client's other requests, because the log is read for them. Must not decide about
messages: stages and the machine do.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from sluicemq.broker.pipeline import moving
from sluicemq.broker.pipeline.browsing import Filter, Page, browse
from sluicemq.broker.server.answering import reply_with
from sluicemq.broker.server.authorization import authorize
from sluicemq.broker.server.showing import SHOWN_HEAD_BYTES, show, topic_name
from sluicemq.wire import messages as m
from sluicemq.wire.errors import InvalidRequest, LimitReached

if TYPE_CHECKING:
    from sluicemq.broker.queues.queue import Queue
    from sluicemq.broker.queues.routing.topic import Topic
    from sluicemq.broker.queues.runs import Run
    from sluicemq.broker.server.client_session import ClientSession, Handler
    from sluicemq.wire.fields import Message

FOUND_MESSAGES_MAX = 10_000
"""Most messages in one FOUND with bodies and without."""
FOUND_BYTES_MAX = 4 * 1024 * 1024
"""Most bytes of messages in one FOUND, unless a single one is larger."""
FRAME_SHARE = 4
"""The places of what was found take at most one part in so many of a frame."""
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
    story = await explaining.explain(session.vhost, zxid, index, target)
    session.reply(correlation, m.Explained(story.facts, story.events, story.places, story.status))


def refuse_too_many(session: ClientSession) -> None:
    """Raise LimitReached where too many requests of the connection are being answered already."""
    if session.answering >= ANSWERING_MAX:
        raise LimitReached(
            f"{ANSWERING_MAX} requests of this connection wait for their answers: ask again when some are there",
            limit="session_answering_max",
            value=ANSWERING_MAX,
        )


def search(session: ClientSession, message: Message, correlation: int, tail: memoryview) -> None:
    """SEARCH: one page."""
    del tail
    assert isinstance(message, m.Search)
    authorize(session.identity, "peek", (session.vhost, "queue", message.name))
    session.road.produce.find_queue(session.vhost, message.name)
    refuse_too_many(session)
    session.answer_meanwhile(partial(_search, session, message, correlation), message, correlation)


async def _search(session: ClientSession, message: m.Search, correlation: int) -> None:
    road = session.road
    wanted = Filter(
        message.message_id,
        message.key,
        message.subject,
        message.headers or None,
        message.from_ms,
        message.to_ms,
        message.until_zxid,
    )
    # Each may be a run of its own, and what a small frame says of runs must leave it room for messages.
    runs_max = session.connection.frame_bytes_max // (FRAME_SHARE * 9 * m.FOUND_NUMBERS)
    count_max = max(1, min(message.count_max, FOUND_MESSAGES_MAX, runs_max))
    # One page at a time: a connection holds no more than that, however many searches it has sent.
    async with session.page_at_a_time:
        await session.outbound.wait_room()
        await road.catch_up()
        last_zxid = road.machine.applied_zxid
        queue = road.produce.find_queue(session.vhost, message.name)
        with road.bodies.reading():
            page = await browse(road, queue, message.state, wanted, message.cursor, count_max)
            if message.bodies:
                await _show(session, page, queue, correlation, last_zxid)
                return
    places = _places(page, page.runs)
    session.reply(correlation, m.Found([], places, page.cursor, page.looked_at, last_zxid))


async def _show(session: ClientSession, page: Page, queue: Queue, correlation: int, last_zxid: int) -> None:
    frame_room = session.connection.frame_bytes_max - SHOWN_HEAD_BYTES
    frame_room -= 9 * m.FOUND_NUMBERS * len(page.runs)
    room = min(frame_room, FOUND_BYTES_MAX)
    topic = topic_name(session.road.machine, queue.id)
    shown = await show(session.road.bodies, page.runs, room, frame_room, topic)
    count = sum(run.size for run in shown.runs)
    cursor = page.cursor
    if count < sum(run.size for run in page.runs):
        # The rest did not fit: the next page begins with it.
        cursor = page.cursor_after(len(shown.runs) - 1, shown.runs[-1].size)
    session.reply(
        correlation,
        m.Found(shown.numbers, _places(page, shown.runs), cursor, page.looked_at, last_zxid),
        shown.parts,
    )


def _places(page: Page, runs: list[Run]) -> list[int]:
    places: list[int] = []
    for number, run in enumerate(runs):
        holder = page.holders[number] if page.holders else (0, 0, 0)
        places += (run.ready, run.zxid, run.first, run.size, *holder)
    return places


def move(session: ClientSession, message: Message, correlation: int, tail: memoryview) -> None:
    """MOVE: answered when it is committed."""
    del tail
    assert isinstance(message, m.Move)
    road = session.road
    action = "peek" if message.keep else "purge"
    authorize(session.identity, action, (session.vhost, "queue", message.name))
    queue = road.produce.find_queue(session.vhost, message.name)
    target = None
    if message.to:
        authorize(session.identity, "publish", (session.vhost, "queue", message.to))
        target = road.produce.find_queue(session.vhost, message.to)
    answer = reply_with(session, correlation, lambda value: m.Moved(value.count))
    numbered = message.producer, message.sequence
    moving.move(road, session.identity, numbered, queue, target, message.state, message.runs, answer, keep=message.keep)


HANDLERS: dict[type[Message], Handler] = {m.Explain: explain, m.Search: search, m.Move: move}
"""Handler by message; `requests` takes them over."""
