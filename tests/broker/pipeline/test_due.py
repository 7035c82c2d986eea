"""The leader's timers in virtual time: they fire at the instant, follow every change, and never spin."""

from __future__ import annotations

import socket
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from sluicemq.broker.pipeline.due import DueTimer


class Plan:
    """What is due when, as the owner of a timer knows it.

    Attributes:
        dues: Seconds on the trio clock, in any order.
        fired: When the timer fired.
        looks: How often it asked for what is next.

    """

    def __init__(self, *dues: float, at_once: int = 1000) -> None:
        self.start = trio.current_time()
        self.dues = [self.start + due for due in dues]
        self.fired: list[float] = []
        self.looks = 0
        self.at_once = at_once
        self.timer = DueTimer(self.next_due, self.fire)

    def next_due(self) -> float | None:
        self.looks += 1
        return min(self.dues, default=None)

    def fire(self) -> None:
        now = trio.current_time()
        self.fired.append(now - self.start)
        over = sorted(due for due in self.dues if due <= now)[: self.at_once]
        for due in over:
            self.dues.remove(due)

    def add(self, seconds: float) -> None:
        """Something becomes due so many seconds after the start."""
        self.dues.append(self.start + seconds)
        self.timer.changed(self.start + seconds)


@asynccontextmanager
async def running(plan: Plan):
    async with trio.open_nursery() as nursery:
        nursery.start_soon(plan.timer.run)
        await trio.testing.wait_all_tasks_blocked()
        yield
        nursery.cancel_scope.cancel()


async def passes(clock: trio.testing.MockClock, seconds: float) -> None:
    clock.jump(seconds)
    await trio.testing.wait_all_tasks_blocked()


@pytest.mark.trio
async def test_a_timer_fires_at_the_instant_and_not_before(mock_clock):
    plan = Plan(10.0, 12.5)
    async with running(plan):
        await passes(mock_clock, 9.999)
        assert plan.fired == []
        await passes(mock_clock, 0.001)
        assert plan.fired == [pytest.approx(10.0)]
        await passes(mock_clock, 2.5)

        assert plan.fired == [pytest.approx(10.0), pytest.approx(12.5)]


@pytest.mark.trio
async def test_what_becomes_due_earlier_than_planned_re_arms_the_timer(mock_clock):
    plan = Plan(3600.0)
    async with running(plan):
        plan.add(5.0)
        plan.add(2.0)
        await trio.testing.wait_all_tasks_blocked()
        await passes(mock_clock, 2.0)
        await passes(mock_clock, 3.0)

        assert plan.fired == [2.0, 5.0]


@pytest.mark.trio
async def test_something_later_than_planned_does_not_wake_the_timer(mock_clock):
    plan = Plan(10.0)
    async with running(plan):
        looks = plan.looks
        for number in range(1000):
            plan.add(10.0 + number)
        plan.timer.changed(None)
        await trio.testing.wait_all_tasks_blocked()

        assert plan.looks == looks
        await passes(mock_clock, 10.0)
        assert plan.fired == [10.0]


@pytest.mark.trio
async def test_a_timer_without_anything_due_sleeps_until_there_is_something(mock_clock):
    plan = Plan()
    async with running(plan):
        looks = plan.looks
        await passes(mock_clock, 1e6)
        assert (plan.fired, plan.looks) == ([], looks)
        plan.add(1e6 + 1.0)
        await trio.testing.wait_all_tasks_blocked()
        await passes(mock_clock, 1.0)

        assert plan.fired == [1e6 + 1.0]


@pytest.mark.trio
async def test_what_was_put_off_meanwhile_is_not_fired_at_its_first_time(mock_clock):
    plan = Plan(10.0)
    async with running(plan):
        plan.dues = [plan.start + 30.0]  # a lease that was extended: nobody tells the timer of later times
        await passes(mock_clock, 10.0)
        assert plan.fired == []
        await passes(mock_clock, 20.0)

        assert plan.fired == [30.0]


@pytest.mark.trio
async def test_what_is_overdue_fires_at_once_and_others_have_their_turn_between_two_firings():
    plan = Plan(*[-1.0] * 5, at_once=1)
    turns = []

    async def other() -> None:
        while plan.dues:
            turns.append(len(plan.fired))
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(other)
        async with running(plan):
            pass

    assert len(plan.fired) == 5
    assert set(turns) >= {1, 2, 3, 4}, "somebody else ran after every firing"


@pytest.mark.trio
async def test_what_becomes_due_while_the_timer_fires_is_not_forgotten(mock_clock):
    plan = Plan(1.0)
    fire = plan.fire

    def fire_and_plan() -> None:
        fire()
        if len(plan.fired) < 4:
            plan.add(len(plan.fired) + 1.0)

    plan.timer = DueTimer(plan.next_due, fire_and_plan)
    async with running(plan):
        for _ in range(10):
            await passes(mock_clock, 1.0)

    assert plan.fired == [1.0, 2.0, 3.0, 4.0]


@pytest.mark.trio
@pytest.mark.parametrize("attempt", range(10))
async def test_what_came_while_the_loop_stood_still_is_heard_before_the_clock(autojump_clock, attempt: int) -> None:
    del attempt  # in which order trio runs what is ready at once is chance
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        patience = Patience()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(patience.timer.run)
            nursery.start_soon(patience.listen, ours)
            await trio.testing.wait_all_tasks_blocked()
            theirs.send(b"I am here")
            autojump_clock.jump(5.0)
            await patience.heard.wait()
            assert not patience.given_up
            await trio.sleep(0.9)
            assert not patience.given_up, "its time counts from when it was heard"
            await trio.sleep(0.2)
            assert patience.given_up
            nursery.cancel_scope.cancel()


class Patience:
    """Gives somebody up who says nothing for a second."""

    def __init__(self) -> None:
        self.until = trio.current_time() + 1.0
        self.given_up = False
        self.heard = trio.Event()
        self.timer = DueTimer(lambda: None if self.given_up else self.until, self.give_up, lambda late: late > 1.0)

    def give_up(self) -> None:
        self.given_up = True

    async def listen(self, ours: socket.socket) -> None:
        await trio.lowlevel.wait_readable(ours)
        self.until = trio.current_time() + 1.0
        self.heard.set()
