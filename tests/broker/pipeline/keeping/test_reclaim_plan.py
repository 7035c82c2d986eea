"""What to drop, rewrite and merge: the plan carried out on paper, for stores of any shape."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sluicemq.broker.pipeline.keeping.reclaim_plan import (
    MERGE_RUNS_MAX,
    SMALL_BYTES,
    Action,
    Step,
    StoredFile,
    plan,
)

SEGMENT_BYTES = 64 * SMALL_BYTES
RUNS_MAX = 1_000_000


def file(number: int, bytes_: int = SEGMENT_BYTES, *, live: int = 0, runs: int | None = None) -> StoredFile:
    """Return the file of one segment, whose entries are those of its hundred."""
    return StoredFile(
        number, number, 100 * number, 100 * number + 99, bytes_, live, (1 if live else 0) if runs is None else runs
    )


def planned(*files: StoredFile, through_zxid: int = 1 << 62, runs_max: int = RUNS_MAX) -> list[Step]:
    return plan(files, through_zxid=through_zxid, target_bytes=SEGMENT_BYTES, runs_max=runs_max)


def told(steps: list[Step]) -> list[tuple[str, int, int]]:
    return [(step.action.value, step.first_sequence, step.last_sequence) for step in steps]


def carried_out(files: list[StoredFile], steps: list[Step]) -> list[StoredFile]:
    """Return the store after *steps*, as the log would have it; a new file is as large as what is alive."""
    for step in steps:
        taken = [each for each in files if step.first_sequence <= each.first_sequence <= step.last_sequence]
        assert tuple(taken) == step.files, "a step takes what lies in its range, and its range cuts nothing in two"
        at = files.index(taken[0])
        files = [each for each in files if each not in taken]
        if step.action is not Action.DROP:
            size = step.live_bytes
            made = StoredFile(
                step.first_sequence, step.last_sequence, step.first_zxid, step.last_zxid, size, size, step.live_runs
            )
            files.insert(at, made)
    return files


stores = st.lists(
    st.tuples(st.integers(1, SEGMENT_BYTES), st.sampled_from([0, 0, 1, 10, 40, 50, 51, 90, 100])), max_size=40
).map(
    lambda sizes: [
        file(number, bytes_, live=-(-bytes_ * share // 100), runs=int(share > 0))
        for number, (bytes_, share) in enumerate(sizes, 1)
    ]
)


def test_a_file_without_a_living_message_is_dropped():
    assert told(planned(file(1), file(2, live=SEGMENT_BYTES), file(3), file(4))) == [("drop", 1, 1), ("drop", 3, 4)]


def test_a_file_of_which_more_than_half_is_alive_stays():
    assert planned(file(1, 1_000_000, live=500_001)) == []


def test_a_file_of_which_half_is_alive_is_rewritten():
    assert told(planned(file(1, 1_000_000, live=500_000))) == [("rewrite", 1, 1)]


def test_neighbours_with_little_alive_become_one_file_over_what_was_dead_between_them():
    steps = planned(file(1, live=10), file(2), file(3, live=10), file(4, live=SEGMENT_BYTES), file(5, live=10))
    assert told(steps) == [("drop", 2, 2), ("rewrite", 1, 3), ("rewrite", 5, 5)]


def test_no_file_becomes_larger_than_a_segment():
    steps = planned(*(file(number, live=SEGMENT_BYTES * 2 // 5) for number in range(1, 6)))
    assert told(steps) == [("rewrite", 1, 2), ("rewrite", 3, 4), ("rewrite", 5, 5)]


def test_four_small_neighbours_are_merged_and_three_are_not():
    small = [file(number, 9_000, live=9_000) for number in range(1, 5)]
    assert told(planned(*small)) == [("merge", 1, 4)]
    assert planned(*small[:3]) == []


def test_files_of_very_many_messages_are_merged_only_as_far_as_takes_a_second():
    many = MERGE_RUNS_MAX // 4
    small = [file(number, SMALL_BYTES, live=SMALL_BYTES, runs=many) for number in range(8)]
    assert told(planned(*small)) == [("merge", 0, 3), ("merge", 4, 7)]
    more = [file(number, SMALL_BYTES, live=SMALL_BYTES, runs=many + 1) for number in range(8)]
    assert planned(*more) == []


def test_a_large_file_is_not_written_again_for_small_neighbours():
    large = file(1, 10 * SMALL_BYTES, live=10 * SMALL_BYTES)
    assert planned(large, *(file(number, 9_000, live=9_000) for number in range(2, 5))) == []


def test_nothing_above_the_older_snapshot_is_touched():
    assert told(planned(file(1), file(2), file(3), through_zxid=298)) == [("drop", 1, 1)]
    assert told(planned(file(1), file(2), file(3), through_zxid=299)) == [("drop", 1, 2)]


def test_a_file_in_more_pieces_than_memory_takes_stays():
    assert planned(file(1, live=10, runs=11), runs_max=10) == []


@given(stores, st.integers(0, 5_000))
def test_a_plan_never_drops_what_is_alive_nor_touches_what_a_snapshot_needs(store, through_zxid):
    steps = planned(*store, through_zxid=through_zxid)
    for step in steps:
        assert step.last_zxid <= through_zxid
        assert step.action is not Action.DROP or not any(each.live_runs for each in step.files)
    before = sum(each.live_runs for each in store)
    assert sum(each.live_runs for each in carried_out(store, steps)) == before


@given(stores)
def test_after_a_plan_the_store_takes_at_most_twice_what_is_alive(store):
    after = carried_out(store, planned(*store))
    assert sum(each.bytes for each in after) <= 2 * sum(each.live_bytes for each in after)


@given(stores)
def test_rewriting_frees_at_least_what_it_writes_and_merging_at_least_quadruples(store):
    for step in planned(*store):
        assert step.live_bytes <= SEGMENT_BYTES
        if step.action is Action.REWRITE:
            assert step.bytes - step.live_bytes >= step.live_bytes
        if step.action is Action.MERGE:
            sizes = [max(each.bytes, SMALL_BYTES) for each in step.files]
            assert sum(sizes) >= 4 * max(sizes)


@given(stores)
def test_plans_come_to_an_end(store):
    for _ in range(20):
        steps = planned(*store)
        if not steps:
            return
        store = carried_out(store, steps)
    raise AssertionError("the same files are written again and again")
