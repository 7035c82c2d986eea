"""Publishes that ask for all brokers, or for the leader only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trio

from sluicemq.broker.pipeline.acknowledging import ALL_SECONDS, AcknowledgingStage, AtLeader
from sluicemq.broker.pipeline.due import DueTimer
from sluicemq.broker.queues.outcomes import Outcome, Published
from sluicemq.wire.batch import encode_batch
from sluicemq.wire.errors import QueueNotFound
from sluicemq.wire.messages import ACKS_ALL, ACKS_LEADER, ACKS_QUORUM
from tests.broker.pipeline.roads import ask, declare, open_producer, open_road

if TYPE_CHECKING:
    from collections.abc import Callable


class FakeRoad:
    """A leadership of which a test says what everybody has."""

    def __init__(self) -> None:
        self.applied_zxid = 0
        self.awaited: list[tuple[int, Callable[[], None]]] = []
        self.times_answers_left = 0
        self.timer = DueTimer

    @property
    def machine(self) -> Any:
        return self

    def when_all_have(self, zxid: int, then: Callable[[], None]) -> None:
        self.awaited.append((zxid, then))

    def all_have(self, zxid: int) -> None:
        for place, then in self.awaited:
            if place <= zxid:
                then()
        self.awaited = [(place, then) for place, then in self.awaited if place > zxid]

    def after_answers(self) -> None:
        self.times_answers_left += 1


@pytest.mark.trio
@pytest.mark.parametrize("acks", [ACKS_QUORUM, ACKS_ALL, ACKS_LEADER])
async def test_a_broker_on_its_own_is_all_of_them(acks):
    async with open_road() as road:
        await declare(road)
        producer = await open_producer(road)
        data = memoryview(encode_batch([b"one", b"two"]))

        def publish(on_outcome):
            road.produce.publish("/", "anonymous", "orders", producer, 1, data, on_outcome, acks)

        outcome = await ask(publish)

        assert outcome.value.count == 2
        assert outcome.value.acks in (acks, ACKS_QUORUM if acks == ACKS_LEADER else acks)
        await road.wait_idle()
        again = await ask(publish)
        assert (again.value.zxid, again.value.duplicate) == (outcome.value.zxid, True)


@pytest.mark.trio
async def test_a_publish_for_all_waits_until_the_last_one_has_it(nursery, autojump_clock):
    del autojump_clock
    road: Any = FakeRoad()
    stage = AcknowledgingStage(road)
    stage.start(nursery)
    told: list[tuple[int, int, float]] = []

    def hear(outcome: Outcome) -> None:
        assert isinstance(outcome.value, Published)
        told.append((outcome.value.zxid, outcome.value.acks, trio.current_time()))

    began = trio.current_time()
    for road.applied_zxid in (10, 11, 12):
        stage.for_all(hear)(Outcome(Published(road.applied_zxid, 1, False)))
    await trio.sleep(1)
    assert told == []
    road.all_have(11)
    assert [(zxid, acks) for zxid, acks, _ in told] == [(10, ACKS_ALL), (11, ACKS_ALL)]
    await trio.sleep(ALL_SECONDS)
    assert told[2][:2] == (12, ACKS_QUORUM), "one of them was away for too long"
    assert told[2][2] - began == pytest.approx(ALL_SECONDS, abs=0.01)
    road.all_have(12)
    assert len(told) == 3, "it was told already"


@pytest.mark.trio
async def test_only_so_many_wait_for_a_broker_that_is_away_for_good(monkeypatch):
    monkeypatch.setattr("sluicemq.broker.pipeline.acknowledging.WAITING_MAX", 2)
    road: Any = FakeRoad()
    stage = AcknowledgingStage(road)
    heard: list[Outcome] = []
    for zxid in (10, 11, 12):
        stage.for_all(heard.append)(Outcome(Published(zxid, 1, False)))

    assert [outcome.value for outcome in heard] == [Published(12, 1, False, acks=ACKS_QUORUM)]


@pytest.mark.trio
async def test_a_publish_that_was_refused_waits_for_nobody():
    road: Any = FakeRoad()
    heard: list[Outcome] = []
    AcknowledgingStage(road).for_all(heard.append)(Outcome(None, QueueNotFound("gone")))

    assert len(heard) == 1


def test_a_publish_for_the_leader_is_answered_once_by_the_disk_or_by_the_verdict():
    road: Any = FakeRoad()
    stage = AcknowledgingStage(road)
    heard: list[Outcome] = []
    first, second = AtLeader(3, heard.append), AtLeader(1, heard.append)
    stage.at_leader(10, first)
    stage.at_leader(11, second)
    second(Outcome(Published(11, 1, False)))
    stage.durable(10)
    first(Outcome(Published(10, 3, False)))
    stage.durable(11)

    assert [outcome.value for outcome in heard] == [
        Published(11, 1, False),
        Published(10, 3, False, acks=ACKS_LEADER),
    ]


def test_an_answer_for_the_leader_leaves_at_once_and_not_with_the_quorum():
    road: Any = FakeRoad()
    stage = AcknowledgingStage(road)
    heard: list[Outcome] = []
    for zxid in (10, 11, 12):
        stage.at_leader(zxid, AtLeader(1, heard.append))
    stage.durable(9)
    assert road.times_answers_left == 0, "nothing was said"
    stage.durable(11)
    assert (len(heard), road.times_answers_left) == (2, 1)
    stage.durable(12)
    assert (len(heard), road.times_answers_left) == (3, 2)
