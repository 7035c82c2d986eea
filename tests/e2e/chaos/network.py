"""Ways between processes that can be cut, held up, slowed and reset: a TCP proxy in this event loop.

A way has two directions. One that is held up loses nothing and says nothing, as a network does that drops every packet
for a while; what was on the way arrives when it heals. Brokers are reached at their gates only, since that is the
address that they advertise; who comes through a gate is told by the first bytes, as brokers do themselves. This module
must not know anything else of what travels.
"""

from __future__ import annotations

import contextlib
import random
import socket
import struct
from typing import TYPE_CHECKING

import trio

from sluicemq.wire.frames import FRAME_BYTES_BEFORE_OPEN, PEER_PREFACE, FrameReader
from sluicemq.wire.peers import PeerHello

if TYPE_CHECKING:
    from collections.abc import Callable

READ_BYTES = 64 * 1024
CLIENTS = 0
"""The number of all clients together, among those of brokers."""
_RESET = struct.pack("ii", 1, 0)


class Direction:
    """One direction between two places.

    Attributes:
        delay_seconds: How long each piece waits.
        reset_chance: Chance that a piece resets its connection instead of arriving.

    """

    def __init__(self, chance: random.Random) -> None:
        self.delay_seconds = 0.0
        self.reset_chance = 0.0
        self._chance = chance
        self._open = trio.Event()
        self._open.set()

    def hold(self) -> None:
        """Let nothing pass, and say nothing."""
        if self._open.is_set():
            self._open = trio.Event()

    def heal(self) -> None:
        """Let everything pass as it comes."""
        self.delay_seconds = self.reset_chance = 0.0
        self._open.set()

    async def pump(self, first: bytes, source: trio.SocketStream, target: trio.SocketStream) -> bool:
        """Carry *first*, and what *source* says until its end, to *target*; False: the connection is to be reset."""
        data = first or await source.receive_some(READ_BYTES)
        while True:
            if self.delay_seconds:
                await trio.sleep(self.delay_seconds)
            while not self._open.is_set():
                await self._open.wait()
            if self.reset_chance and self._chance.random() < self.reset_chance:
                return False
            if not data:
                await target.send_eof()
                return True
            await target.send_all(data)
            data = await source.receive_some(READ_BYTES)


class Way:
    """A way to one place, for whoever connects.

    Args:
        target: Where it leads: (host, port).
        chance: For losses.

    Attributes:
        port: Where it begins, on loopback; known once it is open.
        forth: To the target; this and the other direction are those of every connection, unless `Network` says else.
        back: From the target.

    """

    def __init__(self, target: tuple[str, int], chance: random.Random | None = None) -> None:
        self.target = target
        self.port = 0
        chance = chance or random.Random(0)
        self.forth, self.back = Direction(chance), Direction(chance)
        self._scopes: set[trio.CancelScope] = set()
        self._refuses = False
        self._listening = trio.CancelScope()
        self._opened = trio.Event()
        self._opened.set()

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Carry connections until cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                listeners = await trio.open_tcp_listeners(self.port, host="127.0.0.1")
                self.port = listeners[0].socket.getsockname()[1]
                task_status.started()
                task_status = trio.TASK_STATUS_IGNORED
                with self._listening:
                    await trio.serve_listeners(self._carry, listeners, handler_nursery=nursery)
                for listener in listeners:
                    await listener.aclose()
                await self._opened.wait()

    def shut(self) -> None:
        """Let nobody listen here, as where no process is; what stands ends by itself."""
        self._opened = trio.Event()
        self._listening.cancel()

    def open(self) -> None:
        """Listen again."""
        if not self._opened.is_set():
            self._listening = trio.CancelScope()
            self._opened.set()

    def heal(self) -> None:
        """Carry everything again."""
        self._refuses = False
        self.forth.heal()
        self.back.heal()

    def cut(self) -> None:
        """Reset every connection, and every new one, until healed."""
        self._refuses = True
        self.reset()

    def reset(self) -> None:
        """Reset every connection; new ones are carried."""
        for scope in list(self._scopes):
            scope.cancel()

    async def recognize(self, near: trio.SocketStream) -> tuple[bytes, Direction, Direction]:
        """Return what was read so far, and the directions that a connection takes."""
        del near
        return b"", self.forth, self.back

    async def _carry(self, near: trio.SocketStream) -> None:
        whole = False
        far: trio.SocketStream | None = None
        try:
            if not self._refuses:
                with trio.CancelScope() as scope:
                    self._scopes.add(scope)
                    first, forth, back = await self.recognize(near)
                    far = await trio.open_tcp_stream(*self.target, happy_eyeballs_delay=5)
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(_pump, forth, first, near, far, scope)
                        nursery.start_soon(_pump, back, b"", far, near, scope)
                    whole = not scope.cancel_called
                self._scopes.discard(scope)
        except (trio.BrokenResourceError, trio.ClosedResourceError, OSError):
            pass
        finally:
            with trio.CancelScope(shield=True):
                for stream in (near, far):
                    if stream is not None:
                        await (stream.aclose() if whole else _reset(stream))


