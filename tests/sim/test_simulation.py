"""Some seeds of the simulator in every run of the tests, and whether it can be trusted: it repeats itself, it finds
mistakes.

More by command: `python -m tests.sim --count 10000`, `python -m tests.sim --mutants`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.sim.hunt import catch
from tests.sim.mutants import MUTANTS
from tests.sim.report import describe
from tests.sim.simulation import Choice, run

CHECKOUT = Path(__file__).resolve().parents[2]
SEEDS_A_PROFILE = 4

QUICK_MUTANTS = (
    "ack_before_sync",
    "forget_promise",
    "minority_commit",
    "commit_old_entries",
    "no_dedup",
    "apply_uncommitted",
    "word_before_promise",
    "no_file_syncs",
)
"""Mutants that the first few seeds find."""


@pytest.mark.parametrize("profile", ["calm", "crash", "partition", "disk", "membership", "transfer", "everything"])
def test_nothing_is_lost_whatever_goes_wrong(profile: str) -> None:
    for seed in range(1_000, 1_000 + SEEDS_A_PROFILE):
        result = run(seed, Choice(profile=profile, batches=60, busy_seconds=6.0))
        assert result.violation is None, describe(result)
        assert result.confirmed, "somebody published"
        assert result.deliveries, "somebody consumed"


def test_a_swarm_of_seeds_finds_nothing() -> None:
    committed = epochs = 0
    for seed in range(2_000, 2_030):
        result = run(seed, Choice(batches=60, busy_seconds=6.0))
        assert result.violation is None, describe(result)
        committed += result.committed
        epochs += result.epochs
    assert committed > 3_000, "entries were committed"
    assert epochs > 60, "leaders came and went"


def test_the_same_seed_gives_the_same_run_in_another_process() -> None:
    choice = Choice(nodes=3, profile="everything", batches=60, busy_seconds=6.0)
    here = run(7, choice)
    program = (
        "import json; from tests.sim.simulation import Choice, run\n"
        "r = run(7, Choice(nodes=3, profile='everything', batches=60, busy_seconds=6.0))\n"
        "print(json.dumps([r.digest, r.events, r.committed]))"
    )
    for hash_seed in ("1", "2"):
        there = subprocess.run(
            [sys.executable, "-c", program],
            cwd=CHECKOUT,
            env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(CHECKOUT)},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        assert json.loads(there.stdout) == [here.digest, here.events, here.committed]


@pytest.mark.parametrize("name", QUICK_MUTANTS)
def test_a_mistake_is_found(name: str) -> None:
    seeds, found = catch(name, seeds_max=4)
    assert found is not None, f"{MUTANTS[name].says}, and {seeds} seeds have not noticed"
