"""What replicas say to each other.

Every message names the `epoch` it speaks of and the `connection` it was made for; one that comes in over another
connection, or speaks of another epoch than the receiver is in, is dropped before anything changes. Messages between a
leader and a learner also name the learner's `session`: each time a learner turns to a leader it begins a new one, so
that what was under way from the former cannot be taken for the present.

How messages are written as bytes is not known here.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from sluicemq.broker.replication.agreement import StateHash
from sluicemq.broker.replication.history import Entry, Position
from sluicemq.broker.replication.membership import Member


class Role(Enum):
    """What a replica is at the moment."""

    LOOKING = "looking"
    FOLLOWING = "following"
    LEADING = "leading"
    OBSERVING = "observing"


class Phase(Enum):
    """How far a replica has come since it last looked for a leader; the phases of the paper, by their names."""

    ELECTION = "election"
    DISCOVERY = "discovery"
    SYNCHRONIZATION = "synchronization"
    BROADCAST = "broadcast"


class Method(Enum):
    """How a learner's log is brought in line with the leader's."""

    DIFF = "diff"
    """It is a prefix of the leader's: what is missing follows."""
    TRUNC = "trunc"
    """Cut it off after the given position, then what is missing follows."""
    SNAP = "snap"
    """The leader's log begins too late: a snapshot comes first, on a stream of its own."""


@dataclass(frozen=True, slots=True, order=True)
class Vote:
    """A candidate. The better vote is the greater: first the longer history, then the higher id."""

    zxid: int
    leader: int


@dataclass(frozen=True, slots=True)
class Message:
    """Base of all messages."""

    epoch: int
    connection: int


@dataclass(frozen=True, slots=True)
class Notification(Message):
    """Whom I would follow, or whom I do follow.

    `epoch` is the epoch of the sender's leader, 0 while it looks for one.

    Attributes:
        round: The sender's election round; votes of different rounds do not mix.
        role: What the sender is.
        vote: Its vote; once it has decided, the vote it decided for. Node 0 stands for nobody.
        member: Who the sender is.
        own_zxid: Last entry of the sender's durable log when it began to look.
        configuration_zxid: Entry that gave the sender its configuration; -1 if it has none yet.
        listed: Nodes that the sender was told to form a cluster with.
        damaged: The sender's disk has lost part of its log: it has no vote, and is not empty either.

    """

    round: int
    role: Role
    vote: Vote
    member: Member
    own_zxid: int
    configuration_zxid: int
    listed: tuple[int, ...]
    damaged: bool = False


@dataclass(frozen=True, slots=True)
class LearnerMessage(Message):
    """Base of what leader and learner say to each other in one session."""

    session: int


@dataclass(frozen=True, slots=True)
class FollowerInfo(LearnerMessage):
    """D1, learner to leader: I want to learn from you; `epoch` is what I have promised so far (CEPOCH)."""

    member: Member


@dataclass(frozen=True, slots=True)
class NewEpoch(LearnerMessage):
    """D2, leader to learner: this is the epoch I want to begin, or have begun.

    Attributes:
        patience: By what I multiply mine (`patience`); be as patient with me.

    """

    patience: int = 1


@dataclass(frozen=True, slots=True)
class AckEpoch(LearnerMessage):
    """D3, learner to leader: this is my log.

    Attributes:
        promised: The promise was given to this very leader, durably. Without it the leader may teach the learner, but
            not count it.
        ends: Last position of each epoch in its durable log (`History.ends`), the newest of them if there are many.

    """

    promised: bool
    ends: tuple[Position, ...]


@dataclass(frozen=True, slots=True)
class Synchronize(LearnerMessage):
    """S1, leader to learner: do this to your log first. Proposals follow from `position` on.

    Attributes:
        last_zxid: End of the leader's log now. Whoever has so much of it has everything that it can ever have
            acknowledged and that still counts.

    """

    method: Method
    position: Position
    commit: int
    last_zxid: int = 0


@dataclass(frozen=True, slots=True)
class Propose(LearnerMessage):
    """B1, leader to learner: append these after `previous`. `(epoch, 0)` among them is the paper's NEWLEADER."""

    previous: Position
    entries: tuple[Entry, ...]
    commit: int


@dataclass(frozen=True, slots=True)
class Ack(LearnerMessage):
    """B2, learner to leader: my log is yours up to `zxid`, durably, without a gap."""

    zxid: int


@dataclass(frozen=True, slots=True)
class SnapshotInstalled(LearnerMessage):
    """Learner to leader: a snapshot at `position` is durable and my log begins there."""

    position: Position


@dataclass(frozen=True, slots=True)
class Commit(LearnerMessage):
    """B3, leader to learner: everything up to `commit` is committed."""

    commit: int


@dataclass(frozen=True, slots=True)
class Ping(LearnerMessage):
    """Leader to learner: I lead, and my state at some entry has this hash. Shells send it ahead of data.

    Attributes:
        patience: As in NewEpoch; within an epoch it only falls.

    """

    number: int
    commit: int
    state: StateHash | None = None
    patience: int = 1


@dataclass(frozen=True, slots=True)
class Pong(LearnerMessage):
    """Learner to leader: I follow you; answers the ping of this number, with my hash of that place if I have it."""

    number: int
    state: StateHash | None = None


@dataclass(frozen=True, slots=True)
class Diverged(LearnerMessage):
    """Leader to learner: your state differs from this one, which `agreeing` have: stop."""

    state: StateHash
    agreeing: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class HandOver(LearnerMessage):
    """Leader to learner: `leader` is to begin the next epoch; turn to it without an election."""

    leader: int
