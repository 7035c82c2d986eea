"""Settled history: kept whole as long as the settings say, and the first thing that goes when the disk fills."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import given, settings
from hypothesis import strategies as st

from sluicemq.broker.queues.sparse import time_of
from sluicemq.storage.live import LiveKind
from tests.broker.pipeline.keeping.shops import HOUR_MS, SEGMENT_BYTES, Shop

if TYPE_CHECKING:
    from sluicemq.storage.record import Record

KEPT_HOURS = 6
KEPT_SECONDS = KEPT_HOURS * 3600.0


def trade_for_hours(shop: Shop, hours: int, *, given_back: float = 0.0) -> None:
    """Trade for so many hours, about a segment in each; every hour the state is written down."""
    for _ in range(hours):
        shop.trade(60, given_back=given_back)
        shop.now_ms += HOUR_MS
        shop.snapshot()
        shop.reclaim()


def history_of(shop: Shop) -> list[Record]:
    """Read every entry of the whole files, from the first one on."""
    found: list[Record] = []
    for file in shop.log.whole_files():
        at = file.first_zxid
        while at <= file.last_zxid:
            found += [each for each in shop.log.read_along(at, 1 << 20, exact=False) if each.zxid >= at]
            at = found[-1].zxid + 1
    return found


def sealed_bytes(shop: Shop) -> int:
    return sum(file.bytes for file in shop.log.whole_files() if not file.in_log)


def test_without_the_setting_nothing_settled_stays() -> None:
    shop = Shop()
    trade_for_hours(shop, 12)
    assert sealed_bytes(shop) == 0
    assert shop.reclaimer.figures().history_bytes == 0


def test_what_was_settled_within_the_time_can_all_be_read_and_what_is_older_goes() -> None:
    shop = Shop(history_seconds=KEPT_SECONDS)
    trade_for_hours(shop, 20)
    read = history_of(shop)
    zxids = [each.zxid for each in read]
    assert zxids == list(range(zxids[0], shop.log.last_zxid + 1)), "each entry, without a gap"
    oldest_ms = time_of(read[0].kind, read[0].header)
    assert shop.now_ms - (KEPT_HOURS + 4) * HOUR_MS < oldest_ms < shop.now_ms - KEPT_HOURS * HOUR_MS, (
        "whole files, so a little more"
    )
    assert shop.reclaimer.figures().history_bytes == sealed_bytes(shop)
    assert shop.reclaimer.figures().dropped_files > 4


def test_history_takes_no_more_bytes_than_it_may_however_young_it_is() -> None:
    shop = Shop(history_seconds=KEPT_SECONDS, history_bytes=3 * SEGMENT_BYTES)
    trade_for_hours(shop, 12)
    assert 2 * SEGMENT_BYTES < sealed_bytes(shop) <= 3 * SEGMENT_BYTES


def test_bytes_alone_bound_history_of_any_age() -> None:
    shop = Shop(history_bytes=5 * SEGMENT_BYTES)
    trade_for_hours(shop, 12)
    shop.now_ms += 1_000 * HOUR_MS
    trade_for_hours(shop, 1)
    assert 4 * SEGMENT_BYTES < sealed_bytes(shop) <= 5 * SEGMENT_BYTES


def test_a_restart_keeps_history_as_it_was() -> None:
    shop = Shop(history_bytes=5 * SEGMENT_BYTES)
    trade_for_hours(shop, 12)
    before = history_of(shop)
    shop = shop.restart(history_bytes=5 * SEGMENT_BYTES)
    assert history_of(shop)[: len(before)] == before
    trade_for_hours(shop, 1)
    assert 4 * SEGMENT_BYTES < sealed_bytes(shop) <= 5 * SEGMENT_BYTES


def test_what_waits_in_old_files_lives_on_when_their_history_ends() -> None:
    shop = Shop(history_seconds=KEPT_SECONDS)
    trade_for_hours(shop, 16, given_back=0.01)
    kinds = [file.kind for file in shop.log.live_files()]
    assert kinds.index(LiveKind.DENSE) == kinds.count(LiveKind.SPARSE) > 0, "rewritten ones lie in front of whole ones"
    history = [each for each in shop.reclaimer.figures().files if each.is_history]
    assert any(each.live_messages for each in history)
    assert not any(each.pinned_bytes for each in history), "a whole file is kept for its own sake"
    shop.check()


def test_on_a_tight_disk_so_much_of_the_history_goes_as_is_missing() -> None:
    shop = Shop(history_seconds=KEPT_SECONDS)
    trade_for_hours(shop, 12)
    kept = sealed_bytes(shop)
    assert kept > 3 * SEGMENT_BYTES
    shop.disk.capacity_bytes = shop.disk.used_bytes()
    shop.space.tight_bytes = 2 * SEGMENT_BYTES
    shop.reclaim()
    assert 0 <= kept - sealed_bytes(shop) - 2 * SEGMENT_BYTES < SEGMENT_BYTES, "as much as was missing, and no more"
    shop.check()


@settings(max_examples=6, deadline=None)
@given(
    st.integers(0, 12),
    st.integers(0, 6),
    st.lists(st.tuples(st.integers(1, 60), st.floats(0.0, 0.2), st.integers(0, 8)), min_size=4, max_size=8),
)
def test_nobody_loses_a_message_and_no_gap_opens_however_much_is_kept(
    hours: int, segments: int, days: list[tuple[int, float, int]]
) -> None:
    shop = Shop(history_seconds=hours * 3600.0, history_bytes=segments * SEGMENT_BYTES)
    for batches, given_back, hours_pass in days:
        shop.trade(batches, given_back=given_back)
        shop.now_ms += hours_pass * HOUR_MS
        shop.snapshot()
        shop.reclaim()
    zxids = [each.zxid for each in history_of(shop)]
    assert zxids == list(range(zxids[0], shop.log.last_zxid + 1))
    shop.check()
