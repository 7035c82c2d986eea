"""Schedules on the leader, in virtual time and beside a road that only writes down: what is published, and when."""

from __future__ import annotations

from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from sluicemq.broker.pipeline.due import DueTimer
from sluicemq.broker.pipeline.schedules import AGAIN_SECONDS, MISSED_MS, ScheduleStage
from sluicemq.broker.queues import entries as e
from sluicemq.broker.queues.entries_of_topics import Fire, Schedule
from sluicemq.broker.queues.machine import Machine
from sluicemq.broker.queues.outcomes import Outcome, Published
from sluicemq.wire.batch import encode_batch
from sluicemq.wire.errors import InvalidRequest, ProducerNotFound, QueueFull, QueueNotFound

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from sluicemq.wire.errors import SluiceError

pytestmark = pytest.mark.trio

NOON_MS = 1_795_262_400_000
"""2026-11-21 12:00 UTC."""
BATCH = encode_batch([b"tick"])


class Road:
    """Applies what is proposed at once, and writes down what is published.

    Attributes:
        answers: What the next publishes are refused with; None: they are taken.
        published: (time, destination, sequence) of each that was tried.

    """

    def __init__(self) -> None:
        self.machine = Machine()
        self.zxid = 0
        self.start = trio.current_time()
        self.clock = SimpleNamespace(now_ms=lambda: NOON_MS + round((trio.current_time() - self.start) * 1000))
        self.space = SimpleNamespace(refuse_growth=lambda _what: None)
        self.produce = self
        self.timer = DueTimer
        self.answers: list[SluiceError | None] = []
        self.published: list[tuple[int, str, int]] = []
        self.stage = ScheduleStage(self)  # type: ignore[arg-type]  # all of a road that it needs
        self.propose(e.Declare(NOON_MS, "/", "queue", "reports", {}))

    def propose(self, entry: Any, _payload: bytes = b"", *, on_applied: Callable[[Any], None] | None = None) -> int:
        self.zxid += 1
        outcome = self.machine.apply(self.zxid, entry)
        self.machine.check()
        if on_applied is not None:
            on_applied(outcome)
        return self.zxid

    def find_destination(self, _vhost: str, name: str) -> object:
        found = self.machine.find_queue("/", name)
        if found is None:
            raise QueueNotFound(f"there is no queue {name!r}", queue=name)
        return found

    def publish(
        self, _vhost: str, _identity: str, destination: str, _producer: int, sequence: int, _data: Any, on_outcome: Any
    ) -> None:
        self.published.append((self.seconds, destination, sequence))
        refusal = self.answers.pop(0) if self.answers else None
        on_outcome(Outcome(Published(1, 1, False)) if refusal is None else Outcome(None, refusal))

    @property
    def seconds(self) -> int:
        return round(trio.current_time() - self.start)

    def set(self, cron: str, catch_up: str = "one", destination: str = "reports") -> list[Any]:
        """Set the schedule `report`; return the outcome."""
        outcomes: list[Any] = []
        self.stage.put("/", "report", (cron, "UTC", destination, catch_up), memoryview(BATCH), outcomes.append)
        return outcomes

    @property
    def row(self) -> Any:
        return self.machine.schedules.find("/", "report")


@asynccontextmanager
async def running(road: Road) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(road.stage.run)
        await trio.testing.wait_all_tasks_blocked()
        yield
        nursery.cancel_scope.cancel()


async def until(road: Road, seconds: float) -> None:
    await trio.sleep_until(road.start + seconds)
    await trio.testing.wait_all_tasks_blocked()


async def test_each_time_is_published_once_with_the_next_sequence(autojump_clock: object) -> None:
    road = Road()
    async with running(road):
        (outcome,) = road.set("*/2 * * * *")
        assert outcome.value.next_due_ms == NOON_MS + 120_000
        await until(road, 500)
        assert road.published == [(120, "reports", 1), (240, "reports", 2), (360, "reports", 3), (480, "reports", 4)]
        assert (road.row.published, road.row.failed) == (4, 0)
        road.set("*/5 * * * *")
        await until(road, 700)
        assert road.published[4:] == [(600, "reports", 1)], "another schedule has a producer of its own"


async def test_what_is_refused_for_a_while_is_tried_again_and_what_is_refused_for_good_is_counted(
    autojump_clock: object,
) -> None:
    road = Road()
    async with running(road):
        road.set("* * * * *")
        road.answers = [QueueFull("it is full", retry_after=1.0), None, InvalidRequest("too large"), None]
        await until(road, 60 + AGAIN_SECONDS + 0.1)
        assert [(second, sequence) for second, _, sequence in road.published] == [(60, 1), (61, 1)]
        assert (road.row.published, road.row.failed) == (1, 0)
        await until(road, 150)
        assert (road.row.published, road.row.failed, road.row.problem) == (1, 1, "too large")
        await until(road, 200)
        assert (road.row.published, road.row.failed, road.row.problem) == (2, 1, "")
        assert [sequence for _, _, sequence in road.published] == [1, 1, 2, 2], "a refusal burns no number"


async def test_a_producer_that_was_forgotten_is_made_anew_and_the_time_is_not_missed(autojump_clock: object) -> None:
    road = Road()
    async with running(road):
        road.set("* * * * *")
        number = road.row.number
        road.answers = [ProducerNotFound("forgotten", producer=number)]
        await until(road, 61)
        assert [second for second, _, _ in road.published] == [60, 60]
        assert road.row.number > number
        assert road.row.published == 1


@pytest.mark.parametrize(("catch_up", "sent"), [("all", 12), ("one", 3), ("none", 2)])
async def test_times_while_nobody_led_are_caught_up_on_as_the_schedule_says(
    autojump_clock: object, catch_up: str, sent: int
) -> None:
    road = Road()
    road.set("* * * * *", catch_up)
    await trio.sleep(600 + MISSED_MS / 10_000)
    async with running(road):
        await until(road, 730)
        # Ten times were missed; those of the minutes 11 and 12 come anyway.
        assert len(road.published) == sent, road.published


async def test_what_can_never_work_is_refused_when_it_is_set(autojump_clock: object) -> None:
    road = Road()
    with pytest.raises(QueueNotFound):
        road.set("* * * * *", destination="nowhere")
    with pytest.raises(InvalidRequest, match="never comes"):
        road.set("0 0 30 2 *")
    assert road.row is None
    assert road.machine.schedules.first() is None


async def test_a_time_that_the_schedule_left_meanwhile_is_not_counted(autojump_clock: object) -> None:
    road = Road()
    async with running(road):
        road.set("* * * * *")
        row = road.row
        await until(road, 61)
        road.propose(Fire(NOON_MS, row.number, row.next_due_ms, NOON_MS, 1))
        assert road.row.published == 1
        road.propose(Schedule(NOON_MS, "/", "report", "", "", "", 0, 0, 0, "one"))
        await until(road, 200)
        assert len(road.published) == 1, "it was dropped"
