"""Async iterators for threads: what comes in pages is fetched in pages, one switch to the I/O thread each."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Generic, Self, TypeVar

from sluicemq.client.blocking.io_thread import IoThread
from sluicemq.client.peeked import PeekedMessage
from sluicemq.client.replay import PAGE_MESSAGES
from sluicemq.client.replay import Replay as AsyncReplay
from sluicemq.wire.positions import format_position, parse_position

T = TypeVar("T")

CHUNK_ITEMS = 500
"""How many items are fetched at once."""


class Listing(Iterator[T], Generic[T]):
    """What an async generator of the client yields."""

    def __init__(self, io: IoThread, make: Callable[[], AsyncIterator[T]]) -> None:
        self._io = io
        self._make = make
        self._source: AsyncIterator[T] | None = None
        self._items: deque[T] = deque()
        self._ended = False

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> T:
        if not self._items and not self._ended:
            self._io.call(self._fetch)
        if not self._items:
            raise StopIteration
        return self._items.popleft()

    async def _fetch(self) -> None:
        if self._source is None:
            self._source = self._make()
        async for item in self._source:
            self._items.append(item)
            if len(self._items) >= CHUNK_ITEMS:
                return
        self._ended = True


class Replay:
    """Retained messages, oldest first; made by `Client.replay`, used with `for` by one thread at a time."""

    def __init__(self, io: IoThread, inner: AsyncReplay) -> None:
        self.queue = inner.queue
        self._io = io
        self._inner = inner
        self._items: deque[PeekedMessage] = deque()
        self._position: str | None = None

    @property
    def position(self) -> str | None:
        """Where another replay would go on: behind the last message that was handed out.

        None before the first one, unless the replay began at a position.
        """
        if self._position is not None:
            group, zxid, index = parse_position(self._position)
            return format_position(group, zxid, index + 1)
        return None if self._items else self._inner.position

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> PeekedMessage:
        if not self._items:
            self._items.extend(self._io.call(self._inner.receive))
        if not self._items:
            raise StopIteration
        return self._handed_out(self._items.popleft())

    def receive(self, max_messages: int = PAGE_MESSAGES) -> list[PeekedMessage]:
        """Return the messages that are at hand, at most *max_messages*; wait where there are none. Empty: the end.

        Raises as iterating does.
        """
        if not self._items:
            messages = self._io.call(self._inner.receive, max_messages)
        else:
            messages = [self._items.popleft() for _ in range(min(max_messages, len(self._items)))]
        if messages:
            self._handed_out(messages[-1])
        return messages

    def _handed_out(self, message: PeekedMessage) -> PeekedMessage:
        self._position = message.position
        return message
