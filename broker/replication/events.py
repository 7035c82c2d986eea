"""What a shell tells the core. Each event goes to `Replica.step`, with the time of a monotonic clock in seconds."""

from __future__ import annotations

from dataclasses import dataclass

from sluicemq.broker.replication.agreement import StateHash
from sluicemq.broker.replication.effects import Token
from sluicemq.broker.replication.history import Entry, Position
from sluicemq.broker.replication.membership import Configuration
from sluicemq.broker.replication.messages import Message


@dataclass(frozen=True, slots=True)
class Start:
    """The log is open and all of it is durable. The first event, once."""


@dataclass(frozen=True, slots=True)
class Wake:
    """`Replica.wake_at` has come. Earlier or later wakes do no harm."""


@dataclass(frozen=True, slots=True)
class PeerUp:
    """A connection to *peer* is open. Its number is the same at both ends and is never used again between the two."""

    peer: int
    connection: int


@dataclass(frozen=True, slots=True)
class PeerDown:
    """A connection has ended: closed, reset, or given up. Nothing comes from it any more."""

    peer: int
    connection: int


@dataclass(frozen=True, slots=True)
class PeerRefused:
    """*peer*'s host answers, but nobody listens there: it counts as heard in an election."""

    peer: int


@dataclass(frozen=True, slots=True)
class Received:
    """A message from *peer*. Messages of a connection arrive in the order they were sent; pings may overtake."""

    peer: int
    message: Message


@dataclass(frozen=True, slots=True)
class Persisted:
    """The effect of the disk that bears *token*, and all before it, are done and durable."""

    token: Token


@dataclass(frozen=True, slots=True)
class DiskFailed:
    """A write or sync of log or superblock failed; answered with `Fatal`, never retried."""

    reason: str


@dataclass(frozen=True, slots=True)
class EntriesRead:
    """Answer to `ReadEntries`: what follows `after`, in order, at least one entry.

    Empty means that the log proper no longer holds what follows `after`.
    """

    peer: int
    session: int
    after: int
    entries: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class SnapshotFailed:
    """Answer to `SendSnapshot`: it could not be sent; the core tries again later."""

    peer: int
    session: int
    reason: str


@dataclass(frozen=True, slots=True)
class SnapshotReceived:
    """A whole snapshot lies beside the log, durable, not in use yet. It came from *peer* for this epoch and session.

    Attributes:
        position: What it covers.
        configuration: The last configuration at or before `position`, and the entry that gave it.

    """

    peer: int
    epoch: int
    session: int
    position: Position
    configuration: Configuration
    configuration_zxid: int


@dataclass(frozen=True, slots=True)
class StateHashed:
    """The state after everything up to `state.zxid` was applied has this hash. At the same entries on every replica."""

    state: StateHash


@dataclass(frozen=True, slots=True)
class Propose:
    """Append an entry with this body, if this replica leads. Answered with `Proposed` or `Refused`."""

    reference: object
    body: object


@dataclass(frozen=True, slots=True)
class Read:
    """Say up to where one must have applied to see everything that was confirmed before now.

    Answered with `ReadReady` or `Refused`.
    """

    reference: object


@dataclass(frozen=True, slots=True)
class AddVoter:
    """Make a connected observer that has caught up a voter. Answered with `Done` or `Refused`."""

    reference: object
    node: int


@dataclass(frozen=True, slots=True)
class RemoveVoter:
    """Let a node vote no more. Answered with `Done` or `Refused`."""

    reference: object
    node: int


@dataclass(frozen=True, slots=True)
class TransferLeadership:
    """Let *node* lead, without an election. Answered with `Done` or `Refused`."""

    reference: object
    node: int


Event = (
    Start
    | Wake
    | PeerUp
    | PeerDown
    | PeerRefused
    | Received
    | Persisted
    | DiskFailed
    | EntriesRead
    | SnapshotFailed
    | SnapshotReceived
    | StateHashed
    | Propose
    | Read
    | AddVoter
    | RemoveVoter
    | TransferLeadership
)
