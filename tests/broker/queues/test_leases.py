"""The lease table: any range across any pieces, against a dict with one lease a tag."""

from __future__ import annotations

import itertools
import random

import pytest

from sluicemq.broker.queues.leases import BLOCK_PIECES, LeaseTable
from sluicemq.broker.queues.runs import Run
from sluicemq.broker.queues.tags import range_pairs

Naive = dict[int, tuple[int, int, bool]]


def run_of(zxid: int, size: int) -> Run:
    return Run(zxid, zxid, 0, size, size, 10 * size, 0)


def leases(table: LeaseTable) -> Naive:
    return {
        first_tag + offset: (run.zxid, run.first + offset, bool(mark))
        for first_tag, run, mark in table.pieces()
        for offset in range(run.size)
    }


def table_with(*grants: tuple[int, ...], gap: int = 0) -> LeaseTable:
    """A table with one grant after the other, each of runs of these sizes; *gap* tags between grants were void."""
    table = LeaseTable(1, 1, 1)
    tag, zxid = 1, 1
    for sizes in grants:
        runs = [run_of(zxid + number, size) for number, size in enumerate(sizes)]
        table.grant(tag, runs)
        zxid += len(sizes)
        tag += sum(sizes) + gap
    return table


SHAPES = [((6,),), ((1, 1, 1, 1, 1, 1),), ((2, 3), (1,)), ((1,), (4,), (1,)), ((3,), (3,))]


@pytest.mark.parametrize("gap", [0, 1])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_taking_any_two_ranges_ends_just_those_leases(shape: tuple[tuple[int, ...], ...], gap: int) -> None:
    for bounds in itertools.combinations(range(1, 11), 4):
        tags = list(bounds)
        table = table_with(*shape, gap=gap)
        before = leases(table)
        wanted = [tag for first, last in range_pairs(tags) for tag in range(first, last + 1)]
        taken = table.take(tags)
        assert leases(table) == {tag: lease for tag, lease in before.items() if tag not in wanted}
        assert [tag for first, last in range_pairs(taken.lost) for tag in range(first, last + 1)] == [
            tag for tag in wanted if tag not in before
        ]
        found = [(run.zxid, run.first + offset) for run in taken.runs for offset in range(run.size)]
        assert found == [before[tag][:2] for tag in wanted if tag in before]
        assert taken.messages == len(found)
        assert table.messages == len(leases(table))
        assert len(taken.handed) == len(taken.runs)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_marking_any_range_marks_just_those_leases(shape: tuple[tuple[int, ...], ...]) -> None:
    for first in range(1, 9):
        for last in range(first, 10):
            table = table_with(*shape)
            before = leases(table)
            lost = table.mark([first, last])
            assert leases(table) == {
                tag: (zxid, index, first <= tag <= last) for tag, (zxid, index, _) in before.items()
            }
            assert lost == ([max(first, 7), last] if last > 6 else [])


@pytest.mark.parametrize("seed", range(10))
def test_a_long_life_over_many_blocks(seed: int) -> None:
    rng = random.Random(seed)
    table = LeaseTable(1, 1, 1)
    naive: Naive = {}
    zxid, tag = 0, 1
    for _ in range(120):
        runs = []
        first_tag = tag
        for _ in range(rng.choice((1, 4, 600))):
            zxid += 1
            runs.append(run_of(zxid, rng.choice((1, 1, 1, 7))))
            for index in range(runs[-1].size):
                naive[tag] = (zxid, index, False)
                tag += 1
        table.grant(first_tag, runs)
        for _ in range(rng.randint(0, 3)):
            first = rng.randint(max(1, tag - 4000), tag)
            last = first + rng.choice((0, 1, 30, 3000))
            inside = [number for number in range(first, last + 1) if number in naive]
            if rng.random() < 0.3:
                table.mark([first, last])
                naive.update({number: (*naive[number][:2], True) for number in inside})
            else:
                taken = table.take([first, last])
                assert taken.messages == len(inside)
                marks = [
                    bool(mark) for run, mark in zip(taken.runs, taken.handed, strict=True) for _ in range(run.size)
                ]
                assert marks == [naive.pop(number)[2] for number in inside]
        assert table.messages == len(naive)
    assert leases(table) == naive
    assert table.take([1, tag]).messages == len(naive)
    assert list(table.pieces()) == []


def test_a_huge_range_costs_no_more_than_what_it_holds() -> None:
    table = table_with((1, 1, 1))
    taken = table.take([2, 2**63])
    assert taken.messages == 2
    assert taken.lost == [4, 2**63]


def test_tags_are_granted_once() -> None:
    table = table_with((3,))
    with pytest.raises(AssertionError, match="ascend"):
        table.grant(3, [run_of(9, 1)])


def test_grants_fill_blocks_and_then_begin_new_ones() -> None:
    table = table_with(*[(1,) * 100] * (BLOCK_PIECES // 50))
    assert table.messages == 2 * BLOCK_PIECES // 100 * 100
    middle = table.take([BLOCK_PIECES - 5, BLOCK_PIECES + 105])
    assert middle.messages == 111
    assert middle.lost == []


def test_reading_on_from_a_tag_begins_near_it() -> None:
    table = table_with(*[(2, 3)] * (2 * BLOCK_PIECES))
    pieces = list(table.pieces())
    last = pieces[-1][0]
    for tag in (0, 1, 2, 5, last // 2, last, last + 9):
        found = list(table.pieces(tag))
        assert [piece for piece in found if piece[0] + piece[1].size > tag] == [
            piece for piece in pieces if piece[0] + piece[1].size > tag
        ]
        assert len(found) <= sum(piece[0] >= tag for piece in pieces) + 2 * BLOCK_PIECES
