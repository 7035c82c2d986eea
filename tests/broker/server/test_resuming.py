"""A client loses its connection and comes back: what it was working on stays its own, and nothing is done twice."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio

from sluicemq.broker.pipeline import closed_sessions, sessions
from sluicemq.wire import messages as m
from sluicemq.wire.errors import ConnectionFailed, ConsumerConflict, ConsumerNotFound, InvalidRequest, SessionNotFound
from tests.broker.server.talk import open_port
from tests.disk import SimulatedDisk
from tests.patience import WAIT_SECONDS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sluicemq.broker.queues.sessions import Session
    from tests.broker.server.talk import Peer, Port

BODIES = [b"one", b"two", b"three", b"four", b"five"]
FOREVER_SECONDS = 10 * WAIT_SECONDS
"""A grace that no test sees the end of."""


@pytest.fixture(autouse=True)
def nobody_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who was cut off is waited for however slowly the test goes on, but where a test says otherwise."""
    monkeypatch.setattr(sessions, "CLOSED_GRACE_SECONDS_MAX", FOREVER_SECONDS)


async def resumable(port: Port) -> Peer:
    """Return a client whose session is kept when its connection is lost."""
    return await (await port.dial()).shake_hands(m.Open(resumable=True))


@asynccontextmanager
async def worker_with_messages(disk: SimulatedDisk | None = None) -> AsyncIterator[tuple[Port, Peer, int]]:
    """A worker that was delivered five messages."""
    async with open_port(disk=disk, session_grace_seconds=FOREVER_SECONDS) as port:
        worker = await resumable(port)
        await worker.declare()
        await worker.publish(await worker.open_producer(), 1, BODIES)
        consumer = await worker.consume()
        await worker.take(5)
        yield port, worker, consumer


async def lose(port: Port, peer: Peer) -> None:
    """Cut the connection without a goodbye, and wait until the broker knows."""
    assert peer.opened is not None
    await peer.stream.aclose()
    await until(lambda: port.road.sessions.is_away(peer.opened.session))


async def lose_as_log_says(port: Port, peer: Peer) -> Session:
    """Cut the connection without a goodbye, and wait until the log says so; return what it knows of the session."""
    await lose(port, peer)
    assert peer.opened is not None
    known = port.road.machine.sessions[peer.opened.session]
    await until(lambda: known.closed)
    return known


async def until(condition) -> None:
    """Wait until *condition* holds."""
    with trio.fail_after(WAIT_SECONDS):
        while not condition():
            await trio.lowlevel.checkpoint()


def resume(consumer: int, tags: list[int], **changes: Any) -> m.ResumeConsumer:
    """Return the request to go on with *tags*."""
    fields: dict[str, Any] = {"last_tag": 5, "credit_messages": 100, "credit_bytes": 1 << 30, "lease_seconds": 600.0}
    return m.ResumeConsumer(consumer, "orders", tags, **{**fields, **changes})


@pytest.mark.trio
async def test_a_consumer_of_a_session_that_has_ended_meanwhile_is_told_so():
    async with worker_with_messages() as (port, worker, consumer):
        await lose(port, worker)
        back = await (await port.dial()).come_back(worker)
        assert back.opened is not None
        port.road.produce.close_session(back.opened.session, "an operator closed it")
        await port.road.wait_idle()
        with pytest.raises(SessionNotFound):
            await back.ask(resume(consumer, [1, 1]))


@pytest.mark.trio
async def test_what_a_worker_works_on_stays_its_own_and_the_rest_goes_to_others_at_once():
    async with worker_with_messages() as (port, worker, consumer):
        other = await port.connect()
        await other.consume()
        await lose(port, worker)
        await port.road.wait_idle()
        assert other.deliveries == [], "nobody gets what somebody may be working on"
        back = await (await port.dial()).come_back(worker)
        assert back.opened.resumed
        assert back.opened.session == worker.opened.session
        answer = await back.ask(resume(consumer, [2, 3], credit_messages=2))

        assert (answer.lost, answer.settled, answer.next_tag, answer.active) == ([], [], 6, True)
        assert sorted(await other.take(3)) == [b"five", b"four", b"one"]
        assert (await back.ask(m.Settle(consumer, m.VERDICT_ACK, [2, 3]))).lost == []
        state = (await back.ask(m.QueueInfo("orders"))).queues[0]
        assert (state["settled_total"], state["leased"], state["consumers"]) == (2, 3, 2)


