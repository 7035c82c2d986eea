"""Wakes a relay from any thread, with or without a loop there: a byte through a pair of sockets.

It must not know why.
"""

from __future__ import annotations

import socket

import anyio

READ_BYTES = 4096


class Bell:
    """One relay listens; anybody rings."""

    def __init__(self) -> None:
        self._inside, self._outside = socket.socketpair()
        self._inside.setblocking(False)
        self._outside.setblocking(False)

    def ring(self) -> None:
        """Wake who listens, or let the next wait end at once."""
        try:
            self._outside.send(b"\0")
        except OSError:
            return  # it is full of rings that nobody has heard yet, or the relay has just ended

    async def heard(self, seconds: float) -> bool:
        """Wait so long at most; return whether somebody rang since the last time."""
        with anyio.move_on_after(seconds):
            await anyio.wait_readable(self._inside)
        return self._drained()

    def _drained(self) -> bool:
        rang = False
        while True:
            try:
                data = self._inside.recv(READ_BYTES)
            except BlockingIOError:
                return rang
            if not data:
                return rang
            rang = True

    def close(self) -> None:
        """Nobody listens any more."""
        self._inside.close()
        self._outside.close()
