"""Power cuts on the whole road, in a number that fits every test run, and the proof that they bite.

The long run: `python -m tests.broker.pipeline.power_cuts --count 10000 --seed 1`.
"""

from __future__ import annotations

import pytest

from tests.broker.pipeline.power_cuts import CUTS, run_day


def test_what_was_reported_survives_200_power_cuts():
    result = CUTS.run(count=200, seed=1)

    assert result.cuts >= 200
    # The run must have met what it is there for.
    for what in (
        "acknowledged messages",
        "published batches",
        "resends",
        "lost, as nobody was told",
        "starts from a snapshot",
        "starts where the log has lost its beginning",
        "snapshots that rot",
    ):
        assert result.seen[what] > 0, what


def test_a_deletion_hits_the_queue_that_has_the_name_when_it_is_applied():
    # Two deletions and a declaration between them were on the road at once: what was told last is not what stands.
    run_day(503_569)


def test_a_seed_gives_the_same_day_again():
    first, second = run_day(7), run_day(7)

    assert first.seen == second.seen
    assert first.disk.operations == second.disk.operations
    assert first.rng.random() == second.rng.random()


@pytest.mark.parametrize("mutant", CUTS.mutants)
def test_a_known_mistake_is_caught(mutant):
    assert CUTS.first_seed_that_catches(mutant, seed=1, seeds_max=100) is not None
