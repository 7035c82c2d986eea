"""LIST_DEAD, REDRIVE and DISCARD: what operators ask about dead letters. Must not decide about messages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sluicemq.broker.pipeline import dead_letters as letters
from sluicemq.broker.server.answering import reply_with
from sluicemq.broker.server.authorization import authorize
from sluicemq.broker.server.showing import SHOWN_HEAD_BYTES, show
from sluicemq.wire import messages as m
from sluicemq.wire.errors import InvalidRequest

if TYPE_CHECKING:
    from sluicemq.broker.server.client_session import ClientSession
    from sluicemq.wire.fields import Message

LISTED_BYTES_MAX = 4 * 1024 * 1024
"""Most bytes of dead letters in one answer."""
NOTES_BYTES_PART = 4
"""Of the room for a page, notes take at most one part in so many."""
NOTE_BYTES_MAX = 1_500
"""Most bytes of one note as it travels."""
MOVED_MESSAGES_MAX = 10_000
"""Most messages that one request moves or drops: each may be a run of its own."""


async def list_dead(session: ClientSession, message: Message, correlation: int, tail: memoryview) -> None:
    """LIST_DEAD: a page, with the messages; bounded in messages and bytes."""
    del tail
    assert isinstance(message, m.ListDead)
    authorize(session.identity, "peek", (session.vhost, "queue", message.name))
    road = session.road
    queue = road.produce.find_queue(session.vhost, message.name)
    frame_room = session.connection.frame_bytes_max - SHOWN_HEAD_BYTES
    room = min(frame_room, LISTED_BYTES_MAX)
    notes_max = max(room // NOTES_BYTES_PART // NOTE_BYTES_MAX, 1)
    with road.bodies.reading():
        found = await letters.look(road, queue, message.skip, min(message.count_max, m.LIST_PAGE_MAX, notes_max))
        notes_bytes = len(found.notes) * NOTE_BYTES_MAX
        shown = await show(road.bodies, found.runs, room - notes_bytes, frame_room - notes_bytes)
    next_skip, more = found.next_skip, found.more
    if len(shown.runs) < len(found.runs) or (shown.runs and shown.runs[-1].size < found.runs[len(shown.runs) - 1].size):
        # The rest did not fit. Where strangers were passed over, a page shows some twice rather than miss one.
        next_skip, more = message.skip + sum(run.size for run in shown.runs), True
    places: list[int] = []
    for run, number in zip(shown.runs, found.numbers, strict=False):
        places += (run.ready, number)
    session.reply(
        correlation, m.Dead(shown.numbers, places, found.notes, next_skip, more, road.clock.now_ms()), shown.parts
    )


def redrive(session: ClientSession, message: Message, correlation: int, tail: memoryview) -> None:
    """REDRIVE: dead letters are tried again."""
    del tail
    assert isinstance(message, m.Redrive)
    authorize(session.identity, "purge", (session.vhost, "queue", message.name))
    _check(message.runs)
    produce = session.road.produce
    produce.refuse_when_stopping()
    queue = produce.find_queue(session.vhost, message.name)
    to = None
    if message.to:
        authorize(session.identity, "publish", (session.vhost, "queue", message.to))
        to = produce.find_queue(session.vhost, message.to)
    letters.redrive(session.road, queue, message.runs, to, reply_with(session, correlation, _redriven))


def discard(session: ClientSession, message: Message, correlation: int, tail: memoryview) -> None:
    """DISCARD: dead letters go."""
    del tail
    assert isinstance(message, m.Discard)
    authorize(session.identity, "purge", (session.vhost, "queue", message.name))
    _check(message.runs)
    queue = session.road.produce.find_queue(session.vhost, message.name)
    letters.discard(session.road, queue, message.runs, reply_with(session, correlation, _redriven))


def _redriven(value: Any) -> Message:
    return m.Redriven(getattr(value, "count", 0))


def _check(runs: list[int]) -> None:
    if not runs or sum(runs[3::4]) > MOVED_MESSAGES_MAX:
        raise InvalidRequest(
            f"a request names {sum(runs[3::4])} dead letters; allowed are 1 to {MOVED_MESSAGES_MAX}: send several",
            messages=sum(runs[3::4]),
        )
