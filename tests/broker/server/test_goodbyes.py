"""How a connection ends: in order, by a reset, in mid-frame; whatever the client held is another's at once."""

from __future__ import annotations

import socket

import pytest
import trio

from sluicemq.wire import messages as m
from sluicemq.wire.batch import encode_batch
from sluicemq.wire.errors import ProtocolError
from sluicemq.wire.frames import pack_frame
from tests.broker.pipeline.held import HeldSyncs
from tests.broker.server.talk import Peer, open_port
from tests.disk import SimulatedDisk
from tests.patience import WAIT_SECONDS

LINGER_NOT = b"\x01\0\0\0\0\0\0\0"
"""SO_LINGER of no time at all: closing sends a reset."""


async def leave(peer: Peer, manner: str) -> None:
    if manner == "close":
        await peer.send(m.Close(), correlation=0)
        await peer.closed.wait()
    elif manner == "reset":
        peer.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NOT)
    elif manner == "in mid-frame":
        head = peer.connection.send(m.Publish("orders", 1, 1), correlation=9, tail_length=1000)
        await peer.send_bytes(head + bytes(10))
    elif manner == "protocol broken":
        await peer.send_bytes(pack_frame(200, b"\x80"))
        await peer.closed.wait()
        assert isinstance(peer.error, ProtocolError)
    await peer.stream.aclose()


@pytest.mark.trio
@pytest.mark.parametrize("manner", ["close", "end of file", "reset", "in mid-frame", "protocol broken"])
async def test_however_a_client_leaves_what_it_held_goes_to_another_at_once(manner):
    async with open_port() as port:
        leaver, stayer = await port.connect(), await port.connect()
        await stayer.declare()
        await leaver.consume(credit=2)
        await stayer.publish(await stayer.open_producer(), 1, [b"a", b"b", b"c"])
        await leaver.take(2)
        await leave(leaver, manner)
        with trio.fail_after(WAIT_SECONDS):
            while len(port.server.sessions) > 1:
                await trio.lowlevel.checkpoint()
        await port.road.wait_idle()
        await stayer.consume()

        assert await stayer.take(3) == [b"a", b"b", b"c"]
        await port.road.wait_idle()
        assert list(port.road.machine.sessions) == [stayer.opened.session]
        assert list(port.road.settle._owners) == [stayer.opened.session]
        assert not port.road.settle.holds(leaver.opened.session, 1)
        assert port.server.partial_bytes == 0


@pytest.mark.trio
async def test_a_batch_whose_producer_left_before_its_confirm_is_stored_all_the_same():
    disk = SimulatedDisk(1)
    held = HeldSyncs(disk)
    async with open_port(disk=disk) as port:
        peer, other = await port.connect(), await port.connect()
        await peer.declare()
        producer = await peer.open_producer()
        await port.road.wait_idle()
        held.hold()
        await peer.send(m.Publish("orders", producer, 1), encode_batch([b"x"]))
        await held.begun()
        await peer.stream.aclose()
        held.let_all_go()
        with trio.fail_after(WAIT_SECONDS):
            while len(port.server.sessions) > 1:
                await trio.lowlevel.checkpoint()
        # The client comes back and asks again: it is answered with what was stored.
        assert (await other.publish(producer, 1, [b"x"])).duplicate

        assert (await other.ask(m.QueueInfo("orders"))).queues[0]["ready"] == 1


@pytest.mark.trio
async def test_what_a_client_says_behind_its_own_goodbye_is_not_done():
    async with open_port() as port:
        peer, other = await port.connect(), await port.connect()
        request = pack_frame(m.DeclareQueue.TYPE, m.DeclareQueue("orders").encode(), correlation=5)
        await peer.send_bytes(peer.connection.send(m.Close()) + request)
        with trio.fail_after(WAIT_SECONDS):
            await peer.closed.wait()

        assert (await other.ask(m.ListQueues())).queues == []


@pytest.mark.trio
async def test_a_ping_is_answered_under_its_own_number():
    async with open_port() as port:
        peer = await port.connect()

        assert isinstance(await peer.ask(m.Ping()), m.Pong)
