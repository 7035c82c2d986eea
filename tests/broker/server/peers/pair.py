"""Brokers that are nothing but their links: a mesh on a port of its own, and a record of what it told.

Real sockets on loopback. What the driver of the replication core would do is done by hand.
"""

from __future__ import annotations

import socket
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING, Any

import trio

from sluicemq.broker.pipeline.ensemble.links import Identity
from sluicemq.broker.replication import messages as core
from sluicemq.broker.replication.membership import Member
from sluicemq.broker.server.peers.mesh import PeerMesh
from sluicemq.broker.server.peers.stream import PeerStream
from sluicemq.storage.record import Record
from sluicemq.wire.frames import PEER_PREFACE
from sluicemq.wire.peers_of_links import NodeFigures
from tests.patience import WAIT_SECONDS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

CLUSTER = b"one cluster of 3"
OTHER_CLUSTER = b"another cluster!"
FRAME_BYTES_MAX = 4 * 1024 * 1024


class PlainBodies:
    """Bodies are (kind, header, payload)."""

    def record_of(self, zxid: int, body: object) -> Record:
        assert isinstance(body, tuple)
        kind, header, payload = body
        return Record(zxid, kind, 1, 0, header, payload)

    def body_in(self, record: Record) -> object:
        return record.kind, record.header, record.payload


class Recorder:
    """`LinkEvents` that remembers.

    Attributes:
        told: ("up" | "down", node, connection), ("refused", node), ("named", node, cluster), in order.
        heard: (node, message), in order.

    """

    def __init__(self, identity: Identity) -> None:
        self.identity = identity
        self.stores: Any = None
        self.told: list[tuple[Any, ...]] = []
        self.heard: list[tuple[int, core.Message]] = []
        self.failed: list[tuple[int, int, str]] = []
        self.snapshots: list[Any] = []
        self.failures: list[BaseException] = []
        self._changed = trio.Event()

    def _note(self, list_: list[Any], what: Any) -> None:
        list_.append(what)
        self._changed.set()
        self._changed = trio.Event()

    def peer_up(self, peer: Identity, connection: int) -> None:
        assert self.up_with(peer.node) is None, "the old connection has not ended"
        self._note(self.told, ("up", peer.node, connection))

    def peer_named(self, peer: Identity) -> None:
        self._note(self.told, ("named", peer.node, peer.cluster_id))

    def peer_down(self, peer: int, connection: int) -> None:
        assert self.up_with(peer) == connection, "only what was up can go down"
        self._note(self.told, ("down", peer, connection))

    def peer_refused(self, peer: int) -> None:
        self._note(self.told, ("refused", peer))

    def received(self, peer: int, message: core.Message) -> None:
        assert self.up_with(peer) == message.connection, "nothing comes outside of a connection"
        self._note(self.heard, (peer, message))

    def snapshot_failed(self, peer: int, session: int, reason: str) -> None:
        self._note(self.failed, (peer, session, reason))

    def snapshot_received(self, received: Any) -> None:
        self._note(self.snapshots, received)

    def fail(self, error: BaseException) -> None:
        self._note(self.failures, error)

    def up_with(self, peer: int) -> int | None:
        """Return the number of the connection that is up."""
        number = None
        for what, node, *rest in self.told:
            if node == peer and what in ("up", "down"):
                number = rest[0] if what == "up" else None
        return number

    def count(self, what: str, peer: int) -> int:
        return sum(each[:2] == (what, peer) for each in self.told)

    async def until(self, condition: Callable[[], Any]) -> Any:
        """Wait until *condition* holds, and return what it returned."""
        with trio.fail_after(WAIT_SECONDS):
            while not (found := condition()):
                await self._changed.wait()
        return found


