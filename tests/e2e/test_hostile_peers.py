"""Peers that are slow, deaf, silent or speak something else: each is met politely, alone, and with bounded memory."""

from __future__ import annotations

import select
import socket
import ssl
import struct
import time
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

import pytest

from sluicemq.wire import messages as m
from sluicemq.wire.errors import FrameTooLarge, HeartbeatLost, LimitReached, RequestTimeout, error_from_wire
from sluicemq.wire.frames import PREFACE, FrameReader
from tests.e2e.wire_client import ConnectionEnded, WireClient
from tests.patience import WAIT_SECONDS
from tests.wire.mutations import HANDSHAKE

if TYPE_CHECKING:
    from sluicemq.wire.errors import SluiceError
    from tests.e2e.broker_process import BrokerProcess
    from tests.e2e.conftest import StartBroker

HANDSHAKE_SECONDS_MAX = 10.0
WATCH_SECONDS_MAX = 20.0
"""What a busy machine may add to any limit of the broker."""
MIB = 1024 * 1024


def connect(broker: BrokerProcess) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", broker.port), timeout=30)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def read_to_the_end(connection: socket.socket) -> bytes:
    data = b""
    with suppress(ConnectionError):
        while piece := connection.recv(1 << 16):
            data += piece
    return data


def close_error(data: bytes) -> SluiceError | None:
    """Return the error of the CLOSE that must be the last frame."""
    last = FrameReader(1 << 20).feed(data)[-1]
    assert last.type == m.Close.TYPE
    close = m.Close.decode(last.head)
    assert isinstance(close, m.Close)
    return None if close.error is None else error_from_wire(close.error)


def answer(connection: socket.socket, step: bytes) -> None:
    """Send one step of the handshake and read the one frame that answers it."""
    connection.sendall(step)
    reader = FrameReader()
    while not reader.feed(connection.recv(1 << 16)):
        pass


def error_that_ends(client: WireClient) -> SluiceError | None:
    """Wait until the broker ends the connection, read only then, and return the error in its CLOSE."""
    poll = select.poll()
    poll.register(client.socket, select.POLLRDHUP)
    assert poll.poll(1000 * WATCH_SECONDS_MAX), "the broker does not end the connection"
    while True:
        try:
            client.pump(time.monotonic() + WATCH_SECONDS_MAX)
        except ConnectionEnded as ended:
            return ended.error


def check_serves(broker: BrokerProcess) -> None:
    with WireClient(broker.url) as client:
        client.declare("still served")
        client.publish("still served", client.open_producer(), 1, [b"yes"])


# --- slow ------------------------------------------------------------------------------------------------------


def test_a_client_that_sends_byte_by_byte_is_understood(broker: BrokerProcess) -> None:
    with connect(broker) as connection:
        reader = FrameReader()
        for step in HANDSHAKE:
            for byte in step:
                connection.sendall(bytes([byte]))
            while not (frames := reader.feed(connection.recv(1 << 16))):
                pass
        assert frames[0].type == m.Opened.TYPE


def test_peers_that_never_finish_the_handshake_are_closed_after_its_limit(broker: BrokerProcess) -> None:
    with ExitStack() as stack:
        began = time.monotonic()
        peers = {
            name: stack.enter_context(connect(broker))
            for name in ("says nothing", "half a preface", "half a hello", "only hello", "never opens", "trickles")
        }
        peers["half a preface"].sendall(PREFACE[:4])
        peers["half a hello"].sendall(HANDSHAKE[0][:20])
        answer(peers["only hello"], HANDSHAKE[0])
        answer(peers["never opens"], HANDSHAKE[0])
        answer(peers["never opens"], HANDSHAKE[1])
        check_serves(broker)
        # This one is never silent for long, and must end all the same.
        trickling, trickle = peers.pop("trickles"), iter(HANDSHAKE[0])
        trickling.settimeout(0.5)
        data = b""
        while time.monotonic() - began < HANDSHAKE_SECONDS_MAX + WATCH_SECONDS_MAX:
            with suppress(ConnectionError):
                trickling.sendall(bytes([next(trickle)]))
            try:
                data = trickling.recv(1 << 16)
            except TimeoutError:
                continue
            except ConnectionError:
                pass
            break
        assert isinstance(close_error(data), RequestTimeout)
        for name, connection in peers.items():
            data = read_to_the_end(connection)
            took = time.monotonic() - began
            assert 0.9 * HANDSHAKE_SECONDS_MAX < took < HANDSHAKE_SECONDS_MAX + WATCH_SECONDS_MAX, name
            if name != "says nothing":
                assert isinstance(close_error(data), RequestTimeout), name
    check_serves(broker)


