"""From the records of a run to `results.json`'s companions: a Markdown report and charts.

Like is compared with like: one table holds systems that sync before they confirm, the other what each one does by
default. It must not measure anything.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bench.rounds import Record, counts_text, disturbance_lines, left_out, size_text
from bench.statistics import paired_ratios, spread, summary
from bench.systems import BY_NAME, FSYNC, OURS, SYSTEMS, System

Figure = dict[str, Any]
REPEAT_WITHIN = 0.2
"""Ratios that repeat worse than this are marked."""
BATCHES = "100 B, batches of 1,000"
LOAD_MAX = 2.5
"""Above this load average other work may have disturbed a figure."""


class Column(NamedTuple):
    """One column of a table of figures.

    Attributes:
        title: Its head.
        scenario: Where it was measured; empty: `figure` names an attribute of the system, which is words.
        figure: Its name in records.
        scale: From records to what readers see.
        size: Of the bodies, where it was measured with several.

    """

    title: str
    scenario: str
    figure: str
    scale: float = 1.0
    size: int | None = None

    def settings(self) -> dict[str, int]:
        """Return what picks its records among those of its scenario."""
        return {} if self.size is None else {"size": self.size}


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
        self._left_out = left_out(self.records)
        names = {record["system"] for record in self.records}
        self.systems = [system for system in among if system.name in names]

    def values(self, scenario: str, system: str, figure: str, **settings: Any) -> list[float | None]:
        """Return a figure, round by round; None where a round failed, was left out, or has no such figure."""
        found = self._rounds(scenario, system, settings)
        return [record.get(figure) if counts else None for record, counts in found]

    def counting(self, scenario: str, system: str, **settings: Any) -> list[Record]:
        """Return the rounds on which figures rest: those that neither failed nor were left out."""
        found = self._rounds(scenario, system, settings)
        return [record for record, counts in found if counts and "error" not in record]

    def _rounds(self, scenario: str, system: str, settings: dict[str, Any]) -> list[tuple[Record, bool]]:
        settings = {"vary": True, **settings} if scenario == "rates" else settings
        return [
            (record, index not in self._left_out)
            for index, record in enumerate(self.records)
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


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, last_in_words: bool = False) -> str:
    """Return a Markdown table; columns are aligned to the right, but for the first, and the last if it holds words."""
    figures = len(head) - 1 - last_in_words
    lines = ["| " + " | ".join(head) + " |", "| --- |" + " ---: |" * figures + " --- |" * last_in_words]
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
    if largest > LOAD_MAX and not any("others_processors" in record for record in results.records):
        load += f" (above {LOAD_MAX}: other work may have disturbed some rounds)"
    servers = ", ".join(f"{name} {version}" for name, version in facts["servers"].items())
    libraries = ", ".join(f"{name} {version}" for name, version in facts["libraries"].items())
    cores = f"{facts['processors']} cores of {facts['processor']}, {facts['memory_bytes'] / 2**30:.0f} GiB of memory"
    machine = f"{cores}, Linux {facts['kernel']}, {facts['file_system']}"
    parts = f" in {results.parts} parts, each with servers of its own" if results.parts > 1 else ""
    quick = ", quick" if results.quick else ""
    titles = {system.name: system.title for system in results.systems}
    lines = [
        f"- {facts['date']}, commit {facts['commit']}, {results.seconds:.0f} s{parts}{quick}",
        f"- {machine}; servers and clients share the cores",
        f"- Python {facts['python']}; {libraries}",
        f"- {servers}",
        f"- {load}",
        *(f"- {text}" for text in disturbance_lines(results.records, titles)),
        *(f"- {text}" for text in results.notes),
        *(f"- left out: {text}" for text in results.left_out),
        *(f"- failed: {r['scenario']}, {r['system']}: {r['error']}" for r in results.records if "error" in r),
    ]
    return "\n".join(lines)


def figure_table(results: Results, systems: Sequence[System], first: str, columns: Sequence[Column]) -> str:
    """Return a row a system with its figures, the last column in words, and on how many rounds they rest."""
    rows = figure_rows(results, systems, columns)
    words = not columns[-1].scenario
    return table(figure_head(first, columns), rows, last_in_words=words) + rounds_note(results, systems, columns)


def figure_head(first: str, columns: Sequence[Column]) -> list[str]:
    """Return the head of `figure_rows`."""
    return [first, *(column.title for column in columns)]


def figure_rows(results: Results, systems: Sequence[System], columns: Sequence[Column]) -> list[list[str]]:
    """Return title and figures of each system."""

    def cell(system: System, column: Column) -> str:
        if not column.scenario:
            return str(getattr(system, column.figure))
        figure = results.figure(column.scenario, system.name, column.figure, **column.settings())
        return with_range(figure, column.scale)

    return [[system.title, *(cell(system, column) for column in columns)] for system in systems]


def rounds_note(results: Results, systems: Sequence[System], columns: Sequence[Column]) -> str:
    """Return a paragraph that says on how many rounds the figures of these columns rest."""
    parts = {}
    several = len({column.size for column in columns if column.scenario == "rates"}) > 1
    for column in columns:
        if column.scenario:
            words = "publish and consume" if column.scenario == "rates" else column.scenario
            if several and column.size:
                words = size_text(column.size)
            settings = column.settings()
            parts[words] = {
                system.title: len(results.counting(column.scenario, system.name, **settings)) for system in systems
            }
    return "\n\n" + counts_text(list(parts.items()))


MAIN_COLUMNS = (
    Column("publish/s", "rates", "publish_per_second", size=100),
    Column("consume/s", "rates", "consume_per_second", size=100),
    Column("one in flight p50 ms", "one in flight", "p50_seconds", 1e3),
    Column("server CPU s/million: publish", "rates", "publish_server_cpu_per_million", size=100),
    Column("consume", "rates", "consume_server_cpu_per_million", size=100),
    Column("client CPU s/million: publish", "rates", "publish_client_cpu_per_million", size=100),
    Column("consume", "rates", "consume_client_cpu_per_million", size=100),
    Column("a confirm means", "", "durability"),
)


def main_table(results: Results, systems: list[System]) -> str:
    """Return rates, latency and CPU for batches of 1,000 bodies of about 100 bytes."""
    rows = figure_rows(results, systems, MAIN_COLUMNS)
    equal = [
        with_range(results.figure("rates", OURS, figure, size=100, vary=False))
        for figure in ("publish_per_second", "consume_per_second")
    ]
    if any(system.name == OURS for system in systems) and equal != ["-", "-"]:
        rows.insert(1, ["SluiceMQ, bodies of equal length", *equal, "-", "-", "-", "-", "-", "the same"])
    shown = table(figure_head(BATCHES, MAIN_COLUMNS), rows, last_in_words=True)
    return shown + rounds_note(results, systems, MAIN_COLUMNS)


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


SIZE_COLUMNS = tuple(
    Column((f"{size_text(size)} " if first else "") + title, "rates", figure, scale, size)
    for size in (1024, 65_536)
    for first, title, figure, scale in (
        (True, "publish/s", "publish_per_second", 1.0),
        (False, "consume/s", "consume_per_second", 1.0),
        (False, "publish MB/s", "publish_bytes_per_second", 1e-6),
    )
)
END_COLUMNS = (
    Column("consumed/s", "end to end", "messages_per_second"),
    Column("published/s", "end to end", "published_per_second"),
    Column("p50 ms", "end to end", "p50_seconds", 1e3),
    Column("p99 ms", "end to end", "p99_seconds", 1e3),
    Column("server CPU s/million", "end to end", "server_cpu_per_million"),
    Column("client CPU s/million", "end to end", "client_cpu_per_million"),
)


def sizes_table(results: Results) -> str:
    """Return rates and throughput for 1 KiB and 64 KiB."""
    return figure_table(results, results.systems, "", SIZE_COLUMNS)


def latency_table(results: Results, scenario: str) -> str:
    """Return p50 and p99."""
    columns = (
        Column("p50 ms", scenario, "p50_seconds", 1e3),
        Column("p99 ms", scenario, "p99_seconds", 1e3),
        Column("", "", "promise"),
    )
    return figure_table(results, results.systems, "", columns)


def end_table(results: Results) -> str:
    """Return throughput and latency at saturation."""
    return figure_table(results, results.systems, "", END_COLUMNS)


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
