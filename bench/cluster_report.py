"""From the records of three nodes to tables. It must not measure anything."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from bench.cluster_scenarios import FAULTS, LEADER, OTHER
from bench.cluster_systems import CLUSTERS, OURS_CLUSTERED
from bench.report import RATIO_NOTE, Ratio, Record, Results, end_table, facts_text, ratio_table, rounded, table
from bench.report import with_range as ranged
from bench.systems import System

CLUSTER_RATIOS: tuple[Ratio, ...] = (
    ("publish/s", "rates", "publish_per_second", 100),
    ("consume/s", "rates", "consume_per_second", 100),
    ("end to end/s", "end to end", "messages_per_second", 100),
    ("one in flight p50", "one in flight", "p50_seconds", 100),
    ("server CPU, publish", "rates", "publish_server_cpu_per_million", 100),
    ("server CPU, consume", "rates", "consume_server_cpu_per_million", 100),
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
    head: tuple[str, ...] = ("100 B, batches of 1,000", "publish/s", "consume/s", "one in flight p50 ms", "p99 ms")
    head += ("CPU s/million of all three: publish", "consume", "a confirm means")

    def row(system: System) -> Sequence[str]:
        def rate(figure: str) -> str:
            return ranged(results.figure("rates", system.name, figure, size=100))

        def latency(figure: str) -> str:
            return ranged(results.figure("one in flight", system.name, figure), 1e3)

        return (
            system.title,
            rate("publish_per_second"),
            rate("consume_per_second"),
            latency("p50_seconds"),
            latency("p99_seconds"),
            rate("publish_server_cpu_per_million"),
            rate("consume_server_cpu_per_million"),
            system.durability,
        )

    return table(head, [row(system) for system in results.systems])


def failover_table(results: Results) -> str:
    """Return how long publishing stopped, and what user code saw of it."""
    head = ["", "its client is connected to"]
    for fault in FAULTS:
        head += [f"leader {fault}: longest gap s, median", "worst", "errors, most", "unanswered, most"]
    rows = []
    for system in results.systems:
        for spot in (LEADER, OTHER):
            by_fault = [_records(results, system.name, spot, fault) for fault in FAULTS]
            if any(by_fault):
                rows.append([system.title, spot, *(cell for records in by_fault for cell in fault_cells(records))])
    return table(head, rows)


def _records(results: Results, system: str, spot: str, fault: str) -> list[Record]:
    settings = {"scenario": "failover", "system": system, "spot": spot, "fault": fault}
    return [record for record in results.records if settings.items() <= record.items() and "error" not in record]


def fault_rounds(results: Results) -> str:
    """Return how often each fault was made."""
    faults = [record for record in results.records if record["scenario"] == "failover" and "error" not in record]
    counted = Counter((record["system"], record["spot"], record["fault"]) for record in faults)
    least, most = min(counted.values(), default=0), max(counted.values(), default=0)
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
