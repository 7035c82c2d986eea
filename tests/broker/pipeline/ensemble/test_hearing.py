"""What a broker knows of the time of whoever leads, from news that come late."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluicemq.broker.pipeline.ensemble.hearing import HEAR_SECONDS, Hearing
from sluicemq.broker.pipeline.ensemble.records import Body, StoredEpoch, log_time_of
from sluicemq.broker.pipeline.log_clock import SLEW_RATE_MAX
from sluicemq.broker.queues import entries as e
from sluicemq.storage.record import Record


def believed_ms(hearing: Hearing, now: float) -> float:
    assert hearing.log_time is not None
    said_ms, at = hearing.log_time
    return said_ms + (now - at) * 1000


def test_nothing_is_known_before_a_leader_says_something() -> None:
    hearing = Hearing()
    assert hearing.log_time is None
    assert hearing.seconds_ago(1.0) is None


def test_a_late_word_does_not_replace_one_that_came_quickly() -> None:
    hearing = Hearing()
    hearing.said(1, 1_000_000, 50.0)
    hearing.said(1, 1_000_600, 51.0)  # 400 ms late: this broker had much to do
    assert believed_ms(hearing, 51.0) == 1_001_000 - 1_000 * SLEW_RATE_MAX


def test_a_quicker_word_replaces_a_late_one() -> None:
    hearing = Hearing()
    hearing.said(1, 1_000_000, 50.4)
    hearing.said(1, 1_001_000, 51.0)
    assert believed_ms(hearing, 51.0) == 1_001_000


def test_a_log_time_that_runs_slower_to_meet_a_wall_clock_is_followed() -> None:
    hearing = Hearing()
    for second in range(1_000):
        late_ms = second % 7 * 100
        hearing.said(1, int(second * 1000 * (1 - SLEW_RATE_MAX)) - late_ms, float(second))
    assert believed_ms(hearing, 999.0) == pytest.approx(999_000 * (1 - SLEW_RATE_MAX), abs=1)


def test_what_another_leader_says_counts_from_its_first_word_on() -> None:
    hearing = Hearing()
    hearing.said(1, 1_000_000, 50.0)
    hearing.said(2, 1_000_500, 51.0)
    assert believed_ms(hearing, 51.0) == 1_000_500


@given(st.lists(st.tuples(st.floats(0.02, 0.5), st.floats(0.0, 0.4)), min_size=1, max_size=60))
def test_it_is_believed_later_than_it_is_by_no_more_than_the_quickest_word(news: list[tuple[float, float]]) -> None:
    hearing = Hearing()
    now = 100.0
    late_ms: list[float] = []
    for gap, under_way in news:
        now += gap
        hearing.said(3, int((now - under_way) * 1000), now)
        late_ms = [late + gap * 1000 * SLEW_RATE_MAX for late in late_ms] + [under_way * 1000]
        behind_ms = now * 1000 - believed_ms(hearing, now)
        assert -0.001 <= behind_ms <= min(late_ms) + 1.001, "what is a millisecond was cut off at most"


def test_in_a_short_while_one_look_is_enough() -> None:
    hearing = Hearing()
    assert hearing.listens(7.0)
    assert not hearing.listens(7.0 + HEAR_SECONDS / 2)
    assert hearing.listens(7.0 + HEAR_SECONDS)


@pytest.mark.parametrize(
    "header", [b"", b"\x90", b"\x91\xa1x", b"\x91", b"\xc1", b"\x07", b"\x91\xcb\x7f\xf0\x00\x00\x00\x00\x00\x00"]
)
def test_a_record_that_says_no_time_says_none(header: bytes) -> None:
    assert log_time_of(Body(Record(1, e.Clock.KIND, 1, 0, header, b""))) == 0


def test_a_record_says_when_it_was_proposed() -> None:
    entry = e.Clock(1_795_000_000_123, 10)
    assert log_time_of(Body(Record(1, e.Clock.KIND, 1, 0, entry.header(), b""))) == 1_795_000_000_123
    assert log_time_of(Body(Record(1, e.Clock.KIND, 1, 0, b"", b""), entry)) == 1_795_000_000_123
    assert log_time_of(StoredEpoch(1, None, Record(1, e.Epoch.KIND, 1, 0, b"", b""))) == 0  # type: ignore[arg-type]
