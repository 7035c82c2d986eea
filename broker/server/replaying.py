"""REPLAY: what a queue or topic retains, a page a request.

A page may have to come from the disk, and a reader that has everything may wait for more: so it is answered beside the
client's other requests. Must not know how a queue retains.
"""

from __future__ import annotations

from functools import partial
from itertools import chain
from typing import TYPE_CHECKING

import trio

from sluicemq.broker.pipeline.bodies import given_up
from sluicemq.broker.pipeline.replay import Range
from sluicemq.broker.queues.history import Place, place_behind, place_of
from sluicemq.broker.server.authorization import authorize
from sluicemq.broker.server.showing import SHOWN_HEAD_BYTES, show, topic_name
from sluicemq.wire import messages as m
from sluicemq.wire.errors import LimitReached, MessageNotFound

if TYPE_CHECKING:
    from sluicemq.broker.pipeline.replay import Found
    from sluicemq.broker.server.client_session import ClientSession
    from sluicemq.wire.fields import Message

REPLAY_MESSAGES_MAX = 10_000
"""Most messages of one REPLAYED, however many are asked for."""
REPLAY_BYTES_MAX = 4 * 1024 * 1024
"""Most bytes likewise, unless a single message is larger."""
REPLAYS_MAX = 64
"""Most REPLAYs of one connection that wait for their answer."""


def replay(session: ClientSession, message: Message, correlation: int, tail: memoryview) -> None:
    """REPLAY: read retained messages; answered when there are any, or *wait_seconds* have passed."""
    del tail
    assert isinstance(message, m.Replay)
    kind = "queue" if session.road.machine.sources.find(session.vhost, message.name) is None else "topic"
    authorize(session.identity, "replay", (session.vhost, kind, message.name))
    session.road.produce.refuse_when_stopping()
    if session.answering >= REPLAYS_MAX:
        raise LimitReached(
            f"{REPLAYS_MAX} REPLAYs of this connection wait for their answers: ask again when some are there",
            limit="session_replays_max",
            value=REPLAYS_MAX,
        )
    session.answer_meanwhile(partial(_replay, session, message, correlation), message, correlation)


async def _replay(session: ClientSession, message: m.Replay, correlation: int) -> None:
    road = session.road
    deadline = trio.current_time() + message.wait_seconds
    frame_room = session.connection.frame_bytes_max - SHOWN_HEAD_BYTES
    wanted = Range(
        Place(message.zxid, message.index),
        message.from_ms,
        None if message.end_zxid is None else Place(message.end_zxid, message.end_index),
        message.end_ms,
        max(1, min(message.messages_max, REPLAY_MESSAGES_MAX)),
        max(1, min(message.bytes_max, REPLAY_BYTES_MAX, frame_room)),
    )
    while True:
        # One page at a time: a connection holds no more than that, however many REPLAYs it has sent.
        async with session.page_at_a_time:
            await session.outbound.wait_room()
            with road.bodies.reading():
                found = await road.replay.read(session.vhost, message.name, wanted)
                if found.page.runs or found.page.more or trio.current_time() >= deadline:
                    await _show(session, found, wanted, frame_room, correlation)
                    return
        if road.replay.is_complete(found, wanted) or not await road.replay.wait(found, deadline):
            deadline = trio.current_time()


async def _show(session: ClientSession, found: Found, wanted: Range, frame_room: int, correlation: int) -> None:
    page = found.page
    topic = topic_name(session.road.machine, found.queue_id)
    try:
        shown = await show(session.road.bodies, page.runs, wanted.bytes_max, frame_room, topic)
    except MessageNotFound as error:
        run = page.runs[0]
        raise error if run.ready == run.zxid else given_up((run.zxid, run.first), place_behind(run)) from None
    place, more = page.next, page.more
    if shown.runs and (len(shown.runs) < len(page.runs) or shown.runs[-1].size < page.runs[-1].size):
        place, more = place_behind(shown.runs[-1]), True
    complete = not more and session.road.replay.is_complete(found, wanted)
    places: list[int] = []
    if any(place_of(run) != (run.zxid, run.first) for run in shown.runs):
        places.extend(chain.from_iterable(map(place_of, shown.runs)))
    reply = m.Replayed(shown.numbers, *place, more, *found.last, complete, shown.destinations, topic, places)
    session.reply(correlation, reply, shown.parts)
