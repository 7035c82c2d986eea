"""What the core wants done. A shell does the effects of a step in their order.

No effect waits for another inside the shell: a message that must not leave before something is durable is not among the
effects until the shell has said `Persisted`. So `Send` may always leave at once, and the table in the package's
docstring is the core's own duty.

Effects of the disk (`Join`, `SavePromise`, `Append`, `Truncate`, `InstallSnapshot`, `NoteRepaired`) bear a token and
form one queue: they are carried out one after another, and each is answered with `Persisted`, where one answer for a
later token stands for all before it. That is the group commit. Answers for what came before a `Join` may still come;
the core ignores them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from sluicemq.broker.replication.history import Entry, Position
from sluicemq.broker.replication.messages import Message, Phase, Role
from sluicemq.wire.errors import SluiceError


class Token(NamedTuple):
    """Names one effect of the disk. Tokens rise; those of a former generation are stale, and their answers ignored."""

    generation: int
    number: int


@dataclass(frozen=True, slots=True)
class Send:
    """Hand *message* to the connection it names; if that has ended, drop it."""

    peer: int
    message: Message


@dataclass(frozen=True, slots=True)
class Join:
    """Finish or drop every effect of the disk given before this one, and answer when none is under way any more.

    A promise is never dropped, always finished: the core goes on as one that has given it. After the answer the log
    view shows exactly what is durable, and no older effect may still reach the disk.
    """

    token: Token


@dataclass(frozen=True, slots=True)
class SavePromise:
    """Write *epoch* into the superblock and sync it. It never goes back."""

    epoch: int
    token: Token


@dataclass(frozen=True, slots=True)
class Append:
    """Append *entries* to the log and sync; consecutive ones may share a sync. The log view shows them at once.

    Whoever writes checks that the chain hash of the record is the entry's: another one means damage on the way.
    """

    entries: tuple[Entry, ...]
    token: Token


@dataclass(frozen=True, slots=True)
class Truncate:
    """Cut the log off after *position*, durably, before the next effect of the disk begins."""

    position: Position
    token: Token


@dataclass(frozen=True, slots=True)
class InstallSnapshot:
    """Put the received snapshot that covers *position* in the place of log and state, as one durable switch.

    It is the one of the last `SnapshotReceived` with this position; one that comes meanwhile must not take its place.
    """

    position: Position
    token: Token


@dataclass(frozen=True, slots=True)
class NoteRepaired:
    """Strike out the note of damage in the superblock and sync it: the log holds again all it ever acknowledged."""

    token: Token


@dataclass(frozen=True, slots=True)
class ReadEntries:
    """Read what follows *after* in the log, at least one entry, up to *bytes_max*; answer with `EntriesRead`.

    Entries of earlier `Append` effects count, durable or not. Recent ones are best answered from memory.
    """

    peer: int
    session: int
    after: int
    bytes_max: int


@dataclass(frozen=True, slots=True)
class SendSnapshot:
    """Stream the newest durable snapshot to *peer*, on a stream that pings can overtake, with *epoch* and *session*.

    It must cover `start_zxid` or more. The log must not begin later than it until the stream has ended. Unless the
    other side has it whole for certain, answer with `SnapshotFailed`: nothing else has it sent again.
    """

    peer: int
    connection: int
    epoch: int
    session: int
    start_zxid: int


@dataclass(frozen=True, slots=True)
class Committed:
    """Everything up to *zxid* is committed: apply it. It never goes back while the process lives."""

    zxid: int


@dataclass(frozen=True, slots=True)
class RoleChanged:
    """This replica is something else now.

    Leave `LEADING` and `BROADCAST`: confirm nothing more, deliver nothing more; what was proposed and not committed has
    an unknown outcome. Reach it: apply what is committed, then serve.
    """

    role: Role
    phase: Phase
    epoch: int
    leader: int | None
    reason: str


@dataclass(frozen=True, slots=True)
class Proposed:
    """The body that came with *reference* stands at *zxid*. It is confirmed when that is committed and applied."""

    reference: object
    zxid: int


@dataclass(frozen=True, slots=True)
class Refused:
    """Nothing was done for *reference*, or (for changes under way) nobody here will learn how it ended: see *error*."""

    reference: object
    error: SluiceError


@dataclass(frozen=True, slots=True)
class ReadReady:
    """Whoever has applied *zxid* may answer the read."""

    reference: object
    zxid: int


@dataclass(frozen=True, slots=True)
class Done:
    """The change of members, or the handing over of the lead, is through."""

    reference: object


@dataclass(frozen=True, slots=True)
class Alarm:
    """Tell an operator; everything goes on."""

    reason: str


class Cause(Enum):
    """Why a replica cannot go on, and what a start may do about it."""

    DISK = "disk"
    """A write or sync failed, or the disk has lost what it had confirmed. Start again: it may come back and lag."""
    HISTORY = "history"
    """Its log and that of another replica break a rule of the protocol. Do not start again without having looked."""
    STATE = "state"
    """Its state differs from what the others made of the same log. Keep a dump; its own log may start it again."""
    DAMAGE = "damage"
    """So many logs are damaged that nobody can say what was confirmed. Stay down: an operator decides."""
    EXHAUSTED = "exhausted"
    """All epochs are used up."""


@dataclass(frozen=True, slots=True)
class Fatal:
    """Going on would endanger what was confirmed: end the process, say why. The core does nothing after this."""

    reason: str
    cause: Cause = Cause.HISTORY


Effect = (
    Send
    | Join
    | SavePromise
    | Append
    | Truncate
    | InstallSnapshot
    | NoteRepaired
    | ReadEntries
    | SendSnapshot
    | Committed
    | RoleChanged
    | Proposed
    | Refused
    | ReadReady
    | Done
    | Alarm
    | Fatal
)
