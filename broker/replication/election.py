"""Phase 0, election: fast leader election. Whom to follow, judged by durable history alone.

An election only proposes. Two replicas may leave it with different leaders; discovery, where a quorum promises an epoch
to one leader only, sees to it that at most one of them gets anywhere. So this module is about being quick and about not
disturbing a leader that works, never about safety. With one exception: forming a cluster out of empty disks.

1. Begin a round: vote for yourself with the last zxid of your durable log, and tell everybody.
2. A vote of a later round: join that round, forget the votes of the old one, and judge your own candidacy again.
   Of an earlier round: ignore it, and answer, so that its sender catches up. Of the same round: note it.
3. A better vote (longer history, then higher id) becomes yours; tell everybody.
4. A quorum votes as you do: decide, at once if every voter was heard, else after a moment in which no better vote came.
   A voter whose connection was refused or reset counts as heard: a killed leader costs no waiting. Who hears of a newer
   configuration than its own waits in any case: it does not know all voters.
5. A leader that says itself that it leads, with a quorum that follows it, is joined. Its followers' word alone is not
   enough: they may not have noticed yet that it died.

Votes of nodes that are no voters in this replica's configuration are not counted; such nodes are answered, no more. Who
is no voter in its own configuration is no candidate and decides nothing, but says whom it finds best like everybody: a
change that made it a voter may stand in others' logs only, and then its vote is needed. So may who has no configuration
and no list: to such a node everybody's votes matter.

A replica whose log is damaged says nothing about history, since it does not know what it has lost: it votes for nobody,
and waits for a leader to be taught by. It counts as heard, and never as empty.

Formation. A replica without a configuration takes the listed nodes for voters. It decides for an empty log only when
every one of them has said in this round that its log is empty too, with the same list. As soon as one has data, the
cluster exists, and a replica that finds its disk empty waits to be taught.

This module must not know connections' numbers, timers or the log.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from sluicemq.broker.replication.membership import Configuration, Member, is_majority
from sluicemq.broker.replication.messages import Notification, Role, Vote


@dataclass(frozen=True, slots=True)
class Electorate:
    """Whose votes this replica counts.

    Attributes:
        member: This replica.
        configuration: From the log; None while there is none.
        configuration_zxid: Entry that gave it; -1 while there is none.
        listed: Nodes to form a cluster with; they count only without a configuration.
        damaged: This replica's log has lost something: it votes for nobody.

    """

    member: Member
    configuration: Configuration | None
    configuration_zxid: int
    listed: tuple[int, ...]
    damaged: bool = False

    @property
    def nodes(self) -> frozenset[int]:
        """All nodes that vote."""
        if self.configuration is None:
            return frozenset(self.listed)
        return frozenset(member.node for member in self.configuration.everybody)

    @property
    def members(self) -> frozenset[Member]:
        """All who vote; without a configuration only their nodes are known."""
        if self.configuration is None:
            return frozenset(Member(node, b"") for node in self.listed)
        return self.configuration.everybody

    def counts(self, member: Member) -> bool:
        """Say whether *member* has a vote."""
        if self.configuration is None:
            return member.node in self.listed
        return member in self.configuration.everybody

    def hears(self, member: Member) -> bool:
        """Say whether what *member* votes matters here: of voters; of anybody to who knows of none."""
        return self.counts(member) or (self.configuration is None and not self.listed)

    def is_quorum(self, supporters: Collection[Member]) -> bool:
        """Say whether *supporters* are a quorum."""
        if self.configuration is None:
            return is_majority(self.listed, {member.node for member in supporters})
        return self.configuration.is_quorum(supporters)


@dataclass(frozen=True, slots=True)
class Decision:
    """The end of an election: follow *leader*, or lead if that is you.

    `founders` are the voters of the new cluster, if this election forms one.
    """

    leader: int
    founders: frozenset[Member] | None = None


@dataclass(frozen=True, slots=True)
class Reaction:
    """What a notification calls for: tell everybody the changed vote, or answer its sender."""

    broadcast: bool = False
    answer: bool = False


_NOTHING = Reaction()
NOBODY = Vote(0, 0)
"""The vote of who is no candidate and knows none yet; every other vote is better."""


class Election:
    """One search for a leader, from the moment the log's end is known until a decision.

    Args:
        electorate: Whose votes count.
        own_zxid: Last zxid of the own durable log.
        round_number: The round to begin.
        finalize_seconds: How long to wait for a better vote unless all were heard.

    """

    def __init__(self, electorate: Electorate, own_zxid: int, round_number: int, finalize_seconds: float) -> None:
        self.electorate = electorate
        self.own_zxid = own_zxid
        self.round = round_number
        self.voting = electorate.counts(electorate.member) and not electorate.damaged
        self._finalize_seconds = finalize_seconds
        self._own_vote = Vote(own_zxid, electorate.member.node) if self.voting else NOBODY
        self.vote = self._own_vote
        self.finalize_at: float | None = None
        """When a candidate with a quorum is decided for, if no better vote comes."""
        self._votes: dict[int, Notification] = {}
        self._standing: dict[int, Notification] = {}

    def receive(self, notification: Notification) -> Reaction:
        """Take in what another replica says; return what to say in turn."""
        sender = notification.member
        if notification.role is not Role.LOOKING:
            self._standing[sender.node] = notification
        else:
            self._standing.pop(sender.node, None)
        if not self.electorate.hears(sender):
            behind = notification.role is Role.LOOKING and notification.round < self.round
            return Reaction(answer=behind)
        if notification.role is not Role.LOOKING:
            if notification.round == self.round:
                self._votes[sender.node] = notification
            return _NOTHING
        if notification.round < self.round:
            return Reaction(answer=True)
        broadcast = False
        if notification.round > self.round:
            self._begin_round(notification.round)
            broadcast = True
        self._votes[sender.node] = notification
        if notification.vote > self.vote and not self.electorate.damaged:
            self._turn_to(notification.vote)
            broadcast = True
        return Reaction(broadcast=broadcast)

    def lose(self, node: int) -> Reaction:
        """The connection to *node* ended: its vote is void. If it was the candidate, a new round begins."""
        self._votes.pop(node, None)
        self._standing.pop(node, None)
        if self.vote.leader != node:
            return _NOTHING
        self._begin_round(self.round + 1)
        return Reaction(broadcast=True)

    def decide(self, gone: Collection[int], now: float) -> Decision | None:
        """Return the decision if there is one by now.

        Args:
            gone: Nodes whose connection was refused or reset and not opened since.
            now: The time; `finalize_at` says when to ask again.

        """
        leader = self._standing_leader()
        if leader is not None:
            return Decision(leader)
        if not self.voting or not self._vote_has_quorum():
            self.finalize_at = None
            return None
        if self.electorate.configuration is None:
            founders = self._founders()
            return None if founders is None else Decision(self.vote.leader, founders)
        heard = {self.electorate.member.node, *self._votes, *gone}
        if self.electorate.nodes <= heard and not self._outdated:
            return Decision(self.vote.leader)
        if self.finalize_at is None:
            self.finalize_at = now + self._finalize_seconds
        return Decision(self.vote.leader) if now >= self.finalize_at else None

    # --- the rules -------------------------------------------------------------------------------------------

    def _begin_round(self, round_number: int) -> None:
        self.round = round_number
        self._votes.clear()
        self._turn_to(self._own_vote)

    def _turn_to(self, vote: Vote) -> None:
        self.vote = vote
        self.finalize_at = None

    def _vote_has_quorum(self) -> bool:
        supporters = [heard.member for heard in self._votes.values() if heard.vote == self.vote]
        return self.electorate.is_quorum([self.electorate.member, *supporters])

    @property
    def _outdated(self) -> bool:
        """Whether somebody has a newer configuration: then there may be voters, and better votes, unknown here."""
        known = self.electorate.configuration_zxid
        return any(heard.configuration_zxid > known for heard in self._votes.values())

    def _founders(self) -> frozenset[Member] | None:
        """Return all listed members if each of them is known to be as empty as this replica, else None."""
        if self.own_zxid or self.vote.zxid or self.electorate.nodes != {self.electorate.member.node, *self._votes}:
            return None
        heard = self._votes.values()
        if any(one.own_zxid or one.configuration_zxid >= 0 or one.damaged for one in heard):
            return None
        if any(one.listed != self.electorate.listed for one in heard):
            return None
        return frozenset({self.electorate.member, *(one.member for one in heard)})

    def _standing_leader(self) -> int | None:
        """Return a leader that works already, if one is known."""
        claims = [one for one in self._standing.values() if one.role is Role.LEADING]
        for claim in sorted(claims, key=lambda one: (one.epoch, one.member.node), reverse=True):
            if self._may_join(claim):
                return claim.member.node
        return None

    def _may_join(self, claim: Notification) -> bool:
        # Who does not vote can do no harm by following; and who has an old configuration cannot judge by it.
        if not self.voting or claim.configuration_zxid > self.electorate.configuration_zxid:
            return True
        leader = claim.member.node
        followers = [one.member for one in self._standing.values() if one.vote.leader == leader]
        return self.electorate.is_quorum({self.electorate.member, *followers})
