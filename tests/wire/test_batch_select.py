"""What is left of a batch, taken out as a batch of its own: the same messages with everything that belonged to them."""

from __future__ import annotations

from itertools import compress, groupby, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluicemq.wire.batch import Batch, encode_batch


def ranges_of(kept: list[bool]) -> list[tuple[int, int]]:
    """Return the ranges of what is kept, as (first, count)."""
    ranges = []
    place = 0
    for alive, group in groupby(kept):
        count = len(list(group))
        if alive:
            ranges.append((place, count))
        place += count
    assert all(first + count < later for (first, count), (later, _) in pairwise(ranges))
    return ranges


@given(
    st.lists(st.tuples(st.booleans(), st.sampled_from([0, 1, 3, 300, 70_000])), min_size=1, max_size=12).filter(
        lambda messages: any(alive for alive, _ in messages)
    ),
    st.booleans(),
)
def test_selected_messages_keep_their_bodies_keys_and_headers(
    messages: list[tuple[bool, int]], with_columns: bool
) -> None:
    kept = [alive for alive, _ in messages]
    bodies = [bytes([place]) * size for place, (_, size) in enumerate(messages)]
    keys = [f"k{place}" if place % 2 else None for place in range(len(messages))]
    headers = [{"n": place} if place % 3 else None for place in range(len(messages))]
    batch = Batch(encode_batch(bodies, keys=keys, headers=headers) if with_columns else encode_batch(bodies))
    selected = Batch(batch.select(ranges_of(kept)))
    selected.check()
    assert selected.bodies == list(compress(bodies, kept))
    if with_columns:
        assert selected.keys == list(compress(keys, kept))
        assert selected.headers == list(compress(headers, kept))


@pytest.mark.parametrize("ranges", [[], [(0, 0)], [(3, 1), (1, 1)], [(0, 2), (1, 1)], [(2, 9)], [(-1, 1), (2, 1)]])
def test_ranges_that_are_no_part_of_the_batch_are_refused(ranges: list[tuple[int, int]]) -> None:
    with pytest.raises(ValueError, match="part"):
        Batch(encode_batch([b"x"] * 5)).select(ranges)
