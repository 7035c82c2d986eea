"""One connection to another broker: its number, its two lasting streams, and the snapshot streams beside them.

Every message of the core names the connection that it was made for; what names another one is dropped on its way out,
and is a breach of the protocol on its way in. The queue to a peer is bounded in bytes: the core keeps at most a window
of proposals on the way to each learner, so whoever has more waiting does not read, and is cut off.

This module must not know how a connection came about, nor what becomes of the messages.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import TYPE_CHECKING

import trio

from sluicemq.broker.pipeline.peer_messages import pack_peer_message, unpack_peer_message
from sluicemq.broker.server.peers.handshake import check_cluster, renamed
from sluicemq.wire import peers as wire
from sluicemq.wire.errors import ConnectionFailed, HeartbeatLost, ProtocolError, SluiceError, error_from_wire
from sluicemq.wire.peers_of_links import ClusterNamed, NodeFigures, PeerRefusal, StreamWanted

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sluicemq.broker.pipeline.ensemble.links import Identity, LinkEvents
    from sluicemq.broker.pipeline.peer_messages import Bodies
    from sluicemq.broker.replication.messages import Message
    from sluicemq.broker.server.peers.stream import PeerStream

logger = logging.getLogger("sluicemq.peers")

QUEUE_BYTES_MAX = 64 * 1024 * 1024
"""Most bytes that wait for one peer: several windows of the core. Where frames are large, `FRAMES_MAX` of them."""
FRAMES_MAX = 2
"""The largest entry, and a window behind it: a bound that one entry alone exceeds would end every connection."""
SILENCE_SECONDS = 4.0
"""A stream that was silent for so long ends its connection. Longer than a learner's patience with its leader, so that
elections are the core's business."""
BEAT_SECONDS = 1.0
"""A stream that has nothing to say says so this often."""
STREAM_SECONDS = 5.0
"""How long the other end may take to open a stream that it was asked for."""
STREAMS_WANTED_MAX = 4
"""Most snapshot streams of one connection that are being opened at once."""
CONTROL_FRAME_BYTES_MAX = 256 * 1024

# Who introduces itself, or names an epoch, must not overtake what it said before of whom it follows: a late "I look for
# a leader" would undo it. And the lead is handed over before the leader says that it leads no more, which would begin
# an election.
_OVERTAKING = (
    *(wire.Ping.TYPE, wire.Pong.TYPE, wire.Notification.TYPE),
    *(wire.FollowerInfo.TYPE, wire.NewEpoch.TYPE, wire.HandOver.TYPE),
)
_TYPE_OFFSET = 4


