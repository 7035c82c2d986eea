"""A broker without a process: `Server` and road in this event loop, and clients that speak frames to it over loopback.

Small limits (send buffers, frames, outbound) can be set, so that what takes gigabytes in life takes kilobytes here.
"""

from __future__ import annotations

import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import trio

from sluicemq.broker.config import BrokerConfig
from sluicemq.broker.server.listener import Server
from sluicemq.wire import messages as m
from sluicemq.wire.batch import Batch, encode_batch
from sluicemq.wire.connection import Connection, Role, State
from sluicemq.wire.errors import SluiceError, error_from_wire
from sluicemq.wire.frames import PREFACE
from tests.broker.pipeline.roads import open_road
from tests.patience import WAIT_SECONDS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from sluicemq.broker.pipeline.road import Road
    from sluicemq.wire.fields import Message


class Refused(Exception):
    """The broker ended the connection with CLOSE, or without (error None)."""

    def __init__(self, error: SluiceError | None) -> None:
        super().__init__(repr(error))
        self.error = error


class Peer:
    """One client connection.

    Attributes:
        deliveries: (consumer, tag, body) of messages, in order.
        unasked: Other messages that came without a request.
        closed: Set once the broker has ended the connection; `error` says why.

    """

    def __init__(self, stream: trio.SocketStream, frame_bytes_max: int = 0) -> None:
        self.stream = stream
        self.frame_bytes_max = frame_bytes_max
        self.connection = Connection(Role.CLIENT)
        self.deliveries: list[tuple[int, int, bytes]] = []
        self.unasked: list[Message] = []
        self.pings = 0
        self.answers_pings = True
        self.welcome: m.Welcome | None = None
        self.opened: m.Opened | None = None
        self.closed = trio.Event()
        self.error: SluiceError | None = None
        self.reading = trio.Event()
        self.reading.set()
        self.on_deliver: Callable[[m.Deliver, list[bytes]], None] | None = None
        self._replies: dict[int, Any] = {}
        self._correlation = 0
        self._changed = trio.Event()
        self._sending = trio.Lock()

    async def send_bytes(self, data: bytes) -> None:
        """Send raw bytes, whole."""
        try:
            async with self._sending:
                await self.stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            await self.closed.wait()
            raise Refused(self.error) from None

    async def send(self, message: Message, tail: bytes = b"", correlation: int | None = None) -> int:
        """Send one message; return its correlation."""
        self._correlation += 1
        correlation = self._correlation if correlation is None else correlation
        await self.send_bytes(self.connection.send(message, correlation=correlation, tail_length=len(tail)) + tail)
        return correlation

    async def reply_to(self, correlation: int) -> Any:
        """Return the reply, or raise the error that was answered."""
        await self.until(lambda: correlation in self._replies)
        message = self._replies.pop(correlation)
        if isinstance(message, m.Error):
            raise error_from_wire(message.error)
        return message

    async def ask(self, message: Message, tail: bytes = b"") -> Any:
        """Send a request and return its reply."""
        return await self.reply_to(await self.send(message, tail))

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until *condition* holds."""
        with trio.fail_after(WAIT_SECONDS):
            while not condition():
                if self.closed.is_set():
                    raise Refused(self.error)
                await self._changed.wait()

    async def take(self, count: int) -> list[bytes]:
        """Return all bodies delivered, once they are at least so many."""
        await self.until(lambda: len(self.deliveries) >= count)
        return [body for _, _, body in self.deliveries]

    async def shake_hands(self, open_: m.Open | None = None, **hello: Any) -> Peer:
        """Go through the whole handshake; *open_* says which session is wanted."""
        hello.setdefault("heartbeat_seconds", 0.0)
        await self.send_bytes(
            PREFACE + self.connection.send(m.Hello(1, 1, frame_bytes_max=self.frame_bytes_max, **hello))
        )
        await self.until(lambda: self.connection.state is State.WELCOMED)
        await self.send(m.Authenticate("ANONYMOUS"), correlation=0)
        await self.until(lambda: self.connection.state is State.AUTHENTICATED)
        await self.send(open_ or m.Open(), correlation=0)
        await self.until(lambda: self.connection.state is State.OPEN)
        return self

    async def come_back(self, before: Peer, *, consumer_max: int = 100) -> Peer:
        """Go through the whole handshake, to the session that *before* had."""
        assert before.opened is not None
        return await self.shake_hands(
            m.Open("/", before.opened.session, before.opened.resume_token, True, consumer_max)
        )

    async def run(self) -> None:
        """Read until the end; pauses while `reading` is not set."""
        try:
            while True:
                await self.reading.wait()
                data = await self.stream.receive_some(65536)
                if not data:
                    break
                for message, correlation, tail in self.connection.receive(bytes(data)):
                    await self._take(message, correlation, tail)
                self._notify()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        self.closed.set()
        self._notify()

    async def _take(self, message: Message, correlation: int, tail: memoryview) -> None:
        if isinstance(message, m.Close):
            self.error = None if message.error is None else error_from_wire(message.error)
        elif isinstance(message, m.Ping):
            self.pings += 1
            if self.answers_pings:
                await self.send_bytes(self.connection.send(m.Pong(), correlation=correlation))
        elif isinstance(message, m.Deliver):
            bodies = unpack(message.runs, tail)
            tag = message.first_tag
            self.deliveries += [(message.consumer, tag + place, body) for place, body in enumerate(bodies)]
            if self.on_deliver is not None:
                self.on_deliver(message, bodies)
        elif correlation:
            shown = isinstance(message, (m.Peeked, m.Replayed))
            self._replies[correlation] = (message, bytes(tail)) if shown else message
        elif isinstance(message, m.Welcome):
            self.welcome = message
        elif isinstance(message, m.Opened):
            self.opened = message
        elif self.connection.state is State.OPEN:
            self.unasked.append(message)

    def _notify(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    # --- requests by name -------------------------------------------------------------------------------------

    async def declare(self, name: str = "orders", **settings: Any) -> m.Declared:
        """Declare a queue."""
        return await self.ask(m.DeclareQueue(name, settings))

    async def open_producer(self) -> int:
        """Return a new producer number."""
        return (await self.ask(m.OpenProducer())).producer

    async def publish(
        self, producer: int, sequence: int, bodies: Sequence[bytes], queue: str = "orders"
    ) -> m.Published:
        """Publish and wait for the confirm."""
        return await self.ask(m.Publish(queue, producer, sequence), encode_batch(bodies))

    async def consume(
        self, queue: str = "orders", *, credit: int = 100, credit_bytes: int = 1 << 30, lease_seconds: float = 600.0
    ) -> int:
        """Start a consumer and return its number."""
        return (await self.ask(m.Consume(queue, credit, credit_bytes, lease_seconds))).consumer


def unpack(runs: list[int], tail: memoryview | bytes) -> list[bytes]:
    """Return the bodies of a DELIVER or PEEKED."""
    bodies: list[bytes] = []
    offset = 0
    for place in range(0, len(runs), m.RUN_NUMBERS):
        count, size = runs[place + 2], runs[place + 3]
        batch = Batch(bytes(tail[offset : offset + size]))
        assert batch.count == count
        bodies += batch.bodies
        offset += size
    assert offset == len(tail)
    return bodies


class Port:
    """A serving broker.

    Attributes:
        road: Its road.
        server: Its server.

    """

    def __init__(self, road: Road, server: Server, address: tuple[str, int], nursery: trio.Nursery) -> None:
        self.road = road
        self.server = server
        self._address = address
        self._nursery = nursery
        self.peers: list[Peer] = []

    async def dial(self, *, receive_bytes: int = 0, frame_bytes_max: int = 0) -> Peer:
        """Connect without a word."""
        sock = trio.socket.socket()
        if receive_bytes:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        await sock.connect(self._address)
        peer = Peer(trio.SocketStream(sock), frame_bytes_max)
        self.peers.append(peer)
        self._nursery.start_soon(peer.run)
        return peer

    async def connect(self, *, receive_bytes: int = 0, frame_bytes_max: int = 0, **hello: Any) -> Peer:
        """Connect and open a session."""
        peer = await self.dial(receive_bytes=receive_bytes, frame_bytes_max=frame_bytes_max)
        return await peer.shake_hands(**hello)


@asynccontextmanager
async def open_port(*, send_bytes: int = 0, config: BrokerConfig | None = None, **road: Any) -> AsyncIterator[Port]:
    """Serve on loopback; with *send_bytes*, the broker's sockets have send buffers of this size."""
    async with open_road(**road) as open_, trio.open_nursery() as nursery:
        server = Server(open_, config or BrokerConfig(), "test")
        listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
        if send_bytes:
            # Accepted sockets inherit it.
            listener.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_bytes)
        nursery.start_soon(server.run, [listener])
        port = Port(open_, server, listener.socket.getsockname(), nursery)
        try:
            yield port
        finally:
            with trio.CancelScope(shield=True):
                for peer in port.peers:
                    await peer.stream.aclose()
                await listener.aclose()
            nursery.cancel_scope.cancel()