@pytest.mark.trio
async def test_a_worker_that_came_back_is_delivered_to_again_with_new_tags():
    async with worker_with_messages() as (port, worker, consumer):
        await lose(port, worker)
        back = await (await port.dial()).come_back(worker)
        await back.ask(resume(consumer, [1, 1], last_tag=7))
        await back.take(4)

        assert [(tag, body) for _, tag, body in back.deliveries] == [
            (8, b"two"), (9, b"three"), (10, b"four"), (11, b"five")
        ]  # fmt: skip


@pytest.mark.trio
async def test_a_verdict_whose_answer_was_lost_is_known_to_hold():
    async with worker_with_messages() as (port, worker, consumer):
        await worker.ask(m.Settle(consumer, m.VERDICT_ACK, [1, 2]))
        await worker.ask(m.Settle(consumer, m.VERDICT_REJECT, [4, 4]))
        await lose(port, worker)
        back = await (await port.dial()).come_back(worker)
        answer = await back.ask(resume(consumer, [1, 9], last_tag=9))

        assert answer.settled == [1, 2, 4, 4]
        assert answer.lost == [6, 9], "of these the log knows nothing"
        assert (await back.ask(m.Settle(consumer, m.VERDICT_ACK, [3, 5]))).lost == [4, 4]


@pytest.mark.trio
async def test_a_lease_that_ran_out_meanwhile_is_lost_and_not_settled():
    async with worker_with_messages() as (port, worker, consumer):
        # No room for more than the other four: should its lease end before the connection does, it does not come again.
        await worker.send(m.Credit(consumer, 4, 1 << 30), correlation=0)
        await worker.ask(m.Extend(consumer, [1, 1], 0.05))
        await lose(port, worker)
        queue = port.road.produce.find_queue("/", "orders")
        await until(lambda: queue.leased == 4)
        back = await (await port.dial()).come_back(worker)

        assert (await back.ask(resume(consumer, [1, 5]))).lost == [1, 1]


@pytest.mark.trio
async def test_after_a_restart_a_worker_finds_its_leases_again():
    disk = SimulatedDisk(1)
    async with open_port(disk=disk) as port:
        worker = await resumable(port)
        await worker.declare()
        await worker.publish(await worker.open_producer(), 1, BODIES)
        consumer = await worker.consume()
        await worker.take(5)
        await worker.ask(m.Settle(consumer, m.VERDICT_ACK, [1, 1]))
        await port.road.wait_idle()
    async with open_port(disk=disk.restart(), session_grace_seconds=FOREVER_SECONDS) as port:
        other = await port.connect()
        await other.consume()
        back = await (await port.dial()).come_back(worker)
        assert back.opened.resumed
        answer = await back.ask(resume(consumer, [1, 3]))

        assert (answer.lost, answer.settled) == ([], [1, 1])
        assert sorted(await other.take(2)) == [b"five", b"four"]
        assert (await back.ask(m.Settle(consumer, m.VERDICT_ACK, [2, 3]))).lost == []


@pytest.mark.trio
async def test_a_broker_that_starts_waits_only_so_long_for_the_clients_of_the_last():
    disk = SimulatedDisk(1)
    async with open_port(disk=disk) as port:
        worker = await resumable(port)
        await worker.declare()
        await worker.publish(await worker.open_producer(), 1, BODIES)
        await worker.consume()
        await worker.take(5)
        await port.road.wait_idle()
    async with open_port(disk=disk.restart(), session_grace_seconds=0.05) as port:
        other = await port.connect()
        await other.consume()
        assert await other.take(5) == BODIES
        late = await (await port.dial()).come_back(worker)

        assert not late.opened.resumed
        assert late.opened.session != worker.opened.session


