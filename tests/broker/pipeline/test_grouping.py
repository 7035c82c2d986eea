"""Neighbours that share when, how long and how soon are one group; together the groups say what the columns say."""

from __future__ import annotations

from itertools import pairwise

import pytest
from google_crc32c import value as crc32c
from hypothesis import given
from hypothesis import strategies as st

from sluicemq.broker.pipeline.grouping import groups_of, key_numbers
from sluicemq.wire.batch import Batch, encode_batch
from sluicemq.wire.errors import InvalidRequest

NOW = 1_000_000


def batch(count: int, **columns: list) -> Batch:
    return Batch(encode_batch([b"x"] * count, **columns))


def test_a_batch_that_says_nothing_has_no_groups() -> None:
    assert groups_of(batch(3), NOW) == []
    assert groups_of(batch(3, due_times=[None] * 3, ttls=[None] * 3, priorities=[0, None, 0]), NOW) == []
    assert groups_of(batch(3, due_times=[0, NOW, NOW - 1]), NOW) == [], "what is overdue goes at once"
    assert groups_of(batch(3, keys=["a", "b", "c"]), NOW) == [], "keys matter only where a queue is ordered by them"


def test_a_batch_of_one_mind_is_one_group() -> None:
    assert groups_of(batch(1000, due_times=[-500] * 1000), NOW) == [1000, NOW + 500, 0, 0, 0, 0]
    assert groups_of(batch(3, ttls=[5] * 3, priorities=[9] * 3), NOW) == [3, 0, 5, 9, 0, 0]


def test_a_delay_counts_from_the_leaders_time_and_a_time_is_a_time() -> None:
    found = groups_of(batch(4, due_times=[-1, NOW + 1, NOW + 2, None]), NOW)
    assert found == [2, NOW + 1, 0, 0, 0, 0, 1, NOW + 2, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0]


def test_keys_are_numbers_where_the_queue_is_ordered_by_them() -> None:
    found = groups_of(batch(4, keys=["a", "a", None, "ü"]), NOW, keyed=True)
    assert found[::6] == [2, 1, 1]
    assert found[4::6] == [crc32c(b"a"), 0, crc32c("ü".encode())]


def test_no_key_has_the_number_of_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sluicemq.broker.pipeline.grouping.crc32c", lambda _: 0)
    assert key_numbers(["a", None]) == [1, 0]


def test_a_queue_ordered_by_key_knows_no_priorities() -> None:
    assert groups_of(batch(2, priorities=[0, None]), NOW, keyed=True) == []
    with pytest.raises(InvalidRequest, match="ordered by key, so its messages have no priority"):
        groups_of(batch(2, priorities=[0, 1]), NOW, keyed=True)


@given(
    st.lists(
        st.tuples(
            st.none() | st.integers(-3, 3) | st.integers(NOW, NOW + 3),
            st.none() | st.integers(1, 3),
            st.none() | st.integers(0, 2),
            st.none() | st.sampled_from("ab"),
        ),
        min_size=1,
        max_size=30,
    ),
    st.sets(st.sampled_from(["due_times", "ttls", "priorities", "keys"])),
)
def test_the_groups_say_of_each_message_what_its_columns_say(rows, present) -> None:
    names = ("due_times", "ttls", "priorities", "keys")
    columns = {
        name: list(values) for name, values in zip(names, zip(*rows, strict=True), strict=True) if name in present
    }
    groups = groups_of(batch(len(rows), **columns), NOW, keyed="keys" in present and "priorities" not in present)
    said = []
    for at in range(0, len(groups), 6):
        said += [tuple(groups[at + 1 : at + 6])] * groups[at]
    keyed = "keys" in present and "priorities" not in present

    def naive(due, ttl, priority, key):
        due = due if "due_times" in present and due is not None else 0
        due = NOW - due if due < 0 else due
        return (
            due if due > NOW else 0,
            (ttl or 0) if "ttls" in present else 0,
            (priority or 0) if "priorities" in present else 0,
            crc32c(key.encode()) if keyed and key else 0,
            0,
        )

    expected = [naive(*row) for row in rows]
    assert (said or [(0, 0, 0, 0, 0)] * len(rows)) == expected
    pairs = [tuple(groups[at + 1 : at + 6]) for at in range(0, len(groups), 6)]
    assert all(one != other for one, other in pairwise(pairs)), "neighbours that share all are one"
