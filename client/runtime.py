"""What differs between event loops, behind one small face: parking a task, a hop to the next turn, sockets.

The client is written on anyio; only what every message or batch touches goes straight to the running loop, because a
portable primitive costs two to five times as much there. It must not know frames or messages.
"""

from __future__ import annotations

import abc
import socket
import sys
from collections.abc import Callable
from typing import Any, Protocol

READ_BYTES_SMALL = 64 * 1024
"""Read size while little arrives: below the size at which the allocator maps fresh pages for every buffer."""
READ_BYTES_LARGE = 1024 * 1024
"""Read size once a read was full: fewer turns of the loop under load."""


class Holder(Protocol):
    """Something on which one task waits; *handle* belongs to the runtime and is None while nobody does.

    On asyncio, a thread may leave something there that is woken as a future is: see `blocking.io_thread.Waiting`.
    """

    handle: Any


class Slot:
    """The plainest holder."""

    __slots__ = ("handle",)

    def __init__(self) -> None:
        self.handle: Any = None


class Stream(abc.ABC):
    """One connected byte stream. Reading pushes, writing never waits: what the socket does not take is kept.

    What is kept is bounded by the windows of those who write.
    """

    @abc.abstractmethod
    def write(self, data: bytes, tail: bytes | memoryview | None = None) -> None:
        """Send *data* and *tail* now as far as the socket takes them, and the rest as soon as it does."""

    @abc.abstractmethod
    async def read_into(self, on_data: Callable[[bytes], None]) -> None:
        """Call *on_data* with all that arrives, until the peer ends the stream.

        Raises:
            OSError: The connection broke, in either direction.

        """

    @abc.abstractmethod
    async def write_loop(self) -> None:
        """Send what `write` could not; runs as long as the stream is open."""

    @abc.abstractmethod
    def close(self) -> None:
        """Close it. Everything else on it ends."""


class Hop:
    """A function that runs once at the loop's next turn, however often it was scheduled until then.

    Args:
        function: What to run.
        at_next_turn: How the loop is asked to call `run` at its next turn.

    """

    __slots__ = ("_at_next_turn", "_function", "_scheduled")

    def __init__(self, function: Callable[[], None], at_next_turn: Callable[[Hop], object]) -> None:
        self._function = function
        self._at_next_turn = at_next_turn
        self._scheduled = False

    def schedule(self) -> None:
        """Let the function run at the next turn."""
        if not self._scheduled:
            self._scheduled = True
            self._at_next_turn(self)

    def run(self) -> None:
        """Called by the loop."""
        self._scheduled = False
        self._function()


class Runtime(abc.ABC):
    """The running event loop, seen by one client."""

    now: Callable[[], float]
    """The loop's clock, in seconds; virtual where the loop's is."""
    on_failure: Callable[[Exception], None]
    """Set by the client: hears of a hop that raised, which is a bug of ours."""

    @abc.abstractmethod
    async def park(self, holder: Holder) -> None:
        """Wait until `wake(holder)`. The caller has checked that there is something to wait for."""

    @abc.abstractmethod
    def wake(self, holder: Holder) -> None:
        """Let the task that parks on *holder* go on; nothing if none does."""

    @abc.abstractmethod
    async def checkpoint(self) -> None:
        """Let others run, and be cancelled."""

    @abc.abstractmethod
    async def checkpoint_if_cancelled(self) -> None:
        """Raise if the running task is cancelled; nothing else, and cheap."""

    @abc.abstractmethod
    def hop(self, function: Callable[[], None]) -> Hop:
        """Return a hop for *function*."""

    @abc.abstractmethod
    def from_anywhere(self, function: Callable[[], None]) -> None:
        """Let *function* run on the loop soon; legal from other threads and from signal handlers."""

    @abc.abstractmethod
    async def run_hops(self) -> None:
        """Serve hops; the client runs it in a task of its own. May return at once where the loop does it alone."""

    @abc.abstractmethod
    async def connect_socket(self, sock: socket.socket, address: Any) -> None:
        """Connect the non-blocking *sock*; OSError if that fails."""

    @abc.abstractmethod
    def stream(self, sock: socket.socket) -> Stream:
        """Return the stream over the connected *sock*, which it owns from now on."""


def current_runtime() -> Runtime:
    """Return a new runtime for the loop that runs this task.

    Raises:
        RuntimeError: Neither trio nor asyncio runs it.

    """
    # Looking among the loaded modules first: importing trio only to ask it costs a quarter of a second.
    trio = sys.modules.get("trio")
    if trio is not None and trio.lowlevel.in_trio_task():
        from sluicemq.client.runtime_trio import TrioRuntime

        return TrioRuntime()
    from sluicemq.client.runtime_asyncio import AsyncioRuntime

    return AsyncioRuntime()