@pytest.mark.trio
async def test_the_messages_of_a_killed_worker_wait_for_moments_only(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sessions, "CLOSED_GRACE_SECONDS_MAX", 0.05)
    async with worker_with_messages() as (port, worker, _consumer):
        assert port.road.sessions.grace_seconds > 5.0
        await lose(port, worker)
        other = await port.connect()
        await other.consume()
        assert await other.take(5) == BODIES


@pytest.mark.trio
async def test_the_messages_of_a_killed_worker_wait_for_moments_only_though_the_broker_dies_too(
    monkeypatch: pytest.MonkeyPatch,
):
    disk = SimulatedDisk(1)
    async with worker_with_messages(disk) as (port, worker, _consumer):
        await lose_as_log_says(port, worker)
    monkeypatch.setattr(sessions, "CLOSED_GRACE_SECONDS_MAX", 0.05)
    async with open_port(disk=disk.restart(), session_grace_seconds=FOREVER_SECONDS) as port:
        other = await port.connect()
        await other.consume()
        assert await other.take(5) == BODIES


@pytest.mark.trio
async def test_a_worker_that_came_back_is_waited_for_as_anybody_though_it_had_closed_once(
    monkeypatch: pytest.MonkeyPatch,
):
    disk = SimulatedDisk(1)
    async with worker_with_messages(disk) as (port, worker, consumer):
        known = await lose_as_log_says(port, worker)
        back = await (await port.dial()).come_back(worker)
        await back.ask(resume(consumer, [1, 5]))
        await until(lambda: not known.closed)
        # It closes again when this broker ends; that is not what the next one is to know of it.
        monkeypatch.setattr(closed_sessions, "GATHER_SECONDS", FOREVER_SECONDS)
    monkeypatch.setattr(sessions, "CLOSED_GRACE_SECONDS_MAX", 0.0)
    async with open_port(disk=disk.restart(), session_grace_seconds=FOREVER_SECONDS) as port:
        other = await port.connect()
        await other.publish(await other.open_producer(), 1, BODIES)
        assert port.road.sessions.is_away(worker.opened.session)


