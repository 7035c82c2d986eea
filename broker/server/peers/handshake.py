"""Who may talk to whom: what both ends of a stream say of themselves, and what each checks of the other.

Pure; nothing here reads or writes. Every refusal is typed and names the value that was wrong, because an operator reads
it: in the log of the broker that was refused, and of the one that refused.
"""

from __future__ import annotations

from sluicemq.broker.pipeline.ensemble.links import Identity
from sluicemq.wire.errors import ClusterMismatch, Conflict, NodeMismatch, ProtocolError, VersionMismatch
from sluicemq.wire.peers import (
    CLUSTER_ID_BYTES,
    INCARNATION_BYTES,
    PEER_VERSION_MAX,
    PEER_VERSION_MIN,
    STREAM_CONTROL,
    STREAM_SNAPSHOT_WANTED,
    PeerHello,
)
from sluicemq.wire.peers_of_links import ClusterNamed

GROUP = 0
"""The group of this broker; more of them can come."""


def hello(own: Identity, addressed_node: int, connection: int, stream: int, server_version: str) -> PeerHello:
    """Return what *own* says on a stream of this kind."""
    return PeerHello(
        version_min=PEER_VERSION_MIN,
        version_max=PEER_VERSION_MAX,
        cluster_id=own.cluster_id,
        group_id=GROUP,
        node=own.node,
        incarnation=own.incarnation,
        addressed_node=addressed_node,
        connection=connection,
        stream=stream,
        founded=own.founded,
        address=own.address,
        server_version=server_version,
    )


def check_caller(own: Identity, said: PeerHello) -> Identity:
    """Return who opened a stream to us.

    Raises:
        ProtocolError: A value is none.
        VersionMismatch: We share no version with it.
        ClusterMismatch: It belongs to another cluster.
        NodeMismatch: It means another broker than this one, or has our own number.

    """
    peer = _identity(said)
    if said.version_max < PEER_VERSION_MIN or said.version_min > PEER_VERSION_MAX:
        raise VersionMismatch(
            f"node {said.node} ({said.server_version or 'unknown'}) speaks versions {said.version_min} to "
            f"{said.version_max} of the protocol between brokers, node {own.node} {PEER_VERSION_MIN} to "
            f"{PEER_VERSION_MAX}; upgrade one release at a time",
            version_min=PEER_VERSION_MIN,
            version_max=PEER_VERSION_MAX,
        )
    if said.group_id != GROUP:
        raise ClusterMismatch(f"node {said.node} wants to talk about group {said.group_id}; known is {GROUP}")
    check_cluster(own, peer)
    if peer.node == own.node:
        if peer.incarnation == own.incarnation:
            raise NodeMismatch(f"node {own.node} has reached itself; give peers their own addresses", node=own.node)
        raise NodeMismatch(
            f"two brokers have the node id {own.node}: give each of them its own (another disk has {own.address})",
            node=own.node,
        )
    if said.addressed_node != own.node:
        raise NodeMismatch(
            f"node {said.addressed_node} was called, but this address is that of node {own.node}", node=own.node
        )
    return peer


def check_called(own: Identity, called_node: int, asked: PeerHello, answered: PeerHello) -> Identity:
    """Return who answered on a stream that we opened. Raises as `check_caller`."""
    if answered.node != called_node and answered.node != own.node:
        raise NodeMismatch(
            f"node {called_node} was called, but node {answered.node} answered; give it its own address",
            node=answered.node,
        )
    peer = check_caller(own, answered)
    if (answered.connection, answered.stream) != (asked.connection, asked.stream):
        raise ProtocolError(
            f"node {peer.node} answered for stream {answered.stream} of connection {answered.connection}; "
            f"asked was for stream {asked.stream} of connection {asked.connection}"
        )
    return peer


def check_cluster(own: Identity, peer: Identity) -> None:
    """Return if the two may be of one cluster; raises ClusterMismatch."""
    if not own.may_talk_to(peer):
        raise ClusterMismatch(
            f"node {peer.node} at {peer.address or 'an unknown address'} belongs to cluster {peer.cluster_id.hex()}, "
            f"node {own.node} to cluster {own.cluster_id.hex()}; one of them has the data directory or the peers of "
            "another cluster, or was made a new one by `sluicemq cluster force-new`, which others join on empty "
            "directories",
            cluster_id=own.cluster_id.hex(),
            peer_cluster_id=peer.cluster_id.hex(),
        )


def check_incarnation(connected: Identity, caller: Identity) -> None:
    """Return if *caller* may take the place of who is *connected*; raises NodeMismatch."""
    if connected.incarnation != caller.incarnation:
        raise NodeMismatch(
            f"a node {caller.node} with another disk is connected from {connected.address}: two brokers have its number"
            ", or its old connection has not ended yet",
            retryable=True,
            retry_after=1.0,
            node=caller.node,
        )


def renamed(peer: Identity, named: ClusterNamed) -> Identity:
    """Return *peer* with the cluster that it says it belongs to now.

    Raises:
        ProtocolError: That is no cluster, or it belonged to another one before.

    """
    if len(named.cluster_id) != CLUSTER_ID_BYTES:
        raise ProtocolError(f"ClusterNamed.cluster_id has {len(named.cluster_id)} bytes, it must have 16")
    if peer.founded and (not named.founded or named.cluster_id != peer.cluster_id):
        raise ProtocolError(f"node {peer.node} left cluster {peer.cluster_id.hex()} in the middle of a connection")
    return Identity(peer.node, peer.incarnation, named.cluster_id, named.founded, peer.address)


def tie(own_node: int, peer_node: int) -> Conflict:
    """Return why a call is refused: both called each other at once, and ours is as good as through."""
    return Conflict(
        f"nodes {own_node} and {peer_node} called each other at once; that of node {max(own_node, peer_node)} counts",
        retryable=True,
    )


def _identity(said: PeerHello) -> Identity:
    if len(said.cluster_id) != CLUSTER_ID_BYTES or len(said.incarnation) != INCARNATION_BYTES:
        raise ProtocolError(
            f"PeerHello with a cluster id of {len(said.cluster_id)} and an incarnation of {len(said.incarnation)} bytes"
        )
    if not said.node:
        raise ProtocolError("PeerHello.node is 0, which is no node")
    if not STREAM_CONTROL <= said.stream <= STREAM_SNAPSHOT_WANTED:
        raise ProtocolError(f"PeerHello.stream is {said.stream}, which is none")
    return Identity(said.node, said.incarnation, said.cluster_id, said.founded, said.address)
