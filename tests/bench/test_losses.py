"""Where others are better is found in the figures, not remembered; and what was asked for is judged by them."""

from __future__ import annotations

from typing import Any

from bench.document import goals
from bench.losses import losses
from bench.report import Results


def results_of(**of_systems: dict[str, float]) -> Results:
    records: list[dict[str, Any]] = []
    for system, figures in of_systems.items():
        name = system.replace("_", "-")
        rates = {"scenario": "rates", "size": 100, "vary": True}
        single = {"scenario": "one in flight", "size": 100}
        records += [{**settings, "system": name, "load": 1.0, **figures} for settings in (rates, single)]
    return Results({"facts": {}, "left_out": [], "seconds": 1.0, "quick": False, "records": records})


def test_systems_that_are_faster_are_named_with_their_figures_the_best_first() -> None:
    found = losses(
        results_of(
            sluicemq={"publish_per_second": 1000.0, "p50_seconds": 0.0004},
            redis_always={"publish_per_second": 3000.0, "p50_seconds": 0.0002},
            nats_always={"publish_per_second": 2000.0, "p50_seconds": 0.0005},
        )
    )
    assert found.splitlines()[2:] == [
        "| publish, 100 B | 1,000/s | Redis Streams, fsync always: 3,000/s; NATS JetStream, sync always: 2,000/s |",
        "| one in flight, p50 | 0.4 ms | Redis Streams, fsync always: 0.2 ms |",
    ]


def test_who_syncs_later_is_no_better() -> None:
    results = results_of(sluicemq={"publish_per_second": 10.0}, redis_everysec={"publish_per_second": 20.0})
    assert losses(results) == "Nowhere in this run."


def test_goals_are_judged_by_the_figures() -> None:
    text = goals(
        results_of(
            sluicemq={"publish_per_second": 100.0, "consume_per_second": 100.0, "p50_seconds": 2.0},
            nats_always={"publish_per_second": 10.0, "consume_per_second": 20.0, "p50_seconds": 4.0},
            redis_always={"publish_per_second": 10.0, "consume_per_second": 10.0, "p50_seconds": 1.0},
        )
    )
    assert "10 times RabbitMQ and NATS: 5 to 10; **not reached** everywhere" in text
    assert "5 times Redis: 10 to 10; reached" in text
    assert "one in flight below RabbitMQ: not measured" in text
    assert "one in flight below Redis: 2; **not reached**" in text
