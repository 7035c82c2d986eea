"""Where others are better than ours: found in the figures, so that no page can forget one. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from bench.report import Results, rounded, table
from bench.systems import FSYNC, System


class Measure(NamedTuple):
    """One figure that is held against that of others.

    Attributes:
        title: What readers call it.
        scenario: Where it was measured.
        figure: Its name in records.
        scale: From records to what readers see.
        unit: Of that.
        more: Whether more is better.
        size: Of the bodies, where it was measured with several.

    """

    title: str
    scenario: str
    figure: str
    scale: float = 1.0
    unit: str = "/s"
    more: bool = True
    size: int | None = None


MEASURES = (
    *(
        Measure(f"{verb}, {name}", "rates", f"{verb}_per_second", size=size)
        for size, name in ((100, "100 B"), (1024, "1 KiB"), (65_536, "64 KiB"))
        for verb in ("publish", "consume")
    ),
    Measure("end to end", "end to end", "messages_per_second"),
    Measure("one in flight, p50", "one in flight", "p50_seconds", 1e3, " ms", more=False),
    Measure("one in flight, p99", "one in flight", "p99_seconds", 1e3, " ms", more=False),
    Measure("at 1,000 messages/s, p50", "1,000/s", "p50_seconds", 1e3, " ms", more=False),
    Measure("at 1,000 messages/s, p99", "1,000/s", "p99_seconds", 1e3, " ms", more=False),
    Measure("server CPU, publish", "rates", "publish_server_cpu_per_million", unit=" s/million", more=False, size=100),
    Measure("server CPU, consume", "rates", "consume_server_cpu_per_million", unit=" s/million", more=False, size=100),
    Measure("memory at rest", "at rest", "memory_bytes", 2**-20, " MiB", more=False),
    Measure("a start with a backlog, listening", "backlog", "listening_seconds", unit=" s", more=False),
    Measure("a start with a backlog, first delivery", "backlog", "first_delivery_seconds", unit=" s", more=False),
)


def losses(results: Results, measures: Sequence[Measure] = MEASURES) -> str:
    """Return a row for each measure in which a system that syncs before it confirms beats ours."""
    rows = []
    for measure in measures:
        ours = _median(results, measure, results.ours)
        better = better_systems(results, measure)
        if ours and better:
            named = "; ".join(f"{system.title}: {_shown(measure, theirs)}" for system, theirs in better)
            rows.append((measure.title, _shown(measure, ours), named))
    return table(("", "SluiceMQ", "better"), rows, last_in_words=True) if rows else "Nowhere in this run."


def better_systems(results: Results, measure: Measure) -> list[tuple[System, float]]:
    """Return who beats ours in this measure, of those that sync before they confirm: best first, with medians."""
    ours = _median(results, measure, results.ours)
    if not ours:
        return []
    known = [(system, _median(results, measure, system.name)) for system in results.systems if system.promise == FSYNC]
    better = [
        (system, theirs) for system, theirs in known if theirs and (theirs > ours) == measure.more and theirs != ours
    ]
    return sorted(better, key=lambda found: found[1], reverse=measure.more)


def _shown(measure: Measure, value: float) -> str:
    return f"{rounded(value * measure.scale)}{measure.unit}"


def _median(results: Results, measure: Measure, system: str) -> float | None:
    settings = {} if measure.size is None else {"size": measure.size}
    figure = results.figure(measure.scenario, system, measure.figure, **settings)
    return None if figure is None else figure["median"]


def factors(
    results: Results, chosen: Callable[[System], bool], scenario: str, figure: str, **settings: object
) -> list[float]:
    """Return ours through theirs of the systems that *chosen* picks among those that sync, as medians."""
    ratios = [
        results.ratio(scenario, system.name, figure, **settings)
        for system in results.systems
        if system.promise == FSYNC and system.name != results.ours and chosen(system)
    ]
    return [ratio["median"] for ratio in ratios if ratio is not None]
