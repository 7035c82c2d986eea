"""What operators see of the cluster and may do with it: the protocol that a node offers, and the rows of its status.

Every broker answers for the status, whoever leads: what it knows of the others is what they said of themselves a moment
ago (`NodeFigures`). Changes are the leader's. This module must not know sockets or frames.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from collections.abc import Set as AbstractSet

    from sluicemq.broker.pipeline.ensemble.links import Identity
    from sluicemq.broker.replication.membership import Configuration
    from sluicemq.wire.peers_of_links import NodeFigures

COUNTER_MASK = 0xFFFF_FFFF


class ClusterControl(Protocol):
    """One node's view of its cluster, and what can be asked of it. In the event loop, but for `bytes_behind`."""

    @property
    def identity(self) -> Identity:
        """Who this node is."""

    @property
    def figures(self) -> NodeFigures:
        """How this node is."""

    @property
    def heard_seconds(self) -> float | None:
        """For how long this node has not heard of a leader; 0 if it leads, None if it never has."""

    @property
    def exchanging(self) -> bool:
        """Whether a snapshot is just taking the place of log and state: there is nothing to look at."""

    @property
    def configuration(self) -> Configuration | None:
        """Who votes, as far as this node knows; None before there is a cluster."""

    @property
    def addresses(self) -> Mapping[int, str]:
        """Where each node is reached, `host:port`."""

    @property
    def reachable(self) -> AbstractSet[int]:
        """The other nodes that there is a connection to."""

    @property
    def heard(self) -> Mapping[int, NodeFigures]:
        """What those said last of how they are."""

    @property
    def acknowledged(self) -> Mapping[int, int]:
        """What the others have durably of this node's log, if it leads: fresher than what they said."""

    @property
    def snapshots(self) -> Mapping[int, dict[str, int]]:
        """Snapshots that are being sent, by node: `zxid`, `sent_bytes`, `snapshot_bytes`, `pages_bytes`."""

    def bytes_behind(self, zxid: int) -> int | None:
        """Return how many bytes of this node's log lie behind *zxid*; None if it cannot be told. From a thread."""

    async def add_node(self, node: int, address: str) -> bool:
        """Note where *node* is reached, so that everybody talks to it; return whether that is news.

        Raises:
            NotLeader: Another node leads.

        """

    async def remove_node(self, node: int) -> bool:
        """Let *node* vote no more and forget where it is; return whether anything changed. Raises as the core says."""

    async def promote_node(self, node: int) -> bool:
        """Let *node* vote; return False if it did. Raises as the core says."""

    async def transfer_lead(self, node: int, on_done: Callable[[], None]) -> None:
        """Let *node* lead, which another one does now, and call *on_done* as soon as that is sure.

        Then at once, because the client that asked is sent away with all others when the lead goes. Raises as the core
        says.
        """


def rows_of(control: ClusterControl, bytes_behind: Mapping[int, int | None]) -> list[dict[str, Any]]:
    """Return one row a node, by rising id. Names only ever get added. What nobody knows is None.

    Args:
        control: Who knows.
        bytes_behind: How far each node is behind in bytes, as far as that is known.

    """
    own, configuration = control.identity.node, control.configuration
    figures = {**control.heard, own: control.figures}
    voters: set[int] = set()
    joining: set[int] = set()
    if configuration is not None:
        voters = {member.node for member in configuration.voters}
        joining = {member.node for member in configuration.next_voters or ()} - voters
    lasts = {node: max(found.last_zxid, control.acknowledged.get(node, 0)) for node, found in figures.items()}
    ahead_zxid = max(lasts.values())
    ahead = max(figures.values(), key=lambda each: each.last_zxid)
    rows = []
    for node in sorted({*figures, *voters, *joining, *control.addresses}):
        found = figures.get(node)
        row: dict[str, Any] = {
            "id": node,
            "role": None if found is None else found.role,
            "phase": None if found is None else found.phase,
            "voter": node in voters,
            "joining": node in joining,
            "epoch": None if found is None else found.epoch,
            "last_zxid": lasts.get(node),
            "committed_zxid": None if found is None else found.committed_zxid,
            "applied_zxid": None if found is None else found.applied_zxid,
            "lag_entries": None,
            "lag_bytes": None,
            "lag_seconds": None,
            "disk_free_bytes": None if found is None else found.disk_free_bytes,
            "sync_seconds": None if found is None else found.sync_microseconds / 1e6,
            "address": control.addresses.get(node) or (control.identity.address if node == own else ""),
            "reachable": node == own or node in control.reachable,
            "version": None if found is None else found.version,
            "snapshot": control.snapshots.get(node),
        }
        if found is not None:
            row["lag_entries"] = entries_between(lasts[node], ahead_zxid)
            row["lag_bytes"] = 0 if lasts[node] == ahead_zxid else bytes_behind.get(node)
            late_ms = ahead.log_time_ms - found.log_time_ms
            row["lag_seconds"] = max(0, late_ms) / 1000 if found.applied_zxid < ahead.applied_zxid else 0.0
        rows.append(row)
    return rows


def entries_between(behind_zxid: int, zxid: int) -> int:
    """Return how many entries lie behind one and up to another; at least so many, where an epoch ends in between."""
    if zxid >> 32 == behind_zxid >> 32:
        return zxid - behind_zxid
    return (zxid & COUNTER_MASK) + 1
