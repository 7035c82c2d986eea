"""The network between nodes: one connection at a time between two nodes, in order, until it ends.

It does what TCP does, at its worst: messages are late, pings overtake data, a blocked direction holds everything
back, a connection breaks at any moment and its two ends notice at different times, or only when they send. Nothing
arrives twice over one connection; but what was under way over a former one may come out late, as from a reader that
was not joined, and the core must drop it by its number.

This module must not know what messages mean, except which of them may overtake.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from sluicemq.broker.replication.messages import FollowerInfo, HandOver, Message, NewEpoch, Notification, Ping, Pong

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    from tests.sim.world import World

    class Port(Protocol):
        """What the network knows of a node."""

        host_up: bool
        """The machine is up: it answers that nobody listens."""

        @property
        def listening(self) -> bool:
            """The process is up."""

        def peer_up(self, peer: int, connection: int) -> None: ...
        def peer_down(self, peer: int, connection: int) -> None: ...
        def peer_refused(self, peer: int) -> None: ...
        def received(self, peer: int, message: Message) -> None: ...


URGENT = (Ping, Pong, Notification, FollowerInfo, NewEpoch, HandOver)
LATE_SECONDS_MAX = 4.0


@dataclasses.dataclass
class Weather:
    """How the network is, in seconds and probabilities."""

    latency_seconds: float = 0.002
    jitter_seconds: float = 0.002
    reset_probability: float = 0.0
    """Of each message: that the connection breaks with it."""
    late_probability: float = 0.0
    """Of each message: that a copy comes out after its connection has ended."""
    overtaking: bool = True
    """What is urgent overtakes data."""
    connect_seconds: float = 0.15
    """Mean pause between two attempts to connect."""


class _End:
    """One end of a connection, as its node knows it."""

    __slots__ = ("closed", "held", "last_arrival", "up", "up_at")

    def __init__(self) -> None:
        self.up = False
        self.up_at = 0.0
        self.closed = False
        # What is on its way to this end: the last arrival of each lane, and what waits before a blocked link.
        self.last_arrival = [0.0, 0.0]
        self.held: list[tuple[int, Message]] = []


class Connection:
    """A connection between two nodes."""

    __slots__ = ("ends", "number")

    def __init__(self, number: int, first: int, second: int) -> None:
        self.number = number
        self.ends = {first: _End(), second: _End()}


class Network:
    """All connections between nodes.

    Args:
        world: Time and chance.
        weather: How it is.

    """

    def __init__(self, world: World, weather: Weather) -> None:
        self._world = world
        self.weather = weather
        self.ports: dict[int, Port] = {}
        self.delivered = 0
        self._connections: dict[tuple[int, int], Connection] = {}
        self._blocked: dict[tuple[int, int], int] = {}
        self._slow: dict[tuple[int, int], float] = {}
        self._count = 0
        self.calm = False
        """Nothing breaks by itself any more."""
        self.traps: dict[type[Message], Callable[[int, int], None]] = {}
        """What happens, once, when a message of this type has been sent: called with sender and receiver."""

    def add(self, node: int, port: Port) -> None:
        """A node takes part from now on."""
        for other in self.ports:
            self._try_later(min(node, other), max(node, other), soon=True)
        self.ports[node] = port

    # --- faults ----------------------------------------------------------------------------------------------------

    def block(self, sender: int, receiver: int) -> None:
        """Nothing passes in this direction; blocks are counted."""
        link = (sender, receiver)
        self._blocked[link] = self._blocked.get(link, 0) + 1
        # Somebody may notice that nothing passes, or not, and if so when.
        connection = self._connections.get((min(link), max(link)))
        if connection is not None:
            for node in link:
                if self._world.random.random() < 0.7:
                    self._world.after(self._world.random.uniform(0.2, 6.0), self._notice, connection, node, link)

    def unblock(self, sender: int, receiver: int) -> None:
        """Take one block away; what was held back goes on."""
        link = (sender, receiver)
        count = self._blocked.get(link, 0) - 1
        if count > 0:
            self._blocked[link] = count
            return
        self._blocked.pop(link, None)
        connection = self._connections.get((min(link), max(link)))
        if connection is not None:
            end = connection.ends[receiver]
            held, end.held = end.held, []
            for lane, message in held:
                self._pass(connection, sender, receiver, lane, message)

    def blocked(self, sender: int, receiver: int) -> bool:
        """Whether nothing passes."""
        return (sender, receiver) in self._blocked

    def slow(self, sender: int, receiver: int, seconds: float) -> None:
        """Everything takes so much longer in this direction; 0 heals."""
        self._slow[sender, receiver] = seconds

    def reset(self, first: int, second: int) -> None:
        """The connection between two nodes breaks."""
        connection = self._connections.get((min(first, second), max(first, second)))
        if connection is not None:
            self._break(connection)

    def heal(self) -> None:
        """All links pass, at their usual speed, and nothing breaks by itself any more."""
        self.calm = True
        self.traps.clear()
        self._slow.clear()
        for link in sorted(self._blocked):
            self._blocked[link] = 1
            self.unblock(*link)

    def stopped(self, node: int, *, silently: bool) -> None:
        """The process of *node* has ended: its peers hear of it soon, or (power off) only when they find out."""
        for pair in sorted(self._connections):
            if node not in pair:
                continue
            connection = self._connections[pair]
            other = pair[0] + pair[1] - node
            connection.ends[node].closed = True
            connection.ends[node].up = False
            pause = self._world.random.uniform(0.5, 5.0) if silently else self._delay(node, other)
            self._world.after(pause, self._close, connection, other)

    # --- what nodes do ------------------------------------------------------------------------------------------------

    def send(self, sender: int, receiver: int, message: Message) -> None:
        """Send over the connection that the message names; if that has ended, it is lost."""
        self._send(sender, receiver, message)
        if self.traps:
            trap = self.traps.pop(type(message), None)
            if trap is not None:
                trap(sender, receiver)

    def _send(self, sender: int, receiver: int, message: Message) -> None:
        connection = self._connections.get((sender, receiver) if sender < receiver else (receiver, sender))
        if connection is None or connection.number != message.connection or not connection.ends[sender].up:
            return
        weather = self.weather
        if not self.calm:
            chance = self._world.random.random()
            if chance < weather.reset_probability:
                self._break(connection)
                return
            if chance > 1 - weather.late_probability:
                late = self._world.random.uniform(0.0, LATE_SECONDS_MAX)
                self._world.after(late, self._come_late, connection, sender, receiver, message)
        lane = 1 if weather.overtaking and isinstance(message, URGENT) else 0
        if (sender, receiver) in self._blocked:
            connection.ends[receiver].held.append((lane, message))
        else:
            self._pass(connection, sender, receiver, lane, message)

    # --- inside -------------------------------------------------------------------------------------------------------

    def _delay(self, sender: int, receiver: int) -> float:
        weather = self.weather
        return (
            weather.latency_seconds
            + weather.jitter_seconds * self._world.random.random() ** 2
            + self._slow.get((sender, receiver), 0.0)
        )

    def _pass(self, connection: Connection, sender: int, receiver: int, lane: int, message: Message) -> None:
        world, end = self._world, connection.ends[receiver]
        # What is urgent overtakes; nothing overtakes what is urgent.
        before = end.last_arrival[1] if lane else max(end.last_arrival)
        arrival = max(world.now + self._delay(sender, receiver), before + 1e-7, end.up_at + 1e-7)
        end.last_arrival[lane] = arrival
        world.after(arrival - world.now, self._arrive, connection, sender, receiver, message)

    def _arrive(self, connection: Connection, sender: int, receiver: int, message: Message) -> None:
        end = connection.ends[receiver]
        if end.up:
            self.delivered += 1
            self.ports[receiver].received(sender, message)

    def _come_late(self, connection: Connection, sender: int, receiver: int, message: Message) -> None:
        # Only once the connection is over for the receiver; before, it would be a second copy.
        if connection.ends[receiver].closed and self.ports[receiver].listening:
            self.ports[receiver].received(sender, message)

    def _try_later(self, first: int, second: int, *, soon: bool = False) -> None:
        mean = self.weather.connect_seconds * (0.1 if soon else 1.0)
        self._world.after(mean * self._world.random.uniform(0.5, 1.5), self._try, first, second)

    def _try(self, first: int, second: int) -> None:
        if (first, second) in self._connections:
            return
        one, two = self.ports[first], self.ports[second]
        passes = (first, second) not in self._blocked and (second, first) not in self._blocked
        if passes and one.listening and two.listening:
            self._count += 1
            connection = self._connections[first, second] = Connection(self._count, first, second)
            for node in (first, second):
                delay = self._delay(first, second)
                connection.ends[node].up_at = self._world.now + delay
                self._world.after(delay, self._open, connection, node, first + second - node)
            return
        if passes and one.host_up and two.host_up:
            if one.listening:
                one.peer_refused(second)
            if two.listening:
                two.peer_refused(first)
        self._try_later(first, second)

    def _open(self, connection: Connection, node: int, peer: int) -> None:
        end = connection.ends[node]
        if not end.closed:
            end.up = True
            self.ports[node].peer_up(peer, connection.number)

    def _notice(self, connection: Connection, node: int, link: tuple[int, int]) -> None:
        """*node* gives up a connection over which nothing passes."""
        if link in self._blocked and not connection.ends[node].closed:
            self._close(connection, node)
            other = sum(link) - node
            if (node, other) not in self._blocked:
                self._world.after(self._delay(node, other), self._close, connection, other)

    def _break(self, connection: Connection) -> None:
        for node in connection.ends:
            self._world.after(self._world.random.uniform(0.0, 0.05), self._close, connection, node)

    def _close(self, connection: Connection, node: int) -> None:
        first, second = connection.ends
        end = connection.ends[node]
        if not end.closed:
            end.closed = True
            if end.up:
                end.up = False
                if self.ports[node].listening:
                    self.ports[node].peer_down(first + second - node, connection.number)
            # Who meets a closed end finds out, at the latest when it probes.
            other = first + second - node
            if not connection.ends[other].closed:
                pause = self._delay(node, other) if not self.blocked(node, other) else 0.0
                pause += self._world.random.choice((0.0, 0.3, 3.0))
                self._world.after(pause, self._close, connection, other)
        if (
            all(each.closed for each in connection.ends.values())
            and self._connections.get((first, second)) is connection
        ):
            del self._connections[first, second]
            self._try_later(first, second)
