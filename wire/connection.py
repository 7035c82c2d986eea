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
    OPEN                ->                  a new session, or a resumed one
                        <-  OPENED
    requests, SETTLE    <->  replies, DELIVER

Either side may end it with CLOSE at any point. The table below is the whole truth; ARCHITECTURE.md draws it.
"""

from __future__ import annotations

import enum
from typing import NamedTuple

from sluicemq.wire import messages as m
from sluicemq.wire.errors import InternalError, ProtocolError
from sluicemq.wire.fields import Message
from sluicemq.wire.frames import (
    FRAME_BYTES_BEFORE_OPEN,
    FRAME_BYTES_DEFAULT,
    FRAME_BYTES_MIN,
    PREFACE,
    FrameReader,
    pack_frame,
)


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
    m.OpenProducer: m.ProducerOpened,
    m.CloseProducer: m.ProducerClosed,
    m.Publish: m.Published,
    m.Consume: m.Consuming,
    m.Credit: None,
    m.Settle: m.Settled,
    m.Extend: m.Extended,
    m.CancelConsumer: m.ConsumerCancelled,
    m.Statistics: m.StatisticsResult,
}
"""What a client may send once the connection is open, and what answers it (or ERROR); None = nothing does."""

_BOTH = {m.Ping, m.Pong}
_UNASKED = {m.Deliver, m.LeasesLost, m.ConsumerEnded, m.Blocked, m.Unblocked, m.Error}
_OPEN: dict[Role, frozenset[int]] = {
    _C: frozenset(cls.TYPE for cls in (*REQUESTS, *_BOTH)),
    _B: frozenset(cls.TYPE for cls in (*(reply for reply in REQUESTS.values() if reply), *_UNASKED, *_BOTH)),
}
"""Frame types that each role may send in state OPEN."""

_MAY_HAVE_TAIL = frozenset({m.Publish.TYPE, m.Deliver.TYPE, m.Peeked.TYPE})
_MUST_CORRELATE = frozenset(cls.TYPE for cls, reply in REQUESTS.items() if reply is not None)


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
        self.state = State.START
        self.frame_bytes_max = frame_bytes_max
        self._reader = FrameReader(FRAME_BYTES_BEFORE_OPEN)
        self._preface = b"" if role is _C else PREFACE

    @property
    def missing_bytes(self) -> int:
        """How many more bytes the frame under way needs at least; 0 between frames."""
        return self._reader.missing_bytes

    def receive(self, data: bytes) -> list[Received]:
        """Return the messages that *data* completes, in order, with the state moved on.

        Raises:
            ProtocolError: The peer broke the protocol. What it sent before in the same *data* is lost with it; send
                CLOSE with the error and end the connection.

        """
        if self._preface:
            data = self._take_preface(data)
            if not data:
                return []
        received = []
        for frame in self._reader.feed(data):
            type_ = frame.type
            if self.state is State.OPEN and type_ in _OPEN[self.peer]:
                if type_ in _MUST_CORRELATE and not frame.correlation:
                    raise ProtocolError(f"{m.MESSAGES[type_].__name__} needs a correlation other than 0")
            else:
                self._move(self.peer, type_)
            if frame.tail and type_ not in _MAY_HAVE_TAIL:
                raise ProtocolError(f"{m.MESSAGES[type_].__name__} with a tail of {len(frame.tail)} bytes")
            message = m.MESSAGES[type_].decode(frame.head)
            if type_ == m.Welcome.TYPE:
                assert isinstance(message, m.Welcome)
                self.agree(message.frame_bytes_max)
            received.append(Received(message, frame.correlation, frame.tail))
        return received

    def send(self, message: Message, *, correlation: int = 0, tail_length: int = 0) -> bytes:
        """Return the bytes of *message* up to its tail, which the caller sends right behind.

        Raises:
            InternalError: The table does not allow this message now, or it is larger than the peer takes.

        """
        type_ = message.TYPE
        if self.state is not State.OPEN or type_ not in _OPEN[self.role]:
            try:
                self._move(self.role, type_)
            except ProtocolError as error:
                raise InternalError(f"we must not send this: {error}") from error
        data = pack_frame(type_, message.encode(), tail_length, correlation=correlation)
        if len(data) + tail_length > self.frame_bytes_max:
            raise InternalError(
                f"{type(message).__name__} of {len(data) + tail_length} bytes; the peer takes {self.frame_bytes_max}"
            )
        return data

    def agree(self, frame_bytes_max: int) -> None:
        """Set the frame limit that both sides keep from now on (the broker calls it with what it put in WELCOME)."""
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
