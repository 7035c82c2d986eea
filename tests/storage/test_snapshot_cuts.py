"""Power cuts on snapshots and pages, in a number that fits every test run, and the proof that they bite.

The long run: `python -m tests.storage.snapshot_cuts --count 10000 --seed 1`.
"""

from __future__ import annotations

import pytest

from tests.storage.snapshot_cuts import CUTS


def test_no_snapshot_and_no_page_is_lost_in_300_power_cuts():
    result = CUTS.run(count=300, seed=1)

    assert result.cuts >= 300
    # The run must have met what it is there for.
    for what in ("snapshots finished", "snapshots removed", "slots freed", "times the file shrank", "fallbacks"):
        assert result.seen[what] > 0
    assert result.seen["damage that healed"] > 0


@pytest.mark.parametrize("mutant", CUTS.mutants)
def test_a_known_mistake_is_caught(mutant):
    assert CUTS.first_seed_that_catches(mutant, seed=1, seeds_max=300) is not None
