"""Ranges of tags: every small case, against sets."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluicemq.broker.queues.tags import (
    TAG_MAX,
    Span,
    TagLedger,
    add_range,
    count_tags,
    range_pairs,
    ranges_problem,
    without,
)


def tags_in(ranges: list[int]) -> set[int]:
    return {tag for first, last in range_pairs(ranges) for tag in range(first, last + 1)}


def ranges_of(tags: set[int]) -> list[int]:
    ranges: list[int] = []
    for tag in sorted(tags):
        add_range(ranges, tag, tag)
    return ranges


SUBSETS = [set(itertools.compress(range(1, 7), bits)) for bits in itertools.product((0, 1), repeat=6)]


@pytest.mark.parametrize("tags", SUBSETS[1:], ids=str)
def test_ranges_of_a_set_are_the_set(tags: set[int]) -> None:
    ranges = ranges_of(tags)
    assert tags_in(ranges) == tags
    assert count_tags(ranges) == len(tags)
    assert ranges_problem(ranges) is None


@pytest.mark.parametrize("tags", SUBSETS, ids=str)
def test_ranges_without_holes_are_the_difference(tags: set[int]) -> None:
    for holes in SUBSETS:
        if holes <= tags:
            assert tags_in(without(ranges_of(tags), ranges_of(holes))) == tags - holes


def test_ranges_that_touch_without_holes_across_them_are_the_difference() -> None:
    for tags in ([1, 2, 3, 4, 5, 6], [1, 1, 2, 5, 6, 6], [1, 3, 4, 6]):
        for holes in SUBSETS:
            assert tags_in(without(tags, ranges_of(holes))) == tags_in(tags) - holes


def test_holes_are_cut_out_of_ranges_that_touch() -> None:
    assert without([1, 3, 4, 6], [3, 4]) == [1, 2, 5, 6]
    assert without([1, 3, 4, 6], [3, 3, 4, 4]) == [1, 2, 5, 6]


def test_every_short_list_of_numbers_is_judged_rightly() -> None:
    for length in range(5):
        for numbers in itertools.product(range(4), repeat=length):
            tags = list(numbers)
            good = (
                length in (2, 4)
                and tags[0] > 0
                and all(first <= last for first, last in range_pairs(tags))
                and tags == sorted(tags)
                and (length < 4 or tags[1] < tags[2])
            )
            assert (ranges_problem(tags) is None) == good, tags


def test_tags_beyond_64_bits_are_refused() -> None:
    assert ranges_problem([1, TAG_MAX]) is None
    assert ranges_problem([1, TAG_MAX + 1]) is not None
    assert ranges_problem([1, 2, 4, TAG_MAX + 1]) is not None


@pytest.mark.parametrize("spans", [((1, 6),), ((1, 2), (3, 6)), ((2, 3), (5, 6)), ((1, 1), (3, 4), (6, 6))], ids=str)
def test_cutting_any_range_out_of_a_ledger_takes_just_those_tags(spans: tuple[tuple[int, int], ...]) -> None:
    for first in range(8):
        for last in range(first, 9):
            ledger = TagLedger()
            for start, end in spans:
                ledger.append(Span(start, end, 10 * (end - start + 1)))
            before = {tag for start, end in spans for tag in range(start, end + 1)}
            taken, left = ledger.cut(first, last)
            gone = {tag for span in taken for tag in range(span.first, span.last + 1)}
            stayed = {tag for span in ledger for tag in range(span.first, span.last + 1)}
            assert gone == before & set(range(first, last + 1))
            assert stayed == before - gone
            assert all(span.bytes == 10 * len(span) for span in [*taken, *ledger])
            assert left is None or left in list(ledger)
            assert (left is not None) == (
                first - 1 in before and first in before and any(s < first <= t for s, t in spans)
            )


@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(0, 1000)), min_size=1, max_size=8),
    st.lists(st.tuples(st.integers(1, 60), st.integers(0, 12)), max_size=20),
)
def test_bytes_are_conserved_however_spans_are_cut(spans: list[tuple[int, int]], cuts: list[tuple[int, int]]) -> None:
    ledger = TagLedger()
    tag = 1
    for size, bytes_ in spans:
        ledger.append(Span(tag, tag + size - 1, bytes_))
        tag += size
    out = 0
    for first, length in cuts:
        out += sum(span.bytes for span in ledger.cut(first, first + length)[0])
    out += sum(span.bytes for span in ledger.cut(1, tag)[0])
    assert out == sum(bytes_ for _, bytes_ in spans)
    assert len(ledger) == 0


def test_a_ledger_takes_no_tag_twice() -> None:
    ledger = TagLedger()
    ledger.append(Span(1, 5, 0))
    with pytest.raises(AssertionError, match="ascend"):
        ledger.append(Span(5, 6, 0))


def test_what_was_cut_out_can_be_put_back() -> None:
    ledger = TagLedger()
    for first in (1, 4, 7):
        ledger.append(Span(first, first + 2, 3))
    (middle,), _ = ledger.cut(4, 6)
    ledger.insert(middle)
    assert [(span.first, span.last) for span in ledger] == [(1, 3), (4, 6), (7, 9)]


def test_what_leaves_in_front_is_kept_no_longer_than_it_is_the_smaller_half() -> None:
    ledger = TagLedger()
    for tag in range(1, 2_001):
        ledger.append(Span(2 * tag, 2 * tag, 1))
    dropped = 0
    for tag in range(1, 2_001):
        before = len(ledger._spans)
        assert len(ledger.cut(2 * tag, 2 * tag)[0]) == 1
        dropped += len(ledger._spans) < before
        assert len(ledger) == 2_000 - tag
        assert len(ledger._spans) <= 2 * len(ledger) + 1
    assert dropped < 20, "the lists are moved as often as they halve, not with every span"


@pytest.mark.parametrize("seed", range(40))
def test_any_life_of_a_ledger_is_that_of_a_set_of_tags(seed: int) -> None:
    """Mostly in front, where spans leave, are cut and come back."""
    rng = random.Random(seed)
    ledger = TagLedger()
    held: set[int] = set()
    next_tag = 1
    for _ in range(400):
        action = rng.choice(("append", "append", "cut", "cut", "insert"))
        if action == "append":
            first = next_tag + rng.choice((0, 1))
            next_tag = first + rng.choice((1, 4))
            ledger.append(Span(first, next_tag - 1, 0))
            held.update(range(first, next_tag))
        else:
            first = min(held, default=1) + rng.choice((-2, 0, 0, 0, 1, 7))
            wanted = set(range(first, first + rng.choice((1, 1, 3, 9))))
            taken, left = ledger.cut(min(wanted), max(wanted))
            assert {tag for span in taken for tag in range(span.first, span.last + 1)} == held & wanted
            assert left is None or left in ledger
            held -= wanted
            if action == "insert":
                for span in taken:
                    before, after = ledger.beside(span)
                    assert (before is not None) == (span.first - 1 in held)
                    assert (after is not None) == (span.last + 1 in held)
                    ledger.insert(span)
                    held.update(range(span.first, span.last + 1))
        assert ledger.ranges() == ranges_of(held)
        assert [span.first for span in ledger] == ledger._firsts[ledger._head :]
        assert sum(map(len, ledger)) == len(held)
