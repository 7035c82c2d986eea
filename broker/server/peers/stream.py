"""One TCP stream between two brokers: frames in, frames out, and whether the other end is still there.

What is to be sent is collected and written by `Outbound`, as for clients. What comes in is read only when somebody asks
for the next frame, so that whoever is slow slows the sender down. A stream that has nothing to say says so (`Beat`);
one that nothing comes from while somebody reads, or that takes nothing, is silent (`silence`).

This module must not know which messages there are beside `Beat`, nor what a connection is made of.
"""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING

import trio

from sluicemq.broker.server.gathering import Gathering
from sluicemq.broker.server.outbound import Outbound
from sluicemq.wire.errors import ConnectionFailed, ProtocolError
from sluicemq.wire.frames import FRAME_BYTES_BEFORE_OPEN, Frame, FrameReader, pack_frame
from sluicemq.wire.peers import decode_peer_message
from sluicemq.wire.peers_of_links import Beat

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sluicemq.broker.server.outbound import Buffer, Hub
    from sluicemq.wire.fields import Message

READ_BYTES = 64 * 1024
READ_BYTES_MAX = 1024 * 1024
TURN_SECONDS = 0.004
"""After so long with the frames of one stream the event loop serves others first."""
_BEAT = pack_frame(Beat.TYPE, Beat().encode())


class PeerStream:
    """One stream.

    Args:
        stream: Connected; it is this object's from now on.
        hub: Where to ask for a flush.

    Attributes:
        outbound: The sending side.
        ended: Set when the stream was closed.

    """

    def __init__(self, stream: trio.SocketStream, hub: Hub) -> None:
        self._stream = stream
        self._reader = FrameReader(FRAME_BYTES_BEFORE_OPEN)
        self._frames: deque[Frame] = deque()
        self._gathering = Gathering(stream.socket)
        self._took_all = False
        self._reading_since: float | None = None
        self._turn_began = 0.0
        self.outbound = Outbound(stream, hub, _nothing)
        self.ended = trio.Event()

    @property
    def peer(self) -> str:
        """Where the other end is, for messages."""
        try:
            address = self._stream.socket.getpeername()
        except OSError:
            return "a broker that has left"
        return f"{address[0]}:{address[1]}" if isinstance(address, tuple) else str(address)

    def allow(self, frame_bytes_max: int) -> None:
        """Take frames up to this size from now on: the other end is known."""
        self._reader.frame_bytes_max = frame_bytes_max

    # --- sending --------------------------------------------------------------------------------------------------

    def put(self, message: Message, tail: Iterable[Buffer] = ()) -> None:
        """Collect one message; `Hub.flush` writes it."""
        parts = list(tail)
        self.outbound.put(pack_frame(message.TYPE, message.encode(), sum(map(len, parts))), parts)

    def beat(self, now: float, after_seconds: float) -> None:
        """Say that we are here if nothing was said for so long, and take what came of a frame by now."""
        self._gathering.relax()
        outbound = self.outbound
        if not outbound.pending_bytes and now - outbound.sent_at >= after_seconds:
            outbound.put(_BEAT)

    def silence(self, now: float) -> float:
        """Return for how many seconds the other end has said nothing though we listen, or taken nothing."""
        outbound = self.outbound
        heard = 0.0 if self._reading_since is None else now - self._reading_since
        taken = now - outbound.sent_at if outbound.pending_bytes else 0.0
        return max(heard, taken)

    def forgive(self, seconds: float) -> None:
        """This process itself stood still for so long: do not blame the other end for it."""
        if self._reading_since is not None:
            self._reading_since += seconds
        self.outbound.sent_at += seconds

    # --- receiving ------------------------------------------------------------------------------------------------

    def feed(self, data: bytes) -> None:
        """Take what was read elsewhere. Raises ProtocolError."""
        if data:
            self._frames.extend(self._reader.feed(data))

    @property
    def drained(self) -> bool:
        """Whether the next frame has yet to be read."""
        return not self._frames

    async def receive(self) -> Frame:
        """Return the next frame that is no `Beat`.

        Raises:
            ConnectionFailed: The stream has ended.
            ProtocolError: What comes is no frame, or one that is too large.

        """
        while True:
            while self._frames:
                frame = self._frames.popleft()
                if frame.type != Beat.TYPE:
                    await self._end_turn()
                    return frame
            await self._read()

    async def receive_message(self) -> tuple[Message, memoryview]:
        """Return the next message with its tail. Raises as `receive`, and where it is malformed."""
        frame = await self.receive()
        return decode_peer_message(frame.type, frame.head, len(frame.tail)), frame.tail

    async def _end_turn(self) -> None:
        now = time.perf_counter()
        if now - self._turn_began > TURN_SECONDS:
            await trio.lowlevel.checkpoint()
            self._turn_began = time.perf_counter()

    async def _read(self) -> None:
        """Read once; raises as `receive`."""
        socket, reader = self._stream.socket, self._reader
        self._reading_since = trio.current_time()
        try:
            room = reader.writable(READ_BYTES_MAX)
            await self._gathering.wait(reader.missing_bytes, drained=self._took_all)
            if room is not None:
                count = await socket.recv_into(room)
                self._took_all = count < len(room)
                self._frames.extend(reader.filled(count) if count else ())
            else:
                size = min(READ_BYTES_MAX, reader.missing_bytes + READ_BYTES)
                data = await socket.recv(size)
                count = len(data)
                self._took_all = count < size
                self._frames.extend(reader.feed(data))
        except (OSError, trio.ClosedResourceError) as error:
            raise ConnectionFailed(f"the connection broke: {error}") from error
        finally:
            self._reading_since = None
            self._turn_began = time.perf_counter()
        if not count:
            raise ConnectionFailed("the other end closed the connection")

    # --- the end --------------------------------------------------------------------------------------------------

    async def see_off(self, message: Message, seconds: float) -> None:
        """Say one last thing and let the other end read it: closing with unread bytes would reset the connection."""
        self.put(message)
        with trio.move_on_after(seconds):
            self.outbound.flush()
            await self.outbound.wait_written()
            try:
                await self._stream.send_eof()
                while await self._stream.socket.recv(READ_BYTES):
                    pass
            except (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
                return

    def close(self) -> None:
        """End the stream, at once. May be called twice."""
        self.outbound.abandon()
        self._stream.socket.close()
        self.ended.set()


def _nothing() -> None:
    """A queue has room again; who produces for it asks."""


def expect(message: Message, cls: type[Message]) -> None:
    """Raise ProtocolError unless *message* is of this class."""
    if not isinstance(message, cls):
        raise ProtocolError(f"{type(message).__name__} came where {cls.__name__} was expected")
