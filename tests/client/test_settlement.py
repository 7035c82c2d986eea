"""Verdicts on their way: melted by verdict, cut by size."""

from hypothesis import given
from hypothesis import strategies as st

from sluicemq.client.settlement import SETTLE_RANGES_MAX, SettlementBuffer, Verdict
from sluicemq.client.tag_ranges import pairs

ACK, NACK, LATER = Verdict(1), Verdict(2), Verdict(2, 5.0)


def test_a_thousand_acks_in_order_are_one_range():
    buffer = SettlementBuffer()
    for tag in range(1, 1001):
        buffer.add(ACK, tag, tag)
    assert buffer
    assert buffer.take() == [(ACK, [1, 1000])]
    assert not buffer


@given(st.lists(st.tuples(st.sampled_from([ACK, NACK, LATER]), st.integers(1, 200)), unique_by=lambda item: item[1]))
def test_no_verdict_is_lost_or_changed(verdicts):
    buffer = SettlementBuffer()
    for verdict, tag in verdicts:
        buffer.add(Verdict(*verdict), tag, tag)
    assert buffer.ranges <= len(verdicts)
    sent = [
        (verdict, tag)
        for verdict, flat in buffer.take()
        for first, last in pairs(flat)
        for tag in range(first, last + 1)
    ]
    assert sorted(sent, key=lambda item: item[1]) == sorted(verdicts, key=lambda item: item[1])
    assert buffer.take() == []


def test_a_verdict_with_countless_gaps_is_cut_into_frames():
    buffer = SettlementBuffer()
    for tag in range(1, 2 * (SETTLE_RANGES_MAX + 1), 2):
        buffer.add(ACK, tag, tag)
    frames = buffer.take()
    assert [len(flat) // 2 for _, flat in frames] == [SETTLE_RANGES_MAX, 1]


def test_what_follows_a_taking_starts_anew():
    buffer = SettlementBuffer()
    buffer.add(ACK, 1, 1)
    buffer.take()
    buffer.add(ACK, 2, 2)
    assert buffer.take() == [(ACK, [2, 2])]