class PeerConnection:
    """One connection, from `peer_up` to `peer_down`.

    Args:
        peer: Who is at the other end.
        number: Of the connection.
        opened_here: Whether we opened it.
        control: The stream for what overtakes.
        data: The stream for the rest.
        events: Who is told what comes in.
        bodies: How entries become bytes.
        frame_bytes_max: Largest frame on the data stream.
        open_stream: Opens a further stream of this kind; used where *opened_here*.
        take_stream: Serves a snapshot stream that the other end sends on, until it ends.
        flush: Writes what was collected, on whichever stream.

    Attributes:
        ended: Why it is over; None while it lives.
        closed: Set when it is over and its streams are closed.
        up_at: When it began, by trio's clock.
        figures: What the peer said last of how it is.

    """

    def __init__(
        self,
        peer: Identity,
        number: int,
        *,
        opened_here: bool,
        control: PeerStream,
        data: PeerStream,
        events: LinkEvents,
        bodies: Bodies,
        frame_bytes_max: int,
        open_stream: Callable[[PeerConnection, int], Awaitable[PeerStream]],
        take_stream: Callable[[PeerConnection, PeerStream], Awaitable[None]],
        flush: Callable[[], None],
    ) -> None:
        self.peer = peer
        self.number = number
        self.opened_here = opened_here
        self.control = control
        self.data = data
        self.ended: SluiceError | None = None
        self.closed = trio.Event()
        self.up_at = trio.current_time()
        self.figures: NodeFigures | None = None
        self.snapshot_streams: set[PeerStream] = set()
        self._events = events
        self._bodies = bodies
        self._open_stream = open_stream
        self._take_stream = take_stream
        self._flush = flush
        self._scope = trio.CancelScope()
        self._nursery: trio.Nursery | None = None
        self._wanted: deque[_WantedStream] = deque()
        self._figures_at = self.up_at
        self._told: tuple[bytes, bool] | None = None
        control.allow(CONTROL_FRAME_BYTES_MAX)
        data.allow(frame_bytes_max)
        self._queue_bytes_max = max(QUEUE_BYTES_MAX, FRAMES_MAX * frame_bytes_max)

    @property
    def queued_bytes(self) -> int:
        """Bytes that wait to be sent."""
        return self.control.outbound.pending_bytes + self.data.outbound.pending_bytes

    # --- life -----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Serve the connection until it ends; `end` has been called then."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                with self._scope:
                    async with trio.open_nursery() as streams:
                        for stream in (self.control, self.data):
                            streams.start_soon(stream.outbound.run)
                            streams.start_soon(self._read, stream)
                nursery.cancel_scope.cancel()
        finally:
            self.end(ConnectionFailed("this broker gives its connections up"))
            for stream in (self.control, self.data, *self.snapshot_streams):
                stream.close()
            self.closed.set()

    def end(self, reason: SluiceError) -> None:
        """It is over: nothing is sent or taken any more. May be called twice."""
        if self.ended is None:
            self.ended = reason
            self._scope.cancel()

    def watch(self, now: float, figures: Callable[[], NodeFigures] | None) -> None:
        """Say that we are here, and how, and end the connection if the other end does not."""
        if figures is not None and now - self._figures_at >= BEAT_SECONDS:
            self._figures_at = now
            self.control.put(figures())
        for stream in (self.control, self.data):
            stream.beat(now, BEAT_SECONDS)
            silence = stream.silence(now)
            if silence > SILENCE_SECONDS:
                self.end(HeartbeatLost(f"node {self.peer.node} was silent for {silence:.1f} s"))
        for stream in tuple(self.snapshot_streams):
            stream.beat(now, BEAT_SECONDS)
            if stream.silence(now) > SILENCE_SECONDS:
                stream.close()

    # --- messages -------------------------------------------------------------------------------------------------

    def send(self, message: Message) -> None:
        """Collect *message*, or drop it if it was made for another connection."""
        if self.ended is not None or message.connection != self.number:
            return
        packed = pack_peer_message(message, self._bodies)
        if packed.head[_TYPE_OFFSET] in _OVERTAKING:
            self.control.outbound.put(packed.head, packed.tail)
        else:
            if packed.head[_TYPE_OFFSET] == wire.Synchronize.TYPE:
                # A learner joins the leader's cluster before its first entry.
                self._name_cluster(self._events.identity)
            self.data.outbound.put(packed.head, packed.tail)
        if self.queued_bytes > self._queue_bytes_max:
            self.end(
                HeartbeatLost(f"{self.queued_bytes} bytes wait for node {self.peer.node}: it does not read, cut off")
            )

    def name_cluster(self, own: Identity) -> None:
        """Say which cluster we belong to, if that is not what was said last."""
        if self._told is None:
            self._told = own.cluster_id, own.founded
        self._name_cluster(own)

    def _name_cluster(self, own: Identity) -> None:
        if self._told != (own.cluster_id, own.founded):
            self._told = own.cluster_id, own.founded
            self.data.put(ClusterNamed(own.cluster_id, own.founded))

    async def _read(self, stream: PeerStream) -> None:
        try:
            while True:
                frame = await stream.receive()
                if frame.type < PeerRefusal.TYPE:
                    message = unpack_peer_message(frame.type, frame.head, frame.tail, self._bodies)
                    self._check(message, overtakes=frame.type in _OVERTAKING, on_control=stream is self.control)
                    if self.ended is None:
                        self._events.received(self.peer.node, message)
                    if stream.drained:
                        self._flush()
                else:
                    said = wire.decode_peer_message(frame.type, frame.head, len(frame.tail))
                    if isinstance(said, PeerRefusal):
                        raise error_from_wire(said.error)
                    self._take(said, stream)
        except SluiceError as error:
            if self.ended is None and isinstance(error, ProtocolError):
                logger.warning("the connection to node %d ends: %s", self.peer.node, error)
            self.end(error)

    def _check(self, message: Message, *, overtakes: bool, on_control: bool) -> None:
        if message.connection != self.number:
            raise ProtocolError(
                f"{type(message).__name__} for connection {message.connection} came over connection {self.number}"
            )
        if overtakes != on_control:
            raise ProtocolError(f"{type(message).__name__} came on the wrong stream")

    def _take(self, said: object, stream: PeerStream) -> None:
        if isinstance(said, ClusterNamed) and stream is self.data:
            self.peer = renamed(self.peer, said)
            check_cluster(self._events.identity, self.peer)
            self._events.peer_named(self.peer)
        elif isinstance(said, NodeFigures) and stream is self.control:
            self.figures = said
        elif isinstance(said, StreamWanted) and stream is self.control and self.opened_here:
            if said.stream != wire.STREAM_SNAPSHOT_WANTED:
                raise ProtocolError(f"StreamWanted.stream is {said.stream}, which nobody asks for")
            self._start(self._open_wanted)
        else:
            raise ProtocolError(f"{type(said).__name__} came where it means nothing")

    # --- snapshot streams -----------------------------------------------------------------------------------------

    def _start(self, work: Callable[[], Awaitable[None]]) -> None:
        assert self._nursery is not None, "messages come while the connection runs"
        if len(self.snapshot_streams) + len(self._wanted) < STREAMS_WANTED_MAX:
            self._nursery.start_soon(work)

    async def open_snapshot_stream(self) -> PeerStream:
        """Return a new stream to send a snapshot on. Close it with `drop_stream`.

        Raises:
            SluiceError: There is none: the connection ended, or the other end takes too long.

        """
        if self.opened_here:
            return self._keep(await self._open_stream(self, wire.STREAM_SNAPSHOT))
        wanted = _WantedStream()
        self._wanted.append(wanted)
        self.control.put(StreamWanted(wire.STREAM_SNAPSHOT_WANTED))
        self.control.outbound.flush()
        with trio.move_on_after(STREAM_SECONDS):
            await wanted.there.wait()
        if wanted.stream is None:
            if wanted in self._wanted:
                self._wanted.remove(wanted)
            raise ConnectionFailed(f"node {self.peer.node} opened no stream for a snapshot within {STREAM_SECONDS} s")
        return self._keep(wanted.stream)

    async def _open_wanted(self) -> None:
        try:
            stream = self._keep(await self._open_stream(self, wire.STREAM_SNAPSHOT_WANTED))
        except SluiceError as error:
            logger.info("no stream for a snapshot of node %d: %s", self.peer.node, error)
            return
        await self._serve(stream)

    async def attach(self, stream: PeerStream, kind: int) -> None:
        """Take a stream that the other end opened for a snapshot, until it ends.

        Raises:
            ProtocolError: Nobody asked for it.

        """
        if kind == wire.STREAM_SNAPSHOT_WANTED:
            if not self._wanted:
                raise ProtocolError(f"node {self.peer.node} opened a stream that nobody asked for")
            wanted = self._wanted.popleft()
            wanted.stream = stream
            wanted.there.set()
            await stream.ended.wait()
        else:
            await self._serve(self._keep(stream))

    async def _serve(self, stream: PeerStream) -> None:
        try:
            await self._take_stream(self, stream)
        finally:
            self.drop_stream(stream)

    def _keep(self, stream: PeerStream) -> PeerStream:
        if self.ended is not None:
            stream.close()
            raise ConnectionFailed(f"the connection to node {self.peer.node} has ended: {self.ended}")
        self.snapshot_streams.add(stream)
        return stream

    def drop_stream(self, stream: PeerStream) -> None:
        """Close a snapshot stream."""
        self.snapshot_streams.discard(stream)
        stream.close()


class _WantedStream:
    """A stream that the other end was asked to open."""

    def __init__(self) -> None:
        self.there = trio.Event()
        self.stream: PeerStream | None = None
