"""Finding the broker that leads: among several addresses, after it changed, and when the old one only falls silent."""

from types import SimpleNamespace
from typing import Any

import anyio
import pytest

from sluicemq.client import connect, searching
from sluicemq.client.errors import ConnectionFailed, NotLeader
from sluicemq.client.searching import (
    ELECTION_REFUSALS,
    LEADERLESS_BACKOFF,
    NOT_LEADER_BACKOFF,
    OPEN_SECONDS,
    STAGGER_SECONDS,
    Openings,
    Places,
)
from sluicemq.wire import messages as m
from sluicemq.wire.errors import error_to_wire
from tests.client.scripted_broker import SILENCE, scripted_broker
from tests.patience import WAIT_SECONDS

pytestmark = pytest.mark.anyio

on_time = pytest.mark.parametrize("anyio_backend", ["virtual time", "asyncio"], indirect=True)
"""How long it takes is judged by the virtual clock, which no busy machine moves; asyncio has none."""

ONE, TWO, THREE = ("one", 1), ("two", 2), ("three", 3)


def follows(broker, address=""):
    """Let *broker* say that another one leads."""

    async def refuse(peer, _message, _tail):
        error = NotLeader("this broker does not lead", leader=2, address=address)
        await peer.send(m.Close(error=error_to_wire(error)))
        return SILENCE

    broker.on[m.Open] = refuse


def leads(broker):
    broker.on.pop(m.Open, None)


def keeps_sessions(broker):
    """Let *broker* resume whatever session it is asked for."""

    def opened(_peer, message, _tail):
        return m.Opened(
            session=message.session or 7,
            epoch=1,
            message_bytes_max=1_000_000,
            batch_bytes_max=4_000_000,
            batch_messages_max=10_000,
            resumed=message.session != 0,
            resume_token=b"secret",
        )

    broker.on[m.Open] = opened


def candidate():
    """A session whose handshake is so far."""
    session: Any = SimpleNamespace(error=None)
    return session


@pytest.fixture
def bearable(anyio_backend):
    """Return for how long to bear what should take so many seconds: just these where time is virtual."""
    return lambda seconds: WAIT_SECONDS if anyio_backend == "asyncio" else seconds


def both(first, second):
    return f"{first.url},127.0.0.1:{second.port}"


async def test_a_broker_that_does_not_lead_is_left_for_one_that_does(broker):
    async with scripted_broker() as other:
        follows(broker)
        async with connect(both(broker, other)) as client:
            assert (await client.queue_info("orders"))["ready"] == 7
            assert len(other.peers) == 1
            assert other.count(m.QueueInfo) == 1


async def test_the_leader_that_a_broker_names_is_found_though_nobody_gave_its_address(broker):
    async with scripted_broker() as other:
        follows(broker, f"127.0.0.1:{other.port}")
        async with connect(broker.url) as client:
            assert (await client.queue_info("orders"))["ready"] == 7


@on_time
async def test_a_silent_address_costs_no_time(broker, bearable):
    async with scripted_broker() as other:
        broker.on[m.Hello] = lambda *_: SILENCE
        with anyio.fail_after(bearable(0.9)):
            async with connect(both(broker, other)) as client:
                await client.queue_info("orders")


async def test_an_election_is_waited_for_and_no_call_fails(broker):
    async with scripted_broker() as other:
        follows(broker)
        follows(other)
        async with anyio.create_task_group() as tasks:

            async def elect():
                await broker.until(lambda: broker.count(m.Open) >= 3)
                leads(other)

            tasks.start_soon(elect)
            async with connect(both(broker, other)) as client:
                await client.queue_info("orders")


@on_time
async def test_a_leader_that_steps_down_is_left_at_once_and_the_call_goes_to_the_next(broker, bearable):
    async with scripted_broker() as other:
        follows(other)
        async with connect(both(broker, other)) as client:
            await client.queue_info("orders")

            def step_down(*_):
                follows(broker, f"127.0.0.1:{other.port}")
                leads(other)
                return NotLeader("no longer", leader=2, address=f"127.0.0.1:{other.port}")

            broker.on[m.QueueInfo] = step_down
            with anyio.fail_after(bearable(1.0)):
                assert (await client.queue_info("orders"))["ready"] == 7
            assert other.count(m.QueueInfo) == 1


@on_time
async def test_a_leader_that_falls_silent_is_left_for_the_next_which_resumes_the_session(broker, bearable):
    async with scripted_broker() as other:
        keeps_sessions(broker)
        follows(other)
        async with connect(both(broker, other)) as client, client.producer("orders") as producer:
            await producer.send(b"one")
            for kind in (m.Publish, m.Ping):
                broker.on[kind] = lambda *_: SILENCE
            keeps_sessions(other)
            other.sequences, other.answers = broker.sequences, broker.answers
            with anyio.fail_after(bearable(3.0)):
                await producer.send(b"two")
            assert other.bodies == [b"two"]
            [opened] = other.peer.of(m.Open)
            assert (opened.session, opened.resume_token) == (7, b"secret")
            assert other.count(m.Resumed) == 1


