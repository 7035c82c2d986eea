"""Who votes, as bytes: in the core's own records, in snapshots, and in what brokers send each other.

Equal configurations give equal bytes. This module must not know what a configuration means.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgpack

from sluicemq.broker.replication.membership import Configuration, Member
from sluicemq.wire.errors import NodeMismatch, ProtocolError

if TYPE_CHECKING:
    from sluicemq.broker.queues.cluster import Cluster

INCARNATION_BYTES = 16

__all__ = ["check_own_disk", "configuration_of", "pack_configuration", "unpack_configuration"]


def pack_configuration(configuration: Configuration) -> bytes:
    """Return the bytes of *configuration*: the voters and the next voters (or nil), each [node, incarnation]."""
    groups = (configuration.voters, configuration.next_voters)
    packed: bytes = msgpack.packb([None if group is None else sorted(map(list, group)) for group in groups])
    return packed


def unpack_configuration(packed: bytes | memoryview) -> Configuration:
    """Return the configuration in *packed*.

    Raises:
        ProtocolError: There is none.

    """
    try:
        voters, next_voters = msgpack.unpackb(packed)
        return Configuration(_members(voters), None if next_voters is None else _members(next_voters))
    except (ValueError, TypeError, msgpack.UnpackException, RecursionError) as error:
        raise ProtocolError(f"a configuration of voters makes no sense: {error!s:.200}") from None


def _members(rows: Any) -> frozenset[Member]:
    found = frozenset(Member(node, incarnation) for node, incarnation in rows)
    for node, incarnation in found:
        if type(node) is not int or not 0 < node < 1 << 32:
            raise ValueError(f"{node!r:.40} is no node")
        if type(incarnation) is not bytes or len(incarnation) != INCARNATION_BYTES:
            raise ValueError(f"{incarnation!r:.40} is no incarnation of node {node}")
    return found


def configuration_of(cluster: Cluster) -> tuple[int, Configuration] | None:
    """Return who votes by the machine's state, and the entry that said so; None where nobody did."""
    if not cluster.configuration:
        return None
    return cluster.configuration_zxid, unpack_configuration(cluster.configuration)


def check_own_disk(configuration: Configuration | None, own: Member) -> None:
    """Return unless the disk of *own* votes under another number: it was copied or swapped, or the number is wrong.

    Raises:
        NodeMismatch: It is the disk of another node.

    """
    everybody = configuration.everybody if configuration is not None else ()
    numbers = {member.node for member in everybody if member.incarnation == own.incarnation}
    if numbers and own.node not in numbers:
        owner = min(numbers)
        raise NodeMismatch(
            f"the data directory is that of node {owner}, but this is node {own.node}: start it with --node-id {owner},"
            f" or node {own.node} on its own directory; an empty one is always right",
            node=owner,
        )
