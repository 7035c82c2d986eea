"""Who takes part with three nodes, and what each one's confirm promises there.

The same `System` as for one node; its server is a `bench.clusters.Cluster`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from bench.systems import AIO_PIKA, BY_NAME, FSYNC, INTERVAL, NATS, PIKA, RABBIT, System

OURS_CLUSTERED = "sluicemq-three"
_QUORUM: dict[str, Any] = {
    **RABBIT,
    "server": "rabbitmq_cluster:RabbitCluster",
    "kind": "quorum",
    "promise": FSYNC,
    "durability": "write-ahead logs of a majority synced before confirm",
    "default": False,
}

CLUSTERS = (
    replace(
        BY_NAME["sluicemq"],
        name=OURS_CLUSTERED,
        server="sluicemq_cluster:SluiceCluster",
        durability="log entry fdatasynced by a majority before confirm",
    ),
    System(name="rabbitmq-three-pika", title="RabbitMQ quorum, pika", **_QUORUM, **PIKA),
    System(
        name="rabbitmq-three-aio-pika",
        title="RabbitMQ quorum, aio-pika",
        **_QUORUM,
        **{**AIO_PIKA, "client": "rabbitmq_cluster:AioPikaSwitching"},
    ),
    System(
        name="nats-three-always",
        title="NATS JetStream, 3 replicas, sync always",
        promise=FSYNC,
        durability="files of a majority synced before acknowledgement",
        default=False,
        **{**NATS, "server": "nats_cluster:NatsClusterSyncing", "kind": "replicated"},
    ),
    System(
        name="zookeeper-three",
        title="ZooKeeper, sequential znodes, kazoo",
        server="zookeeper:ZookeeperCluster",
        client="zookeeper:ZookeeperClient",
        promise=FSYNC,
        durability="transaction logs of a majority synced before answer",
        default=True,
        distribution="kazoo",
        module="kazoo",
        programs=("/usr/share/zookeeper/bin/zkServer.sh",),
        package="zookeeper",
    ),
    System(
        name="nats-three",
        title="NATS JetStream, 3 replicas",
        promise=INTERVAL,
        durability="written by a majority before acknowledgement, synced every 2 minutes",
        default=True,
        **{**NATS, "server": "nats_cluster:NatsCluster", "kind": "replicated"},
    ),
)
CLUSTERS_BY_NAME = {system.name: system for system in CLUSTERS}
FAILING_OVER = (OURS_CLUSTERED, "rabbitmq-three-aio-pika", "nats-three", "zookeeper-three")
"""Of whom it is measured for how long publishing stops; that does not depend on syncs."""


def find(name: str) -> System:
    """Return the system of this name, of one node or of three."""
    return CLUSTERS_BY_NAME.get(name) or BY_NAME[name]
