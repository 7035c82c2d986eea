"""Short walks for every run; `python -m tests.broker.replication.walks --help` has the long ones."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.broker.replication.walks.bounds import WALKS, Bounds
from tests.broker.replication.walks.ensemble import Ensemble
from tests.broker.replication.walks.search import walk
from tests.sim.mutants import MUTANTS

TWO, THREE = WALKS["two"], WALKS["three"]


def test_two_nodes_in_full() -> None:
    """Empty disks, real votes, two epochs, two entries, a crash at every boundary: nothing is left to visit."""
    report = walk(TWO, states_max=50_000)
    assert report.violation is None, report.way
    assert report.complete
    assert report.states > 5_000
    assert report.epochs_served == {1, 2}
    # A founder that restarts within discovery cannot be counted, so its leader waits for its own patience to end.
    assert report.resting - report.settled <= 10, report.unsettled


@pytest.mark.parametrize(
    "bounds",
    [
        pytest.param(replace(TWO, crashes=0, resets=1), id="a broken connection"),
        pytest.param(replace(TWO, crashes=0, timeouts=1, epochs=3), id="impatience"),
    ],
)
def test_two_nodes_in_full_with_other_mishaps(bounds: Bounds) -> None:
    report = walk(bounds, states_max=50_000)
    assert report.violation is None, report.way
    assert report.complete


@pytest.mark.parametrize(
    "bounds",
    [
        pytest.param(THREE, id="crash"),
        pytest.param(replace(THREE, crashes=0, entries=1), id="two elections"),
        pytest.param(replace(THREE, crashes=0, entries=0, joins=1, elections=1, compactions=1), id="snapshot"),
        pytest.param(WALKS["figure-8"], id="figure 8"),
    ],
)
def test_three_nodes_a_short_way(bounds: Bounds) -> None:
    report = walk(bounds, states_max=6_000)
    assert report.violation is None, report.way
    assert report.states >= 6_000


@pytest.mark.parametrize(
    ("mutant", "bounds", "invariant"),
    [
        ("word_before_promise", TWO, "I10"),
        ("same_epoch_again", TWO, "assertion of the core: I10"),
        ("ack_what_came", replace(TWO, crashes=0), "I9"),
        ("minority_commit", TWO, "I5"),
        ("stale_completion", WALKS["two-oracle"], "I10"),
        ("count_own_unsynced", replace(THREE, crashes=0, entries=0), "I8"),
        ("commit_what_came", replace(THREE, crashes=0), "I8"),
        ("one_promise_is_enough", replace(THREE, crashes=0, entries=0), "I3"),
        ("no_recency_check", replace(THREE, start="ahead", crashes=0, entries=0), "I6"),
        ("double_promise", replace(THREE, crashes=0, entries=0, joins=1), "I11"),
        ("never_truncate", replace(THREE, crashes=0, entries=0), "assertion of the core: B1"),
        ("serve_early", replace(THREE, crashes=0, entries=0, reads=1), "I16"),
    ],
)
def test_a_mistake_in_the_core_is_found(mutant: str, bounds: Bounds, invariant: str) -> None:
    with MUTANTS[mutant].patch():
        report = walk(bounds, states_max=30_000)
    assert report.violation is not None
    assert report.violation.startswith(invariant)
    assert report.way, "a way that leads there"


def test_a_copy_of_a_node_is_the_same_state_and_shares_nothing_that_changes() -> None:
    ensemble = Ensemble(replace(THREE, crashes=0))
    state = ensemble.beginning()
    for _ in range(20):
        *_, (_, _, state) = ensemble.steps(state)
        for number in state.nodes:
            copy = ensemble.nodes.copy(number)
            assert ensemble.nodes.intern(copy) == number
            if copy.disk.queue:
                copy.persist(0.0)
                assert ensemble.nodes.intern(copy) != number
                assert ensemble.nodes.intern(ensemble.nodes.copy(number)) == number
