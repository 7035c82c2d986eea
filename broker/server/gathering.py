"""A frame that comes in pieces wakes its reader a few times, not once for each piece.

The other end writes a large frame at once, but the system hands it over as its segments arrive: a frame of 100 KiB in
about ten pieces, and to be woken for each of them costs more than all else that is done with the frame. So who knows
how much is missing lets the system wait for that (SO_RCVLOWAT). Nobody waits for long: `relax` is called from time to
time, and brings whatever is there.

This module must not know frames.
"""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from trio.socket import SocketType

GATHER_BYTES_MIN = 8 * 1024
"""Less than this is not waited for: it comes in one piece."""
GATHER_BYTES_MAX = 128 * 1024
"""So much is read at once though more is missing, so that the system needs no more room."""


class Gathering:
    """How much must have come until a socket counts as readable.

    Args:
        sock: A connected stream socket that one task reads.

    """

    def __init__(self, sock: SocketType) -> None:
        self._socket = sock
        self._bytes = 1

    async def wait(self, missing_bytes: int, *, drained: bool) -> None:
        """Wait until it is worth while to read, if there is something to wait for; then read as usual.

        Args:
            missing_bytes: What the frame under way lacks at least; 0 between frames.
            drained: Whether the last read took all there was.

        """
        if not drained or missing_bytes < GATHER_BYTES_MIN:
            if self._bytes != 1:
                self.relax()
            return
        wanted = min(missing_bytes, GATHER_BYTES_MAX)
        if wanted != self._bytes:
            self._demand(wanted)
        await trio.lowlevel.wait_readable(self._socket)

    def relax(self) -> None:
        """Wake the reader with whatever is there."""
        if self._bytes != 1:
            self._demand(1)

    def _demand(self, count: int) -> None:
        self._bytes = count
        # A socket that is closed, or a system that knows no such option: then every piece wakes the reader.
        with contextlib.suppress(OSError):
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, count)
