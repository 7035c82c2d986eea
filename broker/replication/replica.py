"""One replica: takes events, lets the present role deal with them, and changes roles.

Here is what concerns all roles: connections, what peers said last, who is answered while there is a leader, and the one
place where a role ends and the next begins (`_turn`). What a role does stands in its own module.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sluicemq.broker.replication.effects import Cause, Effect, Refused, RoleChanged
from sluicemq.broker.replication.events import (
    AddVoter,
    DiskFailed,
    EntriesRead,
    Event,
    PeerDown,
    PeerRefused,
    PeerUp,
    Persisted,
    Propose,
    Read,
    Received,
    RemoveVoter,
    SnapshotFailed,
    SnapshotReceived,
    Start,
    StateHashed,
    TransferLeadership,
    Wake,
)
from sluicemq.broker.replication.following import Following
from sluicemq.broker.replication.history import Position
from sluicemq.broker.replication.leading import Leading, LearnerState
from sluicemq.broker.replication.local import Local
from sluicemq.broker.replication.log_view import LogView
from sluicemq.broker.replication.looking import Looking, tell
from sluicemq.broker.replication.membership import Configuration, Member
from sluicemq.broker.replication.messages import FollowerInfo, LearnerMessage, Notification, Phase, Role, Vote
from sluicemq.broker.replication.options import Options
from sluicemq.wire.errors import NotLeader


class Replica:
    """One node of the ensemble; see the package's docstring for the loop that drives it.

    Args:
        member: This node and the incarnation of its disk.
        listed: Nodes that form a cluster if all their logs are empty, this one among them; a node that is to join an
            existing cluster may give an empty list.
        promised_epoch: From the superblock; 0 on a new disk.
        log: View of the log.
        options: Limits and times.
        damaged_from: The first entry that the log may have held, acknowledged, and lost, because its files are damaged
            there; the log view ends before it. It must be noted in the superblock before the log is made to end there,
            and stay noted until `NoteRepaired`. None for a whole log.

    """

    def __init__(
        self,
        member: Member,
        listed: Sequence[int],
        promised_epoch: int,
        log: LogView,
        options: Options | None = None,
        *,
        damaged_from: int | None = None,
    ) -> None:
        self._local = Local(member, listed, promised_epoch, log, options or Options(), damaged_from)
        self._state: Looking | Following | Leading | None = None
        self._said: dict[int, Notification] = {}
        self._knocks: dict[int, FollowerInfo] = {}
        self._round = 0
        self._vote = Vote(0, member.node)
        self._own_zxid = 0
        self._session = 0
        self._reason = "started"
        self._shown: tuple[Role, Phase, int, int | None] | None = None
        self._handlers: dict[type, Callable[..., None]] = {
            Start: self._start,
            Wake: self._wake,
            PeerUp: self._peer_up,
            PeerDown: self._peer_down,
            PeerRefused: self._peer_refused,
            Received: self._received,
            Persisted: self._persisted,
            DiskFailed: self._disk_failed,
            EntriesRead: self._entries_read,
            SnapshotFailed: self._snapshot_failed,
            SnapshotReceived: self._snapshot_received,
            StateHashed: self._state_hashed,
            Propose: self._request,
            Read: self._request,
            AddVoter: self._request,
            RemoveVoter: self._request,
            TransferLeadership: self._request,
        }

    def step(self, event: Event, now: float) -> list[Effect]:
        """Take in *event* at the time *now*; return what is to be done, in order.

        After a `Fatal` effect every further event is ignored.
        """
        local = self._local
        if local.dead:
            return []
        assert self._state is not None or isinstance(event, Start), "the first event is Start"
        local.now = max(now, local.now)
        effects: list[Effect] = []
        local.effects = effects
        self._handlers[type(event)](event)
        while not local.dead and self._turn():
            pass
        if not local.dead:
            self._show_role()
        return effects

    # --- what can be seen of it -----------------------------------------------------------------------------------

    @property
    def wake_at(self) -> float | None:
        """When the next `Wake` is due; None if only another event can change anything."""
        return None if self._local.dead or self._state is None else self._state.wake_at

    @property
    def member(self) -> Member:
        """This node and the incarnation of its disk."""
        return self._local.member

    @property
    def options(self) -> Options:
        """Its limits and times."""
        return self._local.options

    @property
    def follower_seconds(self) -> float:
        """For how long those that follow this replica, if it leads, wait at least for a word of it."""
        patience = self._local.patience
        return patience.follower_seconds(patience.factor(self._local.now))

    @property
    def role(self) -> Role:
        """What this replica is."""
        if isinstance(self._state, Leading):
            return Role.LEADING
        if isinstance(self._state, Following):
            return Role.FOLLOWING if self._local.votes else Role.OBSERVING
        return Role.LOOKING

    @property
    def phase(self) -> Phase:
        """How far it has come."""
        return self._state.phase if isinstance(self._state, Following | Leading) else Phase.ELECTION

    @property
    def leader(self) -> int | None:
        """Whom it follows, itself if it leads, None while it looks."""
        return self._state.leader if isinstance(self._state, Following | Leading) else None

    @property
    def turning_to(self) -> int | None:
        """Whom it is about to follow without an election, because the leader before named that one; itself perhaps."""
        return self._state.towards if isinstance(self._state, Looking) else None

    @property
    def epoch(self) -> int:
        """Epoch of the present leadership; 0 if there is none yet."""
        return self._state.epoch if isinstance(self._state, Following | Leading) else 0

    @property
    def promised_epoch(self) -> int:
        """The latest epoch promised, durable or on its way."""
        return self._local.promised_epoch

    @property
    def taught_zxid(self) -> int:
        """Up to where its leader teaches it what was proposed before, if it follows one that said so; else 0."""
        return self._state.whole_at_zxid if isinstance(self._state, Following) else 0

    @property
    def learners(self) -> dict[int, LearnerState]:
        """How far those are whom this replica teaches, if it leads; by node."""
        return self._state.learner_states() if isinstance(self._state, Leading) else {}

    @property
    def takes_proposals(self) -> bool:
        """Whether a `Propose` would get its place at once: this replica leads, and has no reason to refuse."""
        return isinstance(self._state, Leading) and self._state.requests.takes_proposals

    @property
    def last(self) -> Position:
        """End of the log, durable or not."""
        return self._local.history.last

    @property
    def durable_zxid(self) -> int:
        """Up to where the log is known to be durable."""
        return self._local.durable_zxid

    @property
    def committed_zxid(self) -> int:
        """Up to where everything is committed, as far as this replica knows."""
        return self._local.committed_zxid

    @property
    def damaged_from(self) -> int | None:
        """The first entry that the log may have lost and has not got back; None for a whole log."""
        return self._local.damaged_from

    @property
    def configuration(self) -> Configuration | None:
        """Who votes, by the log; None before a cluster is formed."""
        return self._local.configuration

    # --- events ---------------------------------------------------------------------------------------------------

    def _start(self, _: Start) -> None:
        assert self._state is None, "Start comes once"
        self._look(self._reason, None)

    def _wake(self, _: Wake) -> None:
        assert self._state is not None
        self._state.wake()

    def _peer_up(self, event: PeerUp) -> None:
        local, state = self._local, self._state
        assert event.peer not in local.links, f"the old connection to {event.peer} has not ended"
        local.links[event.peer] = event.connection
        local.gone.discard(event.peer)
        assert state is not None
        if not isinstance(state, Looking):
            self._tell_role(event.peer)
        state.peer_up(event.peer)

    def _peer_down(self, event: PeerDown) -> None:
        local = self._local
        if local.links.get(event.peer) != event.connection:
            return
        del local.links[event.peer]
        local.gone.add(event.peer)
        self._said.pop(event.peer, None)
        self._knocks.pop(event.peer, None)
        assert self._state is not None
        self._state.peer_down(event.peer)

    def _peer_refused(self, event: PeerRefused) -> None:
        if event.peer not in self._local.links:
            self._local.gone.add(event.peer)
            if isinstance(self._state, Looking):
                self._state.peer_refused()

    def _received(self, event: Received) -> None:
        message, state = event.message, self._state
        if message.connection != self._local.links.get(event.peer):
            return
        if self._local.patience.doubts:
            self._local.patience.heard(event.peer, self._local.now)
        if isinstance(message, Notification):
            self._heard(event.peer, message)
        elif isinstance(state, Leading) and isinstance(message, LearnerMessage):
            state.receive(event.peer, message)
        elif isinstance(message, FollowerInfo):
            self._knocks[event.peer] = message
            if isinstance(state, Following):
                self._tell_role(event.peer)
        elif isinstance(state, Following) and event.peer == state.leader and isinstance(message, LearnerMessage):
            state.receive(message)

    def _heard(self, peer: int, notification: Notification) -> None:
        """Somebody says whom it would follow, or follows."""
        state = self._state
        if notification.member.node != peer:
            return
        # Votes are kept for the next election. That somebody leads or follows is only worth something when it is fresh.
        self._said.pop(peer, None)
        if notification.role is Role.LOOKING:
            self._said[peer] = notification
            self._knocks.pop(peer, None)
        if isinstance(state, Looking):
            state.receive(peer, notification)
            return
        if isinstance(state, Following) and peer == state.leader and not state.may_lead(notification.role):
            self._local.look(f"node {peer} does not lead any more")
        if notification.role is Role.LOOKING:
            self._tell_role(peer)

    def _persisted(self, event: Persisted) -> None:
        done = self._local.persisted(event.token)
        if done and not self._local.dead:
            assert self._state is not None
            self._state.persisted(done)

    def _disk_failed(self, event: DiskFailed) -> None:
        self._local.fatal(f"writing failed, so nothing is certain about the disk any more: {event.reason}", Cause.DISK)

    def _entries_read(self, event: EntriesRead) -> None:
        if isinstance(self._state, Leading):
            self._state.entries_read(event)

    def _snapshot_failed(self, event: SnapshotFailed) -> None:
        if isinstance(self._state, Leading):
            self._state.snapshot_failed(event)

    def _snapshot_received(self, event: SnapshotReceived) -> None:
        if isinstance(self._state, Following):
            self._state.snapshot_received(event)

    def _state_hashed(self, event: StateHashed) -> None:
        self._local.hashes.add(event.state)

    def _request(self, event: Propose | Read | AddVoter | RemoveVoter | TransferLeadership) -> None:
        if isinstance(self._state, Leading):
            self._state.requests.take(event)
            return
        leader = self.leader
        known = "no leader is known at the moment" if leader is None else f"node {leader} leads"
        self._local.emit(Refused(event.reference, NotLeader(f"this broker does not lead; {known}", leader=leader)))

    # --- roles ----------------------------------------------------------------------------------------------------

    def _turn(self) -> bool:
        """Carry out the change of roles that the present role asks for; return whether there was one."""
        local, state = self._local, self._state
        turn = local.turn
        if turn is not None:
            local.turn = None
            self._look(turn.reason, turn.leader)
            return True
        if not isinstance(state, Looking) or state.decision is None:
            return False
        decision = state.decision
        self._round, self._vote, self._own_zxid = state.round, state.vote, state.own_zxid
        self._reason = f"node {decision.leader} is to lead"
        if decision.leader == local.member.node:
            self._state = Leading(local, decision.founders, sorted(self._knocks.items()))
            self._knocks.clear()
        else:
            self._session += 1
            self._state = Following(local, decision.leader, self._session, handed_over=state.handed_over)
        for peer in sorted(local.links):
            self._tell_role(peer)
        return True

    def _look(self, reason: str, towards: int | None) -> None:
        if isinstance(self._state, Leading):
            self._state.resign()
        elif isinstance(self._state, Looking):
            self._round = self._state.round
        self._reason = reason
        self._round += 1
        self._state = Looking(self._local, self._round, self._said, towards)

    def _tell_role(self, peer: int) -> None:
        """Tell *peer* whom this replica follows."""
        leader = self.leader
        assert leader is not None
        vote = self._vote if self._vote.leader == leader else Vote(self._own_zxid, leader)
        tell(self._local, peer, self.role, self.epoch, self._round, vote, self._own_zxid)

    def _show_role(self) -> None:
        shown = self.role, self.phase, self.epoch, self.leader
        if shown != self._shown:
            self._shown = shown
            self._local.emit(RoleChanged(*shown, self._reason))
