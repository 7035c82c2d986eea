"""Spare segments are made without haste while one is ready, and not at all where an old segment takes the place."""

from __future__ import annotations

import pytest

from sluicemq.storage.spares import Spare, SparePool
from tests.disk import SimulatedDisk

SEGMENT_BYTES = 64 * 1024
PIECE_BYTES = 16 * 1024


@pytest.fixture
def disk() -> SimulatedDisk:
    return SimulatedDisk(1)


def pool_on(disk: SimulatedDisk) -> SparePool:
    return SparePool(disk, SEGMENT_BYTES, 2, PIECE_BYTES)


def test_the_first_spare_is_made_at_full_speed_and_the_second_with_pauses(disk):
    pool = pool_on(disk)
    pauses: list[int] = []

    def pause() -> None:
        pauses.append(pool.ready)

    assert pool.prepare(pause=pause)
    assert pauses == []
    assert pool.prepare(pause=pause)
    assert pauses == [1] * (SEGMENT_BYTES // PIECE_BYTES - 1)


def test_when_the_ready_spare_is_taken_the_next_one_is_hurried(disk):
    pool = pool_on(disk)
    pool.prepare()
    pauses: list[Spare | None] = []
    assert pool.prepare(pause=lambda: pauses.append(pool.take()))
    assert len(pauses) == 1


def test_an_old_segment_that_becomes_the_spare_ends_the_making_of_one(disk):
    pool = pool_on(disk)
    pool.prepare()
    old = disk.open("segment-1", create=True)
    old.pwritev([bytes(SEGMENT_BYTES)], 0)
    assert not pool.prepare(pause=lambda: pool.retire([Spare("segment-1", old)]))
    assert pool.ready == 2
    assert pool.recycled == 1
    assert not [name for name in disk.names() if name.startswith("zeroing")], "what was begun is gone"
