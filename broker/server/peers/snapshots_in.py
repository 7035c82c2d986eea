"""Receiving a snapshot: one at a time, written by a worker thread, and told to the driver once all of it is durable.

What comes is read no faster than it is written, so memory holds a piece or two. A snapshot that is offered while
another one comes in takes its place: the core asks for one at a time, and what was durable of the former is not lost.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio

from sluicemq.broker.pipeline.ensemble.snapshot_sink import DISK_ERRORS, SnapshotSink
from sluicemq.broker.server.peers.stream import expect
from sluicemq.wire.errors import ConnectionFailed, ProtocolError, SluiceError, Unavailable, error_to_wire
from sluicemq.wire.peers import SnapshotEnd, SnapshotEntries, SnapshotOffer, SnapshotPiece
from sluicemq.wire.peers_of_links import PeerRefusal

if TYPE_CHECKING:
    from sluicemq.broker.pipeline.ensemble.links import LinkEvents, ReceivedSnapshot
    from sluicemq.broker.server.peers.connection import PeerConnection
    from sluicemq.broker.server.peers.stream import PeerStream

logger = logging.getLogger("sluicemq.peers")

GOODBYE_SECONDS = 1.0
INSTALLING_SECONDS = 3.0
"""How long a directory may take to become that of its cluster, or to take in the snapshot before."""
LOOK_SECONDS = 0.02


class SnapshotReceiver:
    """Takes in the snapshots that others send to this broker.

    Args:
        events: Has the stores, and is told of each that is whole.

    Attributes:
        sink: What comes in at the moment.

    """

    def __init__(self, events: LinkEvents) -> None:
        self.sink: SnapshotSink | None = None
        self._events = events
        self._one_at_a_time = trio.Lock()
        self._limiter = trio.CapacityLimiter(1)
        self._scope: trio.CancelScope | None = None

    async def take(self, connection: PeerConnection, stream: PeerStream) -> None:
        """Take in one snapshot over *stream*, until it ends."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.outbound.run)
            with trio.CancelScope() as scope:
                if self._scope is not None:
                    self._scope.cancel()
                self._scope = scope
                try:
                    async with self._one_at_a_time:
                        await self._take(connection, stream)
                except ConnectionFailed as error:
                    logger.info("the snapshot of node %d did not come through: %s", connection.peer.node, error)
                except SluiceError as error:
                    logger.warning("the snapshot of node %d is refused: %s", connection.peer.node, error)
                    await stream.see_off(PeerRefusal(error_to_wire(error)), GOODBYE_SECONDS)
                except DISK_ERRORS as error:
                    # Whoever carries this stream may think that only a stream ends.
                    self._events.fail(error)
            if self._scope is scope:
                self._scope = None
            nursery.cancel_scope.cancel()

    async def forget(self) -> None:
        """Remove what is left of a snapshot that broke off; nothing where one comes in or is installed just now."""
        stores = self._events.stores
        if self.sink is not None or stores.installing:
            return
        async with self._one_at_a_time:
            try:
                await trio.to_thread.run_sync(stores.forget_incoming, limiter=self._limiter)
            except DISK_ERRORS as error:
                logger.warning("what came in of a snapshot stays: %s", error)

    async def _take(self, connection: PeerConnection, stream: PeerStream) -> None:
        offer, _tail = await stream.receive_message()
        expect(offer, SnapshotOffer)
        assert isinstance(offer, SnapshotOffer)
        if offer.connection != connection.number:
            raise ProtocolError(f"a snapshot for connection {offer.connection} came over {connection.number}")
        stores = self._events.stores
        with trio.move_on_after(INSTALLING_SECONDS):
            while stores.installing:  # noqa: ASYNC110 - a fraction of a second, once in the life of a disk
                await trio.sleep(LOOK_SECONDS)
        if stores.installing:
            raise Unavailable("another snapshot is just taking the place of this broker's log", retry_after=1.0)
        peer = connection.peer.node
        sink = await trio.to_thread.run_sync(SnapshotSink.begin, stores.log, offer, limiter=self._limiter)
        self.sink = sink
        received: ReceivedSnapshot | None = None
        try:
            wanted = sink.wanted()
            logger.info(
                "node %d sends the snapshot at %#x: %d bytes and %d of pages, from %d and %d on",
                peer,
                offer.zxid,
                offer.snapshot_bytes,
                offer.pages_bytes,
                wanted.snapshot_bytes,
                wanted.pages_bytes,
            )
            stream.put(wanted)
            stream.outbound.flush()
            while not isinstance((message := await stream.receive_message())[0], SnapshotEnd):
                piece, tail = message
                if not isinstance(piece, SnapshotEntries | SnapshotPiece):
                    raise ProtocolError(f"{type(piece).__name__} came among the pieces of a snapshot")
                await trio.to_thread.run_sync(sink.take, piece, tail, limiter=self._limiter)
            received = await trio.to_thread.run_sync(sink.finish, peer, limiter=self._limiter)
        finally:
            self.sink = None
            if received is None:
                sink.close()
        logger.info("the snapshot at %#x is here: %d bytes over this stream", offer.zxid, sink.taken_bytes)
        if connection.ended is None:
            self._events.snapshot_received(received)
            stream.put(SnapshotEnd(offer.session))
            stream.outbound.flush()
            await stream.outbound.wait_written()
