"""All connections of this broker to the others: dialing, accepting, and that there is never more than one to each.

Both ends of a pair dial while they have no connection. The order that makes exactly one of it:

1. Whoever opens a connection opens its control stream first, and its data stream when that was answered.
2. A connection exists for the one who was called from the moment its data stream came, for the caller when that was
   answered. Then each of them ends everything else between the two: an older connection, its own dialing, half a call.
3. Where both have been answered on their control streams, the one with the lower number gives way: it takes the
   other's data stream, and the other refuses its (`tie`). A call that was not answered yet never stands in the way: it
   may hang.

An older connection ends only when the new one is whole, so half a call, or a stranger's, costs nothing.
"""

from __future__ import annotations

import logging
import random
import secrets
from dataclasses import asdict
from typing import TYPE_CHECKING

import trio

from sluicemq.broker.server.outbound import SelfFlushingHub
from sluicemq.broker.server.peers import handshake
from sluicemq.broker.server.peers.connection import PeerConnection
from sluicemq.broker.server.peers.dialing import (
    ANSWER_SECONDS_MAX,
    DIAL_SECONDS,
    REFUSED_SECONDS,
    SHORT_LIFE_SECONDS,
    AnswersLate,
    Backoff,
    NobodyListens,
    open_stream,
)
from sluicemq.broker.server.peers.snapshots_in import SnapshotReceiver
from sluicemq.broker.server.peers.snapshots_out import SnapshotSender
from sluicemq.broker.server.peers.stream import PeerStream
from sluicemq.wire.errors import (
    Conflict,
    ConnectionFailed,
    LimitReached,
    ProtocolError,
    SluiceError,
    error_to_wire,
)
from sluicemq.wire.frames import PEER_PREFACE
from sluicemq.wire.peers import STREAM_CONTROL, STREAM_DATA, PeerHello
from sluicemq.wire.peers_of_links import PeerRefusal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sluicemq.broker.pipeline.ensemble.links import Identity, LinkEvents
    from sluicemq.broker.pipeline.peer_messages import Bodies
    from sluicemq.broker.replication.effects import SendSnapshot
    from sluicemq.broker.replication.messages import Message
    from sluicemq.wire.peers_of_links import NodeFigures

logger = logging.getLogger("sluicemq.peers")

CALLERS_MAX = 128
"""Most nodes that may call without that anybody has told where they are."""
WATCH_SECONDS = 0.25
"""How often silence is looked at."""
HELLO_SECONDS = 5.0
"""How long a caller may take for its preface, to say hello, and to open its data stream."""
GOODBYE_SECONDS = 1.0
REFUSALS_KEPT = 16
"""So many reasons of refusals are remembered, so that they are not told again and again."""
NUMBERS_KEPT = 1_000
"""So many numbers of former connections to one peer are refused if they come again."""


