"""Retry policies: the delays that they mean, the same on every broker."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluicemq.broker.queues.leases import LeaseTable
from sluicemq.broker.queues.retry import JITTER_STEPS, retry_delay_ms, retry_times
from sluicemq.broker.queues.runs import Run, messages_in
from sluicemq.wire.settings import QUEUE_SETTINGS_DEFAULT, check_queue_settings


def settings_with(**settings: Any) -> dict[str, Any]:
    return {**QUEUE_SETTINGS_DEFAULT, **check_queue_settings(settings)}


def run(attempts: int, zxid: int = 7, first: int = 0) -> Run:
    return Run(zxid, zxid, first, 1, 10, 100, 1_000, attempts, attempts)


def delays(settings: dict[str, Any], attempts_max: int) -> list[int]:
    return [retry_delay_ms(settings, run(attempts)) for attempts in range(1, attempts_max + 1)]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"retry_delay": 2.5}, [2_500, 2_500, 2_500]),
        ({"retry": [0, 1.5, 60]}, [0, 1_500, 60_000, 60_000, 60_000]),
        ({"retry": {"initial": 1}}, [1_000, 2_000, 4_000, 8_000]),
        ({"retry": {"initial": 1, "factor": 3, "max": 10}}, [1_000, 3_000, 9_000, 10_000, 10_000]),
        ({"retry": {"initial": 5, "factor": 1}}, [5_000, 5_000, 5_000]),
        ({"retry": {"initial": 0.001, "factor": 100, "max": 0.5}}, [1, 100, 500, 500]),
    ],
)
def test_each_attempt_waits_as_the_policy_says(settings: dict[str, Any], expected: list[int]) -> None:
    assert delays(settings_with(**settings), len(expected)) == expected


def test_the_last_of_65535_attempts_costs_no_more_than_the_first() -> None:
    slow = settings_with(retry={"initial": 0.001, "factor": 1.0000001, "max": 1})
    assert retry_delay_ms(slow, run(65_535)) == 1


def test_chance_is_the_same_everywhere_and_spreads_evenly() -> None:
    settings = settings_with(retry={"initial": 100, "factor": 1, "jitter": 0.5})
    found = [retry_delay_ms(settings, run(1, zxid)) for zxid in range(1, 2_001)]
    assert found == [retry_delay_ms(settings, run(1, zxid)) for zxid in range(1, 2_001)]
    assert found[:3] == [78_711, 75_244, 72_510], "frozen: it shows in the state"
    assert 50_000 <= min(found) < 51_000
    assert 99_000 < max(found) <= 100_000
    assert 74_000 < sum(found) / len(found) < 76_000
    assert len(set(found)) <= JITTER_STEPS
    assert retry_delay_ms(settings, run(1)) != retry_delay_ms(settings, run(2)), "each attempt has a chance of its own"


@given(
    sizes=st.lists(st.integers(1, 5), min_size=1, max_size=8),
    ranges=st.lists(st.integers(1, 30), min_size=2, max_size=8, unique=True),
)
def test_a_look_at_leases_sees_what_taking_them_takes(sizes: list[int], ranges: list[int]) -> None:
    table = LeaseTable(1, 1, 1)
    tag = 1
    for number, size in enumerate(sizes):
        table.grant(tag, [Run(number + 5, number + 5, 0, size, size, 10, 1)])
        tag += size + number % 2
    tags = sorted(ranges)[: len(ranges) // 2 * 2]
    before = list(table.pieces())
    seen = table.look(tags)
    assert list(table.pieces()) == before, "nothing was changed"
    assert seen == table.take(tags).runs


def test_when_nacked_messages_come_due_is_known_before_they_are_nacked() -> None:
    settings = settings_with(retry=[1, 5])
    times = retry_times(settings, 10_000, [run(0), run(1), run(2)])
    assert times == {11_000: 1, 15_000: 2}
    assert messages_in([run(0)]) == 1
