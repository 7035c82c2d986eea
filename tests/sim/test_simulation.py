"""Some seeds of the simulator in every run of the tests, and whether it can be trusted: it repeats itself, it meets all
that it is meant to meet, it finds mistakes.

More by command: `python -m tests.sim --count 10000`, `--profile each`, `--crash-points`, `--mutants`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.sim.crash_points import ScriptedRun, crash, points
from tests.sim.faults import KIND_PROFILES
from tests.sim.hunt import TABLE, catch, rows_of
from tests.sim.mutants_of_once import MUTANTS
from tests.sim.report import describe
from tests.sim.simulation import Choice, run

CHECKOUT = Path(__file__).resolve().parents[2]
SWARM_SEEDS = 56
SEEDS_A_KIND = 2

RIVAL_SEEDS = 12
INVARIANTS = {f"I{number}" for number in range(1, 20)}
CONTESTED = {"I1", "I11", "I16"}
"""Invariants that are at stake only while two nodes take themselves for the leader, which is rare."""

QUICK_MUTANTS = (
    "ack_before_sync",
    "forget_promise",
    "minority_commit",
    "commit_old_entries",
    "double_promise",
    "one_promise_is_enough",
    "no_dedup",
    "apply_uncommitted",
    "word_before_promise",
    "no_file_syncs",
    "skip_an_entry",
    "timers_too_early",
    "endless_receipts",
    "keep_old_files",
    "leave_files_open",
    "windows_end_with_a_leader",
    "settled_ids_unasked",
    "half_seen_early",
)
"""Mutants that the first few seeds find."""


@pytest.mark.parametrize("profile", KIND_PROFILES)
def test_nothing_is_lost_whatever_goes_wrong(profile: str) -> None:
    for seed in range(1_000, 1_000 + SEEDS_A_KIND):
        result = run(seed, Choice(profile=profile))
        assert result.violation is None, describe(result)
        assert result.confirmed, "somebody published"
        assert result.deliveries, "somebody consumed"


def test_a_swarm_of_seeds_finds_nothing_and_meets_everything() -> None:
    totals: Counter[str] = Counter()
    weighed: Counter[str] = Counter()
    for seed in range(2_000, 2_000 + SWARM_SEEDS):
        result = run(seed)
        assert result.violation is None, describe(result)
        totals.update(result.methods)
        weighed.update(result.weighed)
        for name in ("committed", "epochs", "reads", "delayed", "snapshots_installed", "damages", "refusals"):
            totals[name] += getattr(result, name)
    assert totals["committed"] > 5_000, "entries were committed"
    assert totals["epochs"] > 2 * SWARM_SEEDS, "leaders came and went"
    missing = [name for name, times in totals.items() if not times]
    assert not missing, "in so many seeds everything happens"
    assert totals.keys() >= {"diff", "trunc", "snap"}
    assert not [name for name in INVARIANTS - CONTESTED if not weighed[name]], "each check could have failed"


def test_two_nodes_that_want_the_same_epoch_are_no_danger() -> None:
    weighed: Counter[str] = Counter()
    for seed in range(3_000, 3_000 + RIVAL_SEEDS):
        result = run(seed, Choice(profile="rivals", nodes=5))
        assert result.violation is None, describe(result)
        weighed.update(result.weighed)
    assert not [name for name in CONTESTED if not weighed[name]], "promises, reads and leaderships were contested"


def test_the_script_without_a_crash_passes_through_all_of_synchronization() -> None:
    script = ScriptedRun()
    result = script.run()
    assert result.violation is None, describe(result)
    assert set(result.methods) == {"diff", "trunc", "snap"}
    assert result.epochs > 1, "a leader was cut off"
    assert script.effects > 1_000


def test_a_crash_at_any_effect_of_the_script_loses_nothing() -> None:
    for number, outcome in points(every=421):
        found = crash(number, outcome)
        assert found.struck is not None, "the effect came again"
        assert found.violation is None, f"crash {number} by {outcome}, {found.struck}: {found.violation}"


def test_the_same_seed_gives_the_same_run_in_another_process() -> None:
    choice = Choice(nodes=3, profile="everything")
    here = run(7, choice)
    program = (
        "import json; from tests.sim.simulation import Choice, run\n"
        "r = run(7, Choice(nodes=3, profile='everything'))\n"
        "print(json.dumps([r.digest, r.events, r.committed]))"
    )
    for hash_seed in ("1", "2"):
        there = subprocess.run(
            [sys.executable, "-c", program],
            cwd=CHECKOUT,
            env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(CHECKOUT)},
            capture_output=True,
            text=True,
            timeout=240,
            check=True,
        )
        assert json.loads(there.stdout) == [here.digest, here.events, here.committed]


@pytest.mark.parametrize("name", QUICK_MUTANTS)
def test_a_mistake_is_found(name: str) -> None:
    seeds, found = catch(name, seeds_max=6)
    assert found is not None, f"{MUTANTS[name].says}, and {seeds} seeds have not noticed"


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mistake_still_fits_the_code(name: str) -> None:
    with MUTANTS[name].patch():
        pass


def test_the_table_of_mutants_names_each_of_them() -> None:
    assert list(rows_of(TABLE)) == list(MUTANTS)