def test_a_client_that_answers_no_ping_is_closed_and_one_that_does_is_kept(broker: BrokerProcess) -> None:
    with (
        WireClient(broker.url, heartbeat_seconds=0.1) as lively,
        WireClient(broker.url, heartbeat_seconds=0.1) as listening,
        WireClient(broker.url, heartbeat_seconds=0.1) as dead,
        WireClient(broker.url) as busy,
    ):
        heartbeat = lively.welcome.heartbeat_seconds
        busy.declare("ticks")
        producer = busy.open_producer()
        listening.consume("ticks", credit=1000)
        began = time.monotonic()
        sequence = 0
        while time.monotonic() - began < 3 * heartbeat + 1:
            sequence += 1
            # Something is sent to this one all the time, so that only its own silence can tell whether it is there.
            busy.publish("ticks", producer, sequence, [b"tick"])
            listening.delivery()
            with suppress(TimeoutError):
                lively.pump(time.monotonic() + 0.1)
        assert sequence < 1000
        # The dead one reads only now what has come meanwhile: some PINGs, then CLOSE.
        assert isinstance(error_that_ends(dead), HeartbeatLost)
        assert lively.request(m.Ping(), m.Pong) == m.Pong()
        assert listening.request(m.Ping(), m.Pong) == m.Pong()


# --- deaf ------------------------------------------------------------------------------------------------------


def test_a_consumer_that_never_reads_costs_bounded_memory_and_holds_up_nobody(start_broker: StartBroker) -> None:
    broker = start_broker(options=("--cache-bytes-max", "8MiB"))
    batches, batch_bytes = 128, MIB
    with WireClient(broker.url) as deaf, WireClient(broker.url) as busy:
        busy.declare("large")
        deaf.consume("large", credit=1_000_000, credit_bytes=1 << 40)
        producer = busy.open_producer()
        busy.publish("large", producer, 1, [b"x" * batch_bytes])
        before = broker.usage().resident_bytes
        for sequence in range(2, batches + 1):
            busy.publish("large", producer, sequence, [b"x" * batch_bytes])
        growth = broker.usage().resident_bytes - before
        assert growth < 48 * MIB, (
            f"{batches} MiB were published to a deaf consumer, memory grew by {growth / MIB:.0f} MiB"
        )
        state = busy.queue_info("large")
        assert state["leased"] < batches / 2, "credit is one limit, the connection's buffer another"
        # What the deaf one does not take goes to whoever listens.
        consumer = busy.consume("large", credit=10)
        for _ in range(state["ready"]):
            taken = busy.take(1)
            assert busy.settle(consumer, [taken[0].tag, taken[0].tag]) == []
    with WireClient(broker.url) as client:
        deadline = time.monotonic() + WAIT_SECONDS
        while (state := client.queue_info("large"))["leased"]:
            assert time.monotonic() < deadline, "the deaf one is gone, its leases are not"
        assert state["settled_total"] + state["ready"] == batches
    broker.stop()


def test_a_client_that_asks_and_never_reads_is_no_longer_read_from(start_broker: StartBroker) -> None:
    broker = start_broker()
    with WireClient(broker.url) as client:
        client.declare("large")
        producer = client.open_producer()
        for sequence in range(1, 9):
            client.publish("large", producer, sequence, [b"x" * MIB])
    with WireClient(broker.url) as deaf:
        before = broker.usage().resident_bytes
        deaf.socket.settimeout(2.0)
        asked = 0
        with suppress(TimeoutError):
            for asked in range(1_000_000):
                deaf.socket.sendall(deaf.connection.send(m.Peek("large", 0, 8), correlation=asked + 1))
        assert asked < 999_999, "the broker reads and reads"
        growth = broker.usage().resident_bytes - before
        # Thousands of answers of 8 MiB each were asked for.
        assert asked > 1000
        assert growth < 64 * MIB, f"memory grew by {growth / MIB:.0f} MiB"
        check_serves(broker)
    broker.stop()


