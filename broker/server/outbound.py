"""What leaves a connection: frames are collected and written with as few system calls and task switches as possible.

Frames that one turn of the event loop produces go out together, straight from the turn that made them (`flush`); only
when the peer's window is full a task waits for it. Bounded by who produces: replies by the requests read, deliveries
by `takes_more`.
"""

from __future__ import annotations

import os
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

import trio

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

Buffer = bytes | memoryview

OUTBOUND_BYTES_MAX = 4 * 1024 * 1024
"""Beyond this a session is neither read from nor delivered to until its peer has read."""
WRITE_BYTES_MAX = 1024 * 1024
"""Most bytes written in one turn of the event loop: the system copies them meanwhile, and a peer on the same machine
may make room as fast as we write."""
WRITE_BUFFERS_MAX = 512
"""Most buffers in one writev; the system's limit is 1024 (IOV_MAX)."""


class Flushed(Protocol):
    """What collects something in a turn of the event loop, and lets it go at the end of it."""

    def flush(self) -> None:
        """Let it go."""


class Hub:
    """All outbounds that have something to flush in this turn of the event loop."""

    def __init__(self) -> None:
        self._dirty: list[Outbound] = []
        self._followers: list[Flushed] = []

    def lead(self, other: Flushed) -> None:
        """Flush *other* too, whenever this one is flushed; behind it."""
        self._followers.append(other)

    def add(self, outbound: Outbound) -> None:
        """Flush *outbound* at the end of this turn."""
        self._dirty.append(outbound)

    @property
    def is_dirty(self) -> bool:
        """Whether something was collected and not written."""
        return bool(self._dirty)

    def flush(self) -> None:
        """Write what was collected."""
        dirty = self._dirty
        if dirty:
            self._dirty = []
            for outbound in dirty:
                outbound.flush()
        for other in self._followers:
            other.flush()


class SelfFlushingHub(Hub, trio.abc.Instrument):
    """A hub that is flushed soon, whoever forgets to.

    Mostly nobody does, and to make sure for each frame would cost two more turns of the event loop each time. So while
    the loop is watched, it is looked at what was forgotten when the loop is about to sleep.
    """

    def __init__(self) -> None:
        super().__init__()
        self._token: trio.lowlevel.TrioToken | None = None
        self._watches = False

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch the event loop that this is entered in."""
        self._token = trio.lowlevel.current_trio_token()
        trio.lowlevel.add_instrument(self)
        self._watches = True
        try:
            yield
        finally:
            self._watches = False
            trio.lowlevel.remove_instrument(self)

    def add(self, outbound: Outbound) -> None:
        """Flush *outbound* at the end of this turn, or in the next one."""
        super().add(outbound)
        if not self._watches:
            if self._token is None:
                self._token = trio.lowlevel.current_trio_token()
            self._token.run_sync_soon(self.flush, idempotent=True)

    def before_io_wait(self, timeout: float) -> None:
        """Flush what was forgotten, in a turn of its own: a flush may wake tasks, and the loop is going to sleep."""
        del timeout
        if self.is_dirty and self._token is not None:
            self._token.run_sync_soon(self.flush, idempotent=True)


class Outbound:
    """The sending side of one connection.

    Args:
        stream: Connected TCP stream; this object alone writes to it.
        hub: Where to ask for a flush.
        on_room: Called when a full buffer has room again.

    """

    def __init__(self, stream: trio.SocketStream, hub: Hub, on_room: Callable[[], None]) -> None:
        self._fd = stream.socket.fileno()
        self._hub = hub
        self._on_room = on_room
        self._buffers: deque[Buffer] = deque()
        self._room = trio.Event()
        self._blocked = trio.Event()
        self._written = trio.Event()
        self._waiting_for_peer = False
        self._in_hub = False
        self.pending_bytes = 0
        self.broken = False
        self.sent_at = trio.current_time()

    def put(self, head: bytes, parts: Iterable[Buffer] = ()) -> None:
        """Collect one frame: its header and head, and the parts of its tail."""
        if self.broken:
            return
        self._buffers.append(head)
        size = len(head)
        for part in parts:
            self._buffers.append(part)
            size += len(part)
        self.pending_bytes += size
        if not self._in_hub and not self._waiting_for_peer:
            self._in_hub = True
            self._hub.add(self)

    @property
    def full(self) -> bool:
        """Whether nothing more should be produced for this connection."""
        return self.pending_bytes > OUTBOUND_BYTES_MAX

    def flush(self) -> None:
        """Write what the peer's window and one turn take; the rest waits for `run`."""
        self._in_hub = False
        if self._waiting_for_peer or self.broken:
            return
        self._write()
        if self._buffers:
            self._waiting_for_peer = True
            self._blocked.set()

    def _write(self) -> None:
        """Write what window and turn take, and tell whoever waits for room or for the end of the writing.

        Told here and nowhere else: whoever saw `full` is woken by whichever write makes room.
        """
        was_full = self.full
        if self._write_buffers():
            self.sent_at = trio.current_time()
        if was_full and not self.full and not self.broken:
            self._room.set()
            self._room = trio.Event()
            self._on_room()
        if not self._buffers:
            self._written.set()

    def _write_buffers(self) -> bool:
        """Write until the peer's window is full or the turn is over; return whether anything left."""
        buffers = self._buffers
        before = self.pending_bytes
        while buffers and (room := WRITE_BYTES_MAX - before + self.pending_bytes) > 0:
            batch = [buffers[position] for position in range(min(len(buffers), WRITE_BUFFERS_MAX))]
            if self.pending_bytes > room:
                batch = _first_bytes(batch, room)
            try:
                written = os.writev(self._fd, batch)
            except BlockingIOError:
                break
            except OSError:
                # The reading side notices the same and ends the session with its reason.
                self.abandon()
                return False
            self.pending_bytes -= written
            while written:
                first = buffers[0]
                if len(first) > written:
                    buffers[0] = memoryview(first)[written:]
                    break
                written -= len(first)
                buffers.popleft()
            while buffers and not len(buffers[0]):
                buffers.popleft()
        return self.pending_bytes < before

    def abandon(self) -> None:
        """Throw away what was not written; nothing more leaves this connection."""
        self.broken = True
        self._buffers.clear()
        self.pending_bytes = 0
        self._room.set()
        self._blocked.set()
        self._written.set()

    async def run(self) -> None:
        """Wait for the peer's window whenever a flush could not write everything; until abandoned."""
        while not self.broken:
            await self._blocked.wait()
            self._blocked = trio.Event()
            while self._buffers and not self.broken:
                try:
                    await trio.lowlevel.wait_writable(self._fd)
                except (trio.ClosedResourceError, OSError):
                    self.abandon()
                    return
                self._write()
            self._waiting_for_peer = False

    async def wait_room(self) -> None:
        """Wait until the buffer is no longer full."""
        while self.full and not self.broken:
            await self._room.wait()

    async def wait_written(self) -> None:
        """Wait until everything collected was written (or the connection broke)."""
        self.flush()
        while self._buffers and not self.broken:
            # `run` alone waits for the peer's window: two tasks must not wait for one descriptor.
            self._written = trio.Event()
            await self._written.wait()


def _first_bytes(buffers: list[Buffer], count: int) -> list[Buffer]:
    """Return the first *count* bytes of *buffers*, or all where they are fewer."""
    taken: list[Buffer] = []
    for buffer in buffers:
        if len(buffer) >= count:
            taken.append(memoryview(buffer)[:count])
            break
        taken.append(buffer)
        count -= len(buffer)
    return taken
