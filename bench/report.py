"""From the records of a run to `results.json`'s companions: a Markdown report and charts.

Like is compared with like: one table holds systems that sync before they confirm, the other what each one does by
default. It must not measure anything.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from bench.statistics import paired_ratios, spread, summary
from bench.systems import BY_NAME, FSYNC, OURS, SYSTEMS, System

Record = dict[str, Any]
Figure = dict[str, Any]
REPEAT_WITHIN = 0.2
"""Ratios that repeat worse than this are marked."""
MEGABYTES = ("publish_bytes_per_second", 1e-6)
LOAD_MAX = 2.5
"""Above this load average other work may have disturbed a figure."""

Ratio = tuple[str, str, str, int]
RATIOS: tuple[Ratio, ...] = (
    ("publish/s, 100 B", "rates", "publish_per_second", 100),
    ("consume/s, 100 B", "rates", "consume_per_second", 100),
    ("publish/s, 1 KiB", "rates", "publish_per_second", 1024),
    ("consume/s, 1 KiB", "rates", "consume_per_second", 1024),
    ("publish/s, 64 KiB", "rates", "publish_per_second", 65_536),
    ("consume/s, 64 KiB", "rates", "consume_per_second", 65_536),
    ("end to end/s", "end to end", "messages_per_second", 100),
    ("one in flight p50", "one in flight", "p50_seconds", 100),
    ("server CPU, publish", "rates", "publish_server_cpu_per_million", 100),
    ("server CPU, consume", "rates", "consume_server_cpu_per_million", 100),
)
"""What the ratios show: title, scenario, figure, nominal size."""
RATIO_NOTE = (
    "Ours divided by theirs (rates: more is better for us; latency and CPU: less is better for us). "
    "`~`: rounds differ by more than 20 % from their median."
)


class Results:
    """The records of one run, asked by scenario, system and figure.

    Args:
        content: What a run has written.
        among: All systems that may take part, in the order of tables.
        ours: The name of ours among them.

    """

    def __init__(self, content: dict[str, Any], among: Sequence[System] = SYSTEMS, ours: str = OURS) -> None:
        self.ours = ours
        self.facts: dict[str, Any] = content["facts"]
        self.left_out: list[str] = content["left_out"]
        self.seconds: float = content["seconds"]
        self.quick: bool = content["quick"]
        self.parts: int = content.get("parts", 1)
        self.notes: list[str] = content.get("notes", [])
        self.records: list[Record] = content["records"]
        names = {record["system"] for record in self.records}
        self.systems = [system for system in among if system.name in names]

    def values(self, scenario: str, system: str, figure: str, **settings: Any) -> list[float | None]:
        """Return a figure, round by round; None where a round failed or has no such figure."""
        settings = {"vary": True, **settings} if scenario == "rates" else settings
        return [
            record.get(figure)
            for record in self.records
            if record["scenario"] == scenario
            and record["system"] == system
            and all(record.get(name) == value for name, value in settings.items())
        ]

    def figure(self, scenario: str, system: str, figure: str, **settings: Any) -> Figure | None:
        """Return median and range of a figure over the rounds; None where it was not measured."""
        return summary(self.values(scenario, system, figure, **settings))

    def ratio(self, scenario: str, other: str, figure: str, **settings: Any) -> Figure | None:
        """Return ours through theirs, round by round."""
        ours = self.values(scenario, self.ours, figure, **settings)
        return paired_ratios(ours, self.values(scenario, other, figure, **settings))

    def load_range(self) -> tuple[float, float]:
        """Return the least and the largest load average among all records."""
        loads = [record["load"] for record in self.records]
        return (min(loads), max(loads)) if loads else (0.0, 0.0)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table; all columns but the first are aligned to the right."""
    lines = ["| " + " | ".join(head) + " |", "| --- |" + " ---: |" * (len(head) - 1)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines)


def rounded(value: float) -> str:
    """Return three significant digits, thousands separated."""
    if value == 0:
        return "0"
    if abs(value) >= 100:
        digits = len(str(int(abs(value)))) - 3
        return f"{round(value, -digits):,.0f}"
    return f"{value:.3g}"


def with_range(figure: Figure | None, scale: float = 1.0) -> str:
    """Return `median (least to largest)`; a dash where nothing was measured."""
    if figure is None:
        return "-"
    median = rounded(figure["median"] * scale)
    if figure["runs"] == 1:
        return median
    return f"{median} ({rounded(figure['least'] * scale)} to {rounded(figure['largest'] * scale)})"


