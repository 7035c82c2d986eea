"""A broker that does what a test tells it: the other end of the wire, over a real loopback socket.

It speaks through `wire.Connection` in the broker's role, so that a frame that the protocol forbids fails the test. By
itself it keeps a small honest memory (queues as lists, sequences per producer); a test overrides single answers
through `on`, or cuts connections at chosen frames.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio
import anyio.abc

from sluicemq.wire import messages as m
from sluicemq.wire.batch import Batch, encode_batch
from sluicemq.wire.connection import Connection, Role, State
from sluicemq.wire.errors import ProtocolError, QueueNotFound, SequenceGap, SluiceError, error_to_wire
from sluicemq.wire.fields import Message
from tests.patience import WAIT_SECONDS

CUT = object()
"""Returned by a handler: break the connection instead of answering."""
SILENCE = object()
"""Returned by a handler: do not answer (yet)."""


@dataclass
class Stored:
    """One batch that the broker has taken."""

    zxid: int
    destination: str
    producer: int
    sequence: int
    data: bytes

    @property
    def bodies(self) -> list[bytes]:
        return Batch(self.data).bodies


@dataclass(eq=False)
class Peer:
    """One client connection, as the broker sees it."""

    broker: ScriptedBroker
    stream: anyio.abc.ByteStream
    connection: Connection = field(default_factory=lambda: Connection(Role.BROKER))
    consumers: dict[int, m.Consume] = field(default_factory=dict)
    last_tag: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    received: list[Message] = field(default_factory=list)
    sending: anyio.Lock = field(default_factory=anyio.Lock)
    hello: m.Hello | None = None
    authenticate: m.Authenticate | None = None

    async def send(self, message: Message, *, correlation: int = 0, tail: bytes = b"") -> None:
        if self.connection.state is State.CLOSED:
            return  # the client's goodbye came in the same breath as what this answers
        head = self.connection.send(message, correlation=correlation, tail_length=len(tail))
        try:
            async with self.sending:
                await self.stream.send(head + tail)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            pass

    async def send_in_one(self, *messages: Message) -> None:
        """Send *messages*, none of which has a tail, so that the client reads them at once."""
        data = b"".join([self.connection.send(message) for message in messages])
        async with self.sending:
            await self.stream.send(data)

    async def deliver(
        self,
        consumer: int,
        *batches: list[bytes],
        zxid: int = 1 << 32 | 77,
        deliveries: int = 1,
        attempts: int = 0,
        **columns: Any,
    ) -> None:
        """Deliver each of *batches* as a run of its own."""
        runs: list[int] = []
        tails = []
        first_tag = self.last_tag[consumer] + 1
        for number, bodies in enumerate(batches):
            data = encode_batch(bodies, **columns)
            tails.append(data)
            runs += [zxid + number, 0, len(bodies), len(data), 1_700_000_000_000, 5, 9, deliveries, attempts]
            self.last_tag[consumer] += len(bodies)
        await self.send(m.Deliver(consumer=consumer, first_tag=first_tag, runs=runs), tail=b"".join(tails))

    async def cut(self) -> None:
        await self.stream.aclose()

    def of(self, kind: type[Message]) -> list[Any]:
        """Messages of *kind* that arrived on this connection."""
        return [message for message in self.received if type(message) is kind]


class ScriptedBroker:
    """Listens on a free port of loopback."""

    def __init__(self) -> None:
        self.port = 0
        self.peers: list[Peer] = []
        self.stored: list[Stored] = []
        self.queues: set[str] = {"orders"}
        self.sequences: dict[int, int] = {}
        self.answers: dict[tuple[int, int], Stored] = {}
        self.on: dict[type[Message], Callable[..., Any]] = {}
        self.mechanisms = ["ANONYMOUS", "PLAIN"]
        self.heartbeat_seconds = 0.0
        self.message_bytes_max = 1_000_000
        self.batch_bytes_max = 4_000_000
        self.batch_messages_max = 10_000
        self.next_producer = 100
        self.next_zxid = (1 << 32) + 1
        self.changed = anyio.Event()
        self.open = True

    @property
    def url(self) -> str:
        return f"sluicemq://127.0.0.1:{self.port}"

    @property
    def peer(self) -> Peer:
        return self.peers[-1]

    @property
    def bodies(self) -> list[bytes]:
        """Everything stored, in order."""
        return [body for stored in self.stored for body in stored.bodies]

    def count(self, kind: type[Message]) -> int:
        return sum(len(peer.of(kind)) for peer in self.peers)

    async def until(self, condition: Callable[[], Any]) -> None:
        """Wait until *condition* holds; looked at after each frame."""
        with anyio.fail_after(WAIT_SECONDS):
            while not condition():
                await self.changed.wait()

    def _changed(self) -> None:
        self.changed.set()
        self.changed = anyio.Event()

    async def serve(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=self.port)
        self.port = listener.extra(anyio.abc.SocketAttribute.local_port)
        task_status.started()
        async with listener:
            await listener.serve(self.serve_peer)

    async def serve_peer(self, stream: anyio.abc.ByteStream) -> None:
        if not self.open:
            await stream.aclose()
            return
        peer = Peer(self, stream)
        self.peers.append(peer)
        async with stream:
            try:
                while True:
                    for received in peer.connection.receive(await stream.receive(1 << 20)):
                        peer.received.append(received.message)
                        self._changed()
                        if (
                            await self._handle(peer, received.message, received.correlation, bytes(received.tail))
                            is CUT
                        ):
                            return
                        self._changed()
            except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
                pass
            except ProtocolError as error:
                await peer.send(m.Close(error=error_to_wire(error)))
                raise
            finally:
                self._changed()

    async def _handle(self, peer: Peer, message: Message, correlation: int, tail: bytes) -> object:
        kind = type(message)
        handler = self.on.get(kind)
        answer: Any = None
        if handler is not None:
            answer = handler(peer, message, tail)
            if hasattr(answer, "__await__"):
                answer = await answer
        if answer is CUT or answer is SILENCE:
            if answer is SILENCE:
                peer.silent = (*getattr(peer, "silent", ()), correlation)  # type: ignore[attr-defined]
            return answer
        if answer is None:
            answer = self.answer(peer, message, tail)
        reply_tail = b""
        if isinstance(answer, tuple):
            answer, reply_tail = answer
        if isinstance(answer, SluiceError):
            answer = m.Error(error=error_to_wire(answer))
        if answer is not None:
            await peer.send(answer, correlation=correlation, tail=reply_tail)
        return None

    def answer(self, peer: Peer, message: Message, tail: bytes) -> Message | SluiceError | None:
        """What an honest broker would say."""
        match message:
            case m.Hello():
                peer.hello = message
                return m.Welcome(
                    version=1,
                    frame_bytes_max=36 << 20,
                    heartbeat_seconds=self.heartbeat_seconds,
                    mechanisms=self.mechanisms,
                    cluster_id=bytes(16),
                )
            case m.Authenticate():
                peer.authenticate = message
                return m.Authenticated(identity="somebody")
            case m.Open():
                return m.Opened(
                    session=len(self.peers),
                    epoch=1,
                    message_bytes_max=self.message_bytes_max,
                    batch_bytes_max=self.batch_bytes_max,
                    batch_messages_max=self.batch_messages_max,
                )
            case m.Ping():
                return m.Pong()
            case m.OpenProducer():
                self.next_producer += 1
                self.sequences[self.next_producer] = 0
                return m.ProducerOpened(producer=self.next_producer)
            case m.CloseProducer():
                return m.ProducerClosed()
            case m.Publish():
                return self.publish(message, tail)
            case m.DeclareQueue():
                known = message.name in self.queues
                self.queues.add(message.name)
                return m.Declared(outcome="unchanged" if known else "created")
            case m.DeleteQueue() if message.name in self.queues:
                self.queues.discard(message.name)
                return m.Deleted(messages=3)
            case m.PurgeQueue():
                return m.Purged(messages=4)
            case m.QueueInfo() | m.Consume() if (
                getattr(message, "name", "") not in self.queues and getattr(message, "queue", "-") not in self.queues
            ):
                return QueueNotFound(f"no queue {message!r}")
            case m.QueueInfo():
                return m.Queues(queues=[{"name": message.name, "ready": 7}])
            case m.ListQueues():
                return m.Queues(
                    queues=[{"name": name, "ready": 7} for name in sorted(self.queues) if name > message.after]
                )
            case m.DeleteQueue():
                return QueueNotFound("no such queue")
            case m.Consume():
                number = len(peer.consumers) + 1
                peer.consumers[number] = message
                return m.Consuming(consumer=number)
            case m.CancelConsumer():
                return m.ConsumerCancelled()
            case m.Settle():
                return m.Settled()
            case m.Extend():
                return m.Extended()
            case m.Statistics():
                return m.StatisticsResult(values={"fsyncs_total": 3})
            case m.Credit() | m.Close() | m.Pong() | m.Resumed():
                return None
        raise AssertionError(f"unexpected {message!r}")

    def publish(self, message: m.Publish, tail: bytes) -> Message | SluiceError:
        """Take a batch as the real one does: in sequence, once."""
        last = self.sequences.get(message.producer, 0)
        if message.sequence > last + 1:
            return SequenceGap("ahead", expected=last + 1)
        if message.sequence <= last:
            known = self.answers[message.producer, message.sequence]
            return m.Published(zxid=known.zxid, duplicate=True, acks=message.acks, id_base=message.sequence << 22)
        if message.destination not in self.queues:
            return QueueNotFound(f"no queue {message.destination!r}")
        self.sequences[message.producer] = message.sequence
        stored = Stored(self.next_zxid, message.destination, message.producer, message.sequence, tail)
        self.next_zxid += 1
        self.stored.append(stored)
        self.answers[message.producer, message.sequence] = stored
        return m.Published(zxid=stored.zxid, acks=message.acks, id_base=message.sequence << 22)


@asynccontextmanager
async def scripted_broker():
    """Run a scripted broker as long as the block."""
    broker = ScriptedBroker()
    async with anyio.create_task_group() as tasks:
        await tasks.start(broker.serve)
        try:
            yield broker
        finally:
            tasks.cancel_scope.cancel()
