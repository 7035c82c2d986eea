"""Clients that use everything that queues can do: nothing is lost or done twice, and a mistake would be noticed."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.broker.queues.naive.mutants import MUTANTS
from tests.sim.report import describe
from tests.sim.simulation import Choice, run

SEEDS = 12
OF_ONCE = ("I20", "I21", "I22", "I23", "I24")
ALL_FEATURES = Choice(features=True)
NOTICED = ("overflow drops the tail", "what expired is given back", "a failed message of a key loses its turn")


def test_nothing_is_lost_or_done_twice_whatever_clients_use() -> None:
    weighed: Counter[str] = Counter()
    for seed in range(4_000, 4_000 + SEEDS):
        result = run(seed, ALL_FEATURES)
        assert result.violation is None, describe(result)
        weighed.update(result.weighed)
    assert not [name for name in OF_ONCE if not weighed[name]], "each check could have failed"


@pytest.mark.parametrize("name", NOTICED)
def test_a_mistake_of_the_queue_machine_is_noticed(name: str) -> None:
    mutant = next(mutant for mutant in MUTANTS if mutant.name == name)
    with pytest.MonkeyPatch.context() as monkeypatch:
        mutant.apply(monkeypatch)
        assert any(run(seed, ALL_FEATURES).violation is not None for seed in range(4_000, 4_000 + SEEDS))