def times(figure: Figure | None) -> str:
    """Return a ratio; with `~` where rounds differ by more than `REPEAT_WITHIN` from their median."""
    if figure is None:
        return "-"
    mark = "~" if spread(figure) > REPEAT_WITHIN else ""
    return f"{mark}{rounded(figure['median'])}"


def report(results: Results) -> str:
    """Return the whole report as Markdown."""
    return facts_text(results) + "\n\n" + tables(results)


def tables(results: Results) -> str:
    """Return every table as Markdown, each below its heading."""
    like = [system for system in results.systems if system.promise == FSYNC]
    default = [system for system in results.systems if system.default]
    parts = [
        "## Like with like: synced before confirm",
        main_table(results, like),
        RATIO_NOTE,
        ratio_table(results, like),
        "## Each one's default",
        main_table(results, default),
        ratio_table(results, default),
        "## Larger bodies",
        sizes_table(results),
        "## At 1,000 messages/s",
        latency_table(results, "1,000/s"),
        "## End to end, producer and consumer at full speed",
        end_table(results),
        "## One in flight",
        latency_table(results, "one in flight"),
        "## Syncs",
        syncs_table(results),
        "## A backlog, a clean stop, and the first delivery after it",
        backlog_table(results),
        "## At rest",
        rest_table(results),
    ]
    return "\n\n".join(parts) + "\n"


def facts_text(results: Results) -> str:
    """Return where and with what the figures were measured."""
    facts = results.facts
    least, largest = results.load_range()
    load = f"load average while it ran: {least:.1f} to {largest:.1f}, our own work included"
    if largest > LOAD_MAX:
        load += f" (above {LOAD_MAX}: other work may have disturbed some rounds)"
    servers = ", ".join(f"{name} {version}" for name, version in facts["servers"].items())
    libraries = ", ".join(f"{name} {version}" for name, version in facts["libraries"].items())
    cores = f"{facts['processors']} cores of {facts['processor']}, {facts['memory_bytes'] / 2**30:.0f} GiB of memory"
    machine = f"{cores}, Linux {facts['kernel']}, {facts['file_system']}"
    parts = f" in {results.parts} parts, each with servers of its own" if results.parts > 1 else ""
    quick = ", quick" if results.quick else ""
    lines = [
        f"- {facts['date']}, commit {facts['commit']}, {results.seconds:.0f} s{parts}{quick}",
        f"- {machine}; servers and clients share the cores",
        f"- Python {facts['python']}; {libraries}",
        f"- {servers}",
        f"- {load}",
        *(f"- {text}" for text in results.notes),
        *(f"- left out: {text}" for text in results.left_out),
        *(f"- failed: {r['scenario']}, {r['system']}: {r['error']}" for r in results.records if "error" in r),
    ]
    return "\n".join(lines)


def main_table(results: Results, systems: list[System]) -> str:
    """Return rates, latency and CPU for batches of 1,000 bodies of about 100 bytes."""
    head: tuple[str, ...] = ("100 B, batches of 1,000", "publish/s", "consume/s", "one in flight p50 ms")
    head += ("server CPU s/million: publish", "consume", "client CPU s/million: publish", "consume", "a confirm means")
    rows: list[tuple[str, ...]] = []
    for system in systems:

        def rate(figure: str, name: str = system.name) -> str:
            return with_range(results.figure("rates", name, figure, size=100))

        rows.append(
            (
                system.title,
                rate("publish_per_second"),
                rate("consume_per_second"),
                with_range(results.figure("one in flight", system.name, "p50_seconds"), 1e3),
                rate("publish_server_cpu_per_million"),
                rate("consume_server_cpu_per_million"),
                rate("publish_client_cpu_per_million"),
                rate("consume_client_cpu_per_million"),
                system.durability,
            )
        )
    equal = [
        with_range(results.figure("rates", OURS, figure, size=100, vary=False))
        for figure in ("publish_per_second", "consume_per_second")
    ]
    if any(system.name == OURS for system in systems) and equal != ["-", "-"]:
        rows.insert(1, ("SluiceMQ, bodies of equal length", *equal, "", "", "", "", "", "the same"))
    return table(head, rows)


def ratio_table(results: Results, systems: list[System], ratios: Sequence[Ratio] = RATIOS) -> str:
    """Return ours through theirs."""
    rows = [
        (
            system.title,
            *(times(results.ratio(scenario, system.name, figure, size=size)) for _t, scenario, figure, size in ratios),
        )
        for system in systems
        if system.name != results.ours
    ]
    return table(("ours / theirs", *(title for title, *_ in ratios)), rows)