# --- foreign ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "HEAD", "DELETE", "OPTIONS"])
def test_a_browser_is_told_in_http_that_this_is_not_http(method: str, broker: BrokerProcess) -> None:
    with connect(broker) as connection:
        connection.sendall(f"{method} /queues HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        head, _, body = read_to_the_end(connection).partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    assert lines[0] == b"HTTP/1.1 426 Upgrade Required"
    headers = dict(line.split(b": ", 1) for line in lines[1:])
    assert int(headers[b"Content-Length"]) == len(body)
    assert b"SluiceMQ" in body


def test_a_tls_client_hears_an_alert_instead_of_waiting(broker: BrokerProcess) -> None:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    began = time.monotonic()
    with connect(broker) as connection, pytest.raises(ssl.SSLError, match=r"(?i)handshake.failure"):
        context.wrap_socket(connection)
    assert time.monotonic() - began < HANDSHAKE_SECONDS_MAX


@pytest.mark.parametrize("version", [b"\x00\x00\x09\x01", b"\x00\x01\x00\x00", b"\x03\x01\x00\x00"])
def test_an_amqp_client_gets_a_protocol_header_back(version: bytes, broker: BrokerProcess) -> None:
    with connect(broker) as connection:
        connection.sendall(b"AMQP" + version)
        assert read_to_the_end(connection) == b"AMQP\x00\x00\x00\x00"


def test_an_unknown_protocol_is_closed_without_a_word(broker: BrokerProcess) -> None:
    with connect(broker) as connection:
        connection.sendall(b"EHLO example.org\r\n")
        assert read_to_the_end(connection) == b""


def test_a_preface_of_another_generation_is_refused_by_name(broker: BrokerProcess) -> None:
    with connect(broker) as connection:
        connection.sendall(PREFACE[:-1] + b"\x02")
        error = close_error(read_to_the_end(connection))
    assert error is not None
    assert error.code == "protocol"


# --- garbage ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("before", [0, 1, 2, 3])
def test_garbage_ends_the_connection_at_any_stage_of_the_handshake(before: int, broker: BrokerProcess) -> None:
    garbage = bytes(range(256)) * 256
    assert len(garbage) == 65_536
    with connect(broker) as connection:
        for step in HANDSHAKE[:before]:
            answer(connection, step)
        with suppress(ConnectionError):
            connection.sendall(garbage if before else PREFACE + garbage)
        error = close_error(read_to_the_end(connection))
    assert error is not None
    assert error.code in ("protocol", "frame_too_large")
    check_serves(broker)


@pytest.mark.parametrize("before", [1, 3])
def test_a_frame_that_announces_four_gigabytes_is_refused_at_its_header(before: int, broker: BrokerProcess) -> None:
    resident = broker.usage().resident_bytes
    with connect(broker) as connection:
        for step in HANDSHAKE[:before]:
            answer(connection, step)
        connection.sendall(struct.pack(">IBBHII", 0xFFFF_FFFF, m.Publish.TYPE, 0, 0, 1, 10) + b"\x83")
        error = close_error(read_to_the_end(connection))
    assert isinstance(error, FrameTooLarge)
    assert error.frame_bytes == 0xFFFF_FFFF + 4
    assert broker.usage().resident_bytes - resident < 8 * MIB


def test_announcing_large_frames_costs_nothing_until_the_bytes_come(start_broker: StartBroker) -> None:
    """200 clients announce 16 MiB each and send 10 KB of it: what counts is what arrived."""
    broker = start_broker()
    with ExitStack() as stack:
        clients = [stack.enter_context(WireClient(broker.url)) for _ in range(200)]
        before = broker.usage().resident_bytes
        head = m.Publish("nowhere", 1, 1).encode()
        for client in clients:
            header = struct.pack(">IBBHII", 12 + len(head) + 16 * MIB, m.Publish.TYPE, 0, 0, 1, len(head))
            client.socket.sendall(header + head + bytes(10_000))
        for client in clients:
            # A frame that the broker has not taken in yet proves nothing; the last one's turn comes after the others'.
            assert client.socket.getpeername()[1] == broker.port
        check_serves(broker)
        growth = broker.usage().resident_bytes - before
        assert growth < 32 * MIB, f"memory grew by {growth / MIB:.0f} MiB"
    check_serves(broker)
    broker.stop()


# --- too many --------------------------------------------------------------------------------------------------


def test_a_connection_too_many_is_told_so_and_the_next_one_finds_a_place_again(start_broker: StartBroker) -> None:
    broker = start_broker(options=("--connections-max", "5"))
    with ExitStack() as stack:
        clients = [stack.enter_context(WireClient(broker.url)) for _ in range(5)]
        with pytest.raises(ConnectionEnded) as ended:
            WireClient(broker.url)
        assert isinstance(ended.value.error, LimitReached)
        assert ended.value.error.retryable
        assert clients[0].ping() < 10
        clients[1].close()
        deadline = time.monotonic() + WAIT_SECONDS
        while True:
            try:
                with WireClient(broker.url) as client:
                    assert client.ping() < 10
                break
            except ConnectionEnded:
                assert time.monotonic() < deadline, "the place of a client that has left stays taken"
    broker.stop()
