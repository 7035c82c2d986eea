"""What is asked of a leader: proposals, reads, changes of voters, and to hand over the lead.

Each request is answered exactly once, with what was asked or with `Refused` and an error that says what to do. It is
taken only in broadcast: before the epoch record is committed, a leader does not even know what is committed.

Changes of voters stand in `changes`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sluicemq.broker.replication.changes import Changes
from sluicemq.broker.replication.effects import Done, Proposed, ReadReady, Refused
from sluicemq.broker.replication.events import AddVoter, Propose, Read, RemoveVoter, TransferLeadership
from sluicemq.broker.replication.handover import Handover
from sluicemq.broker.replication.history import COUNTER_MASK
from sluicemq.broker.replication.local import Local
from sluicemq.broker.replication.membership import Configuration, Member, nodes_of
from sluicemq.broker.replication.messages import Phase
from sluicemq.broker.replication.reads import Reads
from sluicemq.wire.errors import (
    Conflict,
    LimitReached,
    NotFound,
    NotLeader,
    RequestTimeout,
    SluiceError,
    Unavailable,
)

if TYPE_CHECKING:
    from sluicemq.broker.replication.leading import Leading

Request = Propose | Read | AddVoter | RemoveVoter | TransferLeadership


class Requests:
    """The requests of one leadership.

    Args:
        local: What the roles share.
        leading: The leadership.

    """

    def __init__(self, local: Local, leading: Leading) -> None:
        self._local = local
        self._leading = leading
        self._reads = Reads(local.member, local.options.reads_max)
        self.changes = Changes(local, leading)

    def take(self, request: Request) -> None:
        """Do what is asked, or refuse it."""
        objection = self._objection()
        if objection is None:
            if isinstance(request, Propose):
                objection = self._propose(request)
            elif isinstance(request, Read):
                objection = self._read(request)
            elif isinstance(request, AddVoter):
                objection = self.changes.add(request)
            elif isinstance(request, RemoveVoter):
                objection = self.changes.remove(request)
            else:
                objection = self._transfer(request)
        if objection is not None:
            self._local.emit(Refused(request.reference, objection))

    def _objection(self) -> SluiceError | None:
        leading = self._leading
        if leading.phase is not Phase.BROADCAST:
            return Unavailable("this broker was elected and is not ready yet; try again", retry_after=0.1)
        if leading.handover is not None:
            return Unavailable(f"the lead is being handed over: {leading.handover.reason}; try again", retry_after=0.1)
        return None

    # --- proposals ------------------------------------------------------------------------------------------------

    @property
    def takes_proposals(self) -> bool:
        """Whether a proposal would be taken now."""
        return (self._objection() or self._objection_to_proposals()) is None

    def _propose(self, request: Propose) -> SluiceError | None:
        leading = self._leading
        objection = self._objection_to_proposals()
        if objection is not None:
            return objection
        entry = leading.append(request.body)
        self._local.emit(Proposed(request.reference, entry.zxid))
        if leading.counter >= self._local.options.counter_max:
            self.renew_epoch(f"the epoch's counter has reached {leading.counter:#x}")
        return None

    def _objection_to_proposals(self) -> SluiceError | None:
        leading, options = self._leading, self._local.options
        assert leading.broadcast is not None
        waiting = leading.broadcast.uncommitted_bytes
        if waiting >= options.uncommitted_bytes_max:
            return LimitReached(
                f"{waiting} bytes wait for a quorum, the limit is {options.uncommitted_bytes_max}; try again",
                retry_after=0.1,
                limit=options.uncommitted_bytes_max,
                value=waiting,
            )
        if leading.counter >= COUNTER_MASK - 2:
            return Unavailable("the epoch is used up, and the next one has not begun yet; try again", retry_after=0.1)
        return None

    # --- reads ----------------------------------------------------------------------------------------------------

    def _read(self, request: Read) -> SluiceError | None:
        reads_max = self._local.options.reads_max
        if self._reads.full:
            return LimitReached(
                f"{reads_max} reads wait for a quorum; try again", retry_after=0.1, limit=reads_max, value=reads_max
            )
        self._reads.wait(request.reference)
        self._serve_reads()
        return None

    def answered(self, member: Member, number: int) -> None:
        """*member* has answered the ping *number*."""
        self._reads.answered(member, number)
        self._serve_reads()

    def _serve_reads(self) -> None:
        if self._reads.wants_round:
            self._reads.begin_round(self._leading.ping(), self._local.committed_zxid)
        zxid, done = self._reads.ready(self._leading.configuration)
        for reference in done:
            self._local.emit(ReadReady(reference, zxid))
        if self._reads.wants_round:
            self._serve_reads()

    def committed(self) -> None:
        """More is committed: carry on with the change of voters, if there is one."""
        settled = self.changes.committed()
        if settled is not None and self._local.member not in settled.voters and self._leading.handover is None:
            self._leave(settled)

    # --- the end ----------------------------------------------------------------------------------------------------

    def _transfer(self, request: TransferLeadership) -> SluiceError | None:
        node, leading = request.node, self._leading
        learner = leading.learners.get(node)
        if node == leading.leader:
            return Conflict(f"node {node} leads already")
        if node not in nodes_of(leading.configuration.settled().voters):
            return NotFound(f"node {node} is no voter; voters are {nodes_of(leading.configuration.voters)}")
        if learner is None or not learner.planned or learner.member not in leading.configuration.everybody:
            return Unavailable(f"node {node} is not connected; try again when it is", retry_after=1.0)
        self._begin_handover(node, request.reference, f"node {node} was asked to lead")
        return None

    def renew_epoch(self, reason: str) -> None:
        """Begin a new epoch under the same leader, unless the lead is being handed over already."""
        if self._leading.handover is None and self._leading.phase is Phase.BROADCAST:
            self._begin_handover(self._leading.leader, None, reason)

    def _leave(self, configuration: Configuration) -> None:
        """The leader votes no more: let the voter that has most of the log lead."""
        best = self._best_voter(configuration)
        if best is None:
            self._local.look("this node is no voter any more")
        else:
            self._begin_handover(best, None, "this node is no voter any more")

    def _best_voter(self, configuration: Configuration) -> int | None:
        """Return the connected voter that has most of the log."""
        learners = [one for one in self._leading.learners.values() if one.member in configuration.voters]
        best = max(learners, key=lambda one: (one.progress.acknowledged_zxid, one.peer), default=None)
        return None if best is None else best.peer

    def hand_over_at_once(self, reason: str) -> None:
        """The leader cannot go on: let the best voter lead, though not everything is committed.

        What is not committed has an unknown outcome, as after a crash. Nothing about safety depends on who is chosen.
        """
        best = self._best_voter(self._leading.configuration.settled())
        if best is None:
            self._local.look(reason)
        else:
            self._send_to(best, reason)

    def _begin_handover(self, leader: int, reference: object | None, reason: str) -> None:
        deadline = self._local.now + self._local.options.transfer_seconds
        self._leading.handover = Handover(leader, deadline, reference, reason)
        self.try_to_hand_over()

    def try_to_hand_over(self) -> None:
        """Hand over if everything is committed and the next leader has it."""
        leading, local = self._leading, self._local
        handover = leading.handover
        if handover is None:
            return
        reached_zxid = local.durable_zxid
        if handover.leader != leading.leader:
            learner = leading.learners.get(handover.leader)
            reached_zxid = 0 if learner is None else learner.progress.acknowledged_zxid
        if not handover.ready(local.history.last.zxid, local.committed_zxid, reached_zxid):
            return
        if handover.reference is not None:
            local.emit(Done(handover.reference))
        leading.handover = None
        self._send_to(handover.leader, handover.reason)

    def _send_to(self, leader: int, reason: str) -> None:
        """Send everybody to the next leader, this node too."""
        for learner in self._leading.learners.values():
            learner.hand_over(leader)
        self._local.turn_to(leader, reason)

    def wake(self) -> None:
        """Give up what takes too long: a change of voters, or handing over, after which proposals are taken again."""
        self.changes.wake()
        leading, local = self._leading, self._local
        handover = leading.handover
        if handover is None or local.now < handover.deadline:
            return
        leading.handover = None
        if handover.reference is not None:
            text = f"node {handover.leader} did not catch up within {local.options.transfer_seconds} s; nothing changed"
            local.emit(Refused(handover.reference, RequestTimeout(text)))

    def abandon(self) -> None:
        """The leadership is over: answer what it can no longer do."""
        over = NotLeader("this broker no longer leads; ask the new leader")
        handover = self._leading.handover
        for reference in self._reads.abandon():
            self._local.emit(Refused(reference, over))
        if handover is not None and handover.reference is not None:
            self._local.emit(Refused(handover.reference, over))
        self.changes.abandon()
