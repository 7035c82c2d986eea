"""Sets of tags as ranges, against Python's own sets."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluicemq.client.tag_ranges import TagRanges, count_tags, pairs

SPANS = st.tuples(st.integers(1, 60), st.integers(0, 12)).map(lambda span: (span[0], span[0] + span[1]))
STEPS = st.lists(st.tuples(st.sampled_from(["add", "take"]), SPANS), max_size=40)


def tags_of(flat):
    return {tag for first, last in pairs(flat) for tag in range(first, last + 1)}


@given(STEPS)
def test_ranges_behave_like_a_set(steps):
    ranges, model = TagRanges(), set()
    for step, (first, last) in steps:
        span = set(range(first, last + 1))
        if step == "add":
            ranges.add(first, last)
            model |= span
        else:
            taken = ranges.take(first, last)
            assert tags_of(taken) == model & span
            assert count_tags(taken) == len(model & span)
            model -= span
        flat = ranges.flat()
        assert tags_of(flat) == model
        assert ranges.count == len(model)
        # Ascending, and never two ranges where one would do.
        assert all(later > earlier + 1 for earlier, later in zip(flat[1:-1:2], flat[2::2], strict=True))
        assert {tag for tag in range(80) if tag in ranges} == model
        assert bool(ranges) == bool(model)
        assert list(ranges) == list(pairs(flat))


def test_acks_in_order_stay_one_range():
    ranges = TagRanges()
    for tag in range(1, 1001):
        ranges.add(tag, tag)
    assert ranges.flat() == [1, 1000]
    assert ranges.ranges == 1
    ranges.clear()
    assert not ranges


def test_a_flat_list_makes_a_set():
    assert TagRanges([1, 3, 5, 5]).flat() == [1, 3, 5, 5]
    with pytest.raises(ValueError, match="zip"):
        TagRanges([1, 2, 3])
