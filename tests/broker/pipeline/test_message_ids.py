"""Message ids under a hostile clock: no id twice, always rising, over restarts and changes of the leader."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sluicemq.broker.pipeline.message_ids import MessageIds
from sluicemq.wire.message_ids import EPOCH_MS, default_message_id, message_id_at, moment_of

START_MS = EPOCH_MS + 86_400_000

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("publish"), st.integers(1, 10_000)),
        st.tuples(st.just("jump"), st.sampled_from((-100_000_000, -5_000, -1, 1, 50, 7_000, 100_000_000))),
        st.tuples(st.just("lead"), st.integers(0, 5_000)),
        st.tuples(st.just("lose"), st.integers(1, 10_000)),
    ),
    max_size=60,
)


@given(STEPS)
def test_ids_rise_for_ever_however_the_clock_jumps_and_whoever_leads(steps: list[tuple[str, int]]) -> None:
    """What a leader gave to batches that never came into the log does no harm either."""
    now_ms, tail, node = START_MS, 0, 3
    ids = MessageIds(node, tail)
    last = -1
    given_ids: set[int] = set()
    for what, number in steps:
        if what == "publish":
            base = ids.take(number, now_ms)
            first, behind = message_id_at(base, 0), message_id_at(base, number - 1)
            assert last < first == base <= behind
            assert not given_ids & {first, behind}
            given_ids |= {first, behind}
            last = behind
            tail = max(tail, moment_of(base) + number)
        elif what == "jump":
            now_ms += number
        elif what == "lead":
            node = number
            ids = MessageIds(node, tail)
        else:
            lost = ids.take(number, now_ms)
            assert lost > last
            ids = MessageIds(node + 1, tail)
            node += 1


def test_a_batch_goes_on_in_the_milliseconds_behind() -> None:
    base = MessageIds(5, 0).take(10_000, START_MS)
    ids = [message_id_at(base, index) for index in range(10_000)]
    assert ids == sorted(set(ids))
    assert {id_ >> 12 & 0x3FF for id_ in ids} == {5}
    assert ids[4_095] >> 22 == START_MS - EPOCH_MS
    assert ids[4_096] >> 22 == START_MS - EPOCH_MS + 1


def test_texts_sort_as_ids_do() -> None:
    ids = MessageIds(1, 0)
    texts = [default_message_id(ids.take(3, START_MS + step), index) for step in (0, 9, 17, 4) for index in range(3)]
    assert texts == sorted(texts)
    assert {len(text) for text in texts} == {16}


def test_before_its_own_beginning_the_clock_counts_as_standing() -> None:
    ids = MessageIds(1, 0)
    assert ids.take(2, 0) < ids.take(1, 0) < ids.take(1, START_MS)
