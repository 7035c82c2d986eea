"""A herd of clients comes or goes one by one: what each of them costs must not add up to one turn of the event loop.

A thousand clients that find the new leader in the same moment, or a thousand connections that end with their host, are
ready all at once; served in one turn they would keep the loop from its heartbeats until other brokers take this one for
dead, and the herd would move on to the next. This module must not know connections, nor what is done behind it.
"""

from __future__ import annotations

import trio

PASSING_MAX = 8
"""So many pass in one turn of the event loop: with what a handshake's step or a goodbye costs, about 3 ms."""


class Turnstile:
    """Lets tasks through in the order in which they come, so many in one turn of the event loop.

    Args:
        passing_max: How many.

    """

    def __init__(self, passing_max: int = PASSING_MAX) -> None:
        self._passing = trio.CapacityLimiter(passing_max)

    async def pass_through(self) -> None:
        """Return when it is this task's turn: what it does until it waits next belongs to this turn of the loop."""
        async with self._passing:
            await trio.lowlevel.checkpoint()
