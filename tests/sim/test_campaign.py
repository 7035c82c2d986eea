"""A campaign: it remembers how far it has come, adds up, and tells of a failing seed what one needs to go after it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.sim.campaign import EACH, State, chosen, run_many, summary
from tests.sim.faults import KIND_PROFILES
from tests.sim.mutants_of_once import MUTANTS
from tests.sim.report import describe, shrink
from tests.sim.simulation import Choice, run

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

CALM = Choice(nodes=1, profile="calm", batches=4, busy_seconds=1.0)


def test_a_campaign_goes_on_where_it_stopped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "state"
    run_many(CALM, 10, 3, jobs=1, path=path, limit_seconds=None)
    state = run_many(CALM, 10, 5, jobs=1, path=path, limit_seconds=None)
    assert (state.next_seed, state.seeds, state.failed) == (15, 5, [])
    assert State.load(path, 0) == state
    assert "goes on with seed 13: 3 seeds before, 0 failed" in capsys.readouterr().out
    assert "5 seeds of calm" in summary(CALM, state)
    assert f"{state.totals['confirmed']} confirmed" in summary(CALM, state)
    assert f"I15 {state.weighed['I15']}" in summary(CALM, state)


def test_one_kind_of_fault_comes_after_the_other() -> None:
    profiles = [chosen(Choice(profile=EACH), seed).profile for seed in range(len(KIND_PROFILES))]
    assert profiles == list(KIND_PROFILES)


def test_a_failing_seed_is_told_with_options_last_transitions_and_the_faults_it_needs(
    capsys: pytest.CaptureFixture[str],
) -> None:
    choice = Choice(nodes=3, profile="torn", batches=20, busy_seconds=3.0)
    with MUTANTS["confirm_at_once"].patch():
        result = run(2, choice)
        assert result.violation is not None
        shrink(result)
    told = capsys.readouterr().out
    assert "VIOLATION I15 confirmed means committed" in told
    assert "--seed 2 --nodes 3 --profile torn --batches 20 --seconds 3.0" in told
    assert "0 of " in told, "no fault is needed for it"
    assert "the last transitions of node 3:" in told
    assert "python -m tests.sim" in describe(result)