class Node:
    """One broker."""

    def __init__(self, node: int, nursery: trio.Nursery, /, **identity: Any) -> None:
        self.node = node
        self.identity = replace(Identity(node, b"%016d" % node, CLUSTER, founded=True, address=""), **identity)
        self.events = Recorder(self.identity)
        self.figures = NodeFigures("looking", "election", 1, 0, 1 << 32, 0, 0, 5, 1 << 30, 400 + node)
        self._numbers = count(1000 * node + 1)
        self.mesh = PeerMesh(
            self.events,
            PlainBodies(),
            frame_bytes_max=FRAME_BYTES_MAX,
            server_version="test",
            own_figures=lambda: self.figures,
            chance=lambda: 1.0,
            new_number=lambda: next(self._numbers),
        )
        self._nursery = nursery
        self._scope = trio.CancelScope()
        self.listener: trio.SocketListener | None = None
        self.address = ""
        self.callers: list[PeerStream] = []

    async def begin(self, port: int = 0) -> Node:
        """Listen and run."""
        (self.listener,) = await trio.open_tcp_listeners(port, host="127.0.0.1")
        self.address = f"127.0.0.1:{self.listener.socket.getsockname()[1]}"
        self.events.identity = self.identity = replace(self.identity, address=self.address)
        self._nursery.start_soon(self._run)
        await trio.testing.wait_all_tasks_blocked()
        return self

    async def _run(self) -> None:
        assert self.listener is not None
        with self._scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.mesh.run)
                nursery.start_soon(trio.serve_listeners, self._serve, [self.listener])

    async def _serve(self, stream: trio.SocketStream) -> None:
        async with stream:
            await self.mesh.accept(stream, bytes(await stream.receive_some(64)))

    def die(self) -> None:
        """End at once: all sockets close."""
        self._scope.cancel()

    def knows(self, *others: Node | tuple[int, str]) -> None:
        """Dial these."""
        known = [(other.node, other.address) if isinstance(other, Node) else other for other in others]
        self.mesh.connect_to(dict(known))

    async def up(self, other: int) -> int:
        """Wait for the connection to *other*, and return its number."""
        number: int = await self.events.until(lambda: self.events.up_with(other))
        return number

    def say(self, other: int, *messages: core.Message) -> None:
        for message in messages:
            self.mesh.send(other, message)
        self.mesh.flush()

    async def hears(self, number: int) -> list[core.Message]:
        """Wait for so many messages in all, and return them."""
        await self.events.until(lambda: len(self.events.heard) >= number)
        return [message for _, message in self.events.heard]

    async def hears_same(self, messages: list[core.Message]) -> None:
        """Wait for just these, in any order of streams."""
        assert sorted(map(repr, await self.hears(len(messages)))) == sorted(map(repr, messages))


@asynccontextmanager
async def brokers(*nodes: int, **identity: Any) -> AsyncIterator[list[Node]]:
    """Brokers that run and know nobody."""
    async with trio.open_nursery() as nursery:
        found = [await Node(node, nursery, **identity).begin() for node in nodes]
        try:
            yield found
        finally:
            for stream in (stream for node in found for stream in node.callers):
                stream.close()
        nursery.cancel_scope.cancel()


async def connected(one: Node, other: Node) -> int:
    """Let *one* dial *other*, and return the number of their connection."""
    one.knows(other)
    number = await one.up(other.node)
    assert await other.up(one.node) == number
    return number


@contextmanager
def kept_port() -> Iterator[int]:
    """A port at which brokers of this test may listen one after the other, and that nobody else gets in between."""
    with socket.socket() as keeper:
        # One that only binds refuses whoever calls, and leaves the port to those that listen with the same option.
        keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        keeper.bind(("127.0.0.1", 0))
        yield keeper.getsockname()[1]


async def call(node: Node) -> PeerStream:
    """Return a stream to *node* on which nothing was said but the preface."""
    host, _, port = node.address.rpartition(":")
    tcp = await trio.open_tcp_stream(host, int(port))
    stream = PeerStream(tcp, node.mesh.hub)
    node.callers.append(stream)
    stream.outbound.put(PEER_PREFACE)
    stream.outbound.flush()
    return stream


def vote(connection: int, node: int, round_: int = 1) -> core.Notification:
    """Return a notification."""
    member = Member(node, b"%016d" % node)
    return core.Notification(0, connection, round_, core.Role.LOOKING, core.Vote(7, node), member, 7, -1, (1, 2, 3))


def commit(connection: int, zxid: int) -> core.Commit:
    """Return a message that keeps its order."""
    return core.Commit(1, connection, 5, zxid)


def ping(connection: int, number: int) -> core.Ping:
    """Return a message that overtakes."""
    return core.Ping(1, connection, 5, number, 0)
