"""Queues that expire, on the leader: when they go, and what the next leader knows of their use. In virtual time."""

from __future__ import annotations

from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from sluicemq.broker.pipeline.due import DueTimer
from sluicemq.broker.pipeline.unused import COME_BACK_MS, MARKS, UnusedQueues
from sluicemq.broker.queues import entries as e
from sluicemq.broker.queues.entries_of_queues import MarkUsed
from sluicemq.broker.queues.machine import Machine
from sluicemq.broker.queues.outcomes import MayExpire

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from sluicemq.broker.queues.queue import Queue

pytestmark = pytest.mark.trio

HOUR = 3600.0
NOON_MS = 1_795_262_400_000


class Road:
    """Applies what is proposed at once.

    Attributes:
        marks: How many entries said that queues are used.
        consumers: How many consumers each queue has, by number.

    """

    def __init__(self, machine: Machine | None = None) -> None:
        self.machine = machine or Machine()
        self.clock = SimpleNamespace(now_ms=lambda: NOON_MS + round(trio.current_time() * 1000))
        self.dispatch = self
        self.consumers: dict[int, int] = {}
        self.marks = 0
        self.unused = UnusedQueues(self)  # type: ignore[arg-type]  # all of a road that it needs

    def timer(self, next_due: Callable[[], float | None], fire: Callable[[], None], *, is_upkeep: bool) -> DueTimer:
        assert is_upkeep, "tests that move the time on do not stop for each look"
        return DueTimer(next_due, fire)

    def propose(self, entry: Any, *, lazy: bool = False, on_applied: Callable[[Any], None] | None = None) -> None:
        del lazy
        self.marks += isinstance(entry, MarkUsed)
        outcome = self.machine.apply(self.machine.applied_zxid + 1, entry)
        self.machine.check()
        for effect in outcome.effects:
            if isinstance(effect, MayExpire):
                self.unused.watch(effect.queue_id)
        if on_applied is not None:
            on_applied(outcome)

    def consumer_count(self, queue_id: int) -> int:
        return self.consumers.get(queue_id, 0)

    def consume(self, queue: Queue, change: int = 1) -> None:
        self.consumers[queue.id] = self.consumer_count(queue.id) + change
        self.unused.came_or_left(queue.id)

    def declare(self, expires: float = HOUR) -> Queue:
        self.propose(e.Declare(self.clock.now_ms(), "/", "queue", "orders", {"expires": expires}))
        queue = self.machine.find_queue("/", "orders")
        assert queue is not None
        return queue

    @property
    def has_queue(self) -> bool:
        return self.machine.find_queue("/", "orders") is not None

    async def lives_for(self, seconds: float) -> bool:
        """Whether the queue is there just before so many seconds have passed, and gone just after."""
        await trio.sleep(seconds - 1)
        before = self.has_queue
        await trio.sleep(2)
        return before and not self.has_queue


@asynccontextmanager
async def leading(machine: Machine | None = None) -> AsyncIterator[Road]:
    """A leader, which begins with what the machine knows."""
    road = Road(machine)
    async with trio.open_nursery() as nursery:
        road.unused.start(nursery)
        yield road
        nursery.cancel_scope.cancel()


async def test_a_queue_goes_when_nobody_used_it_for_as_long_as_it_says(autojump_clock):
    async with leading() as road:
        road.declare()
        assert await road.lives_for(HOUR)


async def test_a_queue_counts_from_when_its_last_consumer_left(autojump_clock):
    async with leading() as road:
        queue = road.declare()
        road.consume(queue)
        await trio.sleep(5 * HOUR)
        road.consume(queue, -1)
        assert await road.lives_for(HOUR)


async def test_leaders_that_follow_each_other_do_not_prolong_it(autojump_clock):
    async with leading() as road:
        queue = road.declare()
        machine = road.machine
        await trio.sleep(600)
    for _ in range(4):
        async with leading(machine) as road:
            await trio.sleep(600)
            assert road.has_queue
    async with leading(machine) as road:
        # 3,000 s have passed of 3,600; it may have been used for an eighth of these without anybody saying so.
        assert await road.lives_for(600 + HOUR / MARKS)
    assert machine.queue(queue.id) is None


async def test_what_was_consumed_under_one_leader_lives_as_long_under_the_next(autojump_clock):
    async with leading() as road:
        road.consume(road.declare())
        machine = road.machine
        await trio.sleep(100 * HOUR)
        assert road.marks <= 100 * MARKS + 1
    async with leading(machine) as road:
        await trio.sleep(HOUR - 1)
        assert road.has_queue, "it had a consumer until the first leader ended"
        await trio.sleep(HOUR / MARKS + 2)
        assert not road.has_queue


async def test_a_short_visit_is_known_to_the_next_leader(autojump_clock):
    async with leading() as road:
        queue = road.declare()
        machine = road.machine
        await trio.sleep(0.9 * HOUR)
        road.consume(queue)
        road.consume(queue, -1)
        await trio.sleep(1)
    async with leading(machine) as road:
        await trio.sleep(HOUR - 2)
        assert road.has_queue


async def test_consumers_have_time_to_come_back_to_a_leader_that_begins_late(autojump_clock):
    async with leading() as road:
        queue = road.declare()
        machine = road.machine
        road.consume(queue)
    await trio.sleep(20 * HOUR)
    async with leading(machine) as road:
        await trio.sleep(COME_BACK_MS / 1000 - 1)
        assert road.has_queue
        road.consume(queue)
        await trio.sleep(2 * HOUR)
        assert road.has_queue
    async with leading(machine) as road:
        await trio.sleep(COME_BACK_MS / 1000 - 1)


async def test_who_nobody_comes_back_to_goes_soon_after_a_leader_began_late(autojump_clock):
    async with leading() as road:
        road.declare()
        machine = road.machine
    await trio.sleep(20 * HOUR)
    async with leading(machine) as road:
        assert await road.lives_for(COME_BACK_MS / 1000)


async def test_queues_that_live_for_seconds_are_not_said_to_be_used_all_the_time(autojump_clock):
    async with leading() as road:
        queue = road.declare(2.0)
        for _ in range(50):
            road.consume(queue)
            await trio.sleep(1)
            road.consume(queue, -1)
        assert road.marks <= 5
        assert await road.lives_for(2)
