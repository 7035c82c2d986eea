"""Sending a snapshot to a learner, on a stream of its own, while everything goes on.

The other side says what it lacks, so a stream that broke goes on where it was. Reading is a worker thread's; the pace
is the reader's, the other side's (its window), and `BYTES_PER_SECOND`. It ends with `snapshot_failed` unless the other
side has said that all of it is durable there.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from sluicemq.broker.pipeline.ensemble.configurations import pack_configuration
from sluicemq.broker.pipeline.ensemble.snapshot_source import EntriesPiece, FilePiece, SnapshotSource
from sluicemq.broker.server.peers.stream import expect
from sluicemq.wire.errors import ConnectionFailed, SluiceError, error_from_wire
from sluicemq.wire.peers import (
    SnapshotEnd,
    SnapshotEntries,
    SnapshotOffer,
    SnapshotPiece,
    SnapshotWanted,
    pack_entries,
)
from sluicemq.wire.peers_of_links import PeerRefusal

if TYPE_CHECKING:
    from sluicemq.broker.pipeline.ensemble.links import LinkEvents
    from sluicemq.broker.replication.effects import SendSnapshot
    from sluicemq.broker.server.peers.connection import PeerConnection
    from sluicemq.broker.server.peers.stream import PeerStream
    from sluicemq.wire.fields import Message

logger = logging.getLogger("sluicemq.peers")

BYTES_PER_SECOND = 128 * 1024 * 1024
"""Bytes sent a second, about: proposals keep their share of the network and of the event loop."""
ROOM_SECONDS = 10.0
"""Who takes less than a piece in so long is given up for now: a stream keeps this broker from reclaiming its disk."""
BURST_SECONDS = 0.1
"""So much of that may be sent at once."""


@dataclass(frozen=True, slots=True)
class SnapshotProgress:
    """How far a snapshot has come.

    Attributes:
        zxid: What it covers; 0 while it is being opened.
        sent_bytes: Sent over this stream.
        entries: Entries among them.
        snapshot_bytes: Size of its file.
        pages_bytes: Size of the page file, as far as it names pages.

    """

    zxid: int = 0
    sent_bytes: int = 0
    entries: int = 0
    snapshot_bytes: int = 0
    pages_bytes: int = 0


class SnapshotSender:
    """One snapshot on its way to one peer.

    Args:
        connection: To the peer.
        events: Has the stores, and is told how it ended.
        effect: What the core asked for.
        limiter: One thread at a time reads snapshots.

    Attributes:
        effect: As given.
        progress: How far it has come.

    """

    def __init__(
        self, connection: PeerConnection, events: LinkEvents, effect: SendSnapshot, limiter: trio.CapacityLimiter
    ) -> None:
        self.effect = effect
        self.progress = SnapshotProgress()
        self._connection = connection
        self._events = events
        self._scope = trio.CancelScope()
        self._given_up = False
        self._all_sent = False
        self._limiter = limiter

    def give_up(self) -> None:
        """End it without a word: the core does not want it any more."""
        self._given_up = True
        self._scope.cancel()

    async def run(self) -> None:
        """Send it, and tell how that ended."""
        reason = f"the connection to node {self.effect.peer} ended"
        try:
            with self._scope:
                reason = await self._run()
        finally:
            if reason and not self._given_up:
                logger.info("the snapshot for node %d was not sent: %s", self.effect.peer, reason)
                self._events.snapshot_failed(self.effect.peer, self.effect.session, reason)

    async def _run(self) -> str:
        """Return why it failed, or nothing."""
        stores = self._events.stores
        try:
            with stores.hold():
                source = await trio.to_thread.run_sync(
                    SnapshotSource.open, stores, self.effect.start_zxid, limiter=self._limiter
                )
                try:
                    return await self._send(source)
                finally:
                    source.close()
        except SluiceError as error:
            if self.progress.zxid == 0:
                stores.want_snapshot()
            return str(error)

    async def _send(self, source: SnapshotSource) -> str:
        self.progress = SnapshotProgress(source.zxid, 0, 0, source.snapshot_bytes, source.pages_bytes)
        connection = self._connection
        stream = await connection.open_snapshot_stream()
        started = trio.current_time()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(stream.outbound.run)
                reason = await self._talk(source, stream)
                nursery.cancel_scope.cancel()
        finally:
            connection.drop_stream(stream)
        if not reason:
            logger.info(
                "node %d has the snapshot at %#x: %d bytes, %d entries, %.1f s",
                self.effect.peer,
                source.zxid,
                self.progress.sent_bytes,
                self.progress.entries,
                trio.current_time() - started,
            )
        return reason

    async def _talk(self, source: SnapshotSource, stream: PeerStream) -> str:
        try:
            stream.put(_offer(self.effect, source))
            stream.outbound.flush()
            wanted = await _hear(stream, SnapshotWanted)
        except SluiceError as error:
            return str(error)
        assert isinstance(wanted, SnapshotWanted)
        reasons: list[str] = []
        async with trio.open_nursery() as nursery:

            async def hear() -> None:
                try:
                    await _hear(stream, SnapshotEnd)
                except SluiceError as error:
                    reasons.append(str(error))
                nursery.cancel_scope.cancel()

            nursery.start_soon(hear)
            try:
                await self._send_pieces(source, wanted, stream)
            except SluiceError as error:
                reasons.append(str(error))
                nursery.cancel_scope.cancel()
        if not reasons and not self._all_sent:
            reasons.append("the other side says that it has everything, before everything was sent")
        return reasons[0] if reasons else ""

    async def _send_pieces(self, source: SnapshotSource, wanted: SnapshotWanted, stream: PeerStream) -> None:
        pieces = source.pieces(wanted.entries_after, wanted.snapshot_bytes, wanted.pages_bytes)
        free_at = trio.current_time()

        def next_piece() -> EntriesPiece | FilePiece | None:
            source.resume()
            return next(pieces, None)

        while (piece := await trio.to_thread.run_sync(next_piece, limiter=self._limiter)) is not None:
            if isinstance(piece, EntriesPiece):
                size, count = piece.entry_bytes, len(piece.entries)
                entries, headers, tail = pack_entries(piece.entries)
                stream.put(SnapshotEntries(self.effect.session, entries, headers), tail)
            else:
                size, count = len(piece.data), 0
                stream.put(SnapshotPiece(self.effect.session, piece.file, piece.offset), [piece.data])
            stream.outbound.flush()
            self._note(size, count)
            await self._wait_for_room(stream)
            free_at = max(free_at, trio.current_time() - BURST_SECONDS) + size / BYTES_PER_SECOND
            await trio.sleep_until(free_at)
        stream.put(SnapshotEnd(self.effect.session))
        stream.outbound.flush()
        self._all_sent = True
        await trio.sleep_forever()

    async def _wait_for_room(self, stream: PeerStream) -> None:
        """Wait until the other side has taken enough; as long as it takes its time, nothing here may be given back."""
        with trio.move_on_after(ROOM_SECONDS) as waiting:
            await stream.outbound.wait_room()
        if waiting.cancelled_caught:
            raise ConnectionFailed(
                f"node {self.effect.peer} takes less than a piece in {ROOM_SECONDS:g} s; it goes on where it was later,"
                " and files that are not needed any more can go meanwhile"
            )

    def _note(self, sent_bytes: int, entries: int) -> None:
        old = self.progress
        self.progress = SnapshotProgress(
            old.zxid, old.sent_bytes + sent_bytes, old.entries + entries, old.snapshot_bytes, old.pages_bytes
        )


def _offer(effect: SendSnapshot, source: SnapshotSource) -> SnapshotOffer:
    return SnapshotOffer(
        epoch=effect.epoch,
        connection=effect.connection,
        session=effect.session,
        zxid=source.zxid,
        chain=source.chain,
        source=source.source,
        snapshot_bytes=source.snapshot_bytes,
        pages_bytes=source.pages_bytes,
        configuration=pack_configuration(source.configuration),
        configuration_zxid=source.configuration_zxid,
    )


async def _hear(stream: PeerStream, cls: type[Message]) -> Message:
    """Return the next message, which must be of this class; raise what the other side refuses it with."""
    message, _tail = await stream.receive_message()
    if isinstance(message, PeerRefusal):
        raise error_from_wire(message.error)
    expect(message, cls)
    return message
