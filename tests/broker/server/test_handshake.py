"""Handshakes that are refused, each with its reason, and sessions that open while their client leaves."""

from __future__ import annotations

import dataclasses
import re
import socket

import msgpack
import pytest
import trio
import trio.testing

from sluicemq.wire import messages as m
from sluicemq.wire.connection import State
from sluicemq.wire.errors import (
    AuthenticationFailed,
    BrokerStopping,
    FrameTooLarge,
    InvalidRequest,
    LimitReached,
    NotLeader,
    ProtocolError,
    VersionMismatch,
)
from sluicemq.wire.frames import FRAME_BYTES_BEFORE_OPEN, FRAME_BYTES_MIN, PREFACE, pack_frame
from tests.broker.pipeline.held import HeldSyncs
from tests.broker.server.talk import Peer, Port, Refused, open_port
from tests.disk import SimulatedDisk
from tests.patience import WAIT_SECONDS


def frame(message, correlation: int = 0) -> bytes:
    """The frame of a message, whether it may come now or not."""
    return pack_frame(message.TYPE, message.encode(), correlation=correlation)


def raw(type_: int, fields: dict) -> bytes:
    """A frame with these fields, known or not."""
    return pack_frame(type_, msgpack.packb(fields))


HELLO = frame(m.Hello(1, 1, heartbeat_seconds=0.0))


async def refusal(port: Port, peer: Peer) -> BaseException | None:
    """Wait for the end of the connection on both sides; return what CLOSE said, and see that others are served."""
    with trio.fail_after(WAIT_SECONDS):
        await peer.closed.wait()
        await peer.stream.aclose()
        while any(not session.session for session in port.server.sessions):
            await trio.lowlevel.checkpoint()
    other = await port.connect()
    assert (await other.ask(m.ListQueues())).queues == []
    return peer.error


@pytest.mark.trio
@pytest.mark.parametrize(
    ("words", "error", "reason"),
    [
        (b"\x8fSluice\x02" + HELLO, ProtocolError, "instead of the native preface"),
        (b"\x8f" + HELLO, ProtocolError, "instead of the native preface"),
        (PREFACE + frame(m.Hello(2, 9)), VersionMismatch, "versions 2 to 9, this broker 1 to 1; upgrade the older"),
        (PREFACE + frame(m.Hello(0, 0)), VersionMismatch, "versions 0 to 0"),
        (PREFACE + frame(m.Hello(1, 1, role="peer")), NotLeader, "role 'peer'"),
        (
            PREFACE + frame(m.Hello(1, 1, frame_bytes_max=FRAME_BYTES_MIN - 1)),
            InvalidRequest,
            "frame_bytes_max is 4095; it must be 4096 or more",
        ),
        (PREFACE + raw(m.Hello.TYPE, {2: 1, 4: 1, 98: "new"}), ProtocolError, "field 98 is unknown here"),
        (PREFACE + raw(m.Hello.TYPE, {2: 1}), ProtocolError, "version_max is missing"),
        (PREFACE + raw(m.Hello.TYPE, {2: "1", 4: 1}), ProtocolError, "version_min is str"),
        (PREFACE + raw(m.Hello.TYPE, {2: 1, 4: 1, 10: -1.0}), ProtocolError, "heartbeat_seconds"),
        (PREFACE + frame(m.Authenticate("ANONYMOUS")), ProtocolError, "Authenticate .* in state start"),
        (PREFACE + frame(m.QueueInfo("orders"), 1), ProtocolError, "QueueInfo from the client is not allowed"),
        (PREFACE + frame(m.Opened(1, 1, 1, 1, 1)), ProtocolError, "Opened from the client is not allowed"),
        (PREFACE + raw(200, {}), ProtocolError, "frame type 200 is unknown"),
        (PREFACE + pack_frame(m.Hello.TYPE, b"", FRAME_BYTES_BEFORE_OPEN), FrameTooLarge, "allowed are 65536"),
    ],
)
async def test_a_first_word_that_is_wrong_is_refused_with_the_reason(words, error, reason):
    async with open_port() as port:
        peer = await port.dial()
        await peer.send_bytes(words)
        refused = await refusal(port, peer)

        assert type(refused) is error
        assert re.search(reason, str(refused)), refused


@pytest.mark.trio
async def test_the_first_word_may_come_in_pieces_and_may_say_what_this_version_can_ignore():
    async with open_port() as port:
        peer = await port.dial()
        peer.connection.state = State.GREETED  # HELLO is said behind its back
        for byte in PREFACE + raw(m.Hello.TYPE, {2: 1, 4: 70, 99: "new", 1: "pieces"}):
            await peer.send_bytes(bytes([byte]))
            await trio.testing.wait_all_tasks_blocked()
        await peer.until(lambda: peer.welcome is not None)

        assert peer.welcome is not None
        assert peer.welcome.version == 1
        (session,) = port.server.sessions
        assert session.client_name == "pieces"


