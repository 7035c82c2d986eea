"""Replay: what a queue or topic retains, as an async iterator, page by page, over as many connections as it takes.

It holds no lease and settles nothing, so it has no task, no place among the consumers and nothing to clean up: whoever
stops iterating is done. While a page is handed out the next one is under way; there are never more than these two.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple, Self

import anyio

from sluicemq.client.delivery_buffer import Run
from sluicemq.client.errors import BrokerStopping, InvalidRequest, RequestTimeout, another
from sluicemq.client.options import count_of
from sluicemq.client.peeked import PeekedMessage, runs_of
from sluicemq.client.reconnect import MOVE_ON, Answer
from sluicemq.client.runtime import Slot
from sluicemq.wire import messages as m
from sluicemq.wire.positions import format_position, parse_position

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sluicemq.client.errors import SluiceError
    from sluicemq.client.reconnect import Link
    from sluicemq.client.runtime import Runtime
    from sluicemq.client.session import Session
    from sluicemq.wire.fields import Message as WireMessage

PAGE_MESSAGES = 1_000
PAGE_BYTES = 1024 * 1024
"""Most bytes of a page, about, unless one message is larger."""
WAIT_SECONDS = 20.0
"""So long the broker keeps a request that has nothing to answer yet, when following."""
CHECKPOINT_MESSAGES = 64
"""While messages are at hand, the loop gets its turn after so many of them."""
START = "start"

Place = tuple[int, int, int]
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Border(NamedTuple):
    """Where a replay begins or ends: at a place (group, zxid, index), at a time, or at neither: the oldest message."""

    place: Place | None = None
    ms: int | None = None


def border_of(value: str | datetime, name: str) -> Border:
    """Return what *value* means: a position, an aware datetime, or "start".

    Raises:
        TypeError: None of these.
        InvalidRequest: A text that is no position, or a datetime without a time zone or before 1970.

    """
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise InvalidRequest(f"{name} is {value.isoformat()}, without a time zone: give it one, as datetime.UTC")
        if value < _EPOCH:
            raise InvalidRequest(f"{name} is {value.isoformat()}; it must not be before 1970")
        # Messages have whole milliseconds: what was published at half of one begins with the next.
        return Border(ms=-((_EPOCH - value) // timedelta(milliseconds=1)))
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a position, a datetime or 'start', not {type(value).__name__}")
    return Border() if value == START else Border(parse_position(value))


class _Asked:
    """A request for a page, under way."""

    __slots__ = ("answer", "error", "session", "slot")

    def __init__(self, session: Session) -> None:
        self.session = session
        self.slot = Slot()
        self.answer: Answer | None = None
        self.error: SluiceError | None = None

    @property
    def is_answered(self) -> bool:
        """Whether the answer, or an error in its place, is there."""
        return self.answer is not None or self.error is not None


class Replay:
    """Retained messages, oldest first; made by `Client.replay`, used with `async for` by one task at a time.

    Nothing is lost when the task is cancelled while it waits: it can go on iterating.
    """

    def __init__(
        self,
        runtime: Runtime,
        link: Link,
        queue: str,
        begin: Border,
        end: Border | None,
        follow: bool,
        request_seconds: float,
    ) -> None:
        self.queue = queue
        self._runtime = runtime
        self._link = link
        self._begin = begin
        self._end = end or Border()
        self._follow = follow
        self._request_seconds = request_seconds
        self._place = begin.place
        self._group = 0
        self._asked: _Asked | None = None
        self._page: Iterator[tuple[Run, int, Place]] = iter(())
        self._topic = ""
        self._ended = False
        self._waiting = False
        self._budget = CHECKPOINT_MESSAGES

    @property
    def position(self) -> str | None:
        """Where another replay would go on: behind the last message that was handed out, which the position of that
        message itself does not say where it became visible later than it was stored.

        None before the first one, unless the replay began at a position.
        """
        return None if self._place is None else format_position(*self._place)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> PeekedMessage:
        self._budget -= 1
        if not self._budget:
            self._budget = CHECKPOINT_MESSAGES
            await self._runtime.checkpoint()
        while (found := next(self._page, None)) is None:
            if self._ended:
                raise StopAsyncIteration
            self._page = await self._next_page()
        run, offset, self._place = found
        return PeekedMessage.of(run, offset, self._group, self.queue, self._topic)

    async def receive(self, max_messages: int = PAGE_MESSAGES) -> list[PeekedMessage]:
        """Return the messages that are at hand, at most *max_messages*; wait where there are none. Empty: the end.

        Raises as iterating does.
        """
        most = count_of(max_messages, "max_messages")
        try:
            messages = [await anext(self)]
        except StopAsyncIteration:
            return []
        for run, offset, place in islice(self._page, most - 1):
            self._place = place
            messages.append(PeekedMessage.of(run, offset, self._group, self.queue, self._topic))
        return messages

    # --- pages ----------------------------------------------------------------------------------------------------

    async def _next_page(self) -> Iterator[tuple[Run, int, Place]]:
        """Return the messages of the next page, each with the place behind it, and ask for the one behind it.

        Raises:
            RequestTimeout: No answer in time; never when following.
            ConnectionFailed: No broker in time; likewise.
            SluiceError: The broker's answer.

        """
        if self._waiting:
            raise RuntimeError("a replay is iterated by one task at a time")
        self._waiting = True
        try:
            answer = await (self._answer() if self._follow else self._answer_in_time())
        finally:
            self._waiting = False
        replayed = answer.message
        assert isinstance(replayed, m.Replayed)
        runs = runs_of(replayed.runs, answer.tail, replayed.destinations)
        self._topic = replayed.topic
        if not self._follow:
            # What is published after the replay has begun is no part of it, however fast it comes.
            last = (self._group, replayed.last_zxid, replayed.last_index)
            self._end = self._end._replace(place=last if self._end.place is None else min(self._end.place, last))
        self._begin = Border((self._group, replayed.next_zxid, replayed.next_index))
        if not replayed.more and (replayed.complete or not self._follow):
            self._ended = True
        elif self._link.session is not None:
            self._ask(self._link.session)
        numbers = replayed.places or [number for run in runs for number in (run.zxid, run.first_index)]
        group = self._group
        return (
            (run, offset, (group, zxid, index + offset + 1))
            for run, zxid, index in zip(runs, numbers[::2], numbers[1::2], strict=False)
            for offset in range(run.count)
        )

    async def _answer_in_time(self) -> Answer:
        with anyio.move_on_after(self._request_seconds):
            return await self._answer()
        if self._link.session is None:
            raise self._link.unreachable()
        raise RequestTimeout(f"no page of {self.queue!r} came within {self._request_seconds:g} seconds")

    async def _answer(self) -> Answer:
        refusals = self._link.retrying.series()
        while True:
            asked = self._asked
            if asked is None or (not asked.is_answered and self._link.failure is not None):
                # After a fork nobody answers: then this raises why.
                asked = self._ask(await self._link.connected())
            if not asked.is_answered:
                await self._runtime.park(asked.slot)
            self._asked = None
            if asked.answer is not None:
                return asked.answer
            error = asked.error
            assert error is not None
            if error is asked.session.error:
                if self._link.failure is not None:
                    raise another(self._link.failure)
            elif isinstance(error, (*MOVE_ON, BrokerStopping)):
                if isinstance(error, MOVE_ON):
                    asked.session.end(error)
                await anyio.sleep(refusals.pause(error))
            else:
                raise another(error)

    def _ask(self, session: Session) -> _Asked:
        """Ask for the next page."""
        asked = _Asked(session)
        self._group = 0 if session.welcome is None else session.welcome.group_id
        begin, end = self._begin, self._end
        for border in (begin, end):
            if border.place is not None and border.place[0] != self._group:
                raise InvalidRequest(f"position {format_position(*border.place)} is of another log than this broker's")
        _, zxid, index = begin.place or (0, 0, 0)
        _, end_zxid, end_index = end.place or (0, None, 0)
        request = m.Replay(
            name=self.queue,
            zxid=zxid,
            index=index,
            from_ms=begin.ms,
            end_zxid=end_zxid,
            end_index=end_index,
            end_ms=end.ms,
            messages_max=PAGE_MESSAGES,
            bytes_max=PAGE_BYTES,
            wait_seconds=WAIT_SECONDS if self._follow else 0.0,
        )

        def on_reply(reply: WireMessage | None, tail: memoryview | None, error: SluiceError | None) -> None:
            if error is not None:
                asked.error = error
            else:
                assert reply is not None
                assert tail is not None
                asked.answer = Answer(reply, tail)
            self._runtime.wake(asked.slot)

        session.request(request, on_reply)
        self._asked = asked
        return asked
