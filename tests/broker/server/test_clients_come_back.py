"""A client of ours loses its connection, or its broker, and user code does not notice."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trio

from sluicemq.broker.pipeline import sessions
from sluicemq.client import connect
from sluicemq.client.errors import LeaseLost
from tests.broker.server.talk import open_port
from tests.disk import SimulatedDisk
from tests.e2e.chaos.network import Way
from tests.patience import WAIT_SECONDS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sluicemq.client import Client
    from sluicemq.client.consumer import Consumer
    from tests.broker.server.talk import Port

BODIES = [b"one", b"two", b"three", b"four"]
FOREVER_SECONDS = 10 * WAIT_SECONDS
"""A grace that no test sees the end of."""


@pytest.fixture(autouse=True)
def nobody_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who was cut off is waited for however slowly the test goes on, but where a test says otherwise."""
    monkeypatch.setattr(sessions, "CLOSED_GRACE_SECONDS_MAX", FOREVER_SECONDS)


@asynccontextmanager
async def way_to(port: Port) -> AsyncIterator[Way]:
    """A way to a broker that can be cut."""
    way = Way(port._address)
    async with trio.open_nursery() as nursery:
        await nursery.start(way.serve)
        yield way
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def working() -> AsyncIterator[tuple[Port, Way, Client, Consumer]]:
    """A client whose consumer has four messages at hand, over a way that can be cut."""
    async with (
        open_port(session_grace_seconds=FOREVER_SECONDS) as port,
        way_to(port) as way,
        connect(f"sluicemq://127.0.0.1:{way.port}") as client,
    ):
        await client.declare_queue("orders")
        async with client.producer("orders") as producer:
            await producer.send_many(BODIES)
        async with client.consumer("orders") as consumer:
            yield port, way, client, consumer


async def until(condition) -> None:
    """Wait until *condition* holds."""
    with trio.fail_after(WAIT_SECONDS):
        while not condition():
            await trio.lowlevel.checkpoint()


@pytest.mark.trio
async def test_what_user_code_has_stays_its_own_over_a_reset():
    async with working() as (port, way, client, consumer):
        first, second = await anext(consumer), await anext(consumer)
        way.reset()
        await until(lambda: not consumer.statistics().attached)
        await first.ack(confirm=True)
        await second.extend(60)
        await second.ack(confirm=True)
        rest = [await anext(consumer), await anext(consumer)]
        for message in rest:
            await message.ack()
        await consumer.flush()

        assert [message.body for message in [first, second, *rest]] == BODIES
        assert {message.attempt for message in rest} == {1}
        assert all(message.redelivery_reason is None for message in rest), "what lay at hand was kept too"
        info = await client.queue_info("orders")
        assert (info["settled_total"], info["redelivered_total"], info["leased"]) == (4, 0, 0)
        assert consumer.statistics().leases_lost == 0
        assert len(port.road.machine.sessions) == 1


@pytest.mark.trio
async def test_a_verdict_that_arrived_and_was_not_answered_is_given_once():
    async with working() as (port, way, client, consumer):
        message = await anext(consumer)
        way.back.hold()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(message.ack, True)
            queue = port.road.produce.find_queue("/", "orders")
            await until(lambda: queue.settled_total == 1)
            way.reset()
            way.heal()

        assert (await client.queue_info("orders"))["settled_total"] == 1
        assert consumer.statistics().leases_lost == 0


@pytest.mark.trio
async def test_messages_published_while_cut_off_arrive_behind_those_at_hand():
    async with working() as (port, way, _client, consumer):
        async with connect(f"sluicemq://127.0.0.1:{port._address[1]}") as other:
            way.cut()
            await until(lambda: not consumer.statistics().attached)
            await other.send("orders", b"five")
            way.heal()
            bodies = []
            for _ in range(5):
                async with await anext(consumer) as message:
                    bodies.append(message.body)

        assert bodies == [*BODIES, b"five"]


@pytest.mark.trio
async def test_a_lease_that_the_broker_ended_meanwhile_is_lost_with_a_word():
    async with working() as (port, way, client, consumer):
        lost: list[LeaseLost] = []
        consumer.on_lease_lost = lost.append
        message = await anext(consumer)
        way.cut()
        await until(lambda: port.road.sessions.away_count == 1)
        port.road.sessions.give_up(next(iter(port.road.machine.sessions)), 1)
        way.heal()
        again = await anext(consumer)
        with pytest.raises(LeaseLost):
            await message.ack()

        assert again.body == message.body
        assert again.redelivery_reason == "session_ended"
        assert [error.messages for error in lost] == [1]
        assert (await client.queue_info("orders"))["consumers"] == 1


@pytest.mark.trio
async def test_who_stays_away_too_long_begins_anew_and_hears_of_it():
    async with working() as (port, way, _client, consumer):
        port.road.sessions.grace_seconds = 0.05
        lost: list[LeaseLost] = []
        consumer.on_lease_lost = lost.append
        first = await anext(consumer)
        way.cut()
        await until(lambda: not port.road.machine.sessions)
        way.heal()
        again = [await anext(consumer) for _ in range(4)]

        assert [message.body for message in again] == BODIES
        assert [error.messages for error in lost] == [1]
        with pytest.raises(LeaseLost):
            await first.ack()


class Broker:
    """A broker that can be stopped and started again, while clients live on."""

    def __init__(self, way: Way) -> None:
        self.port: Port
        self._disk = SimulatedDisk(1)
        self._way = way
        self._over = trio.Event()
        self._ended = trio.Event()

    async def serve(self, *, task_status: trio.TaskStatus[None]) -> None:
        async with open_port(disk=self._disk, session_grace_seconds=FOREVER_SECONDS) as self.port:
            self._way.target = self.port._address
            self._way.heal()
            task_status.started()
            await self._over.wait()
            self._way.cut()
        self._ended.set()

    async def restart(self, nursery: trio.Nursery) -> None:
        await self.port.road.wait_idle()
        self._over.set()
        await self._ended.wait()
        self._disk = self._disk.restart()
        self._over, self._ended = trio.Event(), trio.Event()
        await nursery.start(self.serve)


@pytest.mark.trio
async def test_a_restarted_broker_is_gone_on_with():
    way = Way(("127.0.0.1", 1))
    broker = Broker(way)
    async with trio.open_nursery() as nursery:
        await nursery.start(way.serve)
        await nursery.start(broker.serve)
        async with connect(f"sluicemq://127.0.0.1:{way.port}") as client:
            await client.declare_queue("orders")
            await client.send("orders", b"one")
            async with client.consumer("orders") as consumer:
                message = await anext(consumer)
                await broker.restart(nursery)
                await message.ack(confirm=True)
                info = await client.queue_info("orders")
                assert (info["settled_total"], info["redelivered_total"]) == (1, 0)
                await client.send("orders", b"two")
                async with await anext(consumer) as message:
                    assert (message.body, message.attempt) == (b"two", 1)
        nursery.cancel_scope.cancel()


@pytest.mark.trio
async def test_a_consumer_that_is_left_while_cut_off_gives_back_what_nobody_had():
    async with working() as (port, way, client, consumer):
        message = await anext(consumer)
        way.cut()
        await until(lambda: port.road.sessions.away_count == 1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(consumer.drain)
            await trio.lowlevel.checkpoint()
            way.heal()
        await message.ack(confirm=True)
        async with client.consumer("orders") as other:
            batch = await other.receive(10)

            assert batch.bodies == BODIES[1:]
            assert {found.redelivery_reason for found in batch} == {None}
