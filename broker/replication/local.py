"""What a replica is and has, whatever its role: identity, promise, log, connections; and its way to the outside.

The roles (`looking`, `following`, `leading`) share this object and nothing else. It keeps the one truth about what is
appended, what is durable and what is committed here, and it is the only maker of tokens, so that an answer of the disk
from before a change of role can be told from one of now (rule: stale completions are dropped by generation).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from sluicemq.broker.replication.agreement import OwnHashes
from sluicemq.broker.replication.effects import (
    Append,
    Cause,
    Committed,
    Effect,
    Fatal,
    InstallSnapshot,
    Join,
    NoteRepaired,
    SavePromise,
    Send,
    Token,
    Truncate,
)
from sluicemq.broker.replication.election import Electorate
from sluicemq.broker.replication.history import Entry, History, Position, configuration_in, epoch_of, show_zxid
from sluicemq.broker.replication.log_view import LogView
from sluicemq.broker.replication.membership import Configuration, Member
from sluicemq.broker.replication.messages import Message
from sluicemq.broker.replication.options import Options
from sluicemq.broker.replication.patience import Patience


@dataclass(frozen=True, slots=True)
class Turn:
    """A role is over: look for a leader, or turn to *leader* without an election."""

    reason: str
    leader: int | None = None


DiskEffect = Join | SavePromise | Append | Truncate | InstallSnapshot | NoteRepaired


class Local:
    """State shared by the roles of one replica.

    Args:
        member: This node and the incarnation of its disk.
        listed: Nodes to form a cluster with if the log is empty.
        promised_epoch: From the superblock.
        log: View of the log.
        options: Limits and times.
        damaged_from: The first entry that the log may have lost; None for a whole log.

    """

    def __init__(
        self,
        member: Member,
        listed: Sequence[int],
        promised_epoch: int,
        log: LogView,
        options: Options,
        damaged_from: int | None,
    ) -> None:
        self.member = member
        self.listed = tuple(sorted(listed))
        self.log = log
        self.options = options
        self.damaged_from = damaged_from
        self.hashes = OwnHashes(options.state_hashes_max)
        self.patience = Patience(options)
        self.now = 0.0
        self.effects: list[Effect] = []
        self.dead = False
        self.turn: Turn | None = None
        """Set by a role that is over; the replica carries it out at the end of the step."""
        self.links: dict[int, int] = {}
        """Open connections, by peer."""
        self.gone: set[int] = set()
        """Peers whose connection was refused or reset and not opened since."""
        self.refused: tuple[int, int, float] | None = None
        """The leader that was refused last, in which epoch, and until when it is not asked again."""
        self.promised_epoch = promised_epoch
        self.promised_to: int | None = None
        """Whom `promised_epoch` was promised to, durably, as far as this process knows."""
        self.heard_epoch = 0
        """The latest epoch that any voter was heard to have promised: where the next one must begin."""
        self.history = History(log.start)
        self.durable_zxid = 0
        self.committed_zxid = log.start.zxid
        self.configuration: Configuration | None = None
        self.configuration_zxid = -1
        self._generation = 0
        self._number = 0
        self._under_way: deque[DiskEffect] = deque()

    # --- effects ----------------------------------------------------------------------------------------------

    def emit(self, effect: Effect) -> None:
        """Add *effect* to those of this step."""
        self.effects.append(effect)

    def send(self, peer: int, message: Message) -> None:
        """Send *message*, which names the open connection to *peer*."""
        assert message.connection == self.links.get(peer), f"no connection {message.connection} to {peer}"
        self.effects.append(Send(peer, message))

    def fatal(self, reason: str, cause: Cause = Cause.HISTORY) -> None:
        """Stop for good: nothing may follow."""
        self.dead = True
        self.effects.append(Fatal(reason, cause))

    def look(self, reason: str) -> None:
        """Let the present role end: look for a leader."""
        self.turn = self.turn or Turn(reason)

    def turn_to(self, leader: int, reason: str) -> None:
        """Let the present role end: follow *leader*, or lead if that is this replica."""
        self.turn = self.turn or Turn(reason, leader)

    # --- the disk ---------------------------------------------------------------------------------------------

    def join(self) -> None:
        """Disown whatever is under way on the disk, and ask to hear when none of it is.

        Every promise and every vote comes after the answer, so no older write can add to what they speak of.
        """
        self._generation += 1
        self._under_way.clear()
        self._submit(Join(self._token()))

    def save_promise(self, epoch: int) -> None:
        """Promise *epoch*; it counts once it is durable."""
        assert epoch > self.promised_epoch, "I10: a promise never goes back"
        self.promised_epoch = epoch
        self.promised_to = None
        self._submit(SavePromise(epoch, self._token()))

    def append(self, entries: tuple[Entry, ...]) -> None:
        """Append *entries*, the only way in for leaders and learners alike."""
        for entry in entries:
            self.history.append(entry)
            configuration = configuration_in(entry)
            if configuration is not None:
                self.configuration, self.configuration_zxid = configuration, entry.zxid
        assert epoch_of(self.history.last.zxid) <= self.promised_epoch, "I2: no entry beyond the promise"
        self._submit(Append(entries, self._token()))

    def truncate(self, position: Position) -> None:
        """Cut the log off after *position*."""
        assert position.zxid >= self.committed_zxid, "I7: what is committed is never cut off"
        self.history.truncate(position)
        self.durable_zxid = min(self.durable_zxid, position.zxid)
        self._recall_configuration(position.zxid)
        self._submit(Truncate(position, self._token()))

    def install_snapshot(self, position: Position, configuration: Configuration, configuration_zxid: int) -> None:
        """Replace the log by a snapshot."""
        assert position.zxid > self.committed_zxid, "a snapshot never replaces newer state"
        self.history.restart(position)
        self.durable_zxid = self.committed_zxid
        self.configuration, self.configuration_zxid = configuration, configuration_zxid
        self._submit(InstallSnapshot(position, self._token()))

    def note_repaired(self) -> None:
        """The log is whole again; it counts once that is noted durably."""
        if not any(isinstance(effect, NoteRepaired) for effect in self._under_way):
            self._submit(NoteRepaired(self._token()))

    def persisted(self, token: Token) -> list[DiskEffect]:
        """Return what is done by now; nothing if *token* is stale."""
        if token.generation != self._generation:
            return []
        done: list[DiskEffect] = []
        while self._under_way and self._under_way[0].token.number <= token.number:
            effect = self._under_way.popleft()
            if isinstance(effect, Append):
                self.durable_zxid = effect.entries[-1].zxid
            elif isinstance(effect, InstallSnapshot):
                self.durable_zxid = effect.position.zxid
            elif isinstance(effect, NoteRepaired):
                self.damaged_from = None
            elif isinstance(effect, Join):
                self._reload()
            done.append(effect)
        return done

    def _token(self) -> Token:
        self._number += 1
        return Token(self._generation, self._number)

    def _submit(self, effect: DiskEffect) -> None:
        self._under_way.append(effect)
        self.effects.append(effect)

    def _reload(self) -> None:
        """Take over what the disk holds, now that nothing is under way."""
        self.history = History(self.log.start, self.log.ends())
        self.durable_zxid = self.history.last.zxid
        self._recall_configuration(self.durable_zxid)
        self.commit(self.history.start.zxid)  # a snapshot may have been installed, and its answer disowned
        if self.durable_zxid < self.committed_zxid:
            self.fatal(
                f"the log ends at {show_zxid(self.durable_zxid)}, but {show_zxid(self.committed_zxid)} was committed "
                "here: the disk has lost what it had confirmed",
                Cause.DISK,
            )

    def _recall_configuration(self, zxid: int) -> None:
        found = self.log.configuration_at(zxid)
        self.configuration_zxid, self.configuration = (-1, None) if found is None else found

    # --- what follows from it -----------------------------------------------------------------------------------

    def commit(self, zxid: int) -> bool:
        """Note that everything up to *zxid* is committed; return whether that is news."""
        if zxid <= self.committed_zxid:
            return False
        assert zxid <= self.history.last.zxid, "I8: what is not in the log cannot be committed"
        self.committed_zxid = zxid
        self.effects.append(Committed(zxid))
        return True

    @property
    def electorate(self) -> Electorate:
        """Whose votes count for this replica."""
        return Electorate(
            self.member, self.configuration, self.configuration_zxid, self.listed, self.damaged_from is not None
        )

    @property
    def votes(self) -> bool:
        """Whether this replica is a voter, as far as it knows."""
        return self.damaged_from is None and self.electorate.counts(self.member)
