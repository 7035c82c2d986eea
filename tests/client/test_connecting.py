"""From a URL to a session, and how a client presents itself."""

import socket
from itertools import count

import anyio
import pytest

from sluicemq.client import connect
from sluicemq.client.errors import (
    AuthenticationFailed,
    BrokerStopping,
    ClientClosed,
    ConnectionFailed,
    InvalidRequest,
    NotAuthorized,
    ProtocolError,
    QueueNotFound,
    VersionMismatch,
)
from sluicemq.wire import messages as m
from sluicemq.wire.batch import encode_batch
from sluicemq.wire.errors import error_to_wire
from tests.client.conftest import virtual_time
from tests.client.scripted_broker import CUT, SILENCE

pytestmark = pytest.mark.anyio


def closed_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


async def test_a_client_presents_itself_and_opens_a_session(broker):
    async with connect(f"{broker.url}/shop", name="web-front", heartbeat=7.0):
        hello = broker.peer.hello
        assert (hello.role, hello.client_name, hello.heartbeat_seconds) == ("client", "web-front", 7.0)
        assert hello.platform.startswith("Python 3.")
        assert broker.peer.authenticate == m.Authenticate(mechanism="ANONYMOUS", response=b"")
        assert broker.peer.of(m.Open) == [m.Open(vhost="shop", resumable=True)]
    await broker.until(lambda: broker.peer.of(m.Close))


async def test_a_user_in_the_url_is_proven_by_plain(broker):
    async with connect(broker.url.replace("//", "//ada:s%40cret@")):
        assert broker.peer.authenticate == m.Authenticate(mechanism="PLAIN", response=b"\0ada\0s@cret")


async def test_a_user_that_the_broker_cannot_check_is_refused(broker):
    broker.mechanisms = ["ANONYMOUS"]
    with pytest.raises(AuthenticationFailed, match="does not offer PLAIN, only ANONYMOUS"):
        async with connect(broker.url.replace("//", "//ada:pw@")):
            pytest.fail("must not open")


@pytest.mark.parametrize(
    ("step", "error"),
    [
        (m.Authenticate, AuthenticationFailed("wrong password")),
        (m.Open, NotAuthorized("not into this vhost")),
        (m.Hello, VersionMismatch("too old")),
    ],
)
async def test_what_the_broker_holds_against_us_reaches_the_user_at_once(broker, step, error):
    broker.on[step] = lambda *_: m.Close(error=error_to_wire(error))
    with anyio.fail_after(5), pytest.raises(type(error), match=str(error)):
        async with connect(broker.url):
            pytest.fail("must not open")


@virtual_time
async def test_connect_gives_up_after_its_timeout_and_names_each_address_with_its_cause(anyio_backend):
    one, other = closed_port(), closed_port()
    began = anyio.current_time()
    with pytest.raises(ConnectionFailed) as caught:
        async with connect(f"sluicemq://127.0.0.1:{one},127.0.0.1:{other}", connect_timeout=10):
            pytest.fail("must not open")
    assert anyio.current_time() - began == pytest.approx(10)
    text = str(caught.value)
    assert f"127.0.0.1:{one}: " in text
    assert f"127.0.0.1:{other}: " in text
    assert text.count("refused") == 2


@virtual_time
async def test_a_broker_that_accepts_and_says_nothing_is_given_up(broker):
    broker.on[m.Hello] = lambda *_: SILENCE
    with pytest.raises(ConnectionFailed, match="did not answer the handshake in time"):
        async with connect(broker.url, connect_timeout=6):
            pytest.fail("must not open")


@virtual_time
async def test_a_broker_that_comes_up_late_is_waited_for(anyio_backend):
    from tests.client.scripted_broker import ScriptedBroker

    late = ScriptedBroker()
    late.port = closed_port()
    async with anyio.create_task_group() as tasks:

        async def start_late():
            await anyio.sleep(3)
            await tasks.start(late.serve)

        tasks.start_soon(start_late)
        async with connect(late.url, connect_timeout=10) as client:
            assert (await client.queue_info("orders"))["ready"] == 7
        tasks.cancel_scope.cancel()


async def test_a_dead_address_is_passed_over(broker):
    async with connect(f"sluicemq://127.0.0.1:{closed_port()},127.0.0.1:{broker.port}") as client:
        assert (await client.queue_info("orders"))["ready"] == 7


async def test_a_handshake_cut_anywhere_is_tried_again(broker):
    for step in (m.Hello, m.Authenticate, m.Open):
        seen = count(1)
        broker.on[step] = lambda *_, seen=seen: CUT if next(seen) == 1 else None
        async with connect(broker.url):
            assert next(seen) == 3
        del broker.on[step]


