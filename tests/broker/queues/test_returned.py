"""Runs that came back: found and taken by place, also where neighbours of one batch differ in priority."""

from __future__ import annotations

import pytest

from sluicemq.broker.queues.returned import ReturnedRuns
from sluicemq.broker.queues.runs import Run

READY, ZXID = 11, 10


@pytest.fixture
def returned() -> ReturnedRuns:
    """One batch: its first message is urgent, the next three are not."""
    returned = ReturnedRuns()
    returned.add(Run(ZXID, READY, 0, 1, 4, 40, 0, priority=1))
    returned.add(Run(ZXID, READY, 1, 3, 4, 40, 0))
    return returned


@pytest.mark.parametrize(("index", "priority"), [(0, 1), (1, 0), (2, 0), (3, 0)])
def test_a_message_is_found_whatever_its_neighbours_priority(returned: ReturnedRuns, index: int, priority: int) -> None:
    found = returned.find(READY, ZXID, index)
    assert found is not None
    assert found.priority == priority
    assert found.first <= index < found.first + found.size


def test_what_is_not_there_is_not_found(returned: ReturnedRuns) -> None:
    assert returned.find(READY, ZXID, 4) is None
    assert returned.find(READY + 1, ZXID, 0) is None
    assert returned.take_within(READY, ZXID, 2, 3) is None


def test_a_part_is_taken_whatever_its_neighbours_priority(returned: ReturnedRuns) -> None:
    taken = returned.take_within(READY, ZXID, 2, 1)
    assert taken is not None
    assert (taken.first, taken.size, taken.priority) == (2, 1, 0)
    assert [(run.first, run.size) for run in returned] == [(0, 1), (1, 1), (3, 1)]
    assert returned.messages == 3


def test_what_came_back_is_read_on_from_any_place(returned: ReturnedRuns) -> None:
    for number in range(1, 6):
        returned.add(Run(ZXID + number, READY + number, 0, 2, 2, 20, 0))
    ordinary = [run for run in returned if run.priority == 0]
    assert [run.zxid for run in returned.some_of(1, 0, 0, 0, 9)] == [ZXID]
    assert returned.some_of(0, 0, 0, 0, 9) == ordinary
    for number, run in enumerate(ordinary):
        following = ordinary[number + 1 :]
        assert returned.some_of(0, run.ready, run.zxid, run.first + run.size, 2) == following[:2]
        rest = run.split(1)[1]
        assert returned.some_of(0, run.ready, run.zxid, run.first + 1, 2) == [rest, *following][:2]
    assert ReturnedRuns().some_of(0, 0, 0, 0, 9) == []
