"""Delayed messages: what waits in a queue, to be looked at, cancelled, or delivered at another time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TypeAlias

from sluicemq.client.asking import Asking
from sluicemq.client.errors import InvalidRequest
from sluicemq.client.options import Duration, count_of, seconds_of
from sluicemq.client.receipts import Receipt
from sluicemq.wire import messages as m
from sluicemq.wire.messages_of_features import LISTED_NUMBERS
from sluicemq.wire.positions import format_position, parse_position
from sluicemq.wire.settings import check_name

PAGE_MESSAGES = 1_000
NAMED_MAX = 1_000
"""Most messages that one request names; more go in several."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_GROUP = 0


@dataclass(frozen=True, slots=True)
class DelayedMessage:
    """A message that waits for its time.

    Attributes:
        position: Where it lies; its receipt says the same.
        due_at: When it will be ready, aware UTC datetime.
        published_at: Likewise.
        deliveries: How often it was delivered so far.
        attempts: How many attempts have begun so far.

    """

    position: str
    due_at: datetime
    published_at: datetime
    deliveries: int
    attempts: int


Named: TypeAlias = DelayedMessage | Receipt | str
"""A delayed message: as it was listed (quickest to find), its receipt, or its position."""


class DelayCalls(Asking):
    """The calls of a client that are about delayed messages."""

    async def delayed(
        self, queue: str, *, since: datetime | None = None, until: datetime | None = None
    ) -> AsyncIterator[DelayedMessage]:
        """Yield what waits in *queue*, or a topic, in the order in which it is due, a page at a time; nothing changes.

        What comes or goes meanwhile may be among them or not.

        Args:
            queue: Name of the queue, or of a topic for what that delays.
            since: Aware datetime: only what is due then or later.
            until: Aware datetime: only what is due before.

        Raises:
            QueueNotFound: Neither a queue nor a topic of that name.
            InvalidRequest: A time without a time zone.

        """
        name = check_name(queue)
        from_ms = 0 if since is None else milliseconds_of(since, "since")
        to_ms = None if until is None else milliseconds_of(until, "until")
        skip = 0
        while True:
            reply = await self._ask(m.ListDelayed(name, from_ms, to_ms, skip, PAGE_MESSAGES))
            assert isinstance(reply, m.Delayed)
            rows = reply.runs
            for start in range(0, len(rows), LISTED_NUMBERS):
                due_ms, zxid, first, count, published_ms, deliveries, attempts, _ = rows[start : start + LISTED_NUMBERS]
                skip = (skip if due_ms == from_ms else 0) + count
                from_ms = due_ms
                for index in range(first, first + count):
                    yield DelayedMessage(
                        format_position(_GROUP, zxid, index),
                        _EPOCH + timedelta(milliseconds=due_ms),
                        _EPOCH + timedelta(milliseconds=published_ms),
                        deliveries,
                        attempts,
                    )
            if not reply.more or not rows:
                return

    async def cancel(self, queue: str, messages: Named | Iterable[Named]) -> int:
        """Drop delayed messages of *queue*; return how many of them still waited there.

        Args:
            queue: Name of the queue, or of a topic for what that delays.
            messages: One message or several: as `delayed` lists them, receipts, or positions.

        Raises:
            QueueNotFound: Neither a queue nor a topic of that name.
            InvalidRequest: A text that is no position.
            OutcomeUnknown: The connection broke before the answer. Asking again does no harm.

        """
        name = check_name(queue)
        gone = 0
        for runs in _pages(messages):
            reply = await self._ask(m.CancelDelayed(name, runs), repeatable=False)
            assert isinstance(reply, m.Cancelled)
            gone += reply.messages
        return gone

    async def reschedule(
        self,
        queue: str,
        messages: Named | Iterable[Named],
        *,
        at: datetime | None = None,
        delay: Duration | None = None,
    ) -> int:
        """Let delayed messages of *queue* be due at another time; return how many of them still waited there.

        Args:
            queue: Name of the queue, or of a topic for what that delays.
            messages: As for `cancel`.
            at: Aware datetime; a past one means at once.
            delay: Seconds or timedelta from now instead, by this machine's clock; 0 means at once.

        Raises:
            QueueNotFound: Neither a queue nor a topic of that name.
            InvalidRequest: A text that is no position, or not just one of *at* and *delay*.
            OutcomeUnknown: The connection broke before the answer. Asking again does no harm.

        """
        name = check_name(queue)
        if (at is None) == (delay is None):
            raise InvalidRequest("say when the messages shall be due: either at= or delay=")
        due_ms = milliseconds_of(at, "at") if at is not None else _after(delay)
        moved = 0
        for runs in _pages(messages):
            reply = await self._ask(m.Reschedule(name, runs, due_ms), repeatable=False)
            assert isinstance(reply, m.Rescheduled)
            moved += reply.messages
        return moved


def _after(delay: Duration | None) -> int:
    seconds = 0.0 if delay is None else seconds_of(delay, "delay", minimum=0.0)
    return milliseconds_of(datetime.now(UTC) + timedelta(seconds=seconds), "delay") if seconds else 0


def milliseconds_of(when: datetime, name: str) -> int:
    """Return *when* in milliseconds since 1970, 0 for what was before. Raises `InvalidRequest` without a time zone."""
    if not isinstance(when, datetime):
        raise TypeError(f"{name} must be a datetime, not {type(when).__name__}")
    if when.tzinfo is None:
        raise InvalidRequest(f"{name} must be a datetime with a time zone, such as datetime.now(UTC)")
    return max(0, (when - _EPOCH) // timedelta(milliseconds=1))


def _pages(messages: Named | Iterable[Named]) -> Iterable[list[int]]:
    """Yield `[due or 0, zxid, index, 1, ...]`, so many messages at a time."""
    several = [messages] if isinstance(messages, DelayedMessage | Receipt | str) else list(messages)
    count_of(len(several), "the number of messages", minimum=0)
    for start in range(0, len(several), NAMED_MAX):
        runs: list[int] = []
        for one in several[start : start + NAMED_MAX]:
            position = one if isinstance(one, str) else one.position
            _, zxid, index = parse_position(position)
            due_ms = milliseconds_of(one.due_at, "due_at") if isinstance(one, DelayedMessage) else 0
            runs += (due_ms, zxid, index, 1)
        yield runs
