"""Ways between processes that can be cut, held up, slowed and reset: a TCP proxy in this event loop.

A way has two directions. One that is held up loses nothing and says nothing, as a network does that drops every packet
for a while; what was on the way arrives when it heals. This module must not know what travels.
"""

from __future__ import annotations

import random
import socket
import struct
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Callable

READ_BYTES = 64 * 1024
_RESET = struct.pack("ii", 1, 0)


class Direction:
    """One direction of a way.

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

    @property
    def held(self) -> bool:
        """Whether nothing passes."""
        return not self._open.is_set()

    def hold(self) -> None:
        """Let nothing pass, and say nothing."""
        if self._open.is_set():
            self._open = trio.Event()

    def heal(self) -> None:
        """Let everything pass as it comes."""
        self.delay_seconds = self.reset_chance = 0.0
        self._open.set()

    async def pump(self, source: trio.SocketStream, target: trio.SocketStream) -> bool:
        """Carry what *source* says to *target* until its end; False: the connection is to be reset."""
        while True:
            data = await source.receive_some(READ_BYTES)
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


class Way:
    """A way from one place to another.

    Args:
        target: Where it leads: (host, port).
        chance: For losses.

    Attributes:
        port: Where it begins, on loopback; known once it is open.
        forth: From who connects to the target.
        back: The other direction.
        connections: How many stand.

    """

    def __init__(self, target: tuple[str, int], chance: random.Random | None = None) -> None:
        self.target = target
        self.port = 0
        chance = chance or random.Random(0)
        self.forth, self.back = Direction(chance), Direction(chance)
        self.connections = 0
        self._scopes: set[trio.CancelScope] = set()
        self._refuses = False

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Carry connections until cancelled."""
        listeners = await trio.open_tcp_listeners(self.port, host="127.0.0.1")
        self.port = listeners[0].socket.getsockname()[1]
        task_status.started()
        await trio.serve_listeners(self._carry, listeners)

    def heal(self) -> None:
        """Carry everything again."""
        self._refuses = False
        self.forth.heal()
        self.back.heal()

    def hold(self) -> None:
        """Carry nothing in either direction, and say nothing."""
        self.forth.hold()
        self.back.hold()

    def cut(self) -> None:
        """Reset every connection, and every new one, until healed."""
        self._refuses = True
        self.reset()

    def reset(self) -> None:
        """Reset every connection; new ones are carried."""
        for scope in list(self._scopes):
            scope.cancel()

    async def _carry(self, near: trio.SocketStream) -> None:
        if self._refuses:
            await _reset(near)
            return
        try:
            far = await trio.open_tcp_stream(*self.target, happy_eyeballs_delay=5)
        except OSError:
            await _reset(near)
            return
        self.connections += 1
        whole = True
        try:
            with trio.CancelScope() as scope:
                self._scopes.add(scope)
                whole = False
                try:
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(self._pump, self.forth, near, far, scope)
                        nursery.start_soon(self._pump, self.back, far, near, scope)
                    whole = not scope.cancel_called
                finally:
                    self._scopes.discard(scope)
        finally:
            self.connections -= 1
            with trio.CancelScope(shield=True):
                for stream in (near, far):
                    await (stream.aclose() if whole else _reset(stream))

    async def _pump(
        self, direction: Direction, source: trio.SocketStream, target: trio.SocketStream, scope: trio.CancelScope
    ) -> None:
        try:
            if not await direction.pump(source, target):
                scope.cancel()
        except (trio.BrokenResourceError, trio.ClosedResourceError, OSError):
            scope.cancel()


async def _reset(stream: trio.SocketStream) -> None:
    """Close *stream* so that its peer meets a reset, as when a process is killed."""
    try:
        stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    except OSError:
        pass
    await stream.aclose()


class Network:
    """Every way between brokers, and from clients to brokers, by (from, to).

    Args:
        brokers: Address of each broker by its number.
        chance: For losses.

    Brokers have their numbers; clients are 0.
    """

    def __init__(self, brokers: dict[int, tuple[str, int]], chance: random.Random) -> None:
        self.brokers = brokers
        self.ways = {
            (source, target): Way(address, chance)
            for target, address in brokers.items()
            for source in (0, *brokers)
            if source != target
        }

    async def serve(self, nursery: trio.Nursery) -> None:
        """Open every way."""
        for way in self.ways.values():
            await nursery.start(way.serve)

    def between(self, source: int, target: int) -> list[Direction]:
        """Return what carries from *source* to *target*, whoever has connected to whom."""
        found = []
        if (source, target) in self.ways:
            found.append(self.ways[source, target].forth)
        if (target, source) in self.ways:
            found.append(self.ways[target, source].back)
        return found

    def part(self, groups: list[set[int]]) -> None:
        """Let nothing pass between two brokers that share no group."""
        for source in self.brokers:
            for target in self.brokers:
                if source != target and not any({source, target} <= group for group in groups):
                    self.each(source, target, Direction.hold)

    def each(self, source: int, target: int, do: Callable[[Direction], None]) -> None:
        """Do something with what carries from *source* to *target*."""
        for direction in self.between(source, target):
            do(direction)

    def heal(self) -> None:
        """Let everything pass again."""
        for way in self.ways.values():
            way.heal()
