"""Three brokers of ours, measured for real, but for a moment only: rates, and a leader that is killed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bench.cluster_report import cluster_results, cluster_table, failover_table
from bench.cluster_scenarios import LEADER, QUICK_FAULTS, ClusterScenarios
from bench.cluster_systems import CLUSTERS, CLUSTERS_BY_NAME, OURS_CLUSTERED
from bench.scenarios import QUICK
from bench.session import Session

OURS = CLUSTERS_BY_NAME[OURS_CLUSTERED]
PATIENT_FAULTS = replace(QUICK_FAULTS, seconds=60.0)
"""Confirms count as steady after two seconds without a pause, for which one may wait on a busy machine."""


@pytest.mark.alone
def test_our_three_brokers_are_measured_and_lose_their_leader(tmp_path: Path) -> None:
    pace = replace(QUICK, publish_seconds=0.1, consume_seconds=0.1)
    with Session([OURS], tmp_path) as session:
        scenarios = ClusterScenarios(session, pace, PATIENT_FAULTS, lambda _records: None)
        scenarios.rates([OURS], 100, 1)
        scenarios._each("failover", scenarios._measure_fault("killed", LEADER), [OURS], 1, fault="killed", spot=LEADER)
    rates, lost = scenarios.records
    assert rates["publish_per_second"] > 0
    assert rates["consume_per_second"] > 0
    assert lost["recovered"]
    assert lost["errors"] == {}
    # The last ones have a second for their answer, and a busy machine may stand still for some of it.
    assert lost["unanswered"] < PATIENT_FAULTS.rate
    assert 0 < lost["gap_seconds"] < lost["watched_seconds"]
    assert lost["confirmed"] > 0
    content = {"facts": {}, "left_out": [], "seconds": 1.0, "quick": True, "records": scenarios.records}
    results = cluster_results(content)
    assert "| SluiceMQ |" in cluster_table(results)
    assert "| SluiceMQ | the leader |" in failover_table(results)


@pytest.mark.parametrize("system", [each for each in CLUSTERS if each is not OURS], ids=lambda system: system.name)
def test_who_is_not_installed_is_named_with_what_to_do(system: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    missing = replace(OURS, **{name: getattr(system, name) for name in ("name", "module", "distribution")}).missing()
    assert missing is not None
    assert "pip install -e '.[bench]'" in missing
