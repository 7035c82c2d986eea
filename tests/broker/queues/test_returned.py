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
