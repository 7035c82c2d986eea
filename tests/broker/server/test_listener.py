"""The port itself: strangers, too many connections, a system without files, and mistakes of ours."""

from __future__ import annotations

import errno
import logging

import pytest
import trio
import trio.testing

from sluicemq.broker.config import BrokerConfig
from sluicemq.broker.server import client_session as client_session_module
from sluicemq.broker.server.listener import ACCEPT_RETRY_SECONDS, STRANGER_SECONDS
from sluicemq.wire import messages as m
from sluicemq.wire.connection import State
from sluicemq.wire.errors import BrokerStopping, InternalError, LimitReached, ResourceLow
from sluicemq.wire.frames import PEER_PREFACE, PREFACE
from tests.broker.pipeline.held import HeldSyncs
from tests.broker.server.talk import Refused, open_port
from tests.disk import SimulatedDisk
from tests.patience import WAIT_SECONDS


async def answer_to(port, words: bytes) -> bytes:
    """Return everything that the port says to a stranger, up to the end of the connection."""
    stream = await trio.open_tcp_stream(*port._address)
    async with stream:
        await stream.send_all(words)
        answer = b""
        with trio.fail_after(WAIT_SECONDS):
            # A reset would raise here: the peer might never see the answer then.
            while data := await stream.receive_some():
                answer += data
    return answer


# --- strangers ----------------------------------------------------------------------------------------------------


@pytest.mark.trio
@pytest.mark.parametrize("header_bytes", [0, 10_000])
async def test_a_browser_is_told_that_it_is_wrong_here(header_bytes):
    async with open_port() as port:
        header = b"Cookie: " + b"x" * header_bytes + b"\r\n"
        answer = await answer_to(port, b"GET / HTTP/1.1\r\nHost: localhost\r\n" + header + b"\r\n")
        head, body = answer.split(b"\r\n\r\n")

        assert head.startswith(b"HTTP/1.1 426 ")
        assert b"Content-Length: %d" % len(body) in head
        assert b"SluiceMQ" in body


@pytest.mark.trio
@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (b"\x16\x03\x01\x02\x00\x01" + bytes(500), b"\x15\x03\x01\x00\x02\x02\x28"),
        (b"AMQP\x00\x00\x09\x01", b"AMQP\x00\x00\x00\x00"),
        (b"hello?\r\n", b""),
    ],
    ids=["tls", "amqp", "somebody"],
)
async def test_other_strangers_are_answered_in_their_own_words(words, answer):
    async with open_port() as port:
        assert await answer_to(port, words) == answer
        assert port.server.sessions == set()


@pytest.mark.trio
async def test_a_stranger_that_goes_on_talking_is_left_after_a_second(mock_clock):
    async with open_port() as port:
        stream = await trio.open_tcp_stream(*port._address)
        async with stream:
            await stream.send_all(b"POST /everything HTTP/1.1\r\n\r\n")
            assert (await stream.receive_some()).startswith(b"HTTP/1.1 426 ")
            for _ in range(30):
                try:
                    await stream.send_all(bytes(1000))
                except trio.BrokenResourceError:
                    break
                mock_clock.jump(STRANGER_SECONDS / 10)
                await trio.testing.wait_all_tasks_blocked()
            assert port.server._connections == 0


# --- too many -----------------------------------------------------------------------------------------------------


@pytest.mark.trio
async def test_one_connection_too_many_is_told_so_and_one_that_leaves_makes_room():
    async with open_port(config=BrokerConfig(connections_max=2)) as port:
        first, second = await port.connect(), await port.dial()
        await trio.testing.wait_all_tasks_blocked()
        third = await port.dial()
        with trio.fail_after(WAIT_SECONDS):
            await third.closed.wait()
        assert isinstance(third.error, LimitReached)
        assert "2 connections" in str(third.error)
        await second.stream.aclose()
        with trio.fail_after(WAIT_SECONDS):
            while port.server._connections > 1:
                await trio.lowlevel.checkpoint()
        await port.connect()

        assert (await first.declare()).outcome == "created"


