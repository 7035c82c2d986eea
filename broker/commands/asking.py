"""Runs one piece of work with a connected client, for commands that are plain functions."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from sluicemq.client import Client, StaleReads

Answer = TypeVar("Answer")

CONNECT_SECONDS = 3.0
"""Patience with a broker that cannot be reached: less than a program's, for a person waits."""


def with_client(url: str, work: Callable[[Client], Awaitable[Answer]]) -> Answer:
    """Connect to *url*, do *work*, disconnect, and return what the work returned."""
    import trio

    from sluicemq.broker.commands.interrupts import clean_up_on_interrupt
    from sluicemq.client import connect

    async def main() -> Answer:
        async with connect(url, name="sluicemq", connect_timeout=CONNECT_SECONDS) as client:
            return await work(client)

    clean_up_on_interrupt()
    return trio.run(main)


def with_stale_reads(url: str, work: Callable[[StaleReads], Awaitable[Answer]]) -> Answer:
    """Do *work* with the first broker of *url* that answers, whether it leads or not; return what the work returned."""
    import trio

    from sluicemq.broker.commands.interrupts import clean_up_on_interrupt
    from sluicemq.client import StaleReads

    async def main() -> Answer:
        return await work(StaleReads(url, name="sluicemq"))

    clean_up_on_interrupt()
    return trio.run(main)
