"""The roles FOLLOWING and OBSERVING: one session with one leader, from the first word to the last.

Followers vote and are counted, observers are not; everything else is the same, so it is the same code, and which of the
two this replica is follows from the configuration in its log at any moment.

The steps D1, D3, S2, B2 of the package's docstring. What a leader says counts only in its session, and what it says of
commits only once the log here is known to be a prefix of its own (`_in_line`).
"""

from __future__ import annotations

from collections.abc import Callable

from sluicemq.broker.replication.agreement import difference
from sluicemq.broker.replication.discovery import Promising, answer_to_new_epoch
from sluicemq.broker.replication.effects import Append, Cause, InstallSnapshot, SavePromise, Truncate
from sluicemq.broker.replication.events import SnapshotReceived
from sluicemq.broker.replication.history import Entry, epoch_of, follows, show_zxid, zxid_of
from sluicemq.broker.replication.local import DiskEffect, Local
from sluicemq.broker.replication.messages import (
    Ack,
    AckEpoch,
    Commit,
    Diverged,
    FollowerInfo,
    HandOver,
    LearnerMessage,
    Method,
    NewEpoch,
    Phase,
    Ping,
    Pong,
    Propose,
    Role,
    SnapshotInstalled,
    Synchronize,
)


class Following:
    """One session of a learner.

    Args:
        local: What the roles share. Its disk is at rest.
        leader: Whom to learn from.
        session: Number of this session, never used before by this process.
        handed_over: The leader before has named this one, which may not have heard of it yet.

    """

    def __init__(self, local: Local, leader: int, session: int, *, handed_over: bool = False) -> None:
        self._local = local
        self._handed_over = handed_over
        self.leader = leader
        self._session = session
        self.epoch = 0
        """The leader's epoch; 0 until it has named one."""
        self.phase = Phase.DISCOVERY
        self._acknowledged_epoch = False
        self._in_line = False
        self._installing = False
        self._early_snapshot: SnapshotReceived | None = None
        self._snapshot_from_zxid = 0
        self._method: Method | None = None
        self._heard_commit_zxid = 0
        self.whole_at_zxid = 0
        """Where the leader's log ended when it planned what to teach: what comes behind that was proposed since."""
        self._handlers: dict[type, Callable[..., None]] = {
            Synchronize: self._synchronize,
            Propose: self._propose,
            Commit: self._commit_told,
            Ping: self._pinged,
            HandOver: self._hand_over,
            Diverged: self._diverged,
        }
        self._patience = 1
        self.wake_at = local.now + local.patience.discovery_seconds(local.now)
        """When to give the leader up."""
        self.peer_up(leader)

    def peer_up(self, peer: int) -> None:
        """D1: ask the leader to be taught, as soon as there is a connection to it."""
        local = self._local
        if peer != self.leader or peer not in local.links:
            return
        local.send(peer, FollowerInfo(local.promised_epoch, local.links[peer], self._session, local.member))

    def may_lead(self, role: Role) -> bool:
        """Say whether somebody who says it is *role* is the leader of this session, or may still become it.

        Before it has named its epoch, it may just not know yet that it is elected, or that it was handed the lead.
        """
        unaware = role is Role.LOOKING or (self._handed_over and role is Role.FOLLOWING)
        return role is Role.LEADING or (unaware and not self.epoch)

    def peer_down(self, peer: int) -> None:
        """Without a connection to its leader, a learner looks again."""
        if peer == self.leader:
            self._local.look(f"the connection to leader {peer} ended")

    def wake(self) -> None:
        """The leader has been silent for too long."""
        if self._local.now >= self.wake_at:
            self._local.look(f"leader {self.leader} was not heard for too long")

    def receive(self, message: LearnerMessage) -> None:
        """Take in a message of the leader; of another session or epoch, drop it."""
        if message.session != self._session:
            return
        if isinstance(message, NewEpoch):
            if self.epoch == 0:
                self._new_epoch(message)
            return
        if message.epoch != self.epoch or self.epoch == 0:
            return
        self._wait_on()
        handler = self._handlers.get(type(message))
        if handler is not None:
            handler(message)

    def _be_patient(self, factor: int) -> None:
        self._patience = factor
        self._local.patience.told(factor, self._local.now)
        self._wait_on()

    def _wait_on(self) -> None:
        self.wake_at = self._local.now + self._local.patience.follower_seconds(self._patience)

    def _pinged(self, message: Ping) -> None:
        self._be_patient(message.patience)
        state = None if message.state is None else self._local.hashes.at(message.state.zxid)
        self._reply(Pong(self.epoch, self._connection, self._session, message.number, state))
        self._hear_commit(message.commit)

    def _commit_told(self, message: Commit) -> None:
        self._hear_commit(message.commit)

    def _hand_over(self, message: HandOver) -> None:
        """Turn to the next leader, be it this replica; but who does not vote leads nobody."""
        local, leader = self._local, message.leader
        if leader == local.member.node and (local.configuration is None or not local.votes):
            local.look(f"leader {self.leader} hands over to this node, which does not vote")
        else:
            local.turn_to(leader, f"leader {self.leader} hands over to {leader}")

    def _diverged(self, message: Diverged) -> None:
        """A quorum has made another state of the same entries."""
        local = self._local
        own = local.hashes.at(message.state.zxid)
        if own is not None and own.digest != message.state.digest:
            local.fatal(
                f"the state after {show_zxid(own.zxid)} differs from that of nodes {message.agreeing}, by their leader "
                f"{self.leader} of epoch {self.epoch}: {difference(own, message.state)}",
                Cause.STATE,
            )

    # --- discovery ------------------------------------------------------------------------------------------------

    def _new_epoch(self, message: NewEpoch) -> None:
        """D3."""
        local = self._local
        answer = answer_to_new_epoch(local.promised_epoch, local.promised_to, self.leader, message.epoch)
        if answer is Promising.REFUSE:
            # It knows of the promise now; to ask again at once would only be answered in the same way.
            local.refused = self.leader, message.epoch, local.now + local.options.notify_seconds_min
            local.look(f"leader {self.leader} is in epoch {message.epoch}, but {local.promised_epoch} is promised")
            return
        self.epoch = message.epoch
        self._be_patient(message.patience)
        if answer is Promising.SAVE:
            local.save_promise(message.epoch)
        else:
            self._acknowledge_epoch(promised=answer is Promising.CONFIRM)

    def _acknowledge_epoch(self, promised: bool) -> None:
        local = self._local
        assert local.durable_zxid == local.history.last.zxid, "rule 8: only durable positions are spoken of"
        self._acknowledged_epoch = True
        promised = promised and local.damaged_from is None  # it does not know what it has lost
        ends = local.history.ends[-local.options.epoch_rows_max :]
        self._reply(AckEpoch(self.epoch, self._connection, self._session, promised, ends))

    # --- synchronization ------------------------------------------------------------------------------------------

    def _synchronize(self, message: Synchronize) -> None:
        """S2: bring the log in line, as the leader has planned."""
        if not self._acknowledged_epoch:
            return
        if self._method is not None and message.method is not Method.SNAP:
            self._local.look(f"leader {self.leader} plans for a log that is in use already")
            return
        self.phase = Phase.SYNCHRONIZATION if self.phase is Phase.DISCOVERY else self.phase
        self._method = message.method
        self.whole_at_zxid = max(message.last_zxid, zxid_of(self.epoch, 0))
        if message.method is Method.SNAP:
            self._in_line = False
            self._snapshot_from_zxid = message.position.zxid
            early, self._early_snapshot = self._early_snapshot, None
            if early is not None:
                self.snapshot_received(early)
            return
        local = self._local
        position = message.position
        if position.zxid < max(local.committed_zxid, local.history.start.zxid):
            local.fatal(
                f"leader {self.leader} of epoch {self.epoch} wants the log cut off after {position}, but "
                f"{show_zxid(local.committed_zxid)} is committed here: the histories have diverged"
            )
            return
        if position.zxid > local.history.last.zxid:
            local.look(f"leader {self.leader} plans with {position}, which is not in the log here")
            return
        if local.log.chain_at(position.zxid) != position.chain:
            local.fatal(f"the log differs from that of leader {self.leader} of epoch {self.epoch} at {position}")
            return
        self._in_line = True
        if position.zxid < local.history.last.zxid:
            local.truncate(position)
        else:
            self._acknowledge()
            self._see_whether_whole()
        self._hear_commit(message.commit)

    def snapshot_received(self, event: SnapshotReceived) -> None:
        """A whole snapshot is there: put it in the log's place, if it is of this session and newer than the state."""
        local = self._local
        if (event.peer, event.epoch, event.session) != (self.leader, self.epoch, self._session):
            return
        if self._method is not Method.SNAP or self._in_line:
            self._early_snapshot = event  # its stream was faster than the leader's word
            return
        # A late one, of an attempt that was given up, may lack what was acknowledged since.
        if self._installing or event.position.zxid < self._snapshot_from_zxid:
            return
        if event.position.zxid <= local.committed_zxid:
            local.look(f"the snapshot at {event.position} is older than what is committed here")
            return
        self._installing = True
        local.install_snapshot(event.position, event.configuration, event.configuration_zxid)

    # --- broadcast ------------------------------------------------------------------------------------------------

    def _propose(self, message: Propose) -> None:
        """B2: append what follows the end of the log, and nothing else."""
        local = self._local
        if not self._in_line:
            return
        last = local.history.last
        if message.previous.zxid != last.zxid:
            local.look(f"proposals after {message.previous} do not meet the end of the log here, {last}")
            return
        if message.previous.chain != last.chain:
            local.fatal(f"the log differs from that of leader {self.leader} of epoch {self.epoch} at {last}")
            return
        if not self._contiguous(message.entries):
            local.look(f"proposals after {message.previous} have a gap or belong to no epoch up to {self.epoch}")
            return
        local.append(message.entries)
        self._hear_commit(message.commit)

    def _contiguous(self, entries: tuple[Entry, ...]) -> bool:
        previous = self._local.history.last.zxid
        for entry in entries:
            if entry.previous_zxid != previous or not follows(previous, entry.zxid):
                return False
            previous = entry.zxid
        return bool(entries) and epoch_of(previous) <= self.epoch

    def persisted(self, done: list[DiskEffect]) -> None:
        """Say what has become durable; one acknowledgement for all of it."""
        local = self._local
        acknowledge = False
        for effect in done:
            if isinstance(effect, SavePromise):
                local.promised_to = self.leader
                self._acknowledge_epoch(promised=True)
            elif isinstance(effect, InstallSnapshot):
                self._in_line, self._installing = True, False
                local.commit(effect.position.zxid)
                self._reply(SnapshotInstalled(self.epoch, self._connection, self._session, effect.position))
            elif isinstance(effect, Append | Truncate):
                acknowledge = True
        if acknowledge and self._in_line:
            self._acknowledge()
        self._see_whether_whole()
        self._commit()

    def _see_whether_whole(self) -> None:
        """A damaged log is whole again once it has, durably, all that the leader had when it planned."""
        local = self._local
        if local.damaged_from is not None and self._in_line and local.durable_zxid >= self.whole_at_zxid:
            local.note_repaired()

    def _acknowledge(self) -> None:
        local = self._local
        assert epoch_of(local.durable_zxid) <= self.epoch, "I10: no acknowledgement for a leader of an older epoch"
        self._reply(Ack(self.epoch, self._connection, self._session, local.durable_zxid))

    def _hear_commit(self, zxid: int) -> None:
        self._heard_commit_zxid = max(self._heard_commit_zxid, zxid)
        self._commit()

    def _commit(self) -> None:
        """Commit what the leader has committed, as far as it is durable here."""
        local = self._local
        if not self._in_line:
            return
        local.commit(min(self._heard_commit_zxid, local.durable_zxid))
        if self.phase is Phase.SYNCHRONIZATION and local.committed_zxid >= zxid_of(self.epoch, 0):
            self.phase = Phase.BROADCAST

    @property
    def _connection(self) -> int:
        return self._local.links[self.leader]

    def _reply(self, message: LearnerMessage) -> None:
        self._local.send(self.leader, message)
