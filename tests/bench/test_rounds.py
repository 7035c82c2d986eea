"""Figures say on how many rounds they rest; a round that others disturbed is left out, and said, never in silence."""

from __future__ import annotations

from typing import Any

from bench.report import Results, latency_table
from bench.rounds import OTHERS_MAX, counts_text, disturbance_lines, left_out

TITLES = {"sluicemq": "SluiceMQ", "nats": "NATS JetStream"}


def round_of(system: str, others: float | None, p50: float = 0.001, **more: Any) -> dict[str, Any]:
    """Return one round with one message in flight, while others took so many processors."""
    record = {"scenario": "one in flight", "system": system, "size": 100, "load": 1.0, "p50_seconds": p50, **more}
    return record if others is None else {**record, "others_processors": others}


def results_of(*records: dict[str, Any]) -> Results:
    return Results({"facts": {}, "left_out": [], "seconds": 1.0, "quick": False, "records": list(records)})


def test_a_disturbed_round_counts_for_nothing_beside_a_quiet_one() -> None:
    busy = OTHERS_MAX + 0.1
    results = results_of(round_of("sluicemq", 0.0, 0.002), round_of("sluicemq", busy, 0.050), round_of("nats", 0.1))
    figure = results.figure("one in flight", "sluicemq", "p50_seconds")
    assert figure is not None
    assert (figure["median"], figure["runs"]) == (0.002, 1)
    (line,) = disturbance_lines(results.records, TITLES)
    assert line.startswith("left out of all figures, because other work took more than 0.3 of a processor meanwhile: ")
    assert line.endswith("1 of 3 rounds: SluiceMQ, one in flight")


def test_rounds_stay_paired_when_one_is_left_out() -> None:
    results = results_of(
        round_of("sluicemq", 1.0, 0.100),
        round_of("nats", 0.0, 0.001),
        round_of("sluicemq", 0.0, 0.004),
        round_of("nats", 0.0, 0.002),
    )
    ratio = results.ratio("one in flight", "nats", "p50_seconds")
    assert ratio is not None
    assert (ratio["median"], ratio["runs"]) == (2.0, 1)


def test_what_was_only_measured_in_disturbed_rounds_is_kept_and_named() -> None:
    records = [round_of("sluicemq", 0.0), round_of("nats", 1.0), round_of("nats", 1.0)]
    assert left_out(records) == set()
    out, kept = disturbance_lines(records, TITLES)
    assert out.endswith("more than 0.3 of a processor meanwhile: none of 3 rounds")
    assert kept.endswith("there is no other round: 2 of 3 rounds: NATS JetStream, one in flight (2 rounds)")


def test_of_many_disturbed_rounds_some_are_named_and_the_rest_is_counted() -> None:
    records = [round_of(f"system-{number:02}", 1.0) for number in range(15)]
    titles = {record["system"]: record["system"] for record in records}
    line = disturbance_lines(records, titles)[1]
    assert "15 of 15 rounds" in line
    assert line.endswith("system-11, one in flight; and 3 others like these")


def test_a_failed_round_replaces_no_disturbed_one() -> None:
    records = [round_of("nats", 1.0), {**round_of("nats", 0.0), "error": "the worker ended"}]
    assert left_out(records) == set()


def test_a_run_that_did_not_look_at_others_says_so() -> None:
    assert "not noted" in disturbance_lines([round_of("nats", None)], TITLES)[0]


def test_a_table_says_on_how_many_rounds_it_rests_and_whose_are_fewer() -> None:
    results = results_of(round_of("sluicemq", 0.0), round_of("sluicemq", 0.0), round_of("nats", 0.0))
    assert latency_table(results, "one in flight").endswith("\n\nRounds: one in flight 2 (NATS JetStream: 1).")


def test_what_nobody_measured_has_no_rounds() -> None:
    assert counts_text([("backlog", {"SluiceMQ": 0})]) == "Not measured in this run."
