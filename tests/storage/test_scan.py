"""Walking records: the same answer whatever the read size, and the head as it lies on disk."""

from __future__ import annotations

from typing import Any

import pytest

from sluicemq.storage.pages import PAGE_BYTES
from sluicemq.storage.record import MARK, parse_head
from sluicemq.storage.scan import BAD_BODY, BLANK, CUT_OFF, DISCONTINUED, Walk
from tests.disk import SimulatedDisk
from tests.storage.stories import entries, entry, open_log, zxid

NAME = "segment-0000000000000001"


@pytest.fixture
def disk() -> SimulatedDisk:
    disk = SimulatedDisk()
    log = open_log(disk)
    log.append(entries(zxid(1, 0), 3, 100))
    log.mark_idle()
    log.append([*entries(zxid(1, 3), 2, 100), entry(zxid(2, 0), b"x" * 3000)])
    log.sync()
    return disk.restart()


def walk_over(disk: SimulatedDisk, **options) -> Walk:
    segment = open_log(disk)._active
    usual: dict[str, Any] = {
        "previous_zxid": 0,
        "chain": bytes(8),
        "read_bytes": 1 << 20,
        "end_offset": segment.allocated_bytes,
    }
    return Walk(segment.file, segment.seed, PAGE_BYTES, **(usual | options))


@pytest.mark.parametrize("read_bytes", [1, 56, 100, 333, 4096, 1 << 20])
@pytest.mark.parametrize("bodies", [True, False])
def test_the_records_are_the_same_whatever_one_read_fetches(disk, read_bytes, bodies):
    walk = walk_over(disk, read_bytes=read_bytes, bodies=bodies)

    found = list(walk)

    assert [each.zxid for each in found if each.kind != MARK] == [*range(zxid(1, 0), zxid(1, 5)), zxid(2, 0)]
    assert [each.kind for each in found].count(MARK) == 1
    assert [len(each.payload) for each in found if each.kind != MARK] == ([100] * 5 + [3000] if bodies else [0] * 6)
    assert walk.offset == found[-1].end_offset
    assert walk.last_zxid == zxid(2, 0)
    assert walk.reason == BLANK


def test_a_found_record_gives_the_head_that_lies_on_disk(disk):
    walk = walk_over(disk)
    content, seed = disk.content_of(NAME), walk._seed

    for found in walk:
        assert found.head == parse_head(content, found.offset, seed, found.offset)


@pytest.mark.parametrize(
    ("options", "reason", "count"),
    [
        ({"previous_zxid": 5}, DISCONTINUED, 0),
        ({"chain": b"8 bytes."}, DISCONTINUED, 0),
        ({"previous_zxid": None, "chain": None}, BLANK, 7),
        ({"end_offset": PAGE_BYTES + 230}, CUT_OFF, 1),
        ({"end_offset": PAGE_BYTES + 20}, BLANK, 0),
        ({"end_offset": PAGE_BYTES}, BLANK, 0),
    ],
)
def test_why_a_walk_ends(disk, options, reason, count):
    walk = walk_over(disk, **options)

    assert len(list(walk)) == count
    assert walk.reason == reason


def test_a_bad_body_ends_a_walk_at_its_record(disk):
    walk = walk_over(disk)
    at = disk.content_of("segment-0000000000000001").index(b"%d " % zxid(1, 4))
    disk.overwrite("segment-0000000000000001", at, b"?")

    found = list(walk)

    assert found[-1].zxid == zxid(1, 3)
    assert walk.reason == BAD_BODY
    assert walk.offset == found[-1].end_offset