def sizes_table(results: Results) -> str:
    """Return rates and throughput for 1 KiB and 64 KiB."""
    rows = []
    for system in results.systems:
        row = [system.title]
        for size in (1024, 65_536):
            for figure, scale in (("publish_per_second", 1.0), ("consume_per_second", 1.0), MEGABYTES):
                row.append(with_range(results.figure("rates", system.name, figure, size=size), scale))
        rows.append(row)
    head = ("", "1 KiB publish/s", "consume/s", "publish MB/s", "64 KiB publish/s", "consume/s", "publish MB/s")
    return table(head, rows)


def latency_table(results: Results, scenario: str) -> str:
    """Return p50 and p99."""
    rows = [
        (
            system.title,
            with_range(results.figure(scenario, system.name, "p50_seconds"), 1e3),
            with_range(results.figure(scenario, system.name, "p99_seconds"), 1e3),
            system.promise,
        )
        for system in results.systems
    ]
    return table(("", "p50 ms", "p99 ms", ""), rows)


def end_table(results: Results) -> str:
    """Return throughput and latency at saturation."""

    def cell(system: System, figure: str, scale: float = 1.0) -> str:
        return with_range(results.figure("end to end", system.name, figure), scale)

    rows = [
        (
            system.title,
            cell(system, "messages_per_second"),
            cell(system, "published_per_second"),
            cell(system, "p50_seconds", 1e3),
            cell(system, "p99_seconds", 1e3),
            cell(system, "server_cpu_per_million"),
            cell(system, "client_cpu_per_million"),
        )
        for system in results.systems
    ]
    head = ("", "consumed/s", "published/s", "p50 ms", "p99 ms", "server CPU s/million", "client CPU s/million")
    return table(head, rows)


def _only(results: Results, scenario: str, row: Callable[[Record], Sequence[str]]) -> list[Sequence[str]]:
    found = [record for record in results.records if record["scenario"] == scenario and "error" not in record]
    return [row(record) for record in found]


def syncs_table(results: Results) -> str:
    """Return how many syncs a message cost."""

    def row(record: Record) -> Sequence[str]:
        batched, syncs = record["batched_messages"], record["batched_syncs"]
        each = record["single_syncs"] / max(1, record["single_messages"])
        files = str(record["synchronous_files"])
        return (
            _kind(record),
            f"{batched:,}",
            f"{syncs:,}",
            rounded(1000 * syncs / max(1, batched)),
            rounded(each),
            files,
        )

    head = ("", "messages in batches", "syncs", "syncs per 1,000", "syncs per message, one in flight", "O_SYNC files")
    return table(head, _only(results, "syncs", row))


def backlog_table(results: Results) -> str:
    """Return what a backlog costs."""

    def row(record: Record) -> Sequence[str]:
        first = record["first_delivery_seconds"]
        return (
            _kind(record),
            f"{record['messages']:,}",
            f"{record['memory_bytes'] / 2**20:.0f}",
            rounded(record["listening_seconds"]),
            "-" if first is None else rounded(first),
            f"{record['memory_after_bytes'] / 2**20:.0f}",
        )

    head = ("", "messages", "memory before, MiB", "listening after s", "first delivery after s", "memory then, MiB")
    return table(head, _only(results, "backlog", row))


def rest_table(results: Results) -> str:
    """Return what an idle server costs."""

    def row(record: Record) -> Sequence[str]:
        title = "RabbitMQ" if "rabbitmq" in record["system"] else _kind(record)
        return (title, f"{record['memory_bytes'] / 2**20:.0f}", rounded(record["cpu_percent"]))

    return table(("", "memory, MiB", "CPU %"), _only(results, "at rest", row))


def _kind(record: Record) -> str:
    return BY_NAME[record["system"]].title.replace(", pika", "")


def write_all(out: Path) -> None:
    """Write `report.md` and charts beside `results.json` in *out*."""
    results = Results(json.loads((out / "results.json").read_text()))
    (out / "report.md").write_text("# Results\n\n" + report(results))
    try:
        import matplotlib as _matplotlib  # noqa: F401 - only whether it is there
    except ImportError:
        print("no charts: pip install matplotlib (or -e '.[bench]')")
        return
    from bench.charts import draw_all

    draw_all(results, out)
