"""What the log says of clients whose end closed the connection: when, of whom, and in how many entries."""

from __future__ import annotations

from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from sluicemq.broker.pipeline.closed_sessions import GATHER_SECONDS, MARKED_AT_ONCE_MAX, ClosedSessions
from sluicemq.broker.pipeline.due import DueTimer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from sluicemq.broker.queues.entries_of_sessions import MarkClosed

ANN, BOB, EVE = 1, 2, 3


class Road:
    """Keeps what is proposed.

    Attributes:
        said: Each entry: whose end closed, and who is back.

    """

    def __init__(self) -> None:
        self.clock = SimpleNamespace(now_ms=lambda: 1)
        self.over = False
        self.said: list[tuple[list[int], list[int]]] = []
        self.sessions = ClosedSessions(self)  # type: ignore[arg-type]  # all of a road that it needs

    def timer(self, next_due: Callable[[], float | None], fire: Callable[[], None]) -> DueTimer:
        self.next_due, self.fire = next_due, fire
        return DueTimer(next_due, fire)

    def propose(self, entry: MarkClosed, *, lazy: bool) -> None:
        assert lazy, "nobody waits for it"
        self.said.append((entry.closed, entry.back))

    def say_all(self) -> None:
        """Let it be said now, whatever time it is."""
        while self.next_due() is not None:
            self.fire()


@asynccontextmanager
async def leading() -> AsyncIterator[Road]:
    road = Road()
    async with trio.open_nursery() as nursery:
        road.sessions.start(nursery)
        yield road
        nursery.cancel_scope.cancel()


@pytest.mark.trio
async def test_those_that_close_within_a_moment_share_an_entry(autojump_clock: Any) -> None:
    async with leading() as road:
        road.sessions.closed(ANN)
        await trio.sleep(GATHER_SECONDS * 0.9)
        road.sessions.closed(BOB)
        assert road.said == []
        await trio.sleep(GATHER_SECONDS * 0.2)
        assert road.said == [([ANN, BOB], [])]


@pytest.mark.trio
async def test_of_a_client_that_is_back_at_once_nothing_is_said(autojump_clock: Any) -> None:
    async with leading() as road:
        road.sessions.closed(ANN)
        await trio.sleep(GATHER_SECONDS * 0.9)
        road.sessions.back(ANN)
        await trio.sleep(GATHER_SECONDS * 10)
        assert road.said == []
        road.sessions.closed(BOB)
        await trio.sleep(GATHER_SECONDS * 0.9)
        assert road.said == [], "who closes later has as much time"


@pytest.mark.trio
async def test_that_a_client_is_back_of_which_it_was_said_is_said_without_delay(autojump_clock: Any) -> None:
    async with leading() as road:
        road.sessions.closed(ANN)
        await trio.sleep(GATHER_SECONDS * 2)
        road.sessions.back(ANN)
        await trio.sleep(GATHER_SECONDS / 100)
        assert road.said == [([ANN], []), ([], [ANN])]


@pytest.mark.trio
async def test_ten_thousand_clients_that_die_at_once_take_a_few_entries_of_bounded_size(autojump_clock: Any) -> None:
    async with leading() as road:
        for session in range(10 * MARKED_AT_ONCE_MAX):
            road.sessions.closed(session)
        await trio.sleep(GATHER_SECONDS * 1.1)
        assert [len(closed) for closed, _ in road.said] == [MARKED_AT_ONCE_MAX] * 10
        assert {session for closed, _ in road.said for session in closed} == set(range(10 * MARKED_AT_ONCE_MAX))


@pytest.mark.trio
async def test_a_leadership_that_is_over_says_nothing(autojump_clock: Any) -> None:
    async with leading() as road:
        road.sessions.closed(ANN)
        road.over = True
        await trio.sleep(GATHER_SECONDS * 2)
        assert road.said == []


def test_a_new_leader_says_who_is_back_of_those_of_whom_the_log_says_it() -> None:
    async def lead() -> list[tuple[list[int], list[int]]]:
        road = Road()
        road.sessions.restore(ANN)
        road.sessions.restore(BOB)
        road.sessions.closed(ANN)
        road.sessions.back(BOB)
        road.sessions.back(EVE)
        road.say_all()
        return road.said

    assert trio.run(lead) == [([], [BOB])]


@given(st.lists(st.tuples(st.sampled_from(["closed", "back", "gone", "say"]), st.integers(1, 4))))
def test_the_log_knows_how_it_is_however_often_clients_come_and_go(steps: list[tuple[str, int]]) -> None:
    async def live() -> None:
        road, away, ended = Road(), set[int](), set[int]()
        for step, session in steps:
            if step == "say":
                road.say_all()
            elif session not in ended:
                getattr(road.sessions, step)(session)
                away = away - {session} if step != "closed" else away | {session}
                ended |= {session} if step == "gone" else set()
        road.say_all()
        known: set[int] = set()
        for closed, back in road.said:
            assert not known & set(closed), "nothing is said twice"
            assert known >= set(back), "nobody is said to be back of whom nothing was said"
            known = known - set(back) | set(closed)
        assert known - ended == away

    trio.run(live)