@pytest.mark.trio
async def test_for_a_client_that_holds_nothing_the_log_is_not_written(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(closed_sessions, "GATHER_SECONDS", 0.0)
    async with worker_with_messages() as (port, worker, consumer):
        await worker.ask(m.Settle(consumer, m.VERDICT_ACK, [1, 5]))
        await port.road.wait_idle()
        before = port.road.entries_total
        await lose(port, worker)
        for _ in range(20):
            await trio.lowlevel.checkpoint()
        assert port.road.entries_total == before


@pytest.mark.trio
async def test_a_worker_that_falls_silent_is_waited_for_longer(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sessions, "CLOSED_GRACE_SECONDS_MAX", 0.0)
    async with worker_with_messages() as (port, worker, _consumer):
        next(iter(port.server.sessions)).close(ConnectionFailed("nothing was heard of it"))
        await until(lambda: port.road.sessions.is_away(worker.opened.session))
        other = await port.connect()
        await other.publish(await other.open_producer(), 1, BODIES)
        assert port.road.sessions.is_away(worker.opened.session)


@pytest.mark.trio
async def test_who_says_goodbye_is_done_with():
    async with worker_with_messages() as (port, worker, _consumer):
        other = await port.connect()
        await other.consume()
        await worker.send(m.Close(), correlation=0)

        assert await other.take(5) == BODIES
        assert port.road.sessions.away_count == 0


@pytest.mark.trio
async def test_who_asked_for_nothing_is_not_waited_for():
    async with open_port() as port:
        plain, other = await port.connect(), await port.connect()
        await plain.declare()
        await plain.publish(await plain.open_producer(), 1, BODIES)
        await plain.consume()
        await plain.take(5)
        await other.consume()
        await plain.stream.aclose()

        assert await other.take(5) == BODIES


@pytest.mark.trio
async def test_nobody_comes_back_without_the_token():
    async with worker_with_messages() as (port, worker, _consumer):
        await lose(port, worker)
        stranger = await (await port.dial()).shake_hands(m.Open("/", worker.opened.session, b"guessed", True, 9))

        assert not stranger.opened.resumed
        assert port.road.sessions.is_away(worker.opened.session)
        kept = port.road.machine.sessions[worker.opened.session].resume_token
        assert kept != worker.opened.resume_token, "who reads the log cannot come back as somebody else"


@pytest.mark.trio
async def test_a_client_may_come_back_before_the_broker_knows_that_the_connection_is_dead():
    async with worker_with_messages() as (port, worker, consumer):
        back = await (await port.dial()).come_back(worker)
        assert back.opened.resumed
        await worker.closed.wait()
        answer = await back.ask(resume(consumer, [1, 5]))

        assert answer.lost == []
        assert port.road.sessions.away_count == 0
        assert (await back.ask(m.Settle(consumer, m.VERDICT_ACK, [1, 5]))).lost == []


@pytest.mark.trio
async def test_consumers_that_are_not_gone_on_with_are_over():
    async with worker_with_messages() as (port, worker, consumer):
        second = await worker.consume(credit=0)
        await lose(port, worker)
        back = await (await port.dial()).come_back(worker)
        await back.ask(resume(second, [], last_tag=0))
        await back.send(m.Resumed(), correlation=0)

        assert await back.take(5) == BODIES
        assert {number for number, _, _ in back.deliveries} == {second}
        with pytest.raises(InvalidRequest):
            await back.ask(resume(second, []))
        with pytest.raises(ConsumerNotFound):
            await back.ask(resume(1_000, []))
        assert (await back.ask(m.Settle(consumer, m.VERDICT_ACK, [1, 5]))).lost == [1, 5]


@pytest.mark.trio
async def test_the_only_consumer_keeps_its_place_while_it_is_away():
    async with open_port(session_grace_seconds=FOREVER_SECONDS) as port:
        worker, other = await resumable(port), await port.connect()
        await worker.declare(mode="exclusive")
        consumer = await worker.consume()
        await lose(port, worker)
        with pytest.raises(ConsumerConflict) as refused:
            await other.consume()
        assert refused.value.retry_after is not None, "it is worth asking again"
        back = await (await port.dial()).come_back(worker)
        assert (await back.ask(resume(consumer, [], last_tag=0))).active
        with pytest.raises(ConsumerConflict):
            await other.consume()
        port.road.sessions.grace_seconds = 0.05
        await back.stream.aclose()
        await until(lambda: port.road.machine.sessions.keys() == {other.opened.session})
        await other.consume()


@pytest.mark.trio
async def test_the_active_one_of_several_stays_it():
    async with open_port(session_grace_seconds=FOREVER_SECONDS) as port:
        worker, other = await resumable(port), await port.connect()
        await worker.declare(mode="failover")
        await worker.publish(await worker.open_producer(), 1, BODIES)
        consumer = await worker.consume(credit=1)
        await worker.take(1)
        await other.consume()
        await lose(port, worker)
        back = await (await port.dial()).come_back(worker)
        assert (await back.ask(resume(consumer, [1, 1], last_tag=1))).active
        await back.ask(m.Settle(consumer, m.VERDICT_ACK, [1, 1]))
        await back.take(4)

        assert other.deliveries == []


@pytest.mark.trio
async def test_a_consumer_cannot_change_its_queue_by_coming_back():
    async with worker_with_messages() as (port, worker, consumer):
        await worker.declare("others")
        await lose(port, worker)
        back = await (await port.dial()).come_back(worker)
        with pytest.raises(InvalidRequest, match="another queue"):
            await back.ask(m.ResumeConsumer(consumer, "others", [1, 5], 5, 10, 1000, 30.0))

        assert (await back.ask(resume(consumer, [1, 5]))).lost == []


@pytest.mark.trio
async def test_a_temporary_subscription_survives_a_lost_connection():
    async with open_port(session_grace_seconds=FOREVER_SECONDS) as port:
        worker, other = await resumable(port), await port.connect()
        await worker.ask(m.DeclareTopic("events", {}))
        name = (await worker.ask(m.Subscribe("events.#", "", {}, durable=False))).name
        await lose(port, worker)
        await other.publish(await other.open_producer(), 1, BODIES, "events")
        back = await (await port.dial()).come_back(worker)
        await back.consume(name)

        assert await back.take(5) == BODIES
