"""What the driver of the replication core and the connections to peers want of each other; protocols only.

`Links` is what carries: sockets, heartbeats, reconnecting, bytes. `LinkEvents` is who decides what is said: the driver.
Both live in the event loop. Every method here is synchronous, returns at once and never raises because of a peer; what
takes time goes on behind it. Neither side keeps the other waiting, and neither may call the other from another thread.

The order that the core relies on:

- Between two nodes there is one connection at a time, whatever number of streams it is made of. Its number is the same
  at both ends and is never used again between the two, not even after a restart of either.
- `peer_up` comes before the first `received` of a connection, `peer_down` after the last; the next connection's
  `peer_up` comes after this one's `peer_down`.
- What `send` is given for one connection arrives in order, or the connection ends. Ping, Pong, Notification,
  FollowerInfo, NewEpoch and HandOver may overtake the others, in order among each other; nothing else may overtake
  anything. (The last three because a Notification that was sent before or behind them would undo what they say.)
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sluicemq.broker.replication.effects import SendSnapshot
    from sluicemq.broker.replication.history import Position
    from sluicemq.broker.replication.membership import Configuration
    from sluicemq.broker.replication.messages import Message
    from sluicemq.storage.installing import Installation
    from sluicemq.storage.log import SegmentLog
    from sluicemq.storage.pagefile import PageFile
    from sluicemq.storage.snapshots import SnapshotStore


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a broker is, as both ends of a connection tell each other in PeerHello.

    Attributes:
        node: Its number.
        incarnation: Identity of its disk, 16 bytes; a wiped disk has a new one.
        cluster_id: 16 bytes. While `founded` is false it is a proposal: what the cluster's will be if this one founds
            it.
        founded: Its log holds entries (or held some: it is damaged), so it belongs to the cluster of `cluster_id`.
        address: `host:port` under which the others reach it.

    """

    node: int
    incarnation: bytes
    cluster_id: bytes
    founded: bool
    address: str

    def may_talk_to(self, other: Identity) -> bool:
        """Whether the two may be of one cluster: the same one, or one of them belongs to none yet."""
        return self.cluster_id == other.cluster_id or not (self.founded and other.founded)


@dataclass(frozen=True, slots=True)
class ReceivedSnapshot:
    """A whole snapshot that lies beside the log, durable, not in use yet.

    Attributes:
        peer: Who sent it.
        epoch: As its offer said.
        session: As its offer said.
        position: What it covers.
        configuration: Who votes there.
        configuration_zxid: The entry that said so.
        installation: What took it in; `finish` has returned, `switch` was not called.

    """

    peer: int
    epoch: int
    session: int
    position: Position
    configuration: Configuration
    configuration_zxid: int
    installation: Installation


class Links(Protocol):
    """Connections to the other brokers."""

    def send(self, peer: int, message: Message) -> None:
        """Send *message* over the connection that it names; drop it silently if that has ended.

        A connection whose queue is full beyond its bound is ended (`peer_down`), never waited for.
        """

    def flush(self) -> None:
        """Write what was sent since, now: at the end of a step. It is written soon anyway."""

    def identity_changed(self) -> None:
        """`LinkEvents.identity` is another one: tell the others, and leave whoever belongs to another cluster."""

    def send_snapshot(self, effect: SendSnapshot) -> None:
        """Begin to stream a snapshot as *effect* says, on a stream of its own.

        Unless the other side has it whole for certain, `LinkEvents.snapshot_failed` is called in the end, once. A
        stream under way to the same peer is given up without a word.
        """

    def forget_snapshots(self) -> None:
        """This broker has its place without another snapshot: what came in of one that broke off may go."""

    def connect_to(self, addresses: Mapping[int, str]) -> None:
        """These are the other brokers that are known now, `host:port` by node: replaces what was said before.

        Connections to nodes that are not in it any more end; others stay, unless their address changed and they are
        down.
        """


class Stores(Protocol):
    """Where snapshots are sent from and received into. Everything here may be another object after an `installing`."""

    @property
    def log(self) -> SegmentLog:
        """The log; reads from any thread."""

    @property
    def snapshots(self) -> SnapshotStore:
        """Snapshots beside it; from worker threads."""

    @property
    def pages(self) -> PageFile:
        """Pages that they name; from worker threads."""

    def hold(self) -> AbstractContextManager[None]:
        """While it is entered, nothing that is there now leaves the disk: files that a snapshot stream reads.

        No new snapshot is taken meanwhile, the log begins no later, nothing is reclaimed. So give up what stalls.
        """

    def configuration_at(self, zxid: int) -> tuple[int, Configuration] | None:
        """Return the last configuration at or before *zxid*, and its entry."""

    def want_snapshot(self) -> None:
        """Take a snapshot soon: none is new enough to be sent. The core asks for the stream again later."""

    @property
    def installing(self) -> bool:
        """A received snapshot is just taking the log's place: begin no other `Installation` now."""

    def forget_incoming(self) -> None:
        """Remove what was received of a snapshot and is not needed any more; from a worker thread.

        Raises StorageError: the disk fails.
        """


class LinkEvents(Protocol):
    """What happens on the links; called in the event loop."""

    @property
    def identity(self) -> Identity:
        """Who this broker is at the moment; ask again for every connection, it changes when a cluster is joined."""

    @property
    def stores(self) -> Stores:
        """For snapshots."""

    def peer_up(self, peer: Identity, connection: int) -> None:
        """A connection with this number is open, and *peer* may be talked to."""

    def peer_named(self, peer: Identity) -> None:
        """A peer says that it belongs to another cluster than it said before: it has joined or founded one.

        It comes before every message that was sent after that, so what follows from a leader is of this cluster.
        """

    def peer_down(self, peer: int, connection: int) -> None:
        """A connection has ended: closed, reset, silent for too long, or given up. Nothing comes from it any more."""

    def peer_refused(self, peer: int) -> None:
        """The peer's host answers, but nobody listens there: only then. Counts as heard in an election."""

    def received(self, peer: int, message: Message) -> None:
        """A message came in over the present connection of *peer*."""

    def snapshot_failed(self, peer: int, session: int, reason: str) -> None:
        """A stream that `send_snapshot` began has ended, and the other side may not have all of it."""

    def snapshot_received(self, received: ReceivedSnapshot) -> None:
        """A whole snapshot came in."""

    def fail(self, error: BaseException) -> None:
        """This broker's own disk fails: it cannot go on, and its process must end."""