@pytest.mark.trio
@pytest.mark.parametrize("mechanism", ["PLAIN", "anonymous", ""])
async def test_a_mechanism_that_is_not_offered_proves_nothing(mechanism):
    async with open_port() as port:
        peer = await port.dial()
        await peer.send_bytes(PREFACE + peer.connection.send(m.Hello(1, 1)))
        await peer.until(lambda: peer.connection.state is State.WELCOMED)
        assert peer.welcome is not None
        assert peer.welcome.mechanisms == ["ANONYMOUS"]
        await peer.send(m.Authenticate(mechanism, b"secret"), correlation=0)
        refused = await refusal(port, peer)

        assert isinstance(refused, AuthenticationFailed)
        assert "secret" not in str(refused)


async def greeted(port: Port) -> Peer:
    """Return a peer that has proven who it is and has not opened a session."""
    peer = await port.dial()
    await peer.send_bytes(PREFACE + peer.connection.send(m.Hello(1, 1, heartbeat_seconds=0.0)))
    await peer.until(lambda: peer.connection.state is State.WELCOMED)
    await peer.send(m.Authenticate("ANONYMOUS"), correlation=0)
    await peer.until(lambda: peer.connection.state is State.AUTHENTICATED)
    return peer


@pytest.mark.trio
@pytest.mark.parametrize(
    "words",
    [
        frame(m.DeclareQueue("orders"), 1),
        frame(m.OpenProducer(), 1),
        frame(m.Ping()),
        HELLO,
        frame(m.Authenticate("ANONYMOUS")),
    ],
    ids=["declare", "open producer", "ping", "second hello", "second authenticate"],
)
async def test_nothing_is_done_before_the_session_is_open(words):
    async with open_port() as port:
        peer = await greeted(port)
        await peer.send_bytes(words)
        assert isinstance(await refusal(port, peer), ProtocolError)

        assert port.road.machine.queues() == []


@pytest.mark.trio
async def test_a_request_on_the_heels_of_open_is_refused_as_well():
    async with open_port() as port:
        peer = await greeted(port)
        await peer.send_bytes(frame(m.Open()) + frame(m.DeclareQueue("orders"), 1))

        assert isinstance(await refusal(port, peer), ProtocolError)
        assert port.road.machine.queues() == []


@pytest.mark.trio
async def test_a_vhost_without_a_name_is_refused():
    async with open_port() as port:
        peer = await greeted(port)
        await peer.send(m.Open(""), correlation=0)

        assert isinstance(await refusal(port, peer), InvalidRequest)


@pytest.mark.trio
async def test_no_session_opens_while_the_broker_stops():
    async with open_port() as port:
        peer = await greeted(port)
        port.road.produce.stopping = True
        await peer.send(m.Open(), correlation=0)
        with trio.fail_after(WAIT_SECONDS):
            await peer.closed.wait()

        assert isinstance(peer.error, BrokerStopping)


@pytest.mark.trio
async def test_a_session_that_the_machine_refuses_ends_the_connection_with_its_reason():
    async with open_port() as port:
        port.road.machine.limits = dataclasses.replace(port.road.machine.limits, sessions_max=1)
        first = await port.connect()
        second = await greeted(port)
        await second.send(m.Open(), correlation=0)
        with trio.fail_after(WAIT_SECONDS):
            await second.closed.wait()

        assert isinstance(second.error, LimitReached)
        assert (await first.ask(m.ListQueues())).queues == []


@pytest.mark.trio
@pytest.mark.parametrize("goodbye", ["close", "reset"])
async def test_a_client_that_leaves_while_its_session_opens_leaves_no_session_behind(goodbye):
    disk = SimulatedDisk(1)
    held = HeldSyncs(disk)
    async with open_port(disk=disk) as port:
        peer = await greeted(port)
        await port.road.wait_idle()
        held.hold()
        await peer.send(m.Open(), correlation=0)
        await held.begun()
        if goodbye == "reset":
            peer.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        await peer.stream.aclose()
        with trio.fail_after(WAIT_SECONDS):
            while port.server.sessions:
                await trio.lowlevel.checkpoint()
        assert port.road.machine.sessions == {}
        held.let_all_go()
        await port.road.wait_idle()

        assert port.road.machine.sessions == {}
        assert port.road.settle._owners == {}


@pytest.mark.trio
async def test_a_second_hello_in_an_open_session_ends_it_and_gives_back_what_it_held():
    async with open_port() as port:
        peer, other = await port.connect(), await port.connect()
        await other.declare()
        await peer.consume()
        await other.publish(await other.open_producer(), 1, [b"held"])
        await peer.take(1)
        await peer.send_bytes(HELLO)
        with pytest.raises(Refused):
            await peer.until(lambda: False)
        assert isinstance(peer.error, ProtocolError)
        await other.consume()

        assert await other.take(1) == [b"held"]