async def test_options_are_checked_before_anything_happens():
    for wrong in (-1, float("nan")):
        with pytest.raises(InvalidRequest):
            connect("sluicemq://a", connect_timeout=wrong)
    with pytest.raises(InvalidRequest, match="heartbeat is 4000; it must be 0 to 3600 seconds"):
        connect("sluicemq://a", heartbeat=4000)
    with pytest.raises(InvalidRequest, match="heartbeat is -1; it must be 0 to 3600 seconds"):
        connect("sluicemq://a", heartbeat=-1)
    with pytest.raises(TypeError, match="SSLContext"):
        connect("sluicemq://a", tls=True)  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest, match="name of a client"):
        connect("sluicemq://a", name="")


async def test_a_client_is_used_inside_its_block_only(broker):
    client = connect(broker.url)
    with pytest.raises(ClientClosed, match="is not open: enter it first"):
        await client.queues()
    async with client:
        await client.queues()
    with pytest.raises(ClientClosed, match="closed"):
        await client.queues()
    with pytest.raises(ClientClosed):
        client.producer("orders")
    with pytest.raises(ClientClosed):
        client.consumer("orders")
    with pytest.raises(ClientClosed):
        await client.send("orders", b"x")
    with pytest.raises(ClientClosed, match="call connect"):
        async with client:
            pytest.fail("must not open twice")


@virtual_time
async def test_silence_beyond_two_heartbeats_means_another_connection(broker):
    broker.heartbeat_seconds = 10.0
    async with connect(broker.url) as client:
        await anyio.sleep(60)
        assert len(broker.peers) == 1
        assert broker.count(m.Ping) >= 6
        broker.on[m.Ping] = lambda *_: SILENCE
        broker.on[m.QueueInfo] = lambda peer, *_: SILENCE if peer is broker.peers[0] else None
        began = anyio.current_time()
        assert (await client.queue_info("orders"))["ready"] == 7
        assert 15 < anyio.current_time() - began <= 31
        assert len(broker.peers) == 2


async def test_a_ping_is_answered(broker):
    async with connect(broker.url):
        await broker.peer.send(m.Ping(), correlation=77)
        await broker.peer.send(m.Ping())
        await broker.until(lambda: len(broker.peer.of(m.Pong)) == 2)


async def test_a_broker_that_breaks_the_protocol_is_told_and_left(broker):
    async with connect(broker.url) as client:
        first = broker.peer
        await first.send(m.Purged(messages=1), correlation=999)
        await broker.until(lambda: len(broker.peers) == 2)
        (goodbye,) = first.of(m.Close)
        assert goodbye.error["code"] == ProtocolError.code
        assert (await client.queue_info("orders"))["ready"] == 7


@pytest.mark.parametrize(
    "before",
    [
        [m.Ping()],
        [m.Ping(), m.Pong()],
        [m.ConsumerEnded(consumer=9, error=error_to_wire(QueueNotFound("gone"))), m.Ping()],
    ],
)
async def test_a_question_and_a_goodbye_in_one_breath_lead_to_a_new_connection(broker, before):
    async with connect(broker.url) as client:
        goodbye = m.Close(error=error_to_wire(BrokerStopping("restarting")))
        await broker.peer.send_in_one(*before, goodbye)
        await broker.until(lambda: len(broker.peers) == 2)
        assert (await client.queue_info("orders"))["ready"] == 7
        assert broker.peers[0].of(m.Pong) == [], "nothing may follow the goodbye"


async def test_what_must_be_given_back_just_before_a_goodbye_harms_nobody(broker):
    """A delivery to a consumer that was left asks for a verdict while the goodbye lies already in the same data."""
    async with connect(broker.url) as client:
        async with client.consumer("orders") as consumer:
            await broker.peer.deliver(1, [b"kept"])
            await anext(consumer)
        peer, tail = broker.peer, encode_batch([b"late"])
        runs = [1 << 32, 0, 1, len(tail), 1_700_000_000_000, 5, 9, 1, 0]
        delivery = peer.connection.send(m.Deliver(consumer=1, first_tag=2, runs=runs), tail_length=len(tail)) + tail
        goodbye = peer.connection.send(m.Close(error=error_to_wire(BrokerStopping("restarting"))))
        await peer.stream.send(delivery + goodbye)
        await broker.until(lambda: len(broker.peers) == 2)
        assert (await client.queue_info("orders"))["ready"] == 7


async def test_a_goodbye_right_behind_the_welcome_names_its_reason(broker):
    async def refuse(peer, _message, _tail):
        welcome = broker.answer(peer, _message, _tail)
        await peer.send_in_one(welcome, m.Close(error=error_to_wire(NotAuthorized("not from here"))))
        return SILENCE

    broker.on[m.Hello] = refuse
    with pytest.raises(NotAuthorized, match="not from here"):
        async with connect(broker.url):
            pytest.fail("must not open")


async def test_a_consumers_options_are_checked_by_type(broker):
    async with connect(broker.url) as client:
        with pytest.raises(TypeError, match="auto_renew must be True or False, not str"):
            client.consumer("orders", auto_renew="yes")  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="on_lease_lost must be callable or None, not str"):
            client.consumer("orders", on_lease_lost="log")  # type: ignore[arg-type]
