"""Three servers of NATS with JetStream, streams with three replicas.

Durability: a publish is acknowledged when a majority has written it to its Raft log, a file. By default those files are
synced every two minutes: when a majority of the machines loses power, what was acknowledged since may be lost. With
`sync_interval: always` each server syncs before it answers.
Who leads a stream is told by the server's monitoring port, which costs nothing unless it is asked.
"""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.adapters.nats import NatsServer
from bench.clusters import NODES, Cluster
from bench.servers import free_port

ASK_SECONDS = 5.0


class NatsNode(NatsServer):
    """One server of several, with ports for its routes and for monitoring."""

    def __init__(self, directory: Path, sync: str) -> None:
        super().__init__(directory)
        self.sync = sync
        self.route_port = free_port()
        self.monitoring_port = free_port()
        self.peers: Sequence[NatsNode] = ()

    @property
    def name(self) -> str:
        """Its name within the cluster."""
        return f"node-{self.port}"

    def command(self) -> list[str]:
        """Return the command, after adding the cluster to its configuration."""
        command = super().command()
        routes = ", ".join(f'"nats://127.0.0.1:{peer.route_port}"' for peer in self.peers if peer is not self)
        with (self.directory / "nats.conf").open("a") as config:
            config.write(f'server_name: "{self.name}"\nhttp: "127.0.0.1:{self.monitoring_port}"\n')
            config.write(
                f'cluster {{\nname: bench\nlisten: "127.0.0.1:{self.route_port}"\nroutes: [{routes}]\n'
                f'cluster_advertise: "127.0.0.1:{self.route_port}"\n}}\n'
            )
        return command

    def ask(self, what: str) -> Any:
        """Return what its monitoring says."""
        url = f"http://127.0.0.1:{self.monitoring_port}/{what}"
        with urllib.request.urlopen(url, timeout=ASK_SECONDS) as answer:
            return json.load(answer)


class NatsCluster(Cluster):
    """The default sync interval (two minutes)."""

    sync = ""

    def make_nodes(self, directories: list[Path]) -> Sequence[NatsNode]:
        """Return servers that have routes to each other."""
        self._nodes = [NatsNode(directory, self.sync) for directory in directories]
        for node in self._nodes:
            node.peers = self._nodes
        return self._nodes

    def formed(self) -> bool:
        """Return whether every server knows a leader of the cluster, and the leader all servers as current."""
        seen = [node.ask("jsz").get("meta_cluster", {}) for node in self._nodes]
        names = {node.name for node in self._nodes}
        if any(meta.get("leader") not in names for meta in seen):
            return False
        replicas = [replica for meta in seen for replica in meta.get("replicas") or ()]
        current = {replica["name"] for replica in replicas if replica.get("current") and not replica.get("offline")}
        return len(current) >= NODES - 1 and self._streams_current()

    def _streams_current(self) -> bool:
        for node in self._nodes:
            for stream in _streams(node.ask("jsz?streams=true&accounts=true")):
                group = stream.get("cluster", {})
                if group.get("leader") == node.name and not all(
                    replica.get("current") for replica in group.get("replicas") or ()
                ):
                    return False
        return True

    def leader(self, queue: str) -> int | None:
        """Return who leads the stream of this name."""
        for index, node in enumerate(self._nodes):
            for stream in _streams(node.ask("jsz?streams=true&accounts=true")):
                if stream["name"] == queue and stream.get("cluster", {}).get("leader") == node.name:
                    return index
        return None


class NatsClusterSyncing(NatsCluster):
    """Each server syncs each message before it answers."""

    sync = "sync_interval: always"


def _streams(answer: Any) -> list[Any]:
    return [stream for account in answer.get("account_details") or () for stream in account.get("stream_detail") or ()]
