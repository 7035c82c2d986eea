"""Three brokers of SluiceMQ.

Durability: a confirm follows the fdatasync of the log entry on a majority, the leader's own included; there is no other
mode. The client is the one of a single broker; it finds the leader by itself, whichever addresses it has.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import trio

from bench.adapters.sluicemq import SluiceServer
from bench.clusters import Cluster
from bench.servers import free_port
from sluicemq.client.cluster import ClusterReport
from sluicemq.client.cluster_probe import probe_cluster
from sluicemq.client.errors import SluiceError


class SluiceNode(SluiceServer):
    """One broker of several.

    Args:
        directory: Its own.
        number: Its id.

    """

    def __init__(self, directory: Path, number: int) -> None:
        super().__init__(directory)
        self.number = number
        self.port = free_port()
        self.peers: Sequence[SluiceNode] = ()

    def command(self) -> list[str]:
        """Return the command, with everybody's address."""
        peers = ",".join(f"{peer.number}=127.0.0.1:{peer.port}" for peer in self.peers)
        return [*super().command(), "--node-id", str(self.number), "--peers", peers]


class SluiceCluster(Cluster):
    """Three brokers with their default settings."""

    def make_nodes(self, directories: list[Path]) -> Sequence[SluiceNode]:
        """Return brokers 1 to 3."""
        nodes = [SluiceNode(directory, number) for number, directory in enumerate(directories, 1)]
        for node in nodes:
            node.peers = nodes
        return nodes

    def formed(self) -> bool:
        """Return whether somebody leads and all follow without a lag."""
        report = self._report()
        if report is None or report.leader is None:
            return False
        return all(
            node["reachable"] and node["role"] in ("leading", "following") and not node["lag_entries"]
            for node in report.nodes
        )

    def leader(self, queue: str) -> int | None:
        """Return who leads, for all queues the same."""
        report = self._report()
        return None if report is None or report.leader is None else report.leader - 1

    def _report(self) -> ClusterReport | None:
        url = "sluicemq://" + ",".join(f"127.0.0.1:{port}" for port in self.ports)

        async def ask() -> ClusterReport:
            return await probe_cluster(url, name="bench")

        try:
            return trio.run(ask)
        except SluiceError:
            return None
