"""Power cuts, in a number that fits every test run, and the proof that they bite.

The long run: `python -m tests.storage.power_cuts --count 10000 --seed 1`.
"""

from __future__ import annotations

import pytest

from tests.storage.power_cuts import CUTS


def test_no_confirmed_entry_is_lost_in_300_power_cuts():
    result = CUTS.run(count=300, seed=1)

    assert result.cuts >= 300
    # The run must have met what it is there for.
    assert min(
        result.seen[what]
        for what in (
            "torn tails cut",
            "truncations finished",
            "superblocks repaired",
            "live files removed",
            "live files rewritten",
            "replacements finished",
            "indexes rebuilt",
        )
    )


@pytest.mark.parametrize("mutant", CUTS.mutants)
def test_a_known_mistake_is_caught(mutant):
    assert CUTS.first_seed_that_catches(mutant, seed=1, seeds_max=300) is not None
