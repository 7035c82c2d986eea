"""Calls as ClusterCalls has them.

Made by a test from `sluicemq.client.cluster`, see `tests/client/blocking/facade.py`; do not edit.
"""

from __future__ import annotations

from sluicemq.client.blocking.calls._base import Base
from sluicemq.client.cluster import ClusterReport


class ClusterCalls(Base):
    """These calls of the client."""

    def cluster_status(self) -> ClusterReport:
        """Return how the cluster is, as the broker that this client is connected to knows it."""
        return self._io.call(self._inner.cluster_status)

    def add_node(self, node: int, address: str) -> bool:
        """Let the broker *node*, which listens at *address*, learn from the cluster; return whether that is news.

        It does not vote before `promote_node`. It may be started before or after this call.

        Raises:
            InvalidRequest: That is no node or no address.
            NotLeader: The broker does not lead any more; the same call may be repeated.
        """
        return self._io.call(self._inner.add_node, node, address)

    def remove_node(self, node: int) -> bool:
        """Let the broker *node* vote no more, and forget where it is; return whether anything changed.

        When this returns it may be switched off.

        Raises:
            Unavailable: Those who are left could not decide anything: too few of them are connected. Or another change
                is on its way.
            OutcomeUnknown: The connection broke before the answer; the same call may be repeated.
        """
        return self._io.call(self._inner.remove_node, node)

    def promote_node(self, node: int) -> bool:
        """Let the broker *node* vote; return False if it did already.

        Raises:
            Unavailable: It is not connected, or has not caught up yet; or another change is on its way.
            OutcomeUnknown: The connection broke before the answer; the same call may be repeated.
        """
        return self._io.call(self._inner.promote_node, node)

    def transfer_lead(self, node: int) -> bool:
        """Let the broker *node* lead, without an election; return False if it does already.

        Raises:
            NotFound: It does not vote.
            Unavailable: It is not connected, or did not catch up in time; nothing changed.
        """
        return self._io.call(self._inner.transfer_lead, node)