class PeerMesh:
    """The `Links` of one broker. Run `run`; let the listener give `accept` what opens with the preface of peers.

    Args:
        events: Who is told, and says who we are.
        bodies: How entries become bytes.
        frame_bytes_max: Largest frame of a peer: the largest entry, with room.
        server_version: Told to the others.
        own_figures: How this broker is, for people: told to the others about every second.
        chance: Returns a number from 0 to 1.
        new_number: Returns a number that no connection ever had, above 0.

    """

    def __init__(
        self,
        events: LinkEvents,
        bodies: Bodies,
        *,
        frame_bytes_max: int,
        server_version: str = "",
        own_figures: Callable[[], NodeFigures] | None = None,
        chance: Callable[[], float] = random.random,
        new_number: Callable[[], int] = lambda: secrets.randbits(63) + 1,
    ) -> None:
        self.events = events
        self.hub = SelfFlushingHub()
        self._bodies = bodies
        self._frame_bytes_max = frame_bytes_max
        self._version = server_version
        self._own_figures = own_figures
        self._chance = chance
        self._new_number = new_number
        self._peers: dict[int, _Peer] = {}
        self._nursery: trio.Nursery | None = None
        self._senders: dict[int, SnapshotSender] = {}
        self._reading = trio.CapacityLimiter(1)
        self._refusals: dict[str, None] = {}
        self.receiver = SnapshotReceiver(events)

    # --- what the driver asks -------------------------------------------------------------------------------------

    def send(self, peer: int, message: Message) -> None:
        """Send *message* over the connection that it names; drop it silently if that has ended."""
        connection = self.connection_to(peer)
        if connection is not None:
            connection.send(message)

    def flush(self) -> None:
        """Write what was collected. It is written soon anyway; at the end of a step it is written at once."""
        self.hub.flush()

    def send_snapshot(self, effect: SendSnapshot) -> None:
        """Begin to stream a snapshot; one that is under way to the same peer is given up without a word."""
        former = self._senders.pop(effect.peer, None)
        if former is not None:
            former.give_up()
        connection = self.connection_to(effect.peer)
        if connection is None or connection.number != effect.connection or self._nursery is None:
            return
        sender = self._senders[effect.peer] = SnapshotSender(connection, self.events, effect, self._reading)
        self._nursery.start_soon(self._send_snapshot, sender)

    async def _send_snapshot(self, sender: SnapshotSender) -> None:
        await sender.run()
        if self._senders.get(sender.effect.peer) is sender:
            del self._senders[sender.effect.peer]

    def forget_snapshots(self) -> None:
        """What came in of a snapshot that broke off is not needed any more."""
        if self._nursery is not None:
            self._nursery.start_soon(self.receiver.forget)

    def connect_to(self, addresses: Mapping[int, str]) -> None:
        """These are the other brokers that are known now, `host:port` by node: replaces what was said before.

        Connections to nodes that are not in it any more end; but whoever is new and calls us is talked to.
        """
        own = self.events.identity.node
        for node, known in list(self._peers.items()):
            if known.address and node not in addresses:
                self._forget(known)
        for node, address in addresses.items():
            if node != own:
                self._peer(node).direct(address)

    def identity_changed(self) -> None:
        """Tell everybody which cluster this broker belongs to now, and leave who belongs to another."""
        own = self.events.identity
        for known in list(self._peers.values()):
            if (connection := known.connection) is not None:
                try:
                    handshake.check_cluster(own, connection.peer)
                    connection.name_cluster(own)
                except SluiceError as error:
                    logger.warning("the connection to node %d ends: %s", known.node, error)
                    connection.end(error)

    def connection_to(self, peer: int) -> PeerConnection | None:
        """Return the connection to *peer*, if there is one."""
        known = self._peers.get(peer)
        return None if known is None else known.connection

    def addresses(self) -> dict[int, str]:
        """Return where each known node is, as far as anybody said."""
        return {node: known.address or known.told_address for node, known in self._peers.items()}

    def figures(self) -> dict[int, NodeFigures]:
        """Return what those that are connected said last of how they are."""
        connected = ((node, known.connection) for node, known in self._peers.items())
        return {node: link.figures for node, link in connected if link is not None and link.figures is not None}

    def reachable(self) -> set[int]:
        """Return the nodes that there is a connection to."""
        return {node for node, known in self._peers.items() if known.connection is not None}

    def snapshots(self) -> dict[int, dict[str, int]]:
        """Return how far the snapshots have come that are being sent, by peer."""
        return {peer: asdict(sender.progress) for peer, sender in self._senders.items()}

    # --- life -----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Keep the connections until cancelled; all of them end then, and `peer_down` is told."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                for known in self._peers.values():
                    known.start(nursery)
                with self.hub.watching():
                    await self._watch()
        finally:
            self._nursery = None
            for known in self._peers.values():
                if known.connection is not None:
                    known.connection.end(ConnectionFailed("this broker stops"))
                    self._bury(known, known.connection)

    async def _watch(self) -> None:
        before = trio.current_time()
        while True:
            await trio.sleep(WATCH_SECONDS)
            now = trio.current_time()
            late = now - before - 2 * WATCH_SECONDS
            before = now
            for known in list(self._peers.values()):
                connection = known.connection
                if connection is None:
                    continue
                if late > 0:
                    # We were stopped, or overwhelmed: what the others said meanwhile lies unread.
                    for stream in (connection.control, connection.data, *connection.snapshot_streams):
                        stream.forgive(late)
                connection.watch(now, self._own_figures)
                self._bury(known, connection)
            self.hub.flush()

    def _peer(self, node: int) -> _Peer:
        known = self._peers.get(node)
        if known is None:
            known = self._peers[node] = _Peer(self, node, Backoff(self._chance))
            if self._nursery is not None:
                known.start(self._nursery)
        return known

    def _forget(self, known: _Peer) -> None:
        known.scope.cancel()
        del self._peers[known.node]
        if known.connection is not None:
            known.connection.end(ConnectionFailed(f"node {known.node} does not belong to the cluster any more"))

    def _bury(self, known: _Peer, connection: PeerConnection) -> None:
        """Tell the end of a connection, once. Never within a call of the driver's: it is in the middle of a step."""
        if connection.ended is not None and known.connection is connection:
            known.connection = None
            known.unconnected.set()
            logger.info("the connection to node %d has ended: %s", known.node, connection.ended)
            self.events.peer_down(known.node, connection.number)

    # --- a connection comes about ---------------------------------------------------------------------------------

    def establish(
        self, known: _Peer, peer: Identity, number: int, control: PeerStream, data: PeerStream, *, opened_here: bool
    ) -> PeerConnection:
        """A connection is whole: everything else between the two goes, and the driver hears of it."""
        if known.connection is not None:
            known.connection.end(ConnectionFailed(f"node {peer.node} has opened a new connection"))
            self._bury(known, known.connection)
        known.forget_halves(number, opened_here=opened_here)
        known.note(number)
        known.told_address = peer.address
        connection = known.connection = PeerConnection(
            peer,
            number,
            opened_here=opened_here,
            control=control,
            data=data,
            events=self.events,
            bodies=self._bodies,
            frame_bytes_max=self._frame_bytes_max,
            open_stream=self._open_further,
            take_stream=self._take_snapshot,
            flush=self.hub.flush,
        )
        known.unconnected = trio.Event()
        connection.name_cluster(self.events.identity)
        logger.info("connected to node %d at %s", peer.node, peer.address or control.peer)
        self.events.peer_up(peer, number)
        self.hub.flush()
        return connection

    async def serve(self, known: _Peer, connection: PeerConnection) -> None:
        """Serve *connection* until it ends."""
        try:
            await connection.run()
        finally:
            self._bury(known, connection)

    async def _open_further(self, connection: PeerConnection, kind: int) -> PeerStream:
        known = self._peers.get(connection.peer.node)
        address = connection.peer.address if known is None else known.address or known.told_address
        own = self.events.identity
        node = connection.peer.node
        stream, _ = await open_stream(address, own, node, connection.number, kind, self.hub, self._version)
        stream.allow(self._frame_bytes_max)
        return stream

    async def _take_snapshot(self, connection: PeerConnection, stream: PeerStream) -> None:
        await self.receiver.take(connection, stream)

    # --- dialing --------------------------------------------------------------------------------------------------

    async def call(self, known: _Peer) -> PeerConnection:
        """Open a connection to *known*. Raises as `open_stream`; cancelled when another connection came first."""
        own, node, number = self.events.identity, known.node, self._new_number()
        known.answered = False
        told = self.hub, self._version, known.answer_seconds
        control, peer = await open_stream(known.address, own, node, number, STREAM_CONTROL, *told)
        data: PeerStream | None = None
        try:
            known.answered = True
            data, again = await open_stream(known.address, own, node, number, STREAM_DATA, *told)
            if again.incarnation != peer.incarnation:
                raise ConnectionFailed(f"node {node} was replaced by another one while it was called")
            known.check_wanted()
            return self.establish(known, peer, number, control, data, opened_here=True)
        except BaseException:
            control.close()
            if data is not None:
                data.close()
            raise
        finally:
            known.answered = False

    # --- being called ---------------------------------------------------------------------------------------------

    async def accept(self, stream: trio.SocketStream, first: bytes) -> None:
        """Serve a stream that another broker opened, until it ends; *first* was read from it, preface and all."""
        with trio.move_on_after(HELLO_SECONDS):
            while len(first) < len(PEER_PREFACE):
                more = await stream.receive_some(len(PEER_PREFACE) - len(first))
                if not more:
                    return
                first += more
        if not first.startswith(PEER_PREFACE):
            logger.info("a connection opens with %r, which is no broker of this generation", first[:8])
            return
        peers = PeerStream(stream, self.hub)
        try:
            await self._accept(peers, first[len(PEER_PREFACE) :])
        except SluiceError as error:
            self._tell_refusal(peers.peer, error)
            await peers.see_off(PeerRefusal(error_to_wire(error)), GOODBYE_SECONDS)
        finally:
            peers.close()

    def _tell_refusal(self, peer: str, error: SluiceError) -> None:
        """Say why a broker is refused, and once: whoever does not give up comes every second for the same reason."""
        reason = str(error)
        level = logging.DEBUG if reason in self._refusals else logging.INFO
        self._refusals[reason] = None
        if len(self._refusals) > REFUSALS_KEPT:
            del self._refusals[next(iter(self._refusals))]
        logger.log(level, "a broker at %s is refused: %s", peer, error)

    async def _accept(self, stream: PeerStream, first: bytes) -> None:
        stream.feed(first)
        try:
            with trio.fail_after(HELLO_SECONDS):
                said, _tail = await stream.receive_message()
        except trio.TooSlowError:
            logger.info("a broker at %s said no hello within %.0f s", stream.peer, HELLO_SECONDS)
            return
        except ConnectionFailed as error:
            logger.info("a broker at %s said no hello: %s", stream.peer, error)
            return
        if not isinstance(said, PeerHello):
            raise ProtocolError(f"a stream between brokers begins with {type(said).__name__}")
        peer = handshake.check_caller(self.events.identity, said)
        if self._nursery is None:
            raise ConnectionFailed("this broker stops")
        if peer.node not in self._peers and sum(not each.address for each in self._peers.values()) >= CALLERS_MAX:
            raise LimitReached(
                f"{CALLERS_MAX} nodes that nobody has told of talk to this broker already",
                limit="callers_max",
                value=CALLERS_MAX,
            )
        known = self._peer(peer.node)
        try:
            if said.stream == STREAM_CONTROL:
                await self._accept_control(known, peer, said.connection, stream)
            elif said.stream == STREAM_DATA:
                await self._accept_data(known, peer, said.connection, stream)
            else:
                await self._accept_further(known, said, stream)
        finally:
            self._tidy(known)

    def _answer(self, peer: Identity, number: int, kind: int, stream: PeerStream) -> None:
        stream.put(handshake.hello(self.events.identity, peer.node, number, kind, self._version))
        stream.outbound.flush()

    async def _accept_control(self, known: _Peer, peer: Identity, number: int, stream: PeerStream) -> None:
        known.check_number(number)
        if known.connection is not None:
            handshake.check_incarnation(known.connection.peer, peer)
        if known.half is not None:
            known.half.end.set()
        half = known.half = _Half(peer, number, stream)
        self._answer(peer, number, STREAM_CONTROL, stream)
        with trio.move_on_after(HELLO_SECONDS):
            await half.end.wait()
        if known.half is half:
            known.half = None
        if half.connection is not None:
            await half.connection.closed.wait()

    async def _accept_data(self, known: _Peer, peer: Identity, number: int, stream: PeerStream) -> None:
        half = known.half
        if half is None or half.number != number or half.peer.incarnation != peer.incarnation:
            raise Conflict(
                f"node {peer.node} opens the data stream of connection {number}, which is not being opened here: "
                "another one came first, or it took too long",
                retryable=True,
            )
        own = self.events.identity
        if known.answered and own.node > peer.node:
            raise handshake.tie(own.node, peer.node)
        assert self._nursery is not None, "looked at when the hello came"
        self._answer(peer, number, STREAM_DATA, stream)
        connection = self.establish(known, peer, number, half.stream, stream, opened_here=False)
        half.connection = connection
        half.end.set()
        self._nursery.start_soon(self.serve, known, connection)
        await connection.closed.wait()

    async def _accept_further(self, known: _Peer, said: PeerHello, stream: PeerStream) -> None:
        connection = known.connection
        if connection is None or connection.number != said.connection or connection.opened_here:
            raise Conflict(f"there is no connection {said.connection} of node {known.node} to add a stream to")
        self._answer(connection.peer, said.connection, said.stream, stream)
        stream.allow(self._frame_bytes_max)
        await connection.attach(stream, said.stream)

    def _tidy(self, known: _Peer) -> None:
        """Forget somebody who called, has left, and whose address nobody ever told us."""
        if known.idle and self._peers.get(known.node) is known:
            self._forget(known)


