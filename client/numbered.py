"""Requests with a number of their own: sent again after a reconnect, they are done once, and answered as before.

Transactions and prepared messages are such. Each goes out under a producer number and the next sequence of that; while
it is under way nothing else uses the number, so that one which is refused holds up no other. Numbers are kept for the
next request; one whose outcome is unknown is left alone, for whoever asks again. This module must not know what the
requests say.
"""

from __future__ import annotations

from collections.abc import Callable

import anyio

from sluicemq.client.errors import (
    ConnectionFailed,
    OutcomeUnknown,
    ProducerFenced,
    ProducerNotFound,
    RequestTimeout,
    SluiceError,
)
from sluicemq.client.reconnect import Answer, Link
from sluicemq.client.runtime import Runtime
from sluicemq.wire import messages as m
from sluicemq.wire.fields import Message

NUMBERS_MAX = 64
"""Most of these requests under way at a time; others wait."""

Make = Callable[[int, int], Message]
"""Returns the request with this producer number and sequence."""


class _Number:
    """A producer number, and the last sequence that was accepted under it."""

    __slots__ = ("last", "producer")

    def __init__(self, producer: int) -> None:
        self.producer = producer
        self.last = 0


class NumberedRequests:
    """Sends requests under numbers of their own."""

    def __init__(self, runtime: Runtime, link: Link) -> None:
        self.link = link
        self._now = runtime.now
        self._room = anyio.Semaphore(NUMBERS_MAX)
        self._free: list[_Number] = []

    async def ask(self, make: Make, tail: bytes | None, seconds: float) -> tuple[Answer, Message]:
        """Send a request, over as many connections as it takes; return the answer, and the request as it was sent.

        Raises:
            OutcomeUnknown: No answer in time; `producer` and `sequence` say under which number it may have been done.
            ConnectionFailed: No broker within that time, and nothing was sent.
            SluiceError: The broker refused it: it was not done.

        """
        deadline = self._now() + seconds
        async with self._room:
            number = self._free.pop() if self._free else await self._open(seconds)
            request = make(number.producer, number.last + 1)
            answer = await self.again(request, tail, deadline - self._now(), number)
            number.last += 1
            self._free.append(number)
            return answer, request

    async def again(
        self, request: Message, tail: bytes | None, seconds: float, number: _Number | None = None
    ) -> Answer:
        """Send a request that has its number, perhaps once more; raises as `ask`."""
        reached = self.link.session is not None
        try:
            return await self.link.request(request, timeout=max(seconds, 0.0), tail=tail)
        except (RequestTimeout, ConnectionFailed) as error:
            if isinstance(error, ConnectionFailed) and not reached and number is not None:
                self._free.append(number)
                raise
            raise OutcomeUnknown(
                f"{type(request).__name__} may or may not have been done: {error.text}",
                producer=getattr(request, "producer", 0),
                sequence=getattr(request, "sequence", 0),
            ) from error
        except (ProducerNotFound, ProducerFenced):
            raise
        except SluiceError:
            if number is not None:
                self._free.append(number)  # a refusal burns no sequence
            raise

    async def _open(self, seconds: float) -> _Number:
        answer = await self.link.request(m.OpenProducer(name=""), timeout=seconds)
        assert isinstance(answer.message, m.ProducerOpened)
        return _Number(answer.message.producer)