@pytest.mark.trio
async def test_without_files_for_connections_the_port_waits_and_goes_on(monkeypatch, mock_clock, caplog):
    async with open_port() as port:
        earlier = await port.connect()
        accept, failures = trio.SocketListener.accept, [errno.EMFILE, errno.ENFILE, errno.ENOMEM]

        async def poor(self):
            stream = await accept(self)
            if failures:
                await stream.aclose()
                raise OSError(failures.pop(), "too little of it")
            return stream

        monkeypatch.setattr(trio.SocketListener, "accept", poor)
        # The accept that is under way is the system's own still.
        assert (await (await port.connect()).declare()).outcome == "created"
        with caplog.at_level(logging.WARNING):
            for remaining in (2, 1, 0):
                await port.dial()
                await trio.testing.wait_all_tasks_blocked()
                assert len(failures) == remaining
                mock_clock.jump(ACCEPT_RETRY_SECONDS)
                await trio.testing.wait_all_tasks_blocked()
        assert sum("cannot accept connections" in message for message in caplog.messages) == 3
        assert (await (await port.connect()).declare("mails")).outcome == "created"

        assert (await earlier.declare("logs")).outcome == "created"


@pytest.mark.trio
async def test_half_received_frames_of_all_connections_together_are_bounded(monkeypatch):
    monkeypatch.setattr(client_session_module, "PARTIAL_BYTES_MAX", 220_000)
    monkeypatch.setattr(client_session_module, "PARTIAL_BYTES_FREE", 50_000)
    async with open_port() as port:
        modest, large, larger = [await port.connect() for _ in range(3)]
        await modest.declare()
        producer = await modest.open_producer()
        for peer, size, held_bytes in ((large, 200_000, 200_000), (modest, 40_000, 240_000), (larger, 200_000, 0)):
            head = peer.connection.send(m.Publish("orders", producer, 1), correlation=77, tail_length=size + 10_000)
            await peer.send_bytes(head + bytes(size))
            with trio.fail_after(WAIT_SECONDS):
                # What came of a frame whose rest does not come is read after a while.
                while port.server.partial_bytes < held_bytes:
                    await trio.lowlevel.checkpoint()
        with trio.fail_after(WAIT_SECONDS):
            await larger.closed.wait()
        assert isinstance(larger.error, ResourceLow)
        assert larger.error.retryable
        assert not modest.closed.is_set(), "its part is small"
        await larger.stream.aclose()
        with trio.fail_after(WAIT_SECONDS):
            while len(port.server.sessions) > 2:
                await trio.lowlevel.checkpoint()
        assert 240_000 <= port.server.partial_bytes <= 241_000
        for peer in (modest, large):
            await peer.stream.aclose()
        with trio.fail_after(WAIT_SECONDS):
            while port.server.sessions:
                await trio.lowlevel.checkpoint()

        assert port.server.partial_bytes == 0


# --- mistakes of ours ---------------------------------------------------------------------------------------------


@pytest.mark.trio
async def test_a_mistake_in_one_request_ends_one_connection_with_its_name_and_serves_the_others(caplog):
    async with open_port() as port:
        unlucky, other = await port.connect(), await port.connect()

        def broken(session, message, correlation, tail):
            raise KeyError("a bug of ours")

        port.server.handlers = {**port.server.handlers, m.QueueInfo: broken}
        await unlucky.send(m.QueueInfo("orders"))
        with trio.fail_after(WAIT_SECONDS):
            await unlucky.closed.wait()
        assert isinstance(unlucky.error, InternalError)
        assert "QueueInfo" in str(unlucky.error)
        assert any(record.exc_info for record in caplog.records), "the log has the traceback"

        assert (await other.declare()).outcome == "created"
        assert not port.road.failed


@pytest.mark.trio
async def test_a_mistake_at_the_end_of_a_connection_does_not_end_the_port(monkeypatch, caplog):
    async with open_port() as port:
        unlucky, other = await port.connect(), await port.connect()
        session = next(each for each in port.server.sessions if each.session == unlucky.opened.session)
        monkeypatch.setattr(session.outbound, "abandon", lambda: 1 / 0)
        await unlucky.stream.aclose()
        with trio.fail_after(WAIT_SECONDS):
            while port.server._connections > 1:
                await trio.lowlevel.checkpoint()
        assert any("an error of ours" in message for message in caplog.messages)

        assert (await other.declare()).outcome == "created"


