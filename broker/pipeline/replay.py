"""Replay: what a queue or a topic retains is read from a position or a time on, and nothing changes by it.

A reader is no consumer: it holds no lease and no credit, the log never hears of it, and it says itself where it goes
on. So any number of them read beside each other, and one that comes back after a year is a stranger like any other.
Whoever has read everything may wait for what is published next.

This module must not know sockets, nor how messages are shown: it says which ones they are.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

import trio

from sluicemq.broker.pipeline.bodies import GROUP, given_up
from sluicemq.broker.queues.history import START, GivenUp, Place
from sluicemq.wire.errors import PositionExpired, RetentionOff
from sluicemq.wire.positions import format_position

if TYPE_CHECKING:
    from sluicemq.broker.pipeline.road import Road
    from sluicemq.broker.queues.history import History, Page
    from sluicemq.broker.queues.queue import Queue
    from sluicemq.broker.queues.routing.topic import Topic


class Range(NamedTuple):
    """What is to be read.

    Attributes:
        place: Where to begin; `START`: with the oldest message, whatever was before.
        from_ms: With what became visible then or later instead.
        end: Where to end, before that message.
        end_ms: Where to end, before what became visible then or later.
        messages_max: Most messages.
        bytes_max: Most bytes, about; at least one message comes where there is one.

    """

    place: Place
    from_ms: int | None
    end: Place | None
    end_ms: int | None
    messages_max: int
    bytes_max: int


class Found(NamedTuple):
    """What was found, and the place behind the newest message that is retained."""

    queue_id: int
    page: Page
    last: Place


class ReplayStage:
    """Looks into what queues and topics retain."""

    def __init__(self, road: Road) -> None:
        self._road = road
        self._waiting: dict[int, trio.Event] = {}

    async def read(self, vhost: str, name: str, wanted: Range) -> Found:
        """Return the messages of *wanted*, wherever their index lies.

        Raises:
            QueueNotFound: Neither a queue nor a topic of that name.
            RetentionOff: It retains nothing.
            PositionExpired: Not everything from there on is retained any more; its fields say what is.
            MessageNotFound: A repair gave the first of them up; its fields say where to go on.

        """
        return await self._road.look(lambda: self._read(vhost, name, wanted))

    def _read(self, vhost: str, name: str, wanted: Range) -> Found:
        queue = self._road.machine.sources.find(vhost, name) or self._road.produce.find_queue(vhost, name)
        history = queue.history
        if history is None:
            raise RetentionOff(
                f"{queue.KIND} {name!r:.300} retains no messages, so there is nothing to replay: declare it with the "
                "setting retention, and what is published from then on can be read again",
                queue=name,
                setting="retention",
            )
        try:
            page = history.read(
                _beginning(queue, history, wanted),
                messages_max=wanted.messages_max,
                bytes_max=wanted.bytes_max,
                end=wanted.end,
                end_ms=wanted.end_ms,
            )
        except GivenUp as error:
            raise given_up(*error.hole) from None
        return Found(queue.id, page, history.end)

    def is_complete(self, found: Found, wanted: Range) -> bool:
        """Return whether nothing more can come before the end of *wanted*."""
        if wanted.end is not None and found.last >= wanted.end:
            return True
        return wanted.end_ms is not None and self._road.clock.now_ms() >= wanted.end_ms

    async def wait(self, found: Found, deadline: float) -> bool:
        """Wait until something more became visible than was *found*, or until *deadline*; return whether it did."""
        machine = self._road.machine
        queue = machine.queue(found.queue_id) or machine.sources.get(found.queue_id)
        if queue is None or queue.history is None or queue.history.end != found.last:
            return True
        with trio.move_on_at(deadline) as scope:
            await self._waiting.setdefault(found.queue_id, trio.Event()).wait()
        return not scope.cancelled_caught

    def changed(self, queue_id: int) -> None:
        """The queue retains more than before, or is gone: whoever waits looks again."""
        event = self._waiting.pop(queue_id, None)
        if event is not None:
            event.set()


def _beginning(queue: Queue | Topic, history: History, wanted: Range) -> Place:
    if wanted.from_ms is not None:
        if history.has_lost_since(wanted.from_ms):
            raise _expired(queue, history, _shown(wanted.from_ms))
        return history.place_at(wanted.from_ms)
    if wanted.place == START:
        return history.lost
    if history.has_lost(wanted.place):
        raise _expired(queue, history, format_position(GROUP, *wanted.place))
    return wanted.place


def _expired(queue: Queue | Topic, history: History, asked: str) -> PositionExpired:
    oldest = format_position(GROUP, *history.oldest())
    oldest_ms = history.oldest_published_ms
    since = "" if oldest_ms is None else f", published at {_shown(oldest_ms)}"
    return PositionExpired(
        f"{queue.KIND} {queue.name!r:.300} does not retain everything from {asked} on any more; the oldest position "
        f"that it retains is {oldest}{since}: begin there, or at the start",
        queue=queue.name,
        oldest_position=oldest,
        oldest_published_at=oldest_ms,
    )


def _shown(ms: int) -> str:
    try:
        return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds")
    except (ValueError, OverflowError, OSError):  # beyond the year 9999
        return f"{ms} ms after 1970"
