"""Changes of voters as a leader carries them out: one at a time, in two records (see `membership`).

1. Refuse what cannot succeed: a quorum of the voters of *after* the change must have been heard lately and be caught
   up. Else the first record would need a quorum that is not there, and nothing could be committed any more.
2. Append the first record. From now on quorums of both groups are needed.
3. When it is committed, append the second; when that is committed, the change is through.

A change that was begun by an earlier leader is carried through by the next one; only its answer is lost.

The way back. If the new group falls silent between 2 and 3, the leader that began the change takes it back: it appends
the old configuration again, and goes on with the old voters' quorum alone. That is safe for this leader, in its own
epoch, before the second record exists, and only then:

- Every quorum that counts while the first record is somebody's latest holds a majority of the old voters. So does
  every quorum of the configuration that is taken back to. Two majorities of the old voters have a voter in common.
- The new voters alone can decide only under the second record. Nobody has that: this leader did not write it, and a
  later leader that writes it first needs the promise of a majority of the old voters, after which this leader commits
  nothing more. If the taking back was committed before, that majority has a longer log than such a leader, which gives
  up.

A later leader that finds the first record must not take it back: the leader before it may have written the second one
to somebody's log. If that leader is gone, and so many of the new group that it has no majority, bring back one of
those: what they may have confirmed alone nobody else has. That is why step 1 is strict.

This module must not know messages.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sluicemq.broker.replication.effects import Done, Refused
from sluicemq.broker.replication.history import MembershipRecord, show_zxid
from sluicemq.broker.replication.membership import (
    Configuration,
    Member,
    Voters,
    is_majority,
    nodes_of,
    with_voter,
    without_voter,
)
from sluicemq.wire.errors import Conflict, NotFound, OutcomeUnknown, SluiceError, Unavailable

if TYPE_CHECKING:
    from sluicemq.broker.replication.events import AddVoter, RemoveVoter
    from sluicemq.broker.replication.leading import Leading
    from sluicemq.broker.replication.local import Local


class Changes:
    """The changes of voters of one leadership.

    Args:
        local: What the roles share.
        leading: The leadership.

    """

    def __init__(self, local: Local, leading: Leading) -> None:
        self._local = local
        self._leading = leading
        self._changing = False
        self._reference: object | None = None
        self._former: Configuration | None = None
        self._deadline = 0.0
        self._taken_back: str | None = None

    # --- 1 and 2 ------------------------------------------------------------------------------------------------------

    def add(self, request: AddVoter) -> SluiceError | None:
        """Make a learner a voter; return why not."""
        learner = self._leading.learners.get(request.node)
        configuration = self._leading.configuration
        if learner is None or not learner.planned:
            return Unavailable(f"node {request.node} is not connected as an observer; start it first", retry_after=1.0)
        if learner.member in configuration.voters:
            return Conflict(f"node {request.node} is a voter already")
        if not learner.caught_up:
            return Unavailable(f"node {request.node} has not caught up yet; try again", retry_after=1.0)
        return self._begin(request.reference, with_voter(configuration, learner.member))

    def remove(self, request: RemoveVoter) -> SluiceError | None:
        """Let a node vote no more; return why not."""
        configuration = self._leading.configuration
        if request.node not in nodes_of(configuration.voters):
            return NotFound(f"node {request.node} is no voter; voters are {nodes_of(configuration.voters)}")
        if request.node == self._leading.leader:
            return Conflict(f"node {request.node} leads; hand over the lead first, then remove it")
        if len(configuration.voters) == 1:
            return Conflict(f"node {request.node} is the only voter; add another one first")
        return self._begin(request.reference, without_voter(configuration, request.node))

    def _begin(self, reference: object, configuration: Configuration) -> SluiceError | None:
        local, present = self._local, self._leading.configuration
        if present.next_voters is not None or local.configuration_zxid > local.committed_zxid:
            return Unavailable("another change of voters is under way; try again when it is through", retry_after=1.0)
        assert configuration.next_voters is not None
        objection = self._cannot_carry(configuration.next_voters)
        if objection is not None:
            return objection
        self._changing, self._reference, self._former = True, reference, present
        self._deadline = local.now + local.options.change_seconds
        self._leading.append(MembershipRecord(configuration))
        return None

    def _cannot_carry(self, voters: Voters) -> SluiceError | None:
        """Say who is missing if *voters* would not have a quorum that is there and up to date."""
        local = self._local
        missing = {
            member: why
            for member in sorted(voters)
            if member != local.member and (why := self._why_not(member)) is not None
        }
        if is_majority(voters, voters - missing.keys()):
            return None
        told = ", ".join(f"node {member.node} {why}" for member, why in missing.items())
        return Unavailable(
            f"after this change nodes {nodes_of(voters)} would vote, and {len(voters) // 2 + 1} of them must be there "
            f"and up to date, or nothing could be confirmed any more; but {told}. Nothing was changed. Bring back "
            "or replace what is missing first",
            retry_after=1.0,
        )

    def _why_not(self, member: Member) -> str | None:
        leading = self._leading
        learner = leading.learners.get(member.node)
        if learner is None:
            return "is not connected"
        if learner.member != member:
            return "has come back with an empty disk (make it a voter again first: that replaces its old self)"
        if not leading.heard_lately(member):
            return "was not heard lately"
        if not learner.caught_up:
            return f"has not caught up (it has {show_zxid(learner.progress.acknowledged_zxid)})"
        return None

    # --- 3 ------------------------------------------------------------------------------------------------------------

    def committed(self) -> Configuration | None:
        """More is committed: carry on. Returns the configuration that is settled now, if one is."""
        local = self._local
        configuration = local.configuration
        if configuration is None or local.configuration_zxid > local.committed_zxid:
            return None
        if configuration.next_voters is not None:
            self._leading.append(MembershipRecord(configuration.settled()))
            return None
        if self._changing:
            self._changing = False
            if self._taken_back is None:
                local.emit(Done(self._reference))
            else:
                local.emit(Refused(self._reference, Unavailable(self._taken_back, retry_after=1.0)))
            self._reference, self._taken_back = None, None
        return configuration

    # --- the way back -------------------------------------------------------------------------------------------------

    @property
    def wake_times(self) -> list[float]:
        """When `wake` has something to do, if at all."""
        return [self._deadline] if self._revocable else []

    @property
    def _revocable(self) -> bool:
        configuration = self._local.configuration
        return (
            self._changing
            and self._taken_back is None
            and configuration is not None
            and configuration.next_voters is not None
        )

    def wake(self) -> None:
        """Take back a change whose first record is not committed in time."""
        if self._revocable and self._local.now >= self._deadline:
            self.take_back("was not committed in time")

    def take_back(self, why: str) -> bool:
        """Return to the voters of before, if the change was begun here and its first record is not committed."""
        local, leading = self._local, self._leading
        configuration = local.configuration
        if not self._revocable:
            return False
        assert self._former is not None
        assert configuration is not None
        assert configuration.next_voters is not None
        assert local.configuration_zxid > local.committed_zxid, "a committed first record has its second at once"
        if not leading.heard_by_quorum(self._former):
            return False
        silent = [
            f"node {member.node} {reason}"
            for member in sorted(configuration.next_voters)
            if member != local.member and (reason := self._why_not(member)) is not None
        ]
        told = ", ".join(silent) or "its voters were too slow"
        self._taken_back = f"the change of voters {why} and was taken back: {told}. Try again when that is mended"
        leading.append(MembershipRecord(self._former))
        return True

    def abandon(self) -> None:
        """The leadership is over: nobody here will learn how the change ends."""
        if self._changing:
            text = "the lead has ended before the change of voters was through; the next leader may carry it on: look"
            self._local.emit(Refused(self._reference, OutcomeUnknown(text)))
