"""The few figures that a reader wants first, as tables: for README and the head of the page of performance. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import fill

from bench.cluster_report import fault_cells, fault_records
from bench.cluster_scenarios import FAULTS, LEADER, OTHER
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
        rows.append([title, *_medians(results, rates, THREE_COLUMNS), *_gaps(results, lost, LEADER)])
    head = ["three nodes each", *(column.title for column in THREE_COLUMNS)]
    return table([*head, *(f"publishing stops when the leader is {fault}, s" for fault in FAULTS)], rows)


def elsewhere_text(results: Results) -> str:
    """Return to whom the clients of that table were connected, and what those saw that were connected to another."""
    gaps = [(title.split(",")[0], _gaps(results, lost, OTHER)) for title, _, lost in THREE_EACH]
    measured = [f"{name} {' / '.join(told)}" for name, told in gaps if any(gap != "-" for gap in told)]
    elsewhere = (
        f"Clients connected to another node could not publish for (leader {' / '.join(FAULTS)}, s): "
        f"{'; '.join(measured)}. "
    )
    return (
        "Clients were connected to the leader that was lost. aio-pika, which knows one address, was given another one "
        "half a second after its connection had ended: that wait is in RabbitMQ's figure. "
        f"{elsewhere if measured else ''}SluiceMQ's client finds the leader whichever node it connects to first."
    )


def _gaps(results: Results, system: str, spot: str) -> list[str]:
    return [fault_cells(fault_records(results, system, spot, fault))[0] for fault in FAULTS]


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
    parts = [fill(how, LINE), single_table(single), three_table(cluster), fill(elsewhere_text(cluster), LINE)]
    return "\n\n".join([*parts, fill(others, LINE)])
