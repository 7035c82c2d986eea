"""The role LEADING, from the decision of the election to the end of the epoch.

Three stages, the steps of the package's docstring: gather promises (D2, D4), bring a quorum of learners in line (S1,
S3), order proposals (B1, B3). Learners that come later go through the same steps alone. What is said by a learner
counts only in its session.

The leader's patience: unless a quorum is heard within `leader_seconds`, it steps down, so that whoever waits for it
learns that it cannot help. Where that happens again and again, patience grows (`patience`). It also steps down when
its own disk holds up what a quorum has (`own_disk`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

from sluicemq.broker.replication.agreement import Agreement, StateHash, difference
from sluicemq.broker.replication.broadcast import Broadcast
from sluicemq.broker.replication.discovery import Discovery
from sluicemq.broker.replication.effects import Alarm, Append, Cause, SavePromise
from sluicemq.broker.replication.events import EntriesRead, SnapshotFailed
from sluicemq.broker.replication.handover import Handover
from sluicemq.broker.replication.history import Entry, EpochRecord, counter_of, show_zxid
from sluicemq.broker.replication.learner import Learner
from sluicemq.broker.replication.local import DiskEffect, Local
from sluicemq.broker.replication.membership import Configuration, Member, nodes_of
from sluicemq.broker.replication.messages import (
    Ack,
    AckEpoch,
    FollowerInfo,
    LearnerMessage,
    Phase,
    Pong,
    SnapshotInstalled,
)
from sluicemq.broker.replication.own_disk import OwnDisk
from sluicemq.broker.replication.progress import ProgressState
from sluicemq.broker.replication.requests import Requests


class LearnerState(NamedTuple):
    """How far a learner is, for whoever looks on.

    Attributes:
        member: Who it is.
        acknowledged_zxid: What it has durably of this leader's log; 0 before it was brought in line.
        progress: What it is sent at the moment.
        heard_at: When it last said something in this epoch; None: never.

    """

    member: Member
    acknowledged_zxid: int
    progress: ProgressState
    heard_at: float | None


class Leading:
    """One leadership.

    Args:
        local: What the roles share. Its disk is at rest.
        founders: Voters of the cluster that this leadership forms, if it does.
        knocks: Learners that have introduced themselves before the decision.

    """

    def __init__(
        self, local: Local, founders: frozenset[Member] | None, knocks: Iterable[tuple[int, FollowerInfo]]
    ) -> None:
        self._local = local
        configuration = local.configuration
        if configuration is None:
            assert founders is not None, "without a configuration only a formation elects anybody"
            configuration = Configuration(founders)
        self._founding = configuration
        self.leader = local.member.node
        self.epoch = 0
        """0 until the epoch is promised by this leader itself, durably."""
        self.phase = Phase.DISCOVERY
        self.learners: dict[int, Learner] = {}
        self._heard_at: dict[Member, float] = {}
        """When each learner last said something in this epoch. An introduction does not count: it may come again and
        again from one that has promised a later epoch and will never follow."""
        self.broadcast: Broadcast | None = None
        self._own_disk = OwnDisk(local.options.own_disk_seconds)
        self._agreement = Agreement(local.member, local.hashes, local.options.state_pings_max)
        self.handover: Handover | None = None
        self.requests = Requests(local, self)
        promised_epoch = max(local.promised_epoch, local.heard_epoch)
        self._discovery = Discovery(configuration, local.member, promised_epoch, local.durable_zxid)
        self._choosing = True
        local.patience.elected(local.now)
        self._give_up_at = local.now + local.patience.discovery_seconds(local.now)
        self._ping_number = 0
        self._ping_at = local.now + local.options.ping_seconds
        self._stood_still_at = -math.inf
        self._tell_commit_at = math.inf
        for peer, information in knocks:
            self._introduce(peer, information)
        self._choose_epoch()

    @property
    def configuration(self) -> Configuration:
        """Who votes, by the log; before a cluster's first entry, by the election that forms it."""
        return self._local.configuration or self._founding

    # --- events -------------------------------------------------------------------------------------------------

    @property
    def wake_at(self) -> float:
        """When `wake` has something to do."""
        times = [self._ping_at, self._tell_commit_at]
        if self.broadcast is None:
            times.append(self._give_up_at)
        if self.handover is not None:
            times.append(self.handover.deadline)
        times += self.requests.changes.wake_times
        times += [learner.retry_at for learner in self.learners.values() if learner.retry_at is not None]
        return min(times)

    def wake(self) -> None:
        """Ping, look whether a quorum still listens, and give up what takes too long."""
        local = self._local
        self._notice_standstill()
        if self.broadcast is None and local.now >= self._give_up_at:
            self._give_up("no quorum has promised an epoch in time", local.options.discovery_seconds)
            return
        alone = self.broadcast is not None and not self.heard_by_quorum(self.configuration)
        if alone and not self.requests.changes.take_back("lost the quorum of its voters"):
            self._give_up("no quorum was heard for too long", local.options.leader_seconds)
            return
        if self.broadcast is not None and local.patience.factor(local.now) > 1:
            quick = self._quorum_heard_within(self.configuration, local.options.leader_seconds)
            local.patience.led(local.now, strained=not quick)
        if self._own_disk.hangs(local.now):
            self.requests.hand_over_at_once("the own disk has not kept up with the quorum for too long")
            return
        self.requests.wake()
        if local.now >= self._ping_at:
            self.ping()
        if local.now >= self._tell_commit_at:
            self._tell_commit_at = math.inf
            for learner in self.learners.values():
                learner.tell_commit()
        for learner in self.learners.values():
            if learner.retry_at is not None and local.now >= learner.retry_at:
                learner.send_snapshot()

    def _give_up(self, reason: str, seconds: float) -> None:
        """Step down for silence, after *seconds* of patience with a factor of 1."""
        local = self._local
        # Who stood still itself has learnt nothing of how slow the others are; what it heard first was said before.
        if local.now - self._stood_still_at > 2 * local.patience.leader_seconds(local.now):
            configuration = self.configuration

            def is_quorum(nodes: set[int]) -> bool:
                there = {one for one in configuration.everybody if one.node in nodes}
                return configuration.is_quorum(there | {local.member})

            local.patience.gave_up(local.now, seconds, is_quorum)
        local.look(reason)

    def _notice_standstill(self) -> None:
        """Note whether this replica has stood still for longer than anybody waits for it."""
        local = self._local
        if local.now - self._ping_at > local.patience.leader_seconds_max:
            self._stood_still_at = local.now

    def ping(self) -> int:
        """Ping every learner; return the number of this round."""
        self._notice_standstill()
        self._ping_number += 1
        self._ping_at = self._local.now + self._local.options.ping_seconds
        factor = self._local.patience.factor(self._local.now)
        state = self._agreement.question([learner.member for learner in self.learners.values() if learner.planned])
        for learner in self.learners.values():
            learner.ping(self._ping_number, state, factor)
        return self._ping_number

    def peer_up(self, peer: int) -> None:
        """Learners introduce themselves; nothing to do before that."""

    def peer_down(self, peer: int) -> None:
        """The session is over. Whether the leader goes on, its patience decides.

        More than the least of it is not due to somebody who may follow another one in this moment.
        """
        learner = self.learners.pop(peer, None)
        if learner is not None and learner.member in self._heard_at:
            patience, now = self._local.patience, self._local.now
            extra = patience.leader_seconds(now) - self._local.options.leader_seconds
            self._heard_at[learner.member] = min(self._heard_at[learner.member], now - extra)

    def receive(self, peer: int, message: LearnerMessage) -> None:
        """Take in a message of a learner; of another session or epoch, drop it."""
        if isinstance(message, FollowerInfo):
            self._introduce(peer, message)
            self._choose_epoch()
            return
        learner = self.learners.get(peer)
        if learner is None or message.session != learner.session:
            return
        if message.epoch != learner.epoch or learner.epoch == 0:
            return
        self._heard_at[learner.member] = self._local.now
        if isinstance(message, Ack):
            self._acknowledged(learner, message.zxid)
        elif isinstance(message, Pong):
            self.requests.answered(learner.member, message.number)
            if message.state is not None:
                self._compare(learner.member, message.state)
        elif isinstance(message, AckEpoch):
            self._epoch_acknowledged(learner, message)
        elif isinstance(message, SnapshotInstalled):
            learner.snapshot_installed(message.position)
            self._durable(learner.member, learner.progress.acknowledged_zxid)

    def entries_read(self, event: EntriesRead) -> None:
        """Pass entries on to the learner they were read for."""
        learner = self.learners.get(event.peer)
        if learner is not None and learner.session == event.session:
            learner.entries_read(event.after, event.entries)

    def snapshot_failed(self, event: SnapshotFailed) -> None:
        """Try again later."""
        learner = self.learners.get(event.peer)
        if learner is None or learner.session != event.session:
            return
        if learner.progress.state is ProgressState.SNAPSHOT:
            learner.retry_at = self._local.now + self._local.options.snapshot_retry_seconds

    def persisted(self, done: list[DiskEffect]) -> None:
        """The own promise or own entries are durable: only now they count."""
        for effect in done:
            if isinstance(effect, SavePromise):
                self._name_epoch(effect.epoch)
            elif isinstance(effect, Append):
                self._durable(self._local.member, self._local.durable_zxid)

    # --- discovery ------------------------------------------------------------------------------------------------

    def _introduce(self, peer: int, information: FollowerInfo) -> None:
        """D1: a learner is there."""
        learner = self.learners[peer] = Learner(self._local, peer, information)
        if self._choosing:
            self._discovery.heard(learner.member, information.epoch)
        elif self.epoch:
            learner.invite(self.epoch, self._local.patience.factor(self._local.now))
            # Also for one that does not vote: it could never be taught otherwise, nor become a voter.
            if information.epoch > self.epoch:
                self._local.heard_epoch = max(self._local.heard_epoch, information.epoch)
                self.requests.renew_epoch(f"node {peer} has promised epoch {information.epoch}")

    def _choose_epoch(self) -> None:
        """D2: take an epoch above all that a quorum has promised, and promise it first."""
        if not self._choosing:
            return
        try:
            epoch = self._discovery.new_epoch()
        except OverflowError as error:
            self._local.fatal(str(error), Cause.EXHAUSTED)
            return
        if epoch is not None:
            self._choosing = False
            self._local.save_promise(epoch)

    def _name_epoch(self, epoch: int) -> None:
        local = self._local
        self.epoch = epoch
        local.promised_to = self.leader
        for learner in self.learners.values():
            learner.invite(epoch, local.patience.factor(local.now))
        self._discovery.promised(local.member, local.durable_zxid)
        self._establish()

    def _epoch_acknowledged(self, learner: Learner, message: AckEpoch) -> None:
        """D4: a promise, or a learner that is only to be taught."""
        if learner.planned or not message.ends:
            return
        learner.ends = message.ends
        last_zxid = message.ends[-1].zxid
        if self.broadcast is not None:
            learner.teach()
        elif message.promised:
            if not self._discovery.promised(learner.member, last_zxid):
                self._local.look(f"node {learner.peer} has a longer log, up to {show_zxid(last_zxid)}")
                return
            self._establish()

    def _establish(self) -> None:
        """D4: with a quorum of promises, begin the epoch: its record follows the whole history."""
        if self.broadcast is not None or not self._discovery.complete:
            return
        self.broadcast = Broadcast(self.epoch)
        self.phase = Phase.SYNCHRONIZATION
        self._local.patience.established(self._local.now)
        for learner in self.learners.values():
            self._heard_at[learner.member] = self._local.now
        self.append(EpochRecord(self.leader, self.configuration))
        for learner in self.learners.values():
            if learner.ends:
                learner.teach()

    # --- synchronization and broadcast -------------------------------------------------------------------------------

    def append(self, body: object) -> Entry:
        """B1: give *body* the next place in the order, write it, and send it, in parallel."""
        local = self._local
        assert self.broadcast is not None, "only an established leader writes"
        last = local.history.last
        opening = last.zxid < self.broadcast.established_zxid
        zxid = self.broadcast.established_zxid if opening else last.zxid + 1
        entry = local.log.seal(zxid, last, body)
        local.append((entry,))
        self.broadcast.appended(entry)
        for learner in self.learners.values():
            learner.propose(entry)
        return entry

    @property
    def counter(self) -> int:
        """Place of the last entry in the epoch."""
        return counter_of(self._local.history.last.zxid)

    def _acknowledged(self, learner: Learner, zxid: int) -> None:
        """B2: a learner has more of the log."""
        progress = learner.progress
        if not learner.planned or progress.state is ProgressState.SNAPSHOT:
            return
        if zxid > progress.sent.zxid:
            self._local.look(f"node {learner.peer} acknowledges {show_zxid(zxid)}, which it was not sent")
            return
        progress.acknowledge(zxid)
        learner.pump()
        self._durable(learner.member, zxid)

    def _durable(self, member: Member, zxid: int) -> None:
        """B3: *member* has everything up to *zxid*: see what that commits."""
        local, broadcast = self._local, self.broadcast
        if broadcast is None:
            return
        broadcast.durable(member, zxid)
        # What is durable elsewhere only is left for the moment: whoever applies it here could lose it in a crash.
        commit_point = broadcast.commit_point(self.configuration)
        committed = min(commit_point, local.durable_zxid)
        self._own_disk.note(commit_point, local.durable_zxid, local.now)
        # Older entries are committed together with (e,0) or not at all: alone they prove nothing to whoever looks on.
        if committed >= broadcast.established_zxid and local.commit(committed):
            broadcast.committed(committed)
            if self.phase is Phase.SYNCHRONIZATION:
                self.phase = Phase.BROADCAST
            self.requests.committed()
        for learner in self.learners.values():
            if learner.owed_commit:
                self._owe_commit(learner)
        self.requests.try_to_hand_over()

    def _owe_commit(self, learner: Learner) -> None:
        """B3: the next proposal is likely to tell *learner*; that the epoch is established it hears at once."""
        patience_seconds = self._local.options.tell_commit_seconds
        if not patience_seconds or not learner.knows_established:
            learner.tell_commit()
        elif self._tell_commit_at == math.inf:
            self._tell_commit_at = self._local.now + patience_seconds

    def heard_lately(self, member: Member) -> bool:
        """Say whether *member* has said something in this epoch within the leader's patience."""
        return self._heard_within(member, self._local.patience.leader_seconds(self._local.now))

    def heard_by_quorum(self, configuration: Configuration) -> bool:
        """Say whether a quorum of *configuration*, this leader included, was heard lately."""
        return self._quorum_heard_within(configuration, self._local.patience.leader_seconds(self._local.now))

    def _quorum_heard_within(self, configuration: Configuration, seconds: float) -> bool:
        heard = {member for member in self._heard_at if self._heard_within(member, seconds)}
        return configuration.is_quorum(heard | {self._local.member})

    def _heard_within(self, member: Member, seconds: float) -> bool:
        return self._heard_at.get(member, -math.inf) > self._local.now - seconds

    def _compare(self, member: Member, state: StateHash) -> None:
        """A learner tells the hash of its state: who differs, ends."""
        local = self._local
        verdict = self._agreement.answered(member, state, self.configuration)
        if verdict is None:
            return
        agreeing = nodes_of(verdict.agreeing)
        told = [f"{show_zxid(state.zxid)}: nodes {agreeing} agree"]
        told += [f"node {one.node} differs in {difference(state, verdict.right)}" for one, state in verdict.wrong]
        if any(one == local.member for one, _ in verdict.wrong):
            local.fatal(f"the state of this leader is not that of a quorum after {'; '.join(told)}", Cause.STATE)
            return
        local.emit(Alarm(f"states differ after {'; '.join(told)}"))
        for one, _ in verdict.wrong:
            learner = self.learners.get(one.node)
            if learner is not None and learner.member == one and not verdict.alarm:
                learner.tell_diverged(verdict.right, agreeing)

    def learner_states(self) -> dict[int, LearnerState]:
        """Return how far each learner is."""
        return {
            peer: LearnerState(
                one.member, one.progress.acknowledged_zxid, one.progress.state, self._heard_at.get(one.member)
            )
            for peer, one in self.learners.items()
        }

    def resign(self) -> None:
        """The leadership is over: answer what still waits."""
        self.requests.abandon()
