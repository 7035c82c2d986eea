"""The few figures that a reader wants first, as tables: for README and the head of the page of performance. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import fill

from bench.cluster_report import fault_cells, fault_records
from bench.cluster_scenarios import FAULTS, LEADER
from bench.losses import MEASURES, better_systems
from bench.report import Column, Figure, Results, rounded, table
from bench.systems import BY_NAME

ONE_EACH = ("sluicemq", "rabbitmq-quorum-pika", "nats-always", "redis-always", "beanstalkd-always")
"""Of each server that syncs before it confirms, the client and the kind of queue that suit it best."""
THREE_EACH = (
    ("SluiceMQ", "sluicemq-three", "sluicemq-three"),
    ("RabbitMQ, quorum queue", "rabbitmq-three-pika", "rabbitmq-three-aio-pika"),
    ("NATS JetStream, 3 replicas", "nats-three-always", "nats-three"),
    ("ZooKeeper", "zookeeper-three", "zookeeper-three"),
)
"""Title, of which system rates are shown, and of which how long a lost leader stops publishing."""
COLUMNS = (
    Column("publish/s", "rates", "publish_per_second", size=100),
    Column("consume/s", "rates", "consume_per_second", size=100),
    Column("one at a time, ms", "one in flight", "p50_seconds", 1e3),
    Column("server CPU, s per million published", "rates", "publish_server_cpu_per_million", size=100),
    Column("memory at rest, MiB", "at rest", "memory_bytes", 2**-20),
)
THREE_COLUMNS = COLUMNS[:3]
LINE = 120


def single_table(results: Results) -> str:
    """Return the medians of one server each."""
    rows = [[BY_NAME[name].title.split(", pika")[0], *_medians(results, name, COLUMNS)] for name in ONE_EACH]
    return table(["one server each", *(column.title for column in COLUMNS)], rows)


def three_table(results: Results) -> str:
    """Return the medians of three nodes each, and how long publishing stopped when the leader was lost."""
    rows = []
    for title, rates, lost in THREE_EACH:
        gaps = [fault_cells(fault_records(results, lost, LEADER, fault))[0] for fault in FAULTS]
        rows.append([title, *_medians(results, rates, THREE_COLUMNS), *gaps])
    head = ["three nodes each", *(column.title for column in THREE_COLUMNS)]
    return table([*head, *(f"publishing stops when the leader is {fault}, s" for fault in FAULTS)], rows)


def _medians(results: Results, name: str, columns: Sequence[Column]) -> list[str]:
    return [_median(results.figure(c.scenario, name, c.figure, **c.settings()), c.scale) for c in columns]


def _median(figure: Figure | None, scale: float) -> str:
    return "-" if figure is None else rounded(figure["median"] * scale)


def overview(single: Results, cluster: Results) -> str:
    """Return both tables, what they mean, and what others do better."""
    facts = single.facts
    machine = f"{facts['processors']} cores of {facts['processor']}, which servers and clients share"
    worse = [measure.title for measure in MEASURES if better_systems(single, measure)]
    worse_of_three = [measure.title for measure in MEASURES if better_systems(cluster, measure)]
    how = (
        "Messages of 100 B, confirmed after they were synced, in batches of 1,000 or one at a time (each waits for the "
        f"confirm of the one before). Medians, on {machine}:"
    )
    others = (
        f"Somebody else is better, with one server, at: {'; '.join(worse) or 'nothing here'}. "
        f"With three nodes, at: {'; '.join(worse_of_three) or 'nothing here'}. "
        "RabbitMQ's rates are those of pika, its lost leader that of aio-pika; NATS lost its leader with its default, "
        "which syncs later."
    )
    return "\n\n".join([fill(how, LINE), single_table(single), three_table(cluster), fill(others, LINE)])
