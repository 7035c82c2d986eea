"""What the timed loops expect of every system's client."""

from __future__ import annotations

from types import TracebackType
from typing import Protocol, Self

IDLE_SECONDS = 0.5
"""A consumer that got nothing for so long has emptied its queue."""


class Client(Protocol):
    """One connection to a system, bound to one queue.

    Blocking clients block the loop: their process does nothing else.
    """

    backend: str
    """`asyncio` or `trio`."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    async def declare(self) -> None:
        """Make the queue, durable."""

    async def delete(self) -> None:
        """Remove the queue and what is in it, as far as the system can."""

    async def open_producer(self) -> None:
        """Get ready to publish."""

    async def publish(self, bodies: list[bytes]) -> None:
        """Publish and return when all of them are confirmed."""

    async def send(self, body: bytes) -> None:
        """Publish one and return when it is confirmed."""

    async def open_consumer(self, batch: int) -> None:
        """Get ready to receive up to *batch* messages at a time, with more of them under way."""

    async def receive(self, messages_max: int) -> list[bytes]:
        """Return what is there, after a wait of at most `IDLE_SECONDS` for the first; empty: nothing came."""

    async def ack(self) -> None:
        """Acknowledge everything that `receive` has returned."""

    async def flush(self) -> None:
        """Return when the server has seen all acknowledgements."""
