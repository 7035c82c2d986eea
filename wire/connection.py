"""The connection's state machine for both roles: which frame may come when.

This module owns the order of frames. It must not know sockets, clocks or what a request does. One object stands for
one side of one connection: bytes that arrived go into `receive`, messages to send go through `send`, which returns
the bytes. A frame that the table does not allow is a `ProtocolError` when the peer sent it and an `InternalError`
when we tried to send it (blame in the type).

The handshake, client on the left:

    PREFACE, HELLO      ->                  who I am, which versions
                        <-  WELCOME         version and limits chosen
    AUTHENTICATE        ->                  (repeated after each CHALLENGE)
                        <-  AUTHENTICATED
    (CLUSTER_STATUS and LOOK_AT_QUEUES may be asked here, and are answered)
    OPEN                ->                  a new session, or a resumed one
                        <-  OPENED
    requests, SETTLE    <->  replies, DELIVER

Either side may end it with CLOSE at any point. The table below is the whole truth; docs/protocol.md shows it to others.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, NamedTuple

from sluicemq.wire import messages as m
from sluicemq.wire.errors import InternalError, ProtocolError
from sluicemq.wire.frames import (
    FRAME_BYTES_BEFORE_OPEN,
    FRAME_BYTES_DEFAULT,
    FRAME_BYTES_MIN,
    FRAME_HEADER_BYTES,
    PREFACE,
    FrameReader,
    pack_frame,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sluicemq.wire.fields import Message
    from sluicemq.wire.frames import Frame


class Role(enum.Enum):
    """Which side of the connection we are."""

    CLIENT = "client"
    BROKER = "broker"


class State(enum.Enum):
    """Where the handshake stands."""

    START = "start"
    GREETED = "greeted"
    WELCOMED = "welcomed"
    AUTHENTICATING = "authenticating"
    AUTHENTICATED = "authenticated"
    OPENING = "opening"
    OPEN = "open"
    CLOSED = "closed"


_C, _B = Role.CLIENT, Role.BROKER

TRANSITIONS: dict[tuple[State, Role, type[Message]], State] = {
    (State.START, _C, m.Hello): State.GREETED,
    (State.GREETED, _B, m.Welcome): State.WELCOMED,
    (State.WELCOMED, _C, m.Authenticate): State.AUTHENTICATING,
    (State.AUTHENTICATING, _B, m.Challenge): State.WELCOMED,
    (State.AUTHENTICATING, _B, m.Authenticated): State.AUTHENTICATED,
    (State.AUTHENTICATED, _C, m.Open): State.OPENING,
    (State.AUTHENTICATED, _C, m.ClusterStatus): State.AUTHENTICATED,
    (State.AUTHENTICATED, _B, m.ClusterState): State.AUTHENTICATED,
    (State.AUTHENTICATED, _C, m.LookAtQueues): State.AUTHENTICATED,
    (State.AUTHENTICATED, _B, m.QueuesSeen): State.AUTHENTICATED,
    (State.AUTHENTICATED, _C, m.LookAtMessages): State.AUTHENTICATED,
    (State.AUTHENTICATED, _B, m.MessagesSeen): State.AUTHENTICATED,
    (State.OPENING, _B, m.Opened): State.OPEN,
}
"""(state, who sends, what) -> next state, for the handshake. CLOSE is allowed everywhere and leads to CLOSED."""

REQUESTS: dict[type[Message], type[Message] | None] = {
    m.DeclareQueue: m.Declared,
    m.DeleteQueue: m.Deleted,
    m.ListQueues: m.Queues,
    m.QueueInfo: m.Queues,
    m.PurgeQueue: m.Purged,
    m.Peek: m.Peeked,
    m.Replay: m.Replayed,
    m.OpenProducer: m.ProducerOpened,
    m.CloseProducer: m.ProducerClosed,
    m.Publish: m.Published,
    m.Consume: m.Consuming,
    m.Credit: None,
    m.Settle: m.Settled,
    m.Extend: m.Extended,
    m.CancelConsumer: m.ConsumerCancelled,
    m.Statistics: m.StatisticsResult,
    m.DeclareTopic: m.Declared,
    m.DeleteTopic: m.Deleted,
    m.Subscribe: m.Subscribed,
    m.Unsubscribe: m.Unsubscribed,
    m.ListTopics: m.Topics,
    m.AlterQueue: m.Altered,
    m.ListDelayed: m.Delayed,
    m.CancelDelayed: m.Cancelled,
    m.Reschedule: m.Rescheduled,
    m.ListDead: m.Dead,
    m.Redrive: m.Redriven,
    m.Discard: m.Redriven,
    m.Policy: m.PolicySet,
    m.Schedule: m.Scheduled,
    m.ListPolicies: m.Policies,
    m.ClusterStatus: m.ClusterState,
    m.AddNode: m.ClusterChanged,
    m.RemoveNode: m.ClusterChanged,
    m.PromoteNode: m.ClusterChanged,
    m.TransferLead: m.ClusterChanged,
    m.ListSchedules: m.Schedules,
    m.ResumeConsumer: m.ConsumerResumed,
    m.Resumed: None,
    m.Transaction: m.Transacted,
    m.Prepare: m.Prepared,
    m.Resolve: m.Resolved,
    m.RegisterChecker: m.CheckerRegistered,
    m.ListTransactions: m.Transactions,
    m.ShowTransaction: m.TransactionShown,
    m.OpenMailbox: m.MailboxOpened,
    m.Reply: m.Replied,
    m.LookAtQueues: m.QueuesSeen,
    m.LookAtMessages: m.MessagesSeen,
    m.Explain: m.Explained,
    m.Search: m.Found,
    m.Move: m.Moved,
}
"""What a client may send once the connection is open, and what answers it (or ERROR); None = nothing does."""

_BOTH: tuple[type[Message], ...] = (m.Ping, m.Pong)
_UNASKED: tuple[type[Message], ...] = (
    m.Deliver,
    m.LeasesLost,
    m.ConsumerEnded,
    m.Blocked,
    m.Unblocked,
    m.Brokers,
    m.Error,
    m.Check,
    m.ReplyArrived,
)
_REPLIES: tuple[type[Message], ...] = tuple(reply for reply in REQUESTS.values() if reply is not None)


def _types(classes: Iterable[type[Message]]) -> frozenset[int]:
    return frozenset(cls.TYPE for cls in classes)


OPEN_TYPES: dict[Role, frozenset[int]] = {
    _C: _types((*REQUESTS, *_BOTH)),
    _B: _types((*_REPLIES, *_UNASKED, *_BOTH)),
}
"""Frame types that each role may send in state OPEN, besides CLOSE."""

_WITH_BATCHES = (m.Transaction, m.Prepare, m.Check, m.TransactionShown, m.Reply, m.ReplyArrived, m.Found)
MAY_HAVE_TAIL: frozenset[int] = _types(
    (m.Publish, m.Deliver, m.Peeked, m.Replayed, m.MessagesSeen, m.Dead, m.Schedule, *_WITH_BATCHES)
)
"""Frame types that carry batches behind their head."""
MUST_CORRELATE: frozenset[int] = _types((*(cls for cls, reply in REQUESTS.items() if reply is not None), *_REPLIES))
"""Frame types whose correlation must not be 0: requests that are answered, and the answers."""


class Received(NamedTuple):
    """One message that arrived, with the number that ties a reply to its request, and its raw tail."""

    message: Message
    correlation: int
    tail: memoryview


class Connection:
    """One side of one connection, without I/O.

    Args:
        role: Which side we are.
        frame_bytes_max: Largest frame that we take once the handshake is through.

    Attributes:
        state: Where the handshake stands.
        frame_bytes_max: The limit that holds for frames we send; agreed in the handshake.

    """

    def __init__(self, role: Role, *, frame_bytes_max: int = FRAME_BYTES_DEFAULT) -> None:
        self.role = role
        self.peer = _B if role is _C else _C
        self._sends = OPEN_TYPES[role]  # at hand: the hash of an enumeration is a call in Python
        self._takes = OPEN_TYPES[self.peer]
        self.state = State.START
        self.frame_bytes_max = frame_bytes_max
        self._reader = FrameReader(FRAME_BYTES_BEFORE_OPEN)
        self._preface = b"" if role is _C else PREFACE
        self._closed_by_us = False
        self._broken = False

    @property
    def missing_bytes(self) -> int:
        """How many more bytes the frame under way needs at least; 0 between frames."""
        return self._reader.missing_bytes

    @property
    def buffered_bytes(self) -> int:
        """Bytes held of a frame that is not whole yet."""
        return self._reader.buffered_bytes

    def receive(self, data: bytes) -> list[Received]:
        """Return the messages that *data* completes, in order, with the state moved on.

        Once we have sent CLOSE, what the peer sent before it knew is dropped and the answer is always empty.

        Raises:
            ProtocolError: The peer broke the protocol. What it sent before in the same *data* is lost with it; send
                CLOSE with the error and end the connection. Every later call raises as well.

        """
        if self._closed_by_us:
            return []
        if self._broken:
            raise ProtocolError("the peer broke the protocol before; nothing more is read from this connection")
        try:
            if self._preface:
                data = self._take_preface(data)
            return self._take_frames(self._reader.feed(data))
        except ProtocolError:
            self._broken = True
            raise

    def writable(self, bytes_max: int) -> memoryview | None:
        """Return where to receive what comes next, *bytes_max* bytes at most, while a large frame is under way.

        Fill it from its start and call `filled`, before anything else. None: give `receive` what comes next.
        """
        return None if self._closed_by_us or self._broken else self._reader.writable(bytes_max)

    def filled(self, count: int) -> list[Received]:
        """Return the message that the first *count* bytes of the buffer complete, if they do. Raises as `receive`."""
        if self._closed_by_us:
            return []
        try:
            return self._take_frames(self._reader.filled(count))
        except ProtocolError:
            self._broken = True
            raise

    def _take_frames(self, frames: list[Frame]) -> list[Received]:
        received = []
        expected = self._takes
        for frame in frames:
            type_ = frame.type
            if self.state is not State.OPEN or type_ not in expected:
                self._move(self.peer, type_)
            cls = m.MESSAGES[type_]
            if type_ in MUST_CORRELATE and not frame.correlation:
                raise ProtocolError(f"{cls.__name__} needs a correlation other than 0")
            if frame.tail and type_ not in MAY_HAVE_TAIL:
                raise ProtocolError(f"{cls.__name__} with a tail of {len(frame.tail)} bytes")
            message = cls.decode(frame.head)
            if type_ == m.Welcome.TYPE:
                assert isinstance(message, m.Welcome)
                self.agree(message.frame_bytes_max)
            received.append(Received(message, frame.correlation, frame.tail))
        return received

    def send(self, message: Message, *, correlation: int = 0, tail_length: int = 0) -> bytes:
        """Return the bytes of *message* up to its tail, which the caller sends right behind.

        Nothing has changed when it raises.

        Raises:
            InternalError: The table does not allow this message now, or it is larger than the peer takes.
            InvalidRequest: A field holds what it must not; see `Message.encode`.

        """
        type_ = message.TYPE
        head = message.encode()
        moves = self.state is not State.OPEN or type_ not in self._sends
        # Before the handshake is through the peer takes only small frames, whatever was agreed for later.
        limit = self.frame_bytes_max
        if self.state is not State.OPEN and type_ != m.MessagesSeen.TYPE:
            limit = min(limit, FRAME_BYTES_BEFORE_OPEN)
        frame_bytes = FRAME_HEADER_BYTES + len(head) + tail_length
        if frame_bytes > limit:
            raise InternalError(f"{type(message).__name__} of {frame_bytes} bytes; the peer takes {limit}")
        if type_ in MUST_CORRELATE and not correlation:
            raise InternalError(f"{type(message).__name__} needs a correlation other than 0")
        if tail_length and type_ not in MAY_HAVE_TAIL:
            raise InternalError(f"{type(message).__name__} with a tail of {tail_length} bytes")
        if moves:
            try:
                self._move(self.role, type_)
            except ProtocolError as error:
                raise InternalError(f"we must not send this: {error}") from error
            self._closed_by_us = type_ == m.Close.TYPE
        if type_ == m.LookAtMessages.TYPE:
            self._reader.frame_bytes_max = self.frame_bytes_max  # who asks for messages takes them
        return pack_frame(type_, head, tail_length, correlation=correlation)

    def agree(self, frame_bytes_max: int) -> None:
        """Set the frame limit that both sides keep from now on (the broker calls it with what it put in WELCOME).

        Raises:
            ProtocolError: The limit is below `FRAME_BYTES_MIN`.

        """
        if frame_bytes_max < FRAME_BYTES_MIN:
            raise ProtocolError(f"a frame limit of {frame_bytes_max} bytes is below {FRAME_BYTES_MIN}")
        self.frame_bytes_max = min(self.frame_bytes_max, frame_bytes_max)

    def _move(self, sender: Role, type_: int) -> None:
        cls = m.MESSAGES.get(type_)
        if cls is None:
            raise ProtocolError(f"frame type {type_} is unknown")
        if self.state is State.CLOSED:
            raise ProtocolError(f"{cls.__name__} after CLOSE")
        if cls is m.Close:
            self.state = State.CLOSED
            return
        following = TRANSITIONS.get((self.state, sender, cls))
        if following is None:
            raise ProtocolError(f"{cls.__name__} from the {sender.value} is not allowed in state {self.state.value}")
        self.state = following
        if following is State.OPEN:
            self._reader.frame_bytes_max = self.frame_bytes_max

    def _take_preface(self, data: bytes) -> bytes:
        expected = self._preface
        part, rest = data[: len(expected)], data[len(expected) :]
        if not expected.startswith(part):
            raise ProtocolError(f"the connection opens with {bytes(data[:8])!r} instead of the native preface")
        self._preface = expected[len(part) :]
        return rest
