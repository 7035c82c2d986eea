"""One client's connection, from its first byte to its last.

Reads frames, hands each message to its handler, and is what the road knows of a client (`Recipient`, `LeaseOwner`).
Must not decide about messages. Bad input ends this connection and touches no other.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import trio

from sluicemq.broker.pipeline.sessions import Ending
from sluicemq.broker.server.gathering import Gathering
from sluicemq.broker.server.outbound import Outbound
from sluicemq.wire.connection import Connection, Role, State
from sluicemq.wire.errors import (
    ConnectionFailed,
    InternalError,
    InvalidRequest,
    NotLeader,
    ProtocolError,
    ResourceLow,
    SluiceError,
    error_to_wire,
)
from sluicemq.wire.fields import Message
from sluicemq.wire.messages import (
    ADDRESSES_MAX,
    Brokers,
    Check,
    Close,
    ConsumerEnded,
    Deliver,
    Error,
    LeasesLost,
    Ping,
    Pong,
    Prepare,
    Publish,
    ReplyArrived,
    Transaction,
)

if TYPE_CHECKING:
    from sluicemq.broker.pipeline.road import Road
    from sluicemq.broker.queues.halves import Half
    from sluicemq.broker.server.listener import Server
    from sluicemq.wire.connection import Received

logger = logging.getLogger("sluicemq.session")

READ_BYTES = 32 * 1024
"""Bytes of one read between large frames: bounds how many small frames one turn of the event loop handles."""
READ_BYTES_MAX = 1024 * 1024
"""Bytes of one read within a large frame."""
TURN_SECONDS = 0.004
"""After this long with one client the event loop serves others first."""
PARTIAL_BYTES_MAX = 256 * 1024 * 1024
"""Most bytes of half-received frames over all connections."""
PARTIAL_BYTES_FREE = 256 * 1024
"""A connection that holds no more than this of a half-received frame is never closed for it."""
GOODBYE_SECONDS = 1.0
"""How long the last frame may take to leave."""

WAITING_CONSUMES_MAX = 1_000
"""Most CONSUMEs of one connection that wait for subscriptions."""
LOST_RANGES_MAX = 200
"""Most ranges of tags in one LEASES_LOST: it fits the smallest frame that a client may ask for."""

PUBLISHING = (Publish, Transaction, Prepare)
"""Who sends these is slowed when the disk is nearly full."""

Handler = Callable[["ClientSession", Message, int, memoryview], Awaitable[None] | None]


class ClientSession:
    """One connection of a client.

    Args:
        server: The listener's shared state: road, limits, handlers.
        stream: Connected stream.
        first: Bytes already read while telling protocols apart.

    """

    def __init__(self, server: Server, stream: trio.SocketStream, first: bytes) -> None:
        self.server = server
        self.connection = Connection(Role.BROKER, frame_bytes_max=server.config.frame_bytes_max)
        self.outbound = Outbound(stream, server.hub, self._room_again)
        self.peer = _peer_name(stream)
        self.started_at = trio.current_time()
        self.received_at = self.started_at
        self.heartbeat_seconds = server.config.heartbeat_seconds
        self.identity = ""
        self.vhost = "/"
        self.client_name = ""
        self.session = 0
        self.consumers: dict[int, int] = {}
        self.next_consumer = 1
        self.resumed: set[int] = set()
        self.mailbox = b""
        self.producers: set[int] = set()
        self.producers_opening = 0
        self.answering = 0
        # Names of temporary subscriptions that are on their way, and who wants to consume them then.
        self.subscribing: list[str] = []
        self.waiting_consumes: list[tuple[Handler, Message, int]] = []
        self.page_at_a_time = trio.Lock()
        self.closing = False
        self.suspended = False
        self._partial_bytes = 0
        self.left = False
        self._reason = "connection closed by the client"
        self._ending = Ending.LOST
        self._stream = stream
        self.gathering = Gathering(stream.socket)
        self._first = first
        self._scope = trio.CancelScope()
        self._nursery: trio.Nursery | None = None

    @cached_property
    def road(self) -> Road:
        """The leadership that serves this client, from the first request on. Raises NotLeader: there is none here."""
        road = self.server.road
        if road is None:
            raise self.server.not_leader()
        return road

    def road_ended(self, reason: NotLeader) -> None:
        """The leadership is over; who has not opened a session yet may do so in the next one."""
        if "road" not in self.__dict__:
            return
        if self.connection.state in (State.OPENING, State.OPEN):
            self.close(reason)
        elif not self.session:
            del self.road

    # --- life -------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Serve the connection until it ends, for whatever reason."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                nursery.start_soon(self.outbound.run)
                with self._scope:
                    self._reason = await self._read()
                await self.server.turnstile.pass_through()
                self._leave()
                if not self.outbound.broken:
                    self.server.hub.flush()
                    with trio.move_on_after(GOODBYE_SECONDS, shield=True):
                        await self.outbound.wait_written()
                        await self._see_off()
                nursery.cancel_scope.cancel()
        finally:
            self._leave()
            self.outbound.abandon()
            self.server.partial_bytes -= self._partial_bytes
            self.server.session_ended(self)
            logger.debug("connection of %s ended: %s", self.peer, self._reason)

    async def _see_off(self) -> None:
        """Read on without looking until the peer closes too: closing with unread bytes would reset the connection, and
        the peer might never read the CLOSE that says why."""
        try:
            await self._stream.send_eof()
            while await self._stream.socket.recv(READ_BYTES):
                pass
        except (trio.BrokenResourceError, trio.ClosedResourceError, OSError):
            return

    def _leave(self) -> None:
        """Nothing more is read: what the client holds goes back at once, unless it may come back to it."""
        if self.left:
            return
        self.left = self.closing = True
        if self.session:
            self.server.mailboxes.close(self)
            self.road.checks.forget(self)
            self.road.sessions.leave(self.session, self, self._reason, self._ending)

    def pass_over(self, seconds: float) -> None:
        """So many seconds did not pass for the client: they are no sign that it is dead."""
        self.started_at += seconds
        self.received_at += seconds
        self.outbound.sent_at += seconds

    def taken_over(self) -> None:
        """The client came back by another connection; this one is over."""
        self.close(ConnectionFailed("the client came back by another connection"))

    async def _read(self) -> str:
        socket = self._stream.socket
        connection = self.connection
        received: Callable[[], list[Received]] = partial(connection.receive, self._first)
        drained = False
        while True:
            self.received_at = trio.current_time()
            try:
                await self._take(received)
                self._account_partial()
            except SluiceError as error:
                logger.info("closing the connection of %s: %s", self.peer, error)
                self.close(error)
                return self._reason
            if connection.state is State.CLOSED:
                self._ending = Ending.GOODBYE
                return "closed by the client"
            room = connection.writable(READ_BYTES_MAX)
            try:
                await self.gathering.wait(connection.missing_bytes, drained=drained)
                if room is not None:
                    # Straight to where the frame will stay: to copy megabytes in one go would hold the event loop.
                    count = await socket.recv_into(room)
                    drained = count < len(room)
                    received = partial(connection.filled, count)
                else:
                    size = min(READ_BYTES_MAX, connection.missing_bytes + READ_BYTES)
                    data = await socket.recv(size)
                    count = len(data)
                    drained = count < size
                    received = partial(connection.receive, data)
            except OSError as error:
                self.outbound.abandon()
                if isinstance(error, ConnectionError):
                    self._ending = Ending.CLOSED
                return f"connection broke: {error}"
            if not count:
                self._ending = Ending.CLOSED
                return "connection closed by the client"
            if connection.state is not State.OPEN:
                await self.server.turnstile.pass_through()

    async def _take(self, received: Callable[[], list[Received]]) -> None:
        started = self.server.ground.turns.begin()
        handlers = self.server.handlers
        requests = received()
        for message, correlation, tail in requests:
            handler = handlers.get(type(message))
            if handler is None:
                continue
            try:
                waiting = handler(self, message, correlation, tail)
                if waiting is not None:
                    self._turn_ends(started)
                    await waiting
                    started = self.server.ground.turns.begin()
            except Exception as error:  # noqa: BLE001 - sorted out there: whose fault was it?
                self._request_failed(message, correlation, error)
            if self.outbound.full or self.server.ground.congested:
                self._turn_ends(started)
                await self._wait_for_room()
                started = self.server.ground.turns.begin()
            elif time.perf_counter() - started > TURN_SECONDS:
                self._turn_ends(started)
                await trio.lowlevel.checkpoint()
                started = self.server.ground.turns.begin()
        self._turn_ends(started)
        pause = self.server.ground.space.pause_seconds
        if pause and any(type(request.message) in PUBLISHING for request in requests):
            await self._slow_down(pause)

    def _account_partial(self) -> None:
        """Bound what all connections together hold of frames that are not whole yet.

        Raises:
            ResourceLow: They hold too much, and this one has a large part of it.

        """
        partial_bytes = self.connection.buffered_bytes
        self.server.partial_bytes += partial_bytes - self._partial_bytes
        self._partial_bytes = partial_bytes
        if self.server.partial_bytes > PARTIAL_BYTES_MAX and partial_bytes > PARTIAL_BYTES_FREE:
            raise ResourceLow("the broker holds too many half-received frames; send it again", retry_after=1.0)

    async def _wait_for_room(self) -> None:
        """Stop reading while the road is congested, or while the client does not take what we answer.

        Looked at after every message: some of them are small and have large answers.
        """
        self.suspended = True
        try:
            await self.server.ground.wait_for_room()
            await self.outbound.wait_room()
        finally:
            self.suspended = False
            self.received_at = trio.current_time()

    async def _slow_down(self, seconds: float) -> None:
        """Leave who publishes unread for a moment: the disk is nearly full, and consumers are to get ahead."""
        self.suspended = True
        try:
            await trio.sleep(seconds)
        finally:
            self.suspended = False
            self.received_at = trio.current_time()

    def _turn_ends(self, started: float) -> None:
        self.server.hub.flush()
        self.server.ground.turns.end(started)

    def _request_failed(self, message: Message, correlation: int, error: Exception) -> None:
        """Refuse the request; raise where the connection cannot go on."""
        if isinstance(error, SluiceError):
            if isinstance(error, ProtocolError) or not correlation or self.connection.state is not State.OPEN:
                raise error
            self.refuse(correlation, error)
            return
        # Our bug: this client gets a typed error, the others are served, and the log has the traceback.
        logger.error("a request of %s (%s) failed", self.peer, type(message).__name__, exc_info=error)
        raise InternalError(f"the broker failed at {type(message).__name__}: {error!r:.300}") from error

    def is_subscribing_to(self, queue: str) -> bool:
        """Whether a subscription of this name is on its way, and there is room for whoever waits for it."""
        return queue in self.subscribing and len(self.waiting_consumes) < WAITING_CONSUMES_MAX

    def subscribed(self, queue: str) -> None:
        """A subscription is there, or refused: those who wait to consume it have their turn."""
        self.subscribing.remove(queue)
        waiting, self.waiting_consumes = self.waiting_consumes, []
        for handler, message, correlation in waiting:
            try:
                handler(self, message, correlation, memoryview(b""))
            except Exception as error:  # noqa: BLE001 - sorted out there: whose fault was it?
                try:
                    self._request_failed(message, correlation, error)
                except SluiceError as fatal:
                    self.close(fatal)

    def answer_meanwhile(self, answer: Callable[[], Awaitable[None]], message: Message, correlation: int) -> None:
        """Let *answer* reply to a request while the client's others are served; it may fail as a handler may."""
        assert self._nursery is not None, "requests come while the session runs"
        self.answering += 1
        self._nursery.start_soon(self._answer_meanwhile, answer, message, correlation)

    async def _answer_meanwhile(
        self, answer: Callable[[], Awaitable[None]], message: Message, correlation: int
    ) -> None:
        try:
            await answer()
        except Exception as error:  # noqa: BLE001 - sorted out there: whose fault was it?
            try:
                self._request_failed(message, correlation, error)
            except SluiceError as fatal:
                self.close(fatal)
        finally:
            self.answering -= 1
        self.server.hub.flush()

    def close(self, error: SluiceError | None) -> None:
        """End the connection with CLOSE; what was sent before still leaves."""
        if self.closing:
            return
        self.closing = True
        # Our goodbye moves the connection's state too, but the client comes back, unless it was in the wrong.
        wrong = self.connection.state is State.CLOSED or isinstance(error, ProtocolError)
        self._ending = Ending.GOODBYE if wrong else Ending.LOST
        if error is not None:
            self._reason = f"closed by the broker: {error!s:.300}"
        if self.connection.state is not State.CLOSED:
            try:
                self.outbound.put(self.connection.send(Close(error_to_wire(error) if error else None)))
            except SluiceError as unsendable:
                # A client with the smallest frames may not take the longest texts.
                logger.info("the connection of %s ends without a CLOSE: %s", self.peer, unsendable)
        self._scope.cancel()

    # --- sending ----------------------------------------------------------------------------------------------

    def reply(self, correlation: int, message: Message, parts: Sequence[bytes | memoryview] = ()) -> None:
        """Answer a request; *parts* make up the tail."""
        self._put(message, correlation, parts)

    def refuse(self, correlation: int, error: SluiceError) -> None:
        """Answer a request with an error."""
        self._put(Error(error_to_wire(error)), correlation)

    def ping(self) -> None:
        """Ask the silent peer whether it is there."""
        self.outbound.sent_at = trio.current_time()
        self._put(Ping())

    def _put(self, message: Message, correlation: int = 0, parts: Sequence[bytes | memoryview] = ()) -> None:
        if self.closing or self.connection.state is State.CLOSED:
            return
        try:
            head = self.connection.send(message, correlation=correlation, tail_length=sum(map(len, parts)))
        except (InternalError, InvalidRequest) as error:
            # Larger than this client takes, mostly: its own limit ends its own connection, never the road.
            logger.warning("cannot send %s to %s: %s", type(message).__name__, self.peer, error)
            self.close(error)
            return
        self.outbound.put(head, parts)

    # --- what the road wants of a session ---------------------------------------------------------------------

    def deliver(
        self,
        consumer: int,
        first_tag: int,
        runs: list[int],
        parts: Sequence[bytes | memoryview],
        destinations: list[str] | None = None,
        notes: list[dict[str, Any]] | None = None,
    ) -> None:
        """Send messages to one of our consumers."""
        self._put(Deliver(consumer, first_tag, runs, notes or [], destinations or []), 0, parts)

    def ask(self, half: Half, data: bytes | memoryview) -> None:
        """Ask the client what became of a half message."""
        check = Check(
            half.number,
            half.group,
            half.destination,
            half.messages,
            half.prepared_ms,
            half.checks,
            half.producer,
            half.sequence,
        )
        self._put(check, 0, [data])

    def pass_reply(self, arrived: ReplyArrived, data: bytes | memoryview) -> None:
        """Send the reply to a request of the client."""
        self._put(arrived, 0, [data] if data else ())

    def takes_more(self) -> bool:
        """Whether the outgoing buffer has room."""
        return not self.closing and not self.outbound.full

    def consumer_ended(self, consumer: int, error: SluiceError) -> None:
        """Tell the client that its consumer is over, and why."""
        self.consumers.pop(consumer, None)
        self._put(ConsumerEnded(consumer, error_to_wire(error)))

    def tell_brokers(self) -> None:
        """Tell the client where it may go when this broker dies; on its own a broker is all there is."""
        addresses = list(self.server.brokers())[:ADDRESSES_MAX]
        if len(addresses) > 1:
            self._put(Brokers(addresses=addresses))

    def leases_lost(self, consumer: int, tags: list[int], reason: str) -> None:
        """Tell the client that leases ended unasked."""
        for start in range(0, len(tags), 2 * LOST_RANGES_MAX):
            self._put(LeasesLost(consumer, tags[start : start + 2 * LOST_RANGES_MAX], reason))

    def _room_again(self) -> None:
        if self.session:
            self.road.dispatch.session_has_room(self.session)
            if self.mailbox:
                self.server.mailboxes.pass_held(self, self.road.clock.now_ms())


def answer_ping(session: ClientSession, message: Message, correlation: int, tail: memoryview) -> None:
    """PING -> PONG."""
    del message, tail
    session.reply(correlation, Pong())


def _peer_name(stream: trio.SocketStream) -> str:
    try:
        address = stream.socket.getpeername()
    except OSError:
        return "a peer that has left"
    return f"{address[0]}:{address[1]}" if isinstance(address, tuple) else str(address)