async def _pump(
    direction: Direction,
    first: bytes,
    source: trio.SocketStream,
    target: trio.SocketStream,
    scope: trio.CancelScope,
) -> None:
    try:
        if not await direction.pump(first, source, target):
            scope.cancel()
    except (trio.BrokenResourceError, trio.ClosedResourceError, OSError):
        scope.cancel()


async def _reset(stream: trio.SocketStream) -> None:
    """Close *stream* so that its peer meets a reset, as when a process is killed."""
    with contextlib.suppress(OSError):
        stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    await stream.aclose()


class Gate(Way):
    """The way to one broker: each pair of places has its own directions.

    Args:
        network: Which it is part of.
        node: Number of the broker.
        target: Where the broker listens.
        chance: For losses.

    """

    def __init__(self, network: Network, node: int, target: tuple[str, int], chance: random.Random) -> None:
        super().__init__(target, chance)
        self._network = network
        self._node = node

    async def recognize(self, near: trio.SocketStream) -> tuple[bytes, Direction, Direction]:
        """Tell a broker by its first frame; everybody else is a client."""
        data = b""
        source = CLIENTS
        while True:
            piece = bytes(await near.receive_some(READ_BYTES))
            data += piece
            if not piece or not (data.startswith(PEER_PREFACE) or PEER_PREFACE.startswith(data)):
                break
            frames = FrameReader(FRAME_BYTES_BEFORE_OPEN).feed(data[len(PEER_PREFACE) :])
            if frames:
                source = PeerHello.decode(frames[0].head).node
                break
        return data, self._network.direction(source, self._node), self._network.direction(self._node, source)


class Network:
    """Everything between brokers, and between clients and brokers.

    Args:
        brokers: Where each broker listens, by its number.
        chance: For losses.

    Attributes:
        gates: Where each broker is reached, by its number.

    """

    def __init__(self, brokers: dict[int, tuple[str, int]], chance: random.Random) -> None:
        self._chance = chance
        self._directions: dict[tuple[int, int], Direction] = {}
        self.gates = {node: Gate(self, node, address, chance) for node, address in brokers.items()}

    async def serve(self, nursery: trio.Nursery) -> None:
        """Open every gate."""
        for gate in self.gates.values():
            await nursery.start(gate.serve)

    def direction(self, source: int, target: int) -> Direction:
        """Return what carries from one place to another."""
        found = self._directions.get((source, target))
        if found is None:
            found = self._directions[source, target] = Direction(self._chance)
        return found

    def both(self, one: int, other: int, do: Callable[[Direction], None]) -> None:
        """Do something with both directions between two places."""
        do(self.direction(one, other))
        do(self.direction(other, one))

    def part(self, groups: list[set[int]]) -> None:
        """Let nothing pass between two places that share no group."""
        places = sorted({*self.gates, CLIENTS})
        for one in places:
            for other in places:
                if one < other and not any({one, other} <= group for group in groups):
                    self.both(one, other, Direction.hold)

    def everywhere(self, do: Callable[[Direction], None]) -> None:
        """Do something with every direction, those of connections to come included."""
        places = sorted({*self.gates, CLIENTS})
        for one in places:
            for other in places:
                if one < other:
                    self.both(one, other, do)

    def heal(self) -> None:
        """Let everything pass again."""
        for gate in self.gates.values():
            gate.heal()
        for direction in self._directions.values():
            direction.heal()