class _Half:
    """A connection of which the control stream was opened to us."""

    def __init__(self, peer: Identity, number: int, stream: PeerStream) -> None:
        self.peer = peer
        self.number = number
        self.stream = stream
        self.end = trio.Event()
        self.connection: PeerConnection | None = None


class _Peer:
    """One other broker: what there is of a connection to it, and the task that dials while there is none.

    Attributes:
        address: Where to dial; "" while nobody said.
        told_address: Where it says itself that it is.
        connection: The one.
        half: What was opened to us and is not whole yet.
        answered: Our own call was answered on its control stream.
        answer_seconds: How long it may take to answer the next time.
        unconnected: Set while there is no connection.
        scope: Of the dialing task.

    """

    def __init__(self, mesh: PeerMesh, node: int, backoff: Backoff) -> None:
        self.node = node
        self.address = ""
        self.told_address = ""
        self.connection: PeerConnection | None = None
        self.half: _Half | None = None
        self.answered = False
        self.answer_seconds = DIAL_SECONDS
        self.unconnected = trio.Event()
        self.unconnected.set()
        self.scope = trio.CancelScope()
        self._mesh = mesh
        self._backoff = backoff
        self._directed = trio.Event()
        self._call: trio.CancelScope | None = None
        self._numbers: dict[int, None] = {}
        self._last_reason = ""

    @property
    def idle(self) -> bool:
        """Whether nothing is known of it and nothing goes on with it."""
        return not self.address and self.connection is None and self.half is None

    def start(self, nursery: trio.Nursery) -> None:
        """Begin to dial."""
        nursery.start_soon(self._dial)

    def direct(self, address: str) -> None:
        """It is found there from now on."""
        if address != self.address:
            self.address = address
            self._directed.set()
            self._directed = trio.Event()

    def check_number(self, number: int) -> None:
        """Return if no connection had this number; raises Conflict."""
        if not number or number in self._numbers:
            raise Conflict(f"connection number {number} was used before; every connection has one of its own")

    def note(self, number: int) -> None:
        """A connection has this number."""
        self._numbers[number] = None
        if len(self._numbers) > NUMBERS_KEPT:
            del self._numbers[next(iter(self._numbers))]

    def forget_halves(self, number: int, *, opened_here: bool) -> None:
        """Connection *number* is whole: give up what else was being opened."""
        if self.half is not None and self.half.number != number:
            self.half.end.set()
            self.half = None
        if self._call is not None and not opened_here:
            self._call.cancel()

    def check_wanted(self) -> None:
        """Return if our call still counts; raises ConnectionFailed where another connection came first."""
        if self.connection is not None or (self._call is not None and self._call.cancel_called):
            raise ConnectionFailed(f"another connection to node {self.node} came first")

    async def _dial(self) -> None:
        with self.scope:
            while True:
                await self.unconnected.wait()
                if not self.address:
                    await self._directed.wait()
                    continue
                directed = self._directed
                with trio.move_on_after(self._backoff.pause()):
                    await directed.wait()
                if self.connection is None:
                    await self._try_once()

    async def _try_once(self) -> None:
        connection: PeerConnection | None = None
        pause = 0.0
        try:
            with trio.CancelScope() as self._call:
                connection = await self._mesh.call(self)
        except NobodyListens as error:
            self._tell(error)
            self._mesh.events.peer_refused(self.node)
            self._mesh.flush()
        except AnswersLate as error:
            self._tell(error)
            self.answer_seconds = min(ANSWER_SECONDS_MAX, 2 * self.answer_seconds)
        except SluiceError as error:
            self._tell(error)
            pause = 0.0 if error.retryable else REFUSED_SECONDS
        finally:
            self._call = None
        if connection is not None:
            self._last_reason = ""
            await self._mesh.serve(self, connection)
            if trio.current_time() - connection.up_at > SHORT_LIFE_SECONDS:
                self._backoff.reset()
                self.answer_seconds = DIAL_SECONDS
        elif pause:
            directed = self._directed
            with trio.move_on_after(pause):
                await directed.wait()

    def _tell(self, error: SluiceError) -> None:
        """Say once why there is no connection; the next hundred times are no news."""
        reason = f"{type(error).__name__}: {error}"
        level = logging.DEBUG
        if reason != self._last_reason:
            level = logging.INFO if error.retryable else logging.WARNING
        self._last_reason = reason
        logger.log(level, "no connection to node %d: %s", self.node, error)
