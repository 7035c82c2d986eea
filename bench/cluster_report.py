"""From the records of three nodes to tables. It must not measure anything."""

from __future__ import annotations

from collections.abc import Sequence

from bench.cluster_scenarios import FAULTS, LEADER, OTHER
from bench.cluster_systems import CLUSTERS, OURS_CLUSTERED
from bench.report import (
    BATCHES,
    RATIO_NOTE,
    Column,
    Ratio,
    Results,
    end_table,
    facts_text,
    figure_table,
    ratio_table,
    rounded,
    table,
)
from bench.rounds import Record, counts_text
from bench.systems import System

CLUSTER_RATIOS: tuple[Ratio, ...] = (
    ("publish/s", "rates", "publish_per_second", 100),
    ("consume/s", "rates", "consume_per_second", 100),
    ("end to end/s", "end to end", "messages_per_second", 100),
    ("one in flight p50", "one in flight", "p50_seconds", 100),
    ("server CPU, publish", "rates", "publish_server_cpu_per_million", 100),
    ("server CPU, consume", "rates", "consume_server_cpu_per_million", 100),
)
CLUSTER_COLUMNS = (
    Column("publish/s", "rates", "publish_per_second", size=100),
    Column("consume/s", "rates", "consume_per_second", size=100),
    Column("one in flight p50 ms", "one in flight", "p50_seconds", 1e3),
    Column("p99 ms", "one in flight", "p99_seconds", 1e3),
    Column("CPU s/million of all three: publish", "rates", "publish_server_cpu_per_million", size=100),
    Column("consume", "rates", "consume_server_cpu_per_million", size=100),
    Column("a confirm means", "", "durability"),
)


def cluster_results(content: dict[str, object]) -> Results:
    """Return the records of a run of clusters, to be asked."""
    return Results(content, CLUSTERS, OURS_CLUSTERED)


def cluster_report(results: Results) -> str:
    """Return the whole report as Markdown."""
    return facts_text(results) + "\n\n" + cluster_tables(results)


def cluster_tables(results: Results) -> str:
    """Return every table as Markdown, each below its heading but the first."""
    parts = [
        cluster_table(results),
        RATIO_NOTE,
        ratio_table(results, results.systems, CLUSTER_RATIOS),
        "## Three nodes, end to end",
        end_table(results),
        "## The leader is lost",
        failover_table(results),
    ]
    return "\n\n".join(parts) + "\n"


def cluster_table(results: Results) -> str:
    """Return rates, latencies and CPU of three nodes for bodies of about 100 bytes."""
    return figure_table(results, results.systems, BATCHES, CLUSTER_COLUMNS)


def failover_table(results: Results) -> str:
    """Return how long publishing stopped, and what user code saw of it."""
    head = ["", "its client is connected to"]
    for fault in FAULTS:
        head += [f"leader {fault}: longest gap s, median", "worst", "errors, most", "unanswered, most"]
    rows = []
    for system, spot in _places(results):
        by_fault = [fault_records(results, system.name, spot, fault) for fault in FAULTS]
        rows.append([system.title, spot, *(cell for records in by_fault for cell in fault_cells(records))])
    return table(head, rows) + "\n\n" + _fault_rounds_text(results)


def fault_records(results: Results, system: str, spot: str, fault: str) -> list[Record]:
    """Return the rounds of one fault that count."""
    return results.counting("failover", system, spot=spot, fault=fault)


def _places(results: Results) -> list[tuple[System, str]]:
    """Return each system with each node that its client was connected to."""
    spots = ((system, spot) for system in results.systems for spot in (LEADER, OTHER))
    return [
        (system, spot)
        for system, spot in spots
        if any(fault_records(results, system.name, spot, fault) for fault in FAULTS)
    ]


def _fault_rounds_text(results: Results) -> str:
    parts = []
    for fault in FAULTS:
        counts = {
            f"{system.title} at {spot}": len(fault_records(results, system.name, spot, fault))
            for system, spot in _places(results)
        }
        parts.append((f"leader {fault}", counts))
    return counts_text(parts)


def fault_rounds(results: Results) -> str:
    """Return how often each fault was made, as far as it counts."""
    counted = [
        len(fault_records(results, system.name, spot, fault)) for system, spot in _places(results) for fault in FAULTS
    ]
    made = [count for count in counted if count]
    least, most = min(made, default=0), max(made, default=0)
    return str(least) if least == most else f"{least} to {most}"


def fault_cells(records: Sequence[Record]) -> tuple[str, str, str, str]:
    """Return median and worst gap, most errors and most calls without an answer; `>`: publishing did not go on."""
    if not records:
        return ("-", "-", "-", "-")
    by_gap = sorted(records, key=lambda record: (not record["recovered"], record["gap_seconds"]))
    errors = max(sum(record["errors"].values()) for record in records)
    unanswered = max((record["unanswered"] for record in records if "unanswered" in record), default=None)
    middle, worst = by_gap[(len(by_gap) - 1) // 2], by_gap[-1]
    return (_gap(middle), _gap(worst), f"{errors:,}", "-" if unanswered is None else f"{unanswered:,}")


def _gap(record: Record) -> str:
    return rounded(record["gap_seconds"]) if record["recovered"] else f"> {rounded(record['watched_seconds'])}"
