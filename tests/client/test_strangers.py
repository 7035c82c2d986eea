"""Addresses at which no broker answers: other servers, silence, and names with several addresses."""

import socket
from contextlib import asynccontextmanager

import anyio
import anyio.abc
import pytest

from sluicemq.client import connect, dialing
from sluicemq.client.errors import ConnectionFailed
from sluicemq.client.runtime import current_runtime
from sluicemq.wire import messages as m
from tests.client.conftest import virtual_time
from tests.client.scripted_broker import SILENCE, scripted_broker

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def server_that_says(words):
    """A server of another protocol; it answers the first bytes and then waits for more."""

    async def serve(stream):
        async with stream:
            await stream.receive()
            await stream.send(words)
            await anyio.sleep_forever()

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, serve)
        yield listener.extra(anyio.abc.SocketAttribute.local_port)
        tasks.cancel_scope.cancel()


@virtual_time
@pytest.mark.parametrize(
    "words",
    [
        b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n",
        b"+OK\r\n",
        b"\x15\x03\x01\x00\x02\x02\x46",
        b"\x00\x00\x00\x20not a frame after all, though short",
    ],
    ids=["HTTP", "a short greeting", "a TLS alert", "a possible length"],
)
async def test_another_server_is_named_with_what_it_answered(anyio_backend, words):
    async with server_that_says(words) as port:
        with pytest.raises(ConnectionFailed) as caught:
            async with connect(f"sluicemq://127.0.0.1:{port}", connect_timeout=2):
                pytest.fail("must not open")
    assert f"this is not a SluiceMQ broker; it answered with {words[:64]!r}" in str(caught.value)


@virtual_time
async def test_a_silent_broker_holds_up_the_next_one_for_a_second(broker):
    broker.on[m.Hello] = lambda *_: SILENCE
    async with scripted_broker() as awake:
        began = anyio.current_time()
        async with connect(f"sluicemq://127.0.0.1:{broker.port},127.0.0.1:{awake.port}") as client:
            assert anyio.current_time() - began <= 1.1
            assert (await client.queue_info("orders"))["ready"] == 7


@virtual_time
async def test_a_slow_broker_gets_more_time_in_later_rounds(broker):
    async def take_time(*_):
        await anyio.sleep(3)

    broker.on[m.Hello] = take_time
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        other = closed.getsockname()[1]
        async with connect(f"sluicemq://127.0.0.1:{broker.port},127.0.0.1:{other}") as client:
            assert (await client.queue_info("orders"))["ready"] == 7


@virtual_time
async def test_a_silent_address_of_a_name_does_not_keep_us_from_the_next(broker, monkeypatch):
    runtime = current_runtime()
    connect_socket = runtime.connect_socket

    async def found(host, port, **_):
        return [
            (socket.AF_INET, socket.SOCK_STREAM, 0, "", address) for address in (("silent", 1), ("127.0.0.1", port))
        ]

    async def reach(sock, address):
        if address[0] == "silent":
            await anyio.sleep_forever()
        await connect_socket(sock, address)

    monkeypatch.setattr(anyio, "getaddrinfo", found)
    monkeypatch.setattr(runtime, "connect_socket", reach)
    began = anyio.current_time()
    with await dialing.open_socket(runtime, "some.name", broker.port) as sock:
        assert sock.getpeername() == ("127.0.0.1", broker.port)
    assert anyio.current_time() - began == pytest.approx(dialing.STAGGER_SECONDS, abs=0.01)
