"""What a leader keeps of one learner for one session, and what it sends to it.

Everything that leaves here bears the leader's epoch, the connection and the session. This module must not know quorums.
"""

from __future__ import annotations

from sluicemq.broker.replication import synchronization
from sluicemq.broker.replication.agreement import StateHash
from sluicemq.broker.replication.effects import ReadEntries, SendSnapshot
from sluicemq.broker.replication.history import Entry, Position, window_bytes, zxid_of
from sluicemq.broker.replication.local import Local
from sluicemq.broker.replication.membership import Member
from sluicemq.broker.replication.messages import (
    Commit,
    Diverged,
    FollowerInfo,
    HandOver,
    Method,
    NewEpoch,
    Ping,
    Propose,
    Synchronize,
)
from sluicemq.broker.replication.progress import Progress, ProgressState


class Learner:
    """One session with one learner.

    Args:
        local: What the roles share.
        peer: Its node.
        information: What it introduced itself with.

    """

    def __init__(self, local: Local, peer: int, information: FollowerInfo) -> None:
        self._local = local
        self.peer = peer
        self.member: Member = information.member
        self.session = information.session
        self.connection = information.connection
        self.epoch = 0
        """The leader's epoch, once the learner was told; 0 before."""
        self.ends: tuple[Position, ...] = ()
        """Its log, once it has acknowledged the epoch; empty before."""
        self.planned = False
        """Whether it was told what to do with its log."""
        self.progress = Progress(local.options.window_bytes_max, local.options.message_bytes_max)
        self.retry_at: float | None = None
        """When to send a snapshot again that failed."""
        self._told_commit_zxid = 0
        self._due_zxid = self._next_due_zxid = 0

    @property
    def caught_up(self) -> bool:
        """Whether it has, durably, what was committed a ping ago, and the rest is on its way within the window."""
        progress = self.progress
        replicates = self.planned and progress.state is ProgressState.REPLICATE
        sent = replicates and progress.sent.zxid == self._local.history.last.zxid
        return sent and progress.acknowledged_zxid >= max(self._due_zxid, zxid_of(self.epoch, 0))

    def invite(self, epoch: int, patience: int) -> None:
        """D2: name the new epoch, and how patient its leader is."""
        self.epoch = epoch
        self._local.send(self.peer, NewEpoch(epoch, self.connection, self.session, patience))

    def teach(self) -> None:
        """S1: plan from its log and ours, and from now on let it have everything behind the planned position."""
        local = self._local
        local.history.begin_at(local.log.start)
        plan = synchronization.plan(local.history, local.log.chain_at, self.ends)
        self.planned = True
        self._synchronize(plan.method, plan.position)

    def _synchronize(self, method: Method, position: Position) -> None:
        local = self._local
        commit = self._due_zxid = self._next_due_zxid = self._tell_commit()
        last_zxid = local.history.last.zxid
        local.send(
            self.peer, Synchronize(self.epoch, self.connection, self.session, method, position, commit, last_zxid)
        )
        if method is Method.SNAP:
            self.progress.await_snapshot()
            self.send_snapshot()
        else:
            self.progress.probe(position)
            self.pump()

    def send_snapshot(self) -> None:
        """Let the shell stream a snapshot to it."""
        self.retry_at = None
        start = self._local.log.start.zxid
        self._local.emit(SendSnapshot(self.peer, self.connection, self.epoch, self.session, start))

    def snapshot_installed(self, position: Position) -> None:
        """Its log begins at *position*: go on from there, or begin again if ours no longer holds that place."""
        local = self._local
        if self.progress.state is not ProgressState.SNAPSHOT:
            return
        if position.zxid < local.log.start.zxid:
            self._synchronize(Method.SNAP, local.log.start)
        elif local.log.chain_at(position.zxid) != position.chain:
            local.fatal(f"the snapshot that node {self.peer} got covers {position}, which this log does not contain")
        else:
            self.retry_at = None  # the stream was thought to have failed, and had not
            self.progress.installed(position)
            self.pump()

    def propose(self, entry: Entry) -> None:
        """B1: send *entry*, just appended, if the learner has everything before it and its window has room.

        Otherwise it is read from the log when there is room.
        """
        progress = self.progress
        if not self.planned or progress.sent.zxid != entry.previous_zxid:
            return
        size_bytes = window_bytes((entry,))
        if progress.room_bytes >= size_bytes or (progress.idle and progress.room_bytes):
            self._send((entry,))

    def pump(self) -> None:
        """Have more entries read for it, if it lacks any and there is room."""
        progress = self.progress
        if not self.planned or progress.sent.zxid == self._local.history.last.zxid:
            return
        room_bytes = progress.room_bytes
        if room_bytes:
            progress.reading = True
            self._local.emit(ReadEntries(self.peer, self.session, progress.sent.zxid, room_bytes))

    def entries_read(self, after: int, entries: tuple[Entry, ...]) -> None:
        """Send what was read. If it is no longer in the log proper, a snapshot must do."""
        progress = self.progress
        if not progress.reading or after != progress.sent.zxid:
            return
        progress.reading = False
        if entries:
            self._send(entries)
            self.pump()
        else:
            self._synchronize(Method.SNAP, self._local.log.start)

    def _send(self, entries: tuple[Entry, ...]) -> None:
        previous = self.progress.sent
        self.progress.send(entries)
        commit = self._tell_commit()
        self._local.send(self.peer, Propose(self.epoch, self.connection, self.session, previous, entries, commit))

    def ping(self, number: int, state: StateHash | None, patience: int) -> None:
        """Say that the leader lives, which hash its state has at some place, and how patient it is."""
        if self.epoch:
            commit = self._tell_commit()
            self._due_zxid, self._next_due_zxid = self._next_due_zxid, commit
            self._local.send(
                self.peer, Ping(self.epoch, self.connection, self.session, number, commit, state, patience)
            )

    def tell_diverged(self, state: StateHash, agreeing: tuple[int, ...]) -> None:
        """Say that its state is not what the others have."""
        self._local.send(self.peer, Diverged(self.epoch, self.connection, self.session, state, agreeing))

    @property
    def owed_commit(self) -> bool:
        """Whether more is committed than it was told, and no proposal or acknowledgement is on its way to tell it."""
        progress = self.progress
        if not self.planned or progress.state is ProgressState.SNAPSHOT or not progress.idle:
            return False
        return self._told_commit_zxid < self._local.committed_zxid

    @property
    def knows_established(self) -> bool:
        """Whether it was told that the leader's own epoch is committed."""
        return self._told_commit_zxid >= zxid_of(self.epoch, 0)

    def tell_commit(self) -> None:
        """B3: tell what is committed, if nothing else has told it meanwhile."""
        if self.owed_commit:
            commit = self._tell_commit()
            self._local.send(self.peer, Commit(self.epoch, self.connection, self.session, commit))

    def hand_over(self, leader: int) -> None:
        """Send it to the next leader."""
        if self.epoch:
            self._local.send(self.peer, HandOver(self.epoch, self.connection, self.session, leader))

    def _tell_commit(self) -> int:
        self._told_commit_zxid = self._local.committed_zxid
        return self._told_commit_zxid
