"""Silence at the port, in virtual time: who is asked, who is closed, and who is left alone."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from sluicemq.broker.config import BrokerConfig
from sluicemq.broker.pipeline import append as append_module
from sluicemq.broker.server import outbound as outbound_module
from sluicemq.broker.server.handshake import HEARTBEAT_SECONDS_MIN
from sluicemq.broker.server.listener import HANDSHAKE_SECONDS, WATCH_SECONDS
from sluicemq.wire import messages as m
from sluicemq.wire.batch import encode_batch
from sluicemq.wire.connection import State
from sluicemq.wire.errors import HeartbeatLost, RequestTimeout
from sluicemq.wire.frames import PREFACE
from tests.broker.pipeline.held import HeldSyncs
from tests.broker.server.talk import Peer, open_port
from tests.disk import SimulatedDisk

HEARTBEAT = 6.0


async def passes(clock: trio.testing.MockClock, seconds: float) -> None:
    """Let time pass, a watchman's round at a time."""
    for _ in range(round(seconds / WATCH_SECONDS)):
        clock.jump(WATCH_SECONDS)
        await trio.testing.wait_all_tasks_blocked()


async def gone(port, peer: Peer) -> None:
    """Wait until the connection is over on both sides."""
    await peer.closed.wait()
    while port.server.sessions:
        await trio.lowlevel.checkpoint()


# --- heartbeats ---------------------------------------------------------------------------------------------------


@pytest.mark.trio
async def test_a_client_that_falls_silent_is_asked_and_then_closed_and_what_it_held_is_anothers(mock_clock):
    async with open_port() as port:
        silent = await port.connect(heartbeat_seconds=HEARTBEAT)
        other = await port.connect(heartbeat_seconds=0.0)
        await other.declare()
        await silent.consume()
        await other.publish(await other.open_producer(), 1, [b"held"])
        await silent.take(1)
        silent.answers_pings = False
        await passes(mock_clock, HEARTBEAT / 2)
        assert silent.pings == 0
        await passes(mock_clock, HEARTBEAT / 2)
        assert silent.pings > 0
        await passes(mock_clock, HEARTBEAT - WATCH_SECONDS)
        assert not silent.closed.is_set()
        await passes(mock_clock, 2 * WATCH_SECONDS)
        await silent.closed.wait()
        assert isinstance(silent.error, HeartbeatLost)
        await other.consume()

        assert await other.take(1) == [b"held"]


@pytest.mark.trio
async def test_a_client_that_only_answers_lives_for_ever_and_hears_the_brokers_beats(mock_clock):
    async with open_port() as port:
        peer = await port.connect(heartbeat_seconds=HEARTBEAT)
        heard = []
        for _ in range(100):
            before = peer.pings
            await passes(mock_clock, HEARTBEAT)
            heard.append(peer.pings - before)

        assert not peer.closed.is_set()
        assert min(heard) >= 1, "the client may close a broker that is silent for this long"
        assert max(heard) <= 2, "nobody is asked more often than need be"
        assert (await peer.declare()).outcome == "created"


@pytest.mark.trio
async def test_a_client_that_speaks_without_being_answered_hears_the_brokers_beats_too(mock_clock):
    async with open_port() as port:
        peer = await port.connect(heartbeat_seconds=HEARTBEAT)
        await peer.declare()
        consumer = await peer.consume()
        for second in range(30):
            await peer.send(m.Credit(consumer, second, 1000), correlation=0)
            await passes(mock_clock, WATCH_SECONDS)

        assert peer.pings >= 30 / HEARTBEAT - 1


@pytest.mark.trio
async def test_a_client_that_gets_deliveries_all_the_time_and_says_nothing_is_asked_too(mock_clock):
    async with open_port() as port:
        silent, busy = await port.connect(heartbeat_seconds=HEARTBEAT), await port.connect(heartbeat_seconds=0.0)
        await busy.declare()
        producer = await busy.open_producer()
        await silent.consume()
        silent.answers_pings = False
        for sequence in range(1, round(2 * HEARTBEAT / WATCH_SECONDS)):
            await busy.publish(producer, sequence, [b"x"])
            await silent.take(sequence)
            await passes(mock_clock, WATCH_SECONDS)
        assert silent.pings > 0
        assert not silent.closed.is_set()
        await passes(mock_clock, 2 * WATCH_SECONDS)
        await silent.closed.wait()

        assert isinstance(silent.error, HeartbeatLost)


@pytest.mark.trio
async def test_a_client_that_wants_no_heartbeats_gets_none_and_is_never_closed(mock_clock):
    async with open_port() as port:
        peer = await port.connect(heartbeat_seconds=0.0)
        peer.answers_pings = False
        await passes(mock_clock, 600.0)

        assert peer.pings == 0
        assert (await peer.declare()).outcome == "created"


