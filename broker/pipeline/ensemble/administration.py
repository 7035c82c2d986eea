"""What an operator may ask of one broker of an ensemble: how all are, and who joins, votes, leads and leaves.

`ClusterControl` on top of the ensemble and of whoever carries its messages. Changes of voters and handing over the lead
are requests to the replication core; where a broker is reached is an entry of the log. This module must not know frames
or clients.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import trio

from sluicemq.broker.queues.entries_of_cluster import NodeAddress
from sluicemq.broker.replication import events as ev
from sluicemq.broker.replication.messages import Phase, Role
from sluicemq.storage.errors import StorageError
from sluicemq.wire.errors import Conflict, OutcomeUnknown, RequestTimeout, Unavailable
from sluicemq.wire.peers_of_links import NodeFigures

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from collections.abc import Set as AbstractSet

    from sluicemq.broker.pipeline.ensemble.driver import Asked
    from sluicemq.broker.pipeline.ensemble.ensemble import Ensemble
    from sluicemq.broker.pipeline.ensemble.links import Identity
    from sluicemq.broker.pipeline.road import Road
    from sluicemq.broker.queues.outcomes import Outcome
    from sluicemq.broker.replication.membership import Configuration

CHANGE_SECONDS = 15.0
"""How long a change may take; what it became then, the status says."""
LOOK_SECONDS = 0.1
"""How often is looked whether this broker still leads."""


class Neighbours(Protocol):
    """What the links know of the others."""

    def reachable(self) -> AbstractSet[int]:
        """Return the nodes that there is a connection to."""

    def figures(self) -> Mapping[int, NodeFigures]:
        """Return what those said last of how they are."""

    def snapshots(self) -> Mapping[int, dict[str, int]]:
        """Return the snapshots that are being sent, by node."""


class Administration:
    """`ClusterControl` of one broker.

    Args:
        ensemble: The broker.
        version: Of its program.

    Attributes:
        neighbours: What the links know; set before anybody asks.

    """

    neighbours: Neighbours

    def __init__(self, ensemble: Ensemble, version: str) -> None:
        self._ensemble = ensemble
        self._version = version

    # --- looking ------------------------------------------------------------------------------------------------------

    @property
    def identity(self) -> Identity:
        """Who this broker is."""
        return self._ensemble.identity

    @property
    def figures(self) -> NodeFigures:
        """How this broker is."""
        replica, ground = self._ensemble.replica, self._ensemble.ground
        return NodeFigures(
            role=replica.role.value,
            phase=replica.phase.value,
            epoch=replica.epoch,
            leader=replica.leader or 0,
            last_zxid=replica.last.zxid,
            committed_zxid=replica.committed_zxid,
            # While a snapshot takes the place of everything there is no ground.
            applied_zxid=0 if ground is None else ground.machine.applied_zxid,
            log_time_ms=0 if ground is None else ground.machine.log_time_ms,
            disk_free_bytes=0 if ground is None else ground.space.view.free_bytes,
            sync_microseconds=0 if ground is None else round(ground.append.sync_seconds * 1e6),
            version=self._version,
        )

    @property
    def heard_seconds(self) -> float | None:
        """For how long this broker has not heard of a leader."""
        hearing, replica = self._ensemble.hearing, self._ensemble.replica
        if replica.role is Role.LEADING and replica.phase is Phase.BROADCAST:
            hearing.leader_at = trio.current_time()
        return hearing.seconds_ago(trio.current_time())

    @property
    def exchanging(self) -> bool:
        """Whether a snapshot is just taking the place of log and state."""
        return self._ensemble.ground is None

    @property
    def configuration(self) -> Configuration | None:
        """Who votes."""
        return self._ensemble.replica.configuration

    @property
    def addresses(self) -> Mapping[int, str]:
        """Where each broker is reached."""
        return self._ensemble.addresses

    @property
    def reachable(self) -> AbstractSet[int]:
        """The other nodes that there is a connection to."""
        return self.neighbours.reachable()

    @property
    def heard(self) -> Mapping[int, NodeFigures]:
        """What those said last of how they are."""
        return self.neighbours.figures()

    @property
    def acknowledged(self) -> Mapping[int, int]:
        """What the others have durably of this broker's log, if it leads."""
        learners = self._ensemble.replica.learners
        return {node: learner.acknowledged_zxid for node, learner in learners.items()}

    @property
    def snapshots(self) -> Mapping[int, dict[str, int]]:
        """Snapshots that are being sent."""
        return self.neighbours.snapshots()

    def bytes_behind(self, zxid: int) -> int | None:
        """Return how many bytes of this broker's log lie behind *zxid*; blocks."""
        try:
            return self._ensemble.log.bytes_after(zxid)
        except (StorageError, AssertionError):
            # An entry that this log does not have, or the log is just being exchanged: nobody can tell.
            return None

    # --- changing -----------------------------------------------------------------------------------------------------

    async def add_node(self, node: int, address: str) -> bool:
        """Note where *node* is reached; return whether that is news."""
        road = self._ensemble.road
        if road is None or road.over:
            raise self._ensemble.not_leader()
        addresses = road.machine.cluster.addresses
        if addresses.get(node) == address:
            return False
        if (holder := next((other for other, known in addresses.items() if known == address), 0)) != 0:
            raise Conflict(
                f"node {holder} is reached at {address}; give node {node} its own, or remove node {holder} first"
            )
        await self._propose_address(road, node, address)
        return True

    async def remove_node(self, node: int) -> bool:
        """Let *node* vote no more and forget where it is; return whether anything changed."""
        configuration = self._leading_configuration()
        votes = any(member.node == node for member in configuration.everybody)
        if votes and node == self._ensemble.node:
            # Another one leads first, and whoever asked is sent there: the leader that remains forgets this one.
            await self._lead_elsewhere(configuration)
            raise self._ensemble.not_leader()
        if votes:
            await self._ask(lambda asked: ev.RemoveVoter(asked, node), f"removing node {node}")
        road = self._ensemble.road
        if road is None or road.over or node not in road.machine.cluster.addresses:
            return votes
        await self._propose_address(road, node, "")
        return True

    async def promote_node(self, node: int) -> bool:
        """Let *node* vote; return False if it did."""
        configuration = self._leading_configuration()
        peer = self._ensemble.peers.get(node)
        if configuration.next_voters is None and any(
            member.node == node and (peer is None or peer.incarnation == member.incarnation)
            for member in configuration.voters
        ):
            return False
        await self._ask(lambda asked: ev.AddVoter(asked, node), f"promoting node {node}")
        road = self._ensemble.road
        if peer is not None and road is not None and not road.over and node in road.machine.cluster.removed:
            await self._propose_address(road, node, peer.address)
        return True

    async def transfer_lead(self, node: int, on_done: Callable[[], None]) -> None:
        """Let *node* lead; *on_done* is called as soon as that is sure."""
        self._leading_configuration()
        what = f"handing the lead over to node {node}"
        await self._ask(lambda asked: ev.TransferLeadership(asked, node), what, on_done)

    async def _lead_elsewhere(self, configuration: Configuration) -> None:
        """Hand the lead over to the voter that has most of the log."""
        learners = self._ensemble.replica.learners
        voters = {member.node for member in configuration.settled().voters}
        if voters == {self._ensemble.node}:
            raise Conflict(f"node {self._ensemble.node} is the only one that votes: promote another one first")
        best = max(voters & set(learners), key=lambda peer: (learners[peer].acknowledged_zxid, peer), default=None)
        if best is None:
            raise Unavailable("no other node that votes is connected; try again when one is", retry_after=1.0)
        await self._ask(lambda asked: ev.TransferLeadership(asked, best), f"handing the lead over to node {best}")
        await self._ensemble.driver.until(lambda: self._ensemble.replica.role is not Role.LEADING)

    def _leading_configuration(self) -> Configuration:
        replica = self._ensemble.replica
        if replica.role is not Role.LEADING or replica.phase is not Phase.BROADCAST or replica.configuration is None:
            raise self._ensemble.not_leader()
        return replica.configuration

    async def _ask(
        self, request: Callable[[Asked], ev.Event], what: str, on_done: Callable[[], None] | None = None
    ) -> None:
        with trio.move_on_after(CHANGE_SECONDS):
            await self._ensemble.driver.ask(request, on_done).wait()
            return
        raise RequestTimeout(f"{what} takes longer than {CHANGE_SECONDS:.0f} s; `sluicemq cluster status` tells more")

    async def _propose_address(self, road: Road, node: int, address: str) -> None:
        done = trio.Event()
        answers: list[Outcome] = []

        def applied(outcome: Outcome) -> None:
            answers.append(outcome)
            done.set()

        road.propose(NodeAddress(road.clock.now_ms(), node, address), on_applied=applied)
        with trio.move_on_after(CHANGE_SECONDS):
            while not done.is_set():
                if road.over:
                    raise OutcomeUnknown(f"this broker ceased to lead before node {node} was noted; ask again")
                with trio.move_on_after(LOOK_SECONDS):
                    await done.wait()
            if answers[0].error is not None:
                raise answers[0].error
            return
        raise OutcomeUnknown(f"noting node {node} takes longer than {CHANGE_SECONDS:.0f} s; ask again")
