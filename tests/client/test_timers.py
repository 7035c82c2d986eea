"""The timekeeper of a client with thousands of timers: what is cancelled goes, what lives is left in peace."""

from __future__ import annotations

import heapq

import pytest

from sluicemq.client import timers as timers_module
from sluicemq.client.runtime_trio import TrioRuntime
from sluicemq.client.timers import CANCELLED_TIMERS_MAX, Timers


def nothing() -> None:
    pass


@pytest.mark.trio
async def test_each_of_many_consumers_sets_its_timer_without_a_look_at_all_the_others(monkeypatch):
    looked_at = 0

    def counted(heap):
        nonlocal looked_at
        looked_at += len(heap)
        heapq.heapify(heap)

    monkeypatch.setattr(timers_module, "heapify", counted)
    timers = Timers(TrioRuntime())
    for number in range(20_000):
        timers.call_after(30 + number, nothing)

    assert looked_at < 4 * 20_000


@pytest.mark.trio
async def test_timers_that_were_cancelled_take_no_more_room_than_those_that_live():
    timers = Timers(TrioRuntime())
    living = [timers.call_after(60, nothing) for _ in range(3_000)]
    for _ in range(50_000):
        timers.call_after(30, nothing).cancel()
    assert timers.waiting <= 2 * len(living) + CANCELLED_TIMERS_MAX + 1

    for timer in living:
        timer.cancel()
    for _ in range(10_000):
        timers.call_after(30, nothing).cancel()
    assert timers.waiting <= CANCELLED_TIMERS_MAX + 1