@pytest.mark.trio
@pytest.mark.parametrize(
    ("configured", "asked", "agreed"),
    [
        (10.0, 3600.0, 10.0),
        (10.0, 4.0, 4.0),
        (10.0, 0.5, HEARTBEAT_SECONDS_MIN),
        (0.5, 60.0, HEARTBEAT_SECONDS_MIN),
        (10.0, 0.0, 0.0),
    ],
)
async def test_the_shorter_interval_is_agreed_but_never_one_that_cannot_be_kept(configured, asked, agreed):
    async with open_port(config=BrokerConfig(heartbeat_seconds=configured)) as port:
        peer = await port.connect(heartbeat_seconds=asked)
        assert peer.welcome is not None

        assert peer.welcome.heartbeat_seconds == agreed
        (session,) = port.server.sessions
        assert session.heartbeat_seconds == agreed


@pytest.mark.trio
async def test_a_client_is_not_taken_for_dead_while_the_broker_does_not_read(mock_clock, monkeypatch):
    monkeypatch.setattr(append_module, "PENDING_BYTES_MAX", 1000)
    disk = SimulatedDisk(1)
    held = HeldSyncs(disk)
    async with open_port(disk=disk) as port:
        peer = await port.connect(heartbeat_seconds=HEARTBEAT)
        (session,) = port.server.sessions
        await peer.declare()
        producer = await peer.open_producer()
        held.hold()
        asked = [
            await peer.send(m.Publish("orders", producer, sequence), encode_batch([bytes(600)])) for sequence in (1, 2)
        ]
        await held.begun()
        await trio.testing.wait_all_tasks_blocked()
        assert session.suspended
        peer.answers_pings = False
        await passes(mock_clock, 10 * HEARTBEAT)
        assert not peer.closed.is_set()
        peer.answers_pings = True
        held.let_all_go()
        assert [(await peer.reply_to(number)).duplicate for number in asked] == [False] * 2
        await passes(mock_clock, WATCH_SECONDS)

        assert not peer.closed.is_set(), "its silence is counted from now on"


@pytest.mark.trio
async def test_a_client_that_takes_nothing_for_too_long_is_closed(mock_clock, monkeypatch):
    monkeypatch.setattr(outbound_module, "OUTBOUND_BYTES_MAX", 50_000)
    async with open_port(send_bytes=8192) as port:
        greedy = await port.connect(receive_bytes=4096, heartbeat_seconds=HEARTBEAT)
        await greedy.declare()
        await greedy.publish(await greedy.open_producer(), 1, [bytes(90_000)])
        (session,) = port.server.sessions
        greedy.reading = trio.Event()
        for _ in range(10):
            await greedy.send(m.Peek("orders", 0, 1))
        while not session.suspended:
            await trio.lowlevel.checkpoint()
        await passes(mock_clock, 2 * HEARTBEAT)
        assert session in port.server.sessions
        await passes(mock_clock, 3 * WATCH_SECONDS)
        while port.server.sessions:
            await trio.lowlevel.checkpoint()

        assert "taken nothing" in session._reason
        greedy.reading.set()


# --- handshakes that take too long --------------------------------------------------------------------------------


@pytest.mark.trio
async def test_a_connection_that_never_says_a_word_is_closed(mock_clock):
    async with open_port() as port:
        peer = await port.dial()
        await trio.testing.wait_all_tasks_blocked()
        await passes(mock_clock, HANDSHAKE_SECONDS - WATCH_SECONDS)
        assert not peer.closed.is_set()
        await passes(mock_clock, 2 * WATCH_SECONDS)

        await peer.closed.wait()


@pytest.mark.trio
@pytest.mark.parametrize("words", ["half a preface", "hello", "authenticated"])
async def test_a_handshake_that_does_not_come_to_its_end_is_closed_with_the_reason(mock_clock, words):
    async with open_port() as port:
        peer = await port.dial()
        if words == "half a preface":
            await peer.send_bytes(PREFACE[:4])
        else:
            await peer.send_bytes(PREFACE + peer.connection.send(m.Hello(1, 1)))
            await peer.until(lambda: peer.connection.state is State.WELCOMED)
        if words == "authenticated":
            await peer.send(m.Authenticate("ANONYMOUS"), correlation=0)
            await peer.until(lambda: peer.connection.state is State.AUTHENTICATED)
        await trio.testing.wait_all_tasks_blocked()
        await passes(mock_clock, HANDSHAKE_SECONDS)
        assert not peer.closed.is_set()
        await passes(mock_clock, 2 * WATCH_SECONDS)
        await gone(port, peer)

        assert isinstance(peer.error, RequestTimeout)


@pytest.mark.trio
async def test_a_port_without_connections_does_not_wake_up(mock_clock):
    async with open_port() as port:
        peer = await port.connect()
        await peer.stream.aclose()
        while port.server.sessions:
            await trio.lowlevel.checkpoint()
        await passes(mock_clock, 2 * WATCH_SECONDS)
        await trio.testing.wait_all_tasks_blocked()
        assert trio.lowlevel.current_statistics().seconds_to_next_deadline == float("inf")

        assert (await (await port.connect()).declare()).outcome == "created"
