"""Messages about the cluster itself: who is in it, how they are, and who joins, votes, leads and leaves.

As in `messages`: vocabulary only, and even field numbers must be understood. CLUSTER_STATUS alone may come before the
session is open, because it is wanted most when nobody leads.
"""

from __future__ import annotations

from typing import Any

from sluicemq.wire.fields import Message, boolean, list_of, map_of_text, message, text, unsigned, wire_field

__all__ = [
    "AddNode",
    "ClusterChanged",
    "ClusterState",
    "ClusterStatus",
    "PromoteNode",
    "RemoveNode",
    "TransferLead",
]

NODES_MAX = 1_000
ADDRESS_BYTES_MAX = 300

_node = unsigned(32)


@message(140)
class ClusterStatus(Message):
    """Ask any broker how the cluster is, as far as it knows. Answered by CLUSTER_STATE."""


@message(141)
class ClusterState(Message):
    """One map a node, by rising id; names only ever get added. `node` answers; `leader` is 0 where it knows none."""

    node: int = wire_field(2, _node)
    leader: int = wire_field(4, _node)
    cluster_id: str = wire_field(6, text(32))
    nodes: list[dict[str, Any]] = wire_field(8, list_of(map_of_text, NODES_MAX))
    changing: bool = wire_field(10, boolean, default=False)


@message(142)
class AddNode(Message):
    """Let a broker that runs at this address learn from the cluster; it does not vote. Answered by CLUSTER_CHANGED."""

    node: int = wire_field(2, _node)
    address: str = wire_field(4, text(ADDRESS_BYTES_MAX))


@message(143)
class ClusterChanged(Message):
    """It is done (`changed`), or was so before (`unchanged`)."""

    outcome: str = wire_field(2, text(16))


@message(144)
class RemoveNode(Message):
    """Let a broker vote no more, and be forgotten. Answered by CLUSTER_CHANGED."""

    node: int = wire_field(2, _node)


@message(146)
class PromoteNode(Message):
    """Let a broker that learns and has caught up vote. Answered by CLUSTER_CHANGED."""

    node: int = wire_field(2, _node)


@message(148)
class TransferLead(Message):
    """Let a broker that votes lead. Answered by CLUSTER_CHANGED."""

    node: int = wire_field(2, _node)
