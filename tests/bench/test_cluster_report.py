"""Tables of three nodes: the middle and the worst of each fault, and `>` where publishing did not go on."""

from __future__ import annotations

from typing import Any

from bench.cluster_report import cluster_results, cluster_table, failover_table, fault_cells, fault_rounds
from bench.cluster_scenarios import LEADER, OTHER
from bench.cluster_systems import CLUSTERS, CLUSTERS_BY_NAME, FAILING_OVER, OURS_CLUSTERED, find
from bench.overview import elsewhere_text
from bench.systems import BY_NAME


def fault(gap: float, *, recovered: bool = True, errors: int = 0, **settings: Any) -> dict[str, Any]:
    """Return the record of one fault."""
    return {
        "scenario": "failover",
        "system": OURS_CLUSTERED,
        "fault": "killed",
        "spot": LEADER,
        "load": 1.0,
        "gap_seconds": gap,
        "recovered": recovered,
        "watched_seconds": 20.0,
        "errors": {"Refused": errors} if errors else {},
        "unanswered": 4,
        **settings,
    }


def results_of(*records: dict[str, Any]) -> Any:
    return cluster_results({"facts": {}, "left_out": [], "seconds": 1.0, "quick": False, "records": list(records)})


def test_a_fault_shows_the_middle_and_the_worst_round() -> None:
    assert fault_cells([fault(0.5), fault(3.0, errors=7), fault(0.1)]) == ("0.5", "3", "7", "4")


def test_a_round_in_which_publishing_never_went_on_is_the_worst() -> None:
    records = [fault(9.0), fault(8.0, recovered=False), fault(0.2)]
    assert fault_cells(records) == ("9", "> 20", "0", "4")


def test_what_was_not_measured_has_dashes() -> None:
    assert fault_cells([]) == ("-", "-", "-", "-")


def test_each_spot_of_a_client_has_a_row_and_each_fault_its_columns() -> None:
    text, rounds = failover_table(
        results_of(
            fault(0.25),
            fault(1.5, fault="frozen"),
            fault(6.0, system="nats-three", errors=3),
            fault(4.0, system="nats-three", spot=OTHER),
        )
    ).split("\n\n")
    assert rounds == "Rounds: leader killed 1; leader frozen 1."
    assert text.splitlines()[2:] == [
        "| SluiceMQ | the leader | 0.25 | 0.25 | 0 | 4 | 1.5 | 1.5 | 0 | 4 |",
        "| NATS JetStream, 3 replicas | the leader | 6 | 6 | 3 | 4 | - | - | - | - |",
        "| NATS JetStream, 3 replicas | another node | 4 | 4 | 0 | 4 | - | - | - | - |",
    ]


def test_the_overview_tells_what_clients_of_another_node_saw() -> None:
    aio_pika: dict[str, Any] = {"system": "rabbitmq-three-aio-pika", "spot": OTHER}
    records = [
        fault(0.03),
        fault(0.55, **{**aio_pika, "spot": LEADER}),
        *(fault(gap, **aio_pika) for gap in (0.1, 0.2, 0.9)),
        fault(20.0, recovered=False, fault="frozen", **aio_pika),
        fault(4.0, system="nats-three", spot=OTHER),
    ]
    told = "(leader killed / frozen, s): RabbitMQ 0.2 / > 20; NATS JetStream 4 / -. SluiceMQ"
    assert told in elsewhere_text(results_of(*records))
    assert "leader killed" not in elsewhere_text(results_of(fault(0.03))), "nobody was connected elsewhere"


def test_a_round_that_failed_is_no_gap() -> None:
    broken = {"scenario": "failover", "system": OURS_CLUSTERED, "spot": LEADER, "fault": "killed", "load": 1.0}
    assert " 0.5 | 0.5 |" in failover_table(results_of(fault(0.5), {**broken, "error": "the worker ended"}))


def test_rounds_are_counted_by_system_and_fault() -> None:
    assert fault_rounds(results_of(fault(1.0), fault(1.0), fault(1.0, fault="frozen"))) == "1 to 2"
    assert fault_rounds(results_of(fault(1.0), fault(1.0, fault="frozen"))) == "1"


def test_rates_stand_beside_what_a_confirm_means() -> None:
    record = {"scenario": "rates", "system": OURS_CLUSTERED, "size": 100, "vary": True, "load": 1.0}
    text = cluster_table(results_of({**record, "publish_per_second": 123456.0}))
    assert "| SluiceMQ | 123,000 | - | - | - | - | - | log entry fdatasynced by a majority before confirm |" in text


def test_workers_find_systems_of_one_node_and_of_three() -> None:
    assert not set(BY_NAME) & set(CLUSTERS_BY_NAME)
    assert all(find(system.name) is system for system in (*CLUSTERS, *BY_NAME.values()))
    assert set(FAILING_OVER) <= set(CLUSTERS_BY_NAME)
