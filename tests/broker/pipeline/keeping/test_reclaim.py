"""The reclaimer at work: the disk holds what is alive and little more, and power cuts cost nothing."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING
from unittest import mock

import pytest

from sluicemq.broker.pipeline.keeping import reclaim as reclaim_module
from sluicemq.broker.pipeline.keeping.liveness import Liveness, Survivors
from sluicemq.broker.pipeline.keeping.pace import Pace
from sluicemq.broker.queues.sparse import left_of
from sluicemq.storage.errors import StorageError
from sluicemq.storage.live import LiveKind
from sluicemq.wire.errors import SluiceError
from tests.broker.pipeline.keeping.shops import SEGMENT_BYTES, Shop
from tests.disk import PowerCut

if TYPE_CHECKING:
    from collections.abc import Callable

LIVE_MESSAGE_BYTES = 100  # of the small messages of these tests: body, place in its record, half of a record's head


def trade_for_long(shop: Shop, rounds: int, *, batches: int = 30) -> None:
    for _ in range(rounds):
        shop.trade(batches)
        shop.snapshot()
        shop.reclaim()


class Watched(Pace):
    """A pace without pauses that tells how urgent the work was, and lets something happen in the middle of it."""

    def __init__(self) -> None:
        super().__init__(1 << 40, check=lambda: None, sleep=lambda _seconds: None)
        self.urgencies: list[float] = []
        self.meanwhile: Callable[[], None] | None = None

    def hurry(self, urgency: float) -> None:
        self.urgencies.append(urgency)
        super().hurry(urgency)

    def took(self, bytes_: int = 0) -> None:
        if self.meanwhile is not None and self.urgencies:
            self.meanwhile()
        super().took(bytes_)


# --- what it is for -------------------------------------------------------------------------------------------------


def test_messages_given_back_for_an_hour_do_not_pin_the_rest_of_the_disk():
    shop = Shop()
    trade_for_long(shop, 60)
    figures = shop.reclaimer.figures()
    written = shop.next_zxid & 0xFFFF_FFFF
    assert written > 5_000
    assert figures.replaced_bytes + figures.dropped_bytes > 20 * SEGMENT_BYTES, "many segments of log were written"
    assert figures.bytes <= 3 * figures.live_bytes + 2 * SEGMENT_BYTES
    assert figures.bytes <= 3 * len(shop.known.alive) * LIVE_MESSAGE_BYTES + 2 * SEGMENT_BYTES
    shop.check()


def test_after_an_hour_each_message_is_delivered_whole_from_what_is_left():
    shop = Shop()
    trade_for_long(shop, 30)
    shop = shop.restart()
    given_back = set(shop.known.alive)
    assert len(given_back) > 100
    assert shop.log.live_files()[0].kind is LiveKind.SPARSE
    shop.an_hour_passes()
    due = [
        (run.zxid, run.first + place) for run in shop.machine.peek(shop.queue, 0, 10_000) for place in range(run.size)
    ]
    assert sorted(due) == sorted(given_back), "each once"
    shop.check()


def test_when_everything_was_handled_nothing_stays_in_the_live_store():
    shop = Shop()
    trade_for_long(shop, 20)
    shop.an_hour_passes()
    shop.consume(given_back=0.0)
    for _ in range(3):
        shop.trade(1, given_back=0.0)
        shop.snapshot()
        shop.reclaim()
    assert shop.reclaimer.figures().files == ()
    assert shop.log.live_files() == []


def test_one_old_message_pins_its_own_bytes_only():
    shop = Shop()
    old = shop.publish([b"old"] * 20)
    shop.consume(given_back=1.0)
    for _ in range(20):
        shop.trade(40, given_back=0.0)
        shop.snapshot()
        shop.reclaim()
    assert {zxid for zxid, _ in shop.known.alive} == {old}
    (file,) = shop.reclaimer.figures().files
    assert file.live_messages == 20
    assert file.bytes < 6_000
    assert shop.reclaimer.pinned_bytes(shop.queue) == 0


def test_what_the_oldest_message_pins_is_told_until_its_file_is_rewritten():
    shop = Shop()
    shop.publish([b"old"])
    shop.consume(given_back=1.0)
    with mock.patch.object(reclaim_module, "plan", return_value=[]):
        for _ in range(6):
            shop.trade(40, given_back=0.0)
            shop.snapshot()
            shop.reclaim()
    first = shop.reclaimer.figures().files[0]
    assert first.live_messages == 1
    assert shop.reclaimer.pinned_bytes(shop.queue) == first.pinned_bytes > SEGMENT_BYTES * 9 // 10
    assert shop.reclaimer.pinned_bytes(4711) == 0
    shop.reclaim()
    assert shop.reclaimer.pinned_bytes(shop.queue) == 0


def test_what_is_alive_for_the_most_part_is_not_copied():
    shop = Shop()
    for _ in range(10):
        shop.trade(30, given_back=1.0)
        shop.snapshot()
        shop.reclaim()
    figures = shop.reclaimer.figures()
    assert len(figures.files) > 3
    assert figures.rewritten_files == figures.dropped_files == 0


def test_writing_stays_a_fraction_of_what_was_appended():
    shop = Shop()
    trade_for_long(shop, 60)
    figures = shop.reclaimer.figures()
    assert figures.rewritten_files > 20
    assert figures.written_bytes < (figures.replaced_bytes + figures.dropped_bytes) / 3


def test_messages_of_very_different_sizes_do_not_make_it_write_the_same_file_again_and_again():
    shop = Shop()
    shop.publish([b"x" * 30_000, *[b""] * 30])
    shop.consume_all_but(first=1)
    trade_for_long(shop, 5)
    before = shop.log.live_files()[0]
    assert before.bytes > 30_000
    for _ in range(5):
        shop.publish([b"tick"])
        shop.snapshot()
        shop.reclaim()
    assert shop.log.live_files()[0] is before


# --- safety ---------------------------------------------------------------------------------------------------------


def traded(pace: Pace) -> Shop:
    """Return a shop with something to rewrite below the older of its two snapshots."""
    shop = Shop(pace=pace)
    shop.trade(130)
    shop.snapshot()
    shop.trade(1)
    shop.snapshot()
    return shop


def test_a_rewrite_hurries_once_a_newer_snapshot_waits_behind_it():
    pace = Watched()
    shop = traded(pace)
    newer = shop.snapshots.newest_good()
    assert newer is not None

    def taken_meanwhile() -> None:
        pace.meanwhile = None
        shop.reclaimer.offer(newer, newer.zxid)

    pace.meanwhile = taken_meanwhile
    shop.reclaim()
    assert shop.reclaimer.figures().rewritten_files
    assert max(pace.urgencies) == 1.0
    newer.close()


def test_a_rewrite_that_nobody_waits_for_takes_its_time():
    pace = Watched()
    shop = traded(pace)
    shop.reclaim()
    assert shop.reclaimer.figures().rewritten_files
    assert max(pace.urgencies) < 1.0


def test_nothing_is_reclaimed_above_the_older_snapshot():
    shop = Shop()
    for _ in range(4):
        shop.trade(40, given_back=0.0)
    shop.snapshot()
    shop.trade(1)
    shop.snapshot()
    files = shop.log.live_files()
    assert files
    with shop.snapshots.newest_good() as snapshot:
        shop.reclaimer.work_through(snapshot, files[0].last_zxid - 1)
    assert shop.log.live_files() == files


def test_a_damaged_old_file_stays_as_it_is_and_is_told_once(caplog):
    shop = Shop()
    shop.trade(60)
    shop.trade(60, given_back=0.0)
    shop.snapshot()
    shop.trade(1)
    shop.snapshot()
    damaged = shop.log.live_files()[0]
    shop.disk.flip_bit(damaged.name, damaged.bytes // 2)
    with caplog.at_level(logging.WARNING):
        shop.reclaim()
        shop.reclaim()
    told = [record for record in caplog.records if damaged.name in record.getMessage()]
    assert len(told) == 1
    assert damaged.name in shop.disk.names()


def test_a_living_message_that_no_file_holds_is_told(caplog):
    shop = Shop()
    trade_for_long(shop, 4)
    dense = shop.log.live_files()[0]
    shop.log.reclaim(dense.first_sequence, dense.last_sequence)
    shop.trade(1)
    shop.snapshot()
    with caplog.at_level(logging.ERROR):
        shop.reclaim()
    assert "no file holds" in caplog.text
    assert shop.reclaimer.figures().missing_runs > 0


def test_a_full_disk_costs_the_pass_and_not_the_broker(caplog):
    shop = Shop()
    shop.trade(200)
    shop.snapshot()
    shop.trade(1)
    shop.snapshot()
    shop.disk.capacity_bytes = shop.disk.used_bytes()
    with caplog.at_level(logging.WARNING):
        shop.reclaim()
    assert shop.reclaimer.figures().abandoned == 1
    shop.disk.capacity_bytes = 1 << 40
    shop.reclaim()
    assert shop.reclaimer.figures().rewritten_files > 0
    shop.check()


# --- power cuts -----------------------------------------------------------------------------------------------------


def day_with_power_cuts(seed: int, *, lives: int = 4) -> int:
    """Trade, take snapshots and reclaim through several power cuts; return how many came while it reclaimed."""
    shop = Shop(seed=seed)
    met = 0
    for _ in range(lives):
        rng = shop.rng
        reclaiming = False
        rounds = rng.randint(1, 4)
        try:
            while True:
                shop.trade(rng.randint(1, 40), given_back=rng.choice((0.0, 0.01, 0.3)), batch_max=60)
                if rng.random() < 0.2:
                    shop.an_hour_passes()
                shop.snapshot()
                rounds -= 1
                if rounds < 0:
                    shop.disk.cut_power_after(rng.randint(1, rng.choice((4, 12, 40))))
                reclaiming = True
                shop.reclaim()
                reclaiming = False
        except PowerCut:
            met += reclaiming
        shop = restarted(shop)
        shop.check()
        assert not shop.failures, shop.failures
    return met


def restarted(shop: Shop) -> Shop:
    """Start again, now and then with a power cut in the middle of that."""
    while True:
        crashed = shop.disk.crash()
        shop.disk = crashed
        if shop.rng.random() < 0.3:
            crashed.cut_power_after(shop.rng.randint(1, 40))
        try:
            again = Shop(crashed, seed=shop.rng.randrange(1 << 30), known=shop.known)
        except PowerCut:
            continue
        crashed.cut_power_after(1 << 60)
        return again


def test_a_power_cut_at_any_moment_loses_nothing_and_brings_nothing_back():
    assert sum(day_with_power_cuts(seed) for seed in range(15)) > 15


def first_seed_that_catches(name: str, mutant: object) -> int | None:
    """Return the first day on which somebody notices, None if nobody does on ten days."""
    with mock.patch.object(reclaim_module, name, mutant):
        for seed in range(10):
            try:
                day_with_power_cuts(seed)
            except (AssertionError, StorageError, SluiceError):
                return seed
    return None


class ForgetsWhatIsDelayed(Liveness):
    """A mutant: what waits for its time does not count as alive."""

    def add(self, part):
        if part.place != "delayed":
            super().add(part)


def loses_the_last_messages(body, alive, digest):
    """Do as the product does, but for the last messages of a batch: a mutant."""
    return left_of(body, alive[:-1] or alive, digest)


@pytest.mark.parametrize(("name", "mutant"), [("Liveness", ForgetsWhatIsDelayed), ("left_of", loses_the_last_messages)])
def test_a_reclaimer_that_drops_what_is_alive_is_caught(name, mutant):
    assert first_seed_that_catches(name, mutant) is not None


def test_a_file_is_not_replaced_by_less_than_was_counted(caplog):
    class Overlooks(Survivors):
        def add(self, part):
            if part.summary.messages % 7:
                super().add(part)

    with mock.patch.object(reclaim_module, "Survivors", Overlooks):
        shop = Shop()
        trade_for_long(shop, 20)
    assert "stay as they are" in caplog.text
    shop.check()
