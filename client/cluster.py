"""The cluster: how its brokers are, and who joins, votes, leads and leaves.

`ClusterCalls` is the part of `Client` that is about it. They go to the leader, as all calls do. `cluster_status` alone
also asks brokers that do not lead, of a cluster that has no leader at the moment.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sluicemq.client.asking import Asking
from sluicemq.wire import messages as m
from sluicemq.wire.fields import Message as WireMessage

__all__ = ["ClusterCalls", "ClusterReport"]


@dataclass(frozen=True, slots=True)
class ClusterReport:
    """How a cluster is, as one of its brokers knows it.

    Attributes:
        node: Id of the broker that answered.
        leader: Id of the broker that it follows, or itself; None where it knows none.
        cluster_id: Names the cluster, in hexadecimal digits.
        nodes: One map a broker, by rising id: `id`, `role` ("leading", "following", "observing", "looking"), `phase`,
            `voter`, `joining`, `epoch`, `last_zxid`, `committed_zxid`, `applied_zxid`, `lag_entries`, `lag_bytes`,
            `lag_seconds`, `disk_free_bytes`, `sync_seconds`, `address`, `reachable`, `version`, `snapshot` (what is
            being sent to it, if anything). What is not known is None.
        changing: Whether a change of who votes is on its way.

    """

    node: int
    leader: int | None
    cluster_id: str
    nodes: list[dict[str, Any]]
    changing: bool

    def lacks(self, *, lag_seconds_max: float | None = None) -> list[str]:
        """Return what the cluster lacks, a sentence each; nothing where somebody leads and who votes is there to vote.

        Args:
            lag_seconds_max: A voter that is further behind than this is named too. Default: lag is not looked at.

        """
        voters = [each for each in self.nodes if each["voter"]]
        missing = [str(each["id"]) for each in voters if not each["reachable"]]
        lacks = [f"nobody leads, as far as node {self.node} knows"] if self.leader is None else []
        if missing:
            lacks.append(f"not reachable from node {self.node}: {', '.join(missing)}")
        lacks += [
            f"node {each['id']} does not vote, because its disk is not the one that did: "
            f"`sluicemq cluster promote {each['id']}` lets the new one take its place"
            for each in voters
            if each["reachable"] and vote_is_vacant(each)
        ]
        if lag_seconds_max is not None:
            lacks += [
                f"node {each['id']} is {_behind(each)} behind"
                for each in voters
                if each["reachable"]
                and not (each["lag_seconds"] is not None and each["lag_seconds"] <= lag_seconds_max)
            ]
        return lacks


def vote_is_vacant(row: dict[str, Any]) -> bool:
    """Whether the number of this row votes, but the broker that has it came back on another disk and only learns."""
    return bool(row["voter"]) and row["role"] == "observing"


def _behind(row: dict[str, Any]) -> str:
    return "an unknown time" if row["lag_seconds"] is None else f"{row['lag_seconds']:.1f} s"


class ClusterCalls(Asking):
    """The calls of a client that are about the cluster; `Client` has them."""

    async def cluster_status(self) -> ClusterReport:
        """Return how the cluster is, as the broker that this client is connected to knows it."""
        return report_of(await self._ask(m.ClusterStatus()))

    async def add_node(self, node: int, address: str) -> bool:
        """Let the broker *node*, which listens at *address*, learn from the cluster; return whether that is news.

        It does not vote before `promote_node`. It may be started before or after this call.

        Raises:
            InvalidRequest: That is no node or no address.
            NotLeader: The broker does not lead any more; the same call may be repeated.

        """
        return await self._change(m.AddNode(node, address))

    async def remove_node(self, node: int) -> bool:
        """Let the broker *node* vote no more, and forget where it is; return whether anything changed.

        When this returns it may be switched off.

        Raises:
            Unavailable: Those who are left could not decide anything: too few of them are connected. Or another change
                is on its way.
            OutcomeUnknown: The connection broke before the answer; the same call may be repeated.

        """
        return await self._change(m.RemoveNode(node))

    async def promote_node(self, node: int) -> bool:
        """Let the broker *node* vote; return False if it did already.

        Raises:
            Unavailable: It is not connected, or has not caught up yet; or another change is on its way.
            OutcomeUnknown: The connection broke before the answer; the same call may be repeated.

        """
        return await self._change(m.PromoteNode(node))

    async def transfer_lead(self, node: int) -> bool:
        """Let the broker *node* lead, without an election; return False if it does already.

        Raises:
            NotFound: It does not vote.
            Unavailable: It is not connected, or did not catch up in time; nothing changed.

        """
        return await self._change(m.TransferLead(node))

    async def _change(self, message: WireMessage) -> bool:
        reply = await self._ask(message)
        assert isinstance(reply, m.ClusterChanged)
        return reply.outcome == "changed"


def report_of(reply: WireMessage) -> ClusterReport:
    """Return what a broker answered."""
    assert isinstance(reply, m.ClusterState)
    return ClusterReport(reply.node, reply.leader or None, reply.cluster_id, reply.nodes, reply.changing)