# --- the end ------------------------------------------------------------------------------------------------------


@pytest.mark.trio
async def test_whoever_comes_while_the_broker_stops_is_turned_away(mock_clock):
    disk = SimulatedDisk(1)
    held = HeldSyncs(disk)
    async with open_port(disk=disk) as port:
        peer, silent = await port.connect(), await port.dial()
        await port.road.wait_idle()
        held.hold()
        asked = await peer.send(m.DeclareQueue("orders"))
        await held.begun()
        stopped = trio.Event()

        async def stop() -> None:
            await port.server.stop(10.0)
            stopped.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(stop)
            await trio.testing.wait_all_tasks_blocked()
            late = await port.dial()
            await late.closed.wait()
            assert isinstance(late.error, BrokerStopping)
            silent.connection.state = State.GREETED
            await silent.send_bytes(PREFACE)
            await silent.closed.wait()
            assert not stopped.is_set(), "what is on the road is waited for"
            held.let_all_go()
            assert (await peer.reply_to(asked)).outcome == "created"
            await peer.closed.wait()
            assert isinstance(peer.error, BrokerStopping)
            await peer.stream.aclose()


@pytest.mark.trio
async def test_a_disk_that_hangs_does_not_keep_a_stopping_broker_longer_than_its_grace(mock_clock):
    disk = SimulatedDisk(1)
    held = HeldSyncs(disk)
    async with open_port(disk=disk) as port:
        peer = await port.connect()
        await port.road.wait_idle()
        held.hold()
        await peer.send(m.DeclareQueue("orders"))
        await held.begun()
        stopped = trio.Event()

        async def stop() -> None:
            await port.server.stop(10.0)
            stopped.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(stop)
            await trio.testing.wait_all_tasks_blocked()
            mock_clock.jump(9.9)
            await trio.testing.wait_all_tasks_blocked()
            assert not stopped.is_set()
            mock_clock.jump(0.2)
            await trio.testing.wait_all_tasks_blocked()
            assert stopped.is_set()
            held.let_all_go()


# --- other brokers --------------------------------------------------------------------------------------------------


class Peers:
    """Who serves other brokers: tells that it was called."""

    def __init__(self) -> None:
        self.heard: list[bytes] = []

    async def accept(self, stream: trio.SocketStream, first: bytes) -> None:
        while len(first) < len(PEER_PREFACE):
            first += await stream.receive_some(len(PEER_PREFACE) - len(first))
        self.heard.append(first)
        await stream.send_all(b"welcome")


@pytest.mark.trio
@pytest.mark.parametrize("piece_bytes", [1, 2, 8], ids=["byte by byte", "by two", "at once"])
async def test_brokers_are_told_from_clients_by_their_preface(piece_bytes):
    async with open_port() as port:
        port.server.peers = peers = Peers()
        async with await trio.open_tcp_stream(*port._address) as stream:
            for start in range(0, len(PEER_PREFACE), piece_bytes):
                await stream.send_all(PEER_PREFACE[start : start + piece_bytes])
            assert await stream.receive_some() == b"welcome"
        assert peers.heard == [PEER_PREFACE]
        assert port.server.sessions == set()


@pytest.mark.trio
async def test_brokers_are_served_when_clients_have_taken_all_connections(mock_clock):
    async with open_port(config=BrokerConfig(connections_max=1)) as port:
        port.server.peers = Peers()
        client = await port.dial()
        await client.shake_hands()
        async with await trio.open_tcp_stream(*port._address) as stream:
            await stream.send_all(PEER_PREFACE)
            assert await stream.receive_some() == b"welcome"
        other = await port.dial()
        with pytest.raises(Refused) as refused:
            await other.shake_hands()
        assert isinstance(refused.value.error, LimitReached)
