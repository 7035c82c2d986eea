"""The role LOOKING: wait until the disk is quiet, then run an election over the connections there are.

The election itself is in `election`; here are its messages, its pauses, and what peers said before it began. That is
kept per peer, because a peer that began to look earlier tells its vote once and not again.
"""

from __future__ import annotations

from sluicemq.broker.replication.effects import Cause, Join
from sluicemq.broker.replication.election import NOBODY, Decision, Election, Reaction
from sluicemq.broker.replication.history import show_zxid
from sluicemq.broker.replication.local import DiskEffect, Local
from sluicemq.broker.replication.messages import Notification, Role, Vote


class Looking:
    """One stay in LOOKING.

    Args:
        local: What the roles share.
        round_number: The round to begin with.
        said: The last vote of each connected peer that was looking when it was last heard.
        towards: Whom to turn to without an election, once the disk is at rest.

    """

    def __init__(
        self, local: Local, round_number: int, said: dict[int, Notification], towards: int | None = None
    ) -> None:
        self._local = local
        self._said = said
        self._towards = towards
        self._round = round_number
        self._election: Election | None = None
        self._notify_at = 0.0
        self._pause = local.options.notify_seconds_min
        self.handed_over = False
        """Whether the decision is the word of the leader before."""
        self.decision: Decision | None = None
        """How it ended; the replica takes it from here."""
        local.join()

    @property
    def round(self) -> int:
        """The round this replica is in."""
        return self._round if self._election is None else self._election.round

    @property
    def vote(self) -> Vote:
        """The present vote."""
        return NOBODY if self._election is None else self._election.vote

    @property
    def own_zxid(self) -> int:
        """Where the own log ended when the election began."""
        return self._local.durable_zxid if self._election is None else self._election.own_zxid

    @property
    def towards(self) -> int | None:
        """Whom it turns to without an election; None once there is one."""
        return self._towards if self._election is None else None

    @property
    def wake_at(self) -> float | None:
        """When `wake` has something to do."""
        if self._election is None:
            return None
        finalize_at = self._election.finalize_at
        return self._notify_at if finalize_at is None else min(self._notify_at, finalize_at)

    def persisted(self, done: list[DiskEffect]) -> None:
        """Begin the election once the log's end is certain."""
        if self._election is not None or not any(isinstance(effect, Join) for effect in done):
            return
        local = self._local
        # Whoever is not connected may be gone: an election finds it sooner than patience would end.
        if self._towards == local.member.node or self._towards in local.links:
            self.handed_over = True
            self.decision = Decision(self._towards)
            return
        self._election = Election(local.electorate, local.durable_zxid, self._round, local.options.finalize_seconds)
        for notification in list(self._said.values()):
            self._election.receive(notification)
        self._broadcast()
        self._conclude()
        self._judge_damage()

    def receive(self, peer: int, notification: Notification) -> None:
        """Take in a vote, or the word of somebody who has a leader."""
        refused = self._local.refused
        if refused is not None and (peer, notification.epoch) == refused[:2] and self._local.now < refused[2]:
            return
        if self._election is not None:
            self._react(self._election.receive(notification), peer)
            self._judge_damage()

    def _judge_damage(self) -> None:
        """Stop if so many logs are damaged that no leader can ever be elected who surely has everything.

        Only once all voters were heard or are known to be down, and none of them has a leader: an old configuration
        must not be the judge while others know better.
        """
        local = self._local
        if local.damaged_from is None or self.decision is not None:
            return
        electorate = local.electorate
        if not electorate.nodes:
            return  # it knows of nobody any more; somebody who knows better may come
        if not electorate.nodes <= {local.member.node, *self._said, *local.gone}:
            return
        damaged = {local.member.node, *(peer for peer, told in self._said.items() if told.damaged)}
        if electorate.is_quorum([member for member in electorate.members if member.node not in damaged]):
            return
        nodes = ", ".join(map(str, sorted(damaged)))
        local.fatal(
            f"the logs of nodes {nodes} are damaged (here from {show_zxid(local.damaged_from)} on), and without them "
            "there is no majority that could say what was confirmed. Keep all disks as they are; bring back the "
            "damaged files from a copy, or decide by hand what to give up",
            Cause.DAMAGE,
        )

    def peer_up(self, peer: int) -> None:
        """Tell a new connection the vote."""
        if self._election is not None:
            self._tell(peer)

    def peer_down(self, peer: int) -> None:
        """Forget what came over a connection that has ended; the peer counts as heard."""
        if self._election is not None:
            self._react(self._election.lose(peer), None)
            self._judge_damage()

    def peer_refused(self) -> None:
        """One more counts as heard."""
        if self._election is not None:
            self._conclude()
            self._judge_damage()

    def wake(self) -> None:
        """Say the vote again, more and more seldom, and see whether the wait for a better one is over."""
        if self._election is None:
            return
        if self._local.now >= self._notify_at:
            self._pause = min(2 * self._pause, self._local.options.notify_seconds_max)
            self._broadcast()
        self._conclude()

    def _react(self, reaction: Reaction, peer: int | None) -> None:
        if reaction.broadcast:
            self._pause = self._local.options.notify_seconds_min
            self._broadcast()
        elif reaction.answer and peer is not None:
            self._tell(peer)
        self._conclude()

    def _conclude(self) -> None:
        assert self._election is not None
        self.decision = self._election.decide(self._local.gone, self._local.now)

    def _broadcast(self) -> None:
        self._notify_at = self._local.now + self._pause
        for peer in sorted(self._local.links):
            self._tell(peer)

    def _tell(self, peer: int) -> None:
        tell(self._local, peer, Role.LOOKING, 0, self.round, self.vote, self.own_zxid)


def tell(local: Local, peer: int, role: Role, epoch: int, round_number: int, vote: Vote, own_zxid: int) -> None:
    """Send *peer* a notification."""
    local.send(
        peer,
        Notification(
            epoch=epoch,
            connection=local.links[peer],
            round=round_number,
            role=role,
            vote=vote,
            member=local.member,
            own_zxid=own_zxid,
            configuration_zxid=local.configuration_zxid,
            listed=local.listed,
            damaged=local.damaged_from is not None,
        ),
    )
