"""The cluster of a broker on its own: one node, which leads and is always caught up.

So that its operator asks as everybody does, and is told what would make a cluster of it. This module must not know
frames or clients.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from sluicemq.broker.pipeline.ensemble.links import Identity
from sluicemq.broker.replication.membership import Configuration, Member
from sluicemq.wire.errors import Conflict

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from collections.abc import Set as AbstractSet

    from sluicemq.broker.pipeline.road import Road
    from sluicemq.wire.peers_of_links import NodeFigures


class Alone:
    """`ClusterControl` of a broker on its own.

    Args:
        road: Its road.
        node: Its number.
        address: Where it is reached.
        version: Of its program.

    """

    def __init__(self, road: Road, node: int, address: str, version: str) -> None:
        self._road = road
        self._version = version
        cluster_id = road.log.superblock.current.known_as
        self.identity = Identity(node, road.log.incarnation, cluster_id, founded=True, address=address)
        self.configuration: Configuration | None = Configuration(frozenset({Member(node, road.log.incarnation)}))
        self.addresses: Mapping[int, str] = {node: address}
        self.reachable: AbstractSet[int] = frozenset()
        self.heard: Mapping[int, NodeFigures] = {}
        self.acknowledged: Mapping[int, int] = {}
        self.snapshots: Mapping[int, dict[str, int]] = {}
        self.heard_seconds: float | None = 0.0
        self.exchanging = False

    @property
    def figures(self) -> NodeFigures:
        """How it is."""
        # Only operators ask; a broker on its own needs no more of what brokers say to each other.
        from sluicemq.broker.replication.messages import Phase, Role
        from sluicemq.wire.peers_of_links import NodeFigures

        road, ground = self._road, self._road.ground
        applied_zxid = road.machine.applied_zxid
        return NodeFigures(
            role=Role.LEADING.value,
            phase=Phase.BROADCAST.value,
            epoch=road.epoch,
            leader=self.identity.node,
            last_zxid=max(applied_zxid, road.log.last_zxid),
            committed_zxid=applied_zxid,
            applied_zxid=applied_zxid,
            log_time_ms=road.machine.log_time_ms,
            disk_free_bytes=ground.space.view.free_bytes,
            sync_microseconds=round(ground.append.sync_seconds * 1e6),
            version=self._version,
        )

    def bytes_behind(self, zxid: int) -> int | None:
        """Nobody is behind."""
        del zxid
        return None

    async def add_node(self, node: int, address: str) -> bool:
        """Refuse."""
        del address
        self._refuse(f"node {node} cannot join")

    async def remove_node(self, node: int) -> bool:
        """Refuse."""
        self._refuse(f"node {node} cannot leave")

    async def promote_node(self, node: int) -> bool:
        """Refuse."""
        self._refuse(f"node {node} cannot vote")

    async def transfer_lead(self, node: int, on_done: Callable[[], None]) -> None:
        """Refuse."""
        del on_done
        self._refuse(f"node {node} cannot lead")

    def _refuse(self, what: str) -> NoReturn:
        raise Conflict(
            f"{what}: this broker was started without --peers and is on its own; start it again with --peers that "
            "names it and the others, and those on empty directories"
        )
