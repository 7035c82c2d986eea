"""The road's pure parts: log time, the order of commits, and how verdicts are cut into entries."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluicemq.broker.pipeline.commit import CommitStage
from sluicemq.broker.pipeline.log_clock import (
    ALARM_MILLISECONDS,
    SLEW_RATE_MAX,
    SMALL_MILLISECONDS,
    SMALL_SLEW_RATE_MAX,
    LogClock,
)
from sluicemq.broker.pipeline.settle import check_ranges, in_pieces
from sluicemq.wire.errors import InvalidRequest


class Clocks:
    """A wall clock and a monotonic clock that a test moves."""

    def __init__(self, wall: float = 1_000.0) -> None:
        self.wall = wall
        self.monotonic = 50.0
        self.alarms: list[float] = []

    def log_clock(self, last_ms: int = 0) -> LogClock:
        return LogClock(last_ms, wall=lambda: self.wall, monotonic=lambda: self.monotonic, alarm=self.alarms.append)

    def pass_time(self, seconds: float, *, wall: float | None = None) -> None:
        self.monotonic += seconds
        self.wall += seconds if wall is None else wall


def test_log_time_is_wall_time_while_nothing_jumps() -> None:
    clocks = Clocks()
    clock = clocks.log_clock()
    clocks.pass_time(12.5)
    assert clock.now_ms() == 1_012_500


def test_log_time_begins_behind_no_entry_of_the_log() -> None:
    assert Clocks().log_clock(last_ms=9_000_000).now_ms() == 9_000_000


@pytest.mark.parametrize("jump", [3600.0, -3600.0])
def test_log_time_goes_on_from_what_the_last_leader_said_whatever_the_wall_clock_says(jump: float) -> None:
    clocks = Clocks()
    clocks.wall += jump
    clock = LogClock(
        995_000, wall=lambda: clocks.wall, monotonic=lambda: clocks.monotonic, heard=(995_000, clocks.monotonic - 5.0)
    )
    assert clock.now_ms() == 1_000_000


@pytest.mark.parametrize("late_ms", [200, 1_500])
def test_where_the_leader_before_was_heard_late_what_is_delayed_comes_hardly_early(late_ms: int) -> None:
    clocks = Clocks()
    late = int(clocks.wall * 1000) - late_ms
    clock = LogClock(0, wall=lambda: clocks.wall, monotonic=lambda: clocks.monotonic, heard=(late, clocks.monotonic))
    published = clock.now_ms()
    assert published == late
    clocks.pass_time(3.0)
    assert 3_000 < clock.now_ms() - published <= 3_000 * (1 + SMALL_SLEW_RATE_MAX)


def test_what_waits_since_a_leader_whose_clock_was_wrong_does_not_come_early_under_the_next() -> None:
    """Chaos seed 9807: a wall clock that had been turned back for some seconds, and then another leader."""
    clocks = Clocks()
    clock = clocks.log_clock()
    clocks.wall -= 2_058.7
    for _ in range(45):
        clocks.pass_time(0.1)
        clock.now_ms()
    clocks.wall += 2_058.7
    clocks.pass_time(2.0)
    published = clock.now_ms()
    assert 180 < clocks.wall * 1000 - published < 225, "log time is behind by what it could not follow"

    heard = (published, clocks.monotonic)
    heir = LogClock(0, wall=lambda: clocks.wall, monotonic=lambda: clocks.monotonic, heard=heard)
    clocks.pass_time(2.0)
    assert 2_000 <= heir.now_ms() - published <= 2_000 * (1 + SMALL_SLEW_RATE_MAX)


@pytest.mark.parametrize("jump", [3600.0, -3600.0])
def test_a_jump_of_the_wall_clock_is_followed_slowly_and_raises_one_alarm(jump: float) -> None:
    clocks = Clocks()
    clock = clocks.log_clock()
    clocks.wall += jump
    for _second in range(100):
        before = clock.now_ms()
        clocks.pass_time(1.0)
        gone = clock.now_ms() - before
        assert abs(gone - 1000) <= 1000 * SLEW_RATE_MAX + 1
        assert (gone > 1000) == (jump > 0)
    assert len(clocks.alarms) == 1
    assert abs(clocks.alarms[0]) > ALARM_MILLISECONDS


@pytest.mark.parametrize("jump", [90.0, -90.0])
def test_log_time_arrives_at_wall_time_as_soon_as_the_rate_allows_and_the_next_jump_is_told_again(jump: float) -> None:
    clocks = Clocks()
    clock = clocks.log_clock()
    clocks.wall += jump
    seconds = 0
    while abs(clock.now_ms() - clocks.wall * 1000) > 1:
        clocks.pass_time(1.0)
        seconds += 1
    small = SMALL_MILLISECONDS / 1000
    assert seconds == pytest.approx((abs(jump) - small) / SLEW_RATE_MAX + small / SMALL_SLEW_RATE_MAX, rel=0.01)
    clocks.pass_time(1.0)
    assert clock.now_ms() == pytest.approx(clocks.wall * 1000, abs=1), "it stays there"
    assert len(clocks.alarms) == 1
    clocks.wall += jump
    clocks.pass_time(1.0)
    clock.now_ms()
    assert len(clocks.alarms) == 2


def test_a_clock_that_is_asked_twice_in_one_instant_slews_once() -> None:
    clocks = Clocks()
    clock = clocks.log_clock()
    clocks.wall += 50.0
    clocks.pass_time(10.0)
    assert [clock.now_ms() for _ in range(3)] == [1_010_500] * 3


@given(st.lists(st.tuples(st.floats(0, 1e4), st.floats(-1e6, 1e6)), max_size=30))
def test_log_time_never_goes_back(steps: list[tuple[float, float]]) -> None:
    clocks = Clocks(wall=2e6)
    clock = clocks.log_clock()
    last = clock.now_ms()
    for seconds, wall in steps:
        clocks.pass_time(seconds, wall=wall)
        now = clock.now_ms()
        assert now >= last
        last = now


def test_entries_pass_in_order_once_they_are_committed() -> None:
    stage = CommitStage()
    for zxid in (1, 2, 3):
        stage.propose(zxid, f"entry {zxid}", None)
    assert stage.next_committed() is None
    stage.commit(2)
    stage.commit(1)
    passed = [proposed.entry for proposed in iter(stage.next_committed, None)]
    assert passed == ["entry 1", "entry 2"]
    assert len(stage) == 1


@pytest.mark.parametrize("tags_max", [1, 2, 3, 100])
@pytest.mark.parametrize("ranges_max", [1, 2, 100])
def test_verdicts_are_cut_into_small_entries_that_name_the_same_messages(tags_max: int, ranges_max: int) -> None:
    for tags in ([], [1, 1], [1, 7], [1, 2, 4, 4, 9, 12], [3, 3, 5, 5, 7, 7]):
        wanted = [tag for first, last in zip(tags[::2], tags[1::2], strict=True) for tag in range(first, last + 1)]
        named = []
        for piece in in_pieces(tags, tags_max, ranges_max):
            of_piece = [
                tag for first, last in zip(piece[::2], piece[1::2], strict=True) for tag in range(first, last + 1)
            ]
            assert 0 < len(of_piece) <= tags_max
            assert len(piece) <= 2 * ranges_max
            named += of_piece
        assert named == wanted


@pytest.mark.parametrize("tags", [[0, 1], [2, 1], [1, 5, 5, 6], [1, 20_000_000]])
def test_ranges_out_of_order_are_refused(tags: list[int]) -> None:
    with pytest.raises(InvalidRequest):
        check_ranges(tags)