async def test_a_leader_that_speaks_again_is_stayed_with(broker):
    async with scripted_broker() as other:
        follows(other)
        async with connect(both(broker, other)) as client:
            answers = []

            async def late(peer, message, _tail):
                await other.until(lambda: other.count(m.Open) >= 3)
                answers.append(message)

            broker.on[m.QueueInfo] = late
            broker.on[m.Ping] = lambda *_: SILENCE
            assert (await client.queue_info("orders"))["ready"] == 7
            assert len(broker.peers) == 1
            assert len(answers) == 1


@on_time
async def test_addresses_that_the_leader_tells_are_used_when_it_dies(broker, bearable):
    async with scripted_broker() as other, connect(broker.url) as client:
        await broker.peer.send(m.Brokers(broker.url, [f"127.0.0.1:{broker.port}", f"127.0.0.1:{other.port}"]))
        await client.queue_info("orders")
        broker.open = False
        await broker.peer.cut()
        with anyio.fail_after(bearable(1.0)):
            await client.queue_info("orders")
        assert other.count(m.QueueInfo) == 1


async def test_only_one_session_is_opened_where_two_addresses_lead_to_one_broker(broker, monkeypatch):
    monkeypatch.setattr(searching, "OPEN_SECONDS", WAIT_SECONDS)  # to open one takes no longer, whatever else goes on
    async with connect(f"{broker.url},localhost:{broker.port}") as client:
        await client.queue_info("orders")
        assert broker.count(m.Open) == 1


# --- rules, without sockets -------------------------------------------------------------------------------------------


def test_addresses_have_their_turn_one_after_the_other_and_at_once_after_a_failure():
    places = Places([ONE, TWO])
    first, _ = places.next(0.0)
    first.scope = candidate()
    assert first.address == ONE
    assert places.next(STAGGER_SECONDS / 2) == (None, STAGGER_SECONDS)
    places.failed()
    second, _ = places.next(STAGGER_SECONDS / 2)
    assert second.address == TWO


def test_who_does_not_lead_is_asked_again_soon_and_who_is_dead_later():
    places = Places([ONE, TWO])
    follower, dead = places.all()
    for _ in range(10):
        follower.ended(100.0, NotLeader("no"), 0.0)
        dead.ended(100.0, ConnectionFailed("refused"), 0.0)

    assert follower.due(alone=False) <= 100.0 + NOT_LEADER_BACKOFF.seconds_max
    assert dead.due(alone=False) >= 101.0
    dead.hurry()
    assert dead.due(alone=False) < 100.0


def test_when_nobody_leads_for_long_brokers_are_asked_more_seldom_and_a_word_of_others_hurries_nobody():
    places = Places([ONE, TWO])
    elected, follower = places.all()
    for _ in range(ELECTION_REFUSALS - 1):
        elected.ended(100.0, NotLeader("no"), 0.0)
    places.leader_is("one:1")
    assert elected.due(alone=False) < 100.0, "an election may be over in a moment"
    for _ in range(10):
        elected.ended(100.0, NotLeader("no"), 0.0)
    rest = elected.due(alone=False)
    assert LEADERLESS_BACKOFF.seconds_max / 2 <= rest - 100.0 <= LEADERLESS_BACKOFF.seconds_max
    places.leader_is("one:1")
    assert elected.due(alone=False) == rest, "it has said itself that it does not serve"
    assert follower.due(alone=False) < 100.0
    places.give_up_all_but(None)
    elected.ended(200.0, NotLeader("no"), 0.0)
    assert elected.due(alone=False) <= 200.0 + NOT_LEADER_BACKOFF.seconds_max, "the next search begins anew"


def test_who_failed_often_is_left_alone_for_long_only_while_somebody_else_works():
    places = Places([ONE, TWO])
    dead, other = places.all()
    for _ in range(20):
        dead.ended(100.0, ConnectionFailed("refused"), 0.0)
    other.ended(100.0, ConnectionFailed("refused"), 0.0)
    assert dead.is_open(100.0)
    assert not other.is_open(100.0)
    assert places.next(103.0)[0] is other
    other.scope = candidate()
    assert places.next(104.0)[1] >= 115.0
    other.scope = None
    for _ in range(20):
        other.ended(104.0, ConnectionFailed("refused"), 0.0)
    assert places.next(104.0)[1] <= 106.0, "nobody works: none of them is left alone"


def test_what_is_told_replaces_what_was_told_and_never_what_was_given():
    places = Places([ONE])
    places.told(["two:2", "one:1", "nonsense:x", ""])
    kept = places.all()[1]
    places.told(["three:3", "two:2"])
    assert [place.address for place in places.all()] == [ONE, THREE, TWO]
    assert places.all()[2] is kept
    places.told([])
    assert [place.address for place in places.all()] == [ONE]
    places.leader_is("two:2")
    places.leader_is(None)
    assert [place.address for place in places.all()] == [ONE, TWO]


def test_one_session_is_opened_at_a_time_unless_it_takes_too_long():
    openings = Openings()
    first, second = candidate(), candidate()
    openings.ready(first)
    openings.ready(second)
    assert openings.next(0.0) is first
    assert openings.next(0.1) is None
    assert openings.waits_until() == OPEN_SECONDS
    assert openings.next(OPEN_SECONDS) is second
    third = candidate()
    openings.ready(third)
    second.error = NotLeader("no")
    assert openings.next(OPEN_SECONDS) is third
