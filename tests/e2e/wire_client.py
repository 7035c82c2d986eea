"""A small blocking client: one socket, one `sluicemq.wire.Connection`, no thread, no retry.

Why: `sluicemq.client` and the broker were written by the same hands, from the same picture of the protocol. This client
does what it is told and nothing else, so that a test can hold replies, settlements and credit in its own hands and so
that a mistake in the client library cannot hide one of the broker's. It must not import `sluicemq.client`.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, TypeVar
from urllib.parse import urlsplit

from sluicemq.wire import messages as m
from sluicemq.wire.batch import Batch, encode_batch
from sluicemq.wire.connection import Connection, Received, Role, State
from sluicemq.wire.errors import SluiceError, error_from_wire
from sluicemq.wire.fields import Message
from sluicemq.wire.frames import FRAME_BYTES_DEFAULT, PREFACE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

TIMEOUT_SECONDS = 60.0
READ_BYTES = 256 * 1024

_Reply = TypeVar("_Reply", bound=Message)


class ConnectionEnded(ConnectionError):
    """The broker ended the connection.

    Attributes:
        error: The error in its CLOSE frame, or None where it sent none.

    """

    def __init__(self, error: SluiceError | None, how: str) -> None:
        super().__init__(f"{how}: {error!r}" if error else how)
        self.error = error


@dataclass(frozen=True, slots=True)
class DeliveredMessage:
    """One message as it was delivered."""

    tag: int
    zxid: int
    index: int
    deliveries: int
    attempts: int
    body: bytes


@dataclass(frozen=True)
class Delivery:
    """One DELIVER frame, its batches decoded."""

    consumer: int
    first_tag: int
    messages: list[DeliveredMessage]

    @property
    def last_tag(self) -> int:
        """Tag of the last message."""
        return self.first_tag + len(self.messages) - 1

    @property
    def tags(self) -> list[int]:
        """All tags as one range."""
        return [self.first_tag, self.last_tag]

    @property
    def bodies(self) -> list[bytes]:
        """All bodies, in the order of their tags."""
        return [message.body for message in self.messages]


class WireClient:
    """One connection with an open session.

    Args:
        url: `sluicemq://HOST:PORT`.
        timeout: Seconds that any single wait may take; then `TimeoutError`.
        heartbeat_seconds: What HELLO asks for; 0 switches the broker's watch over silence off, since a test that thinks
            for long is no dead peer.
        frame_bytes_max: Largest frame that we take.

    """

    def __init__(
        self,
        url: str,
        *,
        timeout: float = TIMEOUT_SECONDS,
        heartbeat_seconds: float = 0.0,
        frame_bytes_max: int = FRAME_BYTES_DEFAULT,
        client_name: str = "wire-client",
    ) -> None:
        address = urlsplit(url)
        assert address.hostname is not None
        assert address.port is not None
        self.timeout = timeout
        self.connection = Connection(Role.CLIENT, frame_bytes_max=frame_bytes_max)
        self.deliveries: deque[Delivery] = deque()
        self.unasked: deque[Message] = deque()
        self.ended: ConnectionEnded | None = None
        self._replies: dict[int, Received] = {}
        self._correlation = 0
        self.socket = socket.create_connection((address.hostname, address.port), timeout=timeout)
        try:
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            hello = m.Hello(
                m.PROTOCOL_VERSION_MIN,
                m.PROTOCOL_VERSION_MAX,
                frame_bytes_max=frame_bytes_max,
                heartbeat_seconds=heartbeat_seconds,
                client_name=client_name,
            )
            self.welcome = self._handshake(hello, m.Welcome, PREFACE)
            self._handshake(m.Authenticate(self.welcome.mechanisms[0]), m.Authenticated)
            self.opened = self._handshake(m.Open(), m.Opened)
        except BaseException:
            self.socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def close(self) -> None:
        """End the connection without a word, as a process does that dies."""
        self.socket.close()

    # --- frames -----------------------------------------------------------------------------------------------

    def _handshake(self, message: Message, reply: type[_Reply], preface: bytes = b"") -> _Reply:
        # A broker that turns us away has sent CLOSE and left before we have said a word: read what it said.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.socket.sendall(preface + self.connection.send(message))
        deadline = time.monotonic() + self.timeout
        while True:
            for received in self._read(deadline):
                if isinstance(received.message, reply):
                    return received.message
                self._take(received)

    def send(self, message: Message, tail: bytes = b"") -> int:
        """Send a request and return its correlation, for `reply_to`."""
        if self.ended is not None:
            raise self.ended
        self._correlation += 1
        head = self.connection.send(message, correlation=self._correlation, tail_length=len(tail))
        self.socket.settimeout(self.timeout)
        # A broker that is gone may have said why: the next read tells.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.socket.sendall(head + tail)
        return self._correlation

    def reply_to(self, correlation: int, *, timeout: float | None = None) -> Received:
        """Return the reply to a request, or raise the error that the broker answered."""
        deadline = time.monotonic() + (self.timeout if timeout is None else timeout)
        while correlation not in self._replies:
            self.pump(deadline)
        received = self._replies.pop(correlation)
        if isinstance(received.message, m.Error):
            raise error_from_wire(received.message.error)
        return received

    def has_reply(self, correlation: int) -> bool:
        """Whether the reply is here already."""
        return correlation in self._replies

    def request(self, message: Message, reply: type[_Reply], tail: bytes = b"") -> _Reply:
        """Send a request, wait for its reply, and check that it is a *reply*."""
        received = self.reply_to(self.send(message, tail))
        assert isinstance(received.message, reply), received.message
        return received.message

    def pump(self, deadline: float) -> None:
        """Read once, waiting until *deadline* (`time.monotonic`) at most.

        Raises:
            TimeoutError: Nothing came.
            ConnectionEnded: The connection ended before; what came with its end can still be taken.

        """
        for received in self._read(deadline):
            self._take(received)

    def _read(self, deadline: float) -> list[Received]:
        if self.ended is not None:
            raise self.ended
        # A timeout of 0 would make the socket non-blocking, which is another mode with other errors.
        self.socket.settimeout(max(0.001, deadline - time.monotonic()))
        try:
            data = self.socket.recv(max(READ_BYTES, min(self.connection.missing_bytes, 1 << 24)))
        except TimeoutError:
            raise
        except OSError as error:
            raise ConnectionEnded(None, f"connection broke ({error})") from error
        if not data:
            raise ConnectionEnded(None, "connection closed without CLOSE")
        return self.connection.receive(data)

    def _take(self, received: Received) -> None:
        message = received.message
        if isinstance(message, m.Close):
            error = None if message.error is None else error_from_wire(message.error)
            # Raised by the next read: replies that came before CLOSE count.
            self.ended = ConnectionEnded(error, "the broker sent CLOSE")
        elif isinstance(message, m.Ping):
            if self.connection.state is State.CLOSED:
                return
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                self.socket.sendall(self.connection.send(m.Pong(), correlation=received.correlation))
        elif isinstance(message, m.Deliver):
            self.deliveries.append(decode_delivery(message, received.tail))
        elif received.correlation:
            self._replies[received.correlation] = received
        else:
            self.unasked.append(message)

    # --- requests by name -------------------------------------------------------------------------------------

    def declare(self, queue: str, **settings: Any) -> m.Declared:
        """Make or converge a queue."""
        return self.request(m.DeclareQueue(queue, settings), m.Declared)

    def open_producer(self, name: str = "") -> int:
        """Return a new producer number."""
        return self.request(m.OpenProducer(name), m.ProducerOpened).producer

    def send_publish(self, queue: str, producer: int, sequence: int, bodies: Sequence[bytes]) -> int:
        """Send one batch without waiting; return the correlation."""
        return self.send(m.Publish(queue, producer, sequence), encode_batch(bodies))

    def publish(self, queue: str, producer: int, sequence: int, bodies: Sequence[bytes]) -> m.Published:
        """Send one batch and wait until it is confirmed."""
        received = self.reply_to(self.send_publish(queue, producer, sequence, bodies))
        assert isinstance(received.message, m.Published)
        return received.message

    def consume(
        self, queue: str, *, credit: int = 1000, credit_bytes: int = 16 << 20, lease_seconds: float = 30.0
    ) -> int:
        """Start a consumer and return its number."""
        return self.request(m.Consume(queue, credit, credit_bytes, lease_seconds), m.Consuming).consumer

    def delivery(self, *, timeout: float | None = None) -> Delivery:
        """Return the next DELIVER frame."""
        deadline = time.monotonic() + (self.timeout if timeout is None else timeout)
        while not self.deliveries:
            self.pump(deadline)
        return self.deliveries.popleft()

    def take(self, count: int, *, timeout: float | None = None) -> list[DeliveredMessage]:
        """Return the next *count* messages; the last frame must not hold more than that."""
        deadline = time.monotonic() + (self.timeout if timeout is None else timeout)
        taken: list[DeliveredMessage] = []
        while len(taken) < count:
            taken += self.delivery(timeout=deadline - time.monotonic()).messages
        assert len(taken) == count, f"{len(taken)} messages came where {count} were expected"
        return taken

    def wait_unasked(self, kind: type[_Reply], *, timeout: float | None = None) -> _Reply:
        """Return the next message of *kind* that the broker sends unasked."""
        deadline = time.monotonic() + (self.timeout if timeout is None else timeout)
        while True:
            for message in self.unasked:
                if isinstance(message, kind):
                    self.unasked.remove(message)
                    return message
            self.pump(deadline)

    def settle(
        self,
        consumer: int,
        tags: list[int],
        verdict: int = m.VERDICT_ACK,
        *,
        delay_seconds: float | None = None,
    ) -> list[int]:
        """Give a verdict, wait until it is committed, return the ranges whose leases were over."""
        return self.request(m.Settle(consumer, verdict, tags, delay_seconds), m.Settled).lost

    def queue_info(self, queue: str) -> dict[str, Any]:
        """Return the state of one queue."""
        return self.request(m.QueueInfo(queue), m.Queues).queues[0]

    def statistics(self) -> dict[str, Any]:
        """Return the broker's own figures."""
        return self.request(m.Statistics(), m.StatisticsResult).values

    def ping(self) -> float:
        """Return the seconds that a PING took to come back."""
        started = time.perf_counter()
        self.request(m.Ping(), m.Pong)
        return time.perf_counter() - started


def decode_delivery(message: m.Deliver | m.Peeked, tail: memoryview) -> Delivery:
    """Return the messages of a DELIVER (or PEEKED, where tags count from 0 and mean nothing)."""
    tag = first_tag = message.first_tag if isinstance(message, m.Deliver) else 0
    decoded: list[DeliveredMessage] = []
    offset = 0
    for zxid, first, count, size, _published_ms, _producer, _sequence, deliveries, attempts in _runs(message.runs):
        batch = Batch(tail[offset : offset + size])
        batch.check()
        assert batch.count == count, f"a run of {count} messages came with a batch of {batch.count}"
        offset += size
        for place, body in enumerate(batch.bodies):
            decoded.append(DeliveredMessage(tag, zxid, first + place, deliveries, attempts, body))
            tag += 1
    assert offset == len(tail), f"{len(tail) - offset} bytes behind the last run"
    return Delivery(message.consumer if isinstance(message, m.Deliver) else 0, first_tag, decoded)


def _runs(numbers: Sequence[int]) -> Iterator[tuple[int, ...]]:
    for start in range(0, len(numbers), m.RUN_NUMBERS):
        yield tuple(numbers[start : start + m.RUN_NUMBERS])
