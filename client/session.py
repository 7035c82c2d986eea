"""One connection to a broker: handshake, requests with their answers, heartbeat, end.

Frames that arrive are handled where they arrive, without a queue or a task in between; what a caller sends goes
straight to the socket. A session knows neither producers nor consumers: they hang callbacks on it.
"""

from __future__ import annotations

import logging
import platform
from collections.abc import Callable
from typing import NamedTuple, Protocol

import anyio

from sluicemq.client.errors import (
    AuthenticationFailed,
    ConnectionFailed,
    HeartbeatLost,
    InternalError,
    NotLeader,
    ProtocolError,
    SluiceError,
    StaleEpoch,
    VersionMismatch,
)
from sluicemq.client.runtime import Runtime, Slot, Stream
from sluicemq.client.timers import Timer, Timers
from sluicemq.wire import messages as m
from sluicemq.wire.connection import REQUESTS, Connection, Role, State
from sluicemq.wire.errors import error_from_wire, error_to_wire
from sluicemq.wire.fields import Message
from sluicemq.wire.frames import FRAME_BYTES_BEFORE_OPEN, FRAME_BYTES_DEFAULT, PREFACE

log = logging.getLogger("sluicemq.client")

CORRELATION_MAX = 0xFFFF_FFFF
FIRST_BYTES_SHOWN_MAX = 64
"""So much of what a stranger says stands in the error."""
WATCH_SECONDS = 0.1
"""How often silence is looked at where other brokers may lead instead."""
ASK_SECONDS = 0.2
"""After so long without a word a broker that owes an answer is asked whether it is there,"""
ASK_SECONDS_IDLE = 2.0
"""one that owes none after so long."""
SILENT_SECONDS = 0.4
"""When it has not answered for so long, the other brokers are asked who leads."""
HEARTBEATS_MISSED_MAX = 2
"""Silence of so many heartbeat intervals ends the connection."""

OnReply = Callable[[Message | None, memoryview | None, SluiceError | None], None]
"""Called once with (reply, its tail, None) or (None, None, error); must not raise."""


class Identity(NamedTuple):
    """How the client presents itself.

    Attributes:
        name: Shown by the broker's tools.
        version: Of this library.
        user: For mechanism PLAIN; None = ANONYMOUS.
        password: Its password.
        vhost: Virtual host.
        heartbeat_seconds: What we propose; the broker decides. 0 = none.

    """

    name: str
    version: str
    user: str | None
    password: str
    vhost: str
    heartbeat_seconds: float


class Former(NamedTuple):
    """The session that a lost connection had, and that the next one goes on with if it can.

    Attributes:
        session: Its number.
        token: What proves that it is ours.
        consumer_max: Highest number of a consumer that we have had on it.

    """

    session: int
    token: bytes
    consumer_max: int


class SessionOwner(Protocol):
    """What a session tells."""

    def session_ready(self, session: Session) -> None:
        """The handshake is so far that the session can be opened."""

    def session_opened(self, session: Session) -> None:
        """The handshake is through."""

    def session_silent(self, session: Session) -> None:
        """Nothing was heard for so long that the broker may be dead; only where `watch` was called."""

    def session_heard(self, session: Session) -> None:
        """The broker lives after all."""

    def session_ended(self, session: Session, error: SluiceError) -> None:
        """An opened session is over; its open requests have failed with *error*."""

    def unasked(self, session: Session, message: Message, tail: memoryview) -> None:
        """The broker said something that answers no request."""


class _Awaited(NamedTuple):
    reply: type[Message]
    on_reply: OnReply


class Session:
    """One connection.

    Attributes:
        opened: What the broker answered to OPEN; None before.
        welcome: What it answered to HELLO; None before.
        error: Why the session ended; None while it lives.

    """

    def __init__(
        self,
        runtime: Runtime,
        timers: Timers,
        stream: Stream,
        identity: Identity,
        owner: SessionOwner,
    ) -> None:
        self.opened: m.Opened | None = None
        self.welcome: m.Welcome | None = None
        self.error: SluiceError | None = None
        self._runtime = runtime
        self._timers = timers
        self._stream = stream
        self._identity = identity
        self._owner = owner
        self._connection = Connection(Role.CLIENT)
        self._first_bytes = b""
        self._awaited: dict[int, _Awaited] = {}
        self._correlation = 0
        self._end_slot = Slot()
        self._heartbeat: Timer | None = None
        self._heartbeat_seconds = 0.0
        self._received_at = runtime.now()
        self._sent_since_beat = True
        self._watch: Timer | None = None
        self._asked_at: float | None = None
        self._is_silent = False

    # --- life -----------------------------------------------------------------------------------------------------

    async def run(self, handshake_deadline: float) -> SluiceError:
        """Serve the connection until it ends; return why it did. The stream is closed then."""
        deadline = self._timers.call_at(handshake_deadline, self._handshake_late)
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._read)
                tasks.start_soon(self._stream.write_loop)
                self._send_hello()
                if self.error is None:
                    await self._runtime.park(self._end_slot)
                tasks.cancel_scope.cancel()
        finally:
            deadline.cancel()
            for timer in (self._heartbeat, self._watch):
                if timer is not None:
                    timer.cancel()
            self.end(ConnectionFailed("the client closed the connection"))
            self._stream.close()
        assert self.error is not None
        return self.error

    def end(self, error: SluiceError) -> None:
        """End the session because of *error*; each open request fails with it."""
        if self.error is not None:
            return
        self.error = error
        awaited, self._awaited = self._awaited, {}
        for item in awaited.values():
            item.on_reply(None, None, error)
        if self.opened is not None:
            self._owner.session_ended(self, error)
        self._runtime.wake(self._end_slot)

    def close(self, error: SluiceError | None = None) -> None:
        """Say goodbye, with *error* where the broker broke the protocol, and end."""
        if self.error is None and self._connection.state is not State.CLOSED:
            try:
                goodbye = self._connection.send(m.Close(error=error_to_wire(error) if error is not None else None))
            except SluiceError:  # an error whose fields cannot travel must not hide itself
                goodbye = b""
            self._stream.write(goodbye)
        self.end(error or ConnectionFailed("the client closed the connection"))

    async def _read(self) -> None:
        try:
            await self._stream.read_into(self._on_data)
        except OSError as error:
            self._fail(ConnectionFailed(f"the connection broke: {error}"), error)
        except Exception as error:  # noqa: BLE001 - a bug of ours must reach the callers instead of killing their task
            self._fail(InternalError(f"the client failed on what the broker sent: {error!r:.500}"), error)
        else:
            self.end(ConnectionFailed("the broker closed the connection"))

    def _fail(self, error: SluiceError, cause: BaseException) -> None:
        error.__cause__ = cause
        self.end(error)

    def _handshake_late(self) -> None:
        if self.opened is None:
            self.end(ConnectionFailed("the broker did not answer the handshake in time, if it is a SluiceMQ broker"))

    # --- out ------------------------------------------------------------------------------------------------------

    def request(self, message: Message, on_reply: OnReply, tail: bytes | None = None) -> None:
        """Send *message* (with *tail* behind it) and have *on_reply* called with the answer.

        After the broker's goodbye nothing is sent any more, and *on_reply* is called with the reason of the end.

        Raises:
            InternalError: The message does not fit into a frame.

        """
        if self.error is not None:
            on_reply(None, None, self.error)
            return
        correlation = self._correlation + 1
        while correlation in self._awaited or correlation > CORRELATION_MAX:
            correlation = correlation + 1 if correlation < CORRELATION_MAX else 1
        self._correlation = correlation
        reply = REQUESTS[type(message)]
        assert reply is not None
        if self._connection.state is State.CLOSED:
            # The CLOSE stands further back in the very data that is being handled: `end` will answer.
            self._awaited[correlation] = _Awaited(reply, on_reply)
            return
        head = self._connection.send(message, correlation=correlation, tail_length=0 if tail is None else len(tail))
        self._awaited[correlation] = _Awaited(reply, on_reply)
        self._sent_since_beat = True
        self._stream.write(head, tail)

    def post(self, message: Message, correlation: int = 0) -> None:
        """Send *message*, which has no answer; nothing after the broker's goodbye."""
        if self.error is None and self._connection.state is not State.CLOSED:
            self._sent_since_beat = True
            self._stream.write(self._connection.send(message, correlation=correlation))

    def _send_hello(self) -> None:
        hello = m.Hello(
            version_min=m.PROTOCOL_VERSION_MIN,
            version_max=m.PROTOCOL_VERSION_MAX,
            role="client",
            frame_bytes_max=FRAME_BYTES_DEFAULT,
            heartbeat_seconds=self._identity.heartbeat_seconds,
            client_name=self._identity.name,
            client_version=self._identity.version,
            platform=f"Python {platform.python_version()}",
        )
        self._stream.write(PREFACE + self._connection.send(hello))

    # --- in -------------------------------------------------------------------------------------------------------

    def _on_data(self, data: bytes) -> None:
        self._received_at = self._runtime.now()
        if self.error is not None:
            return
        if self._asked_at is not None:
            self._heard()
        if self.welcome is None and not self._is_broker(data):
            return
        try:
            for message, correlation, tail in self._connection.receive(data):
                if correlation:
                    self._answered(message, correlation, tail)
                elif self.opened is None:
                    self._handshake(message)
                else:
                    self._spoken_to(message, tail)
                if self.error is not None:
                    return
        except ProtocolError as error:
            if self.welcome is None:
                self._fail(self._stranger(), error)
            else:
                self.close(error)

    def _is_broker(self, data: bytes) -> bool:
        """Whether what came so far can be the answer to HELLO; ends the session if it cannot.

        What other servers say first is text or TLS, which read as the length of a frame is far too large. Looking at
        the length alone spares us the wait for the rest of a header that a short greeting does not have.
        """
        self._first_bytes = (self._first_bytes + bytes(data[:FIRST_BYTES_SHOWN_MAX]))[:FIRST_BYTES_SHOWN_MAX]
        length = self._first_bytes[:4]
        if len(length) == 4 and int.from_bytes(length) > FRAME_BYTES_BEFORE_OPEN:
            self.end(self._stranger())
            return False
        return True

    def _stranger(self) -> ConnectionFailed:
        return ConnectionFailed(f"this is not a SluiceMQ broker; it answered with {self._first_bytes!r}")

    def _answered(self, message: Message, correlation: int, tail: memoryview) -> None:
        if type(message) is m.Ping:
            self.post(m.Pong(), correlation)
            return
        if type(message) is m.Pong:
            return
        awaited = self._awaited.pop(correlation, None)
        if awaited is None:
            raise ProtocolError(f"{type(message).__name__} answers request {correlation}, which is not open")
        if type(message) is awaited.reply:
            awaited.on_reply(message, tail, None)
        elif type(message) is m.Error:
            refusal = error_from_wire(message.error)
            awaited.on_reply(None, None, refusal)
            if isinstance(refusal, (NotLeader, StaleEpoch)):
                self.end(refusal)  # nothing that this broker says counts any more
        else:
            error = ProtocolError(f"{type(message).__name__} is no answer to what was asked")
            awaited.on_reply(None, None, error)
            raise error

    def _spoken_to(self, message: Message, tail: memoryview) -> None:
        kind = type(message)
        if kind is m.Ping:
            self.post(m.Pong())
        elif kind is m.Close:
            self._closed_by_broker(message)
        elif kind is m.Error:
            log.warning("the broker reports: %s", error_from_wire(message.error))  # type: ignore[attr-defined]
        elif kind is not m.Pong:
            self._owner.unasked(self, message, tail)

    def _closed_by_broker(self, message: Message) -> None:
        assert isinstance(message, m.Close)
        if message.error is None:
            self.end(ConnectionFailed("the broker closed the connection"))
        else:
            self.end(error_from_wire(message.error))

    def _handshake(self, message: Message) -> None:
        if isinstance(message, m.Close):
            self._closed_by_broker(message)
        elif isinstance(message, m.Welcome):
            self._welcomed(message)
        elif isinstance(message, m.Challenge):
            self.close(AuthenticationFailed("the broker wants an answer that neither PLAIN nor ANONYMOUS has"))
        elif isinstance(message, m.Authenticated):
            self._owner.session_ready(self)
        elif isinstance(message, m.Opened):
            self.opened = message
            self._start_heartbeat()
            self._owner.session_opened(self)

    def open(self, former: Former | None) -> None:
        """Ask for a session, for the one that we had if there is one; once the handshake is so far."""
        number, token, consumer_max = former or (0, b"", 0)
        self.post(
            m.Open(
                vhost=self._identity.vhost,
                session=number,
                resume_token=token,
                resumable=True,
                consumer_max=consumer_max,
            )
        )

    def _welcomed(self, welcome: m.Welcome) -> None:
        if not m.PROTOCOL_VERSION_MIN <= welcome.version <= m.PROTOCOL_VERSION_MAX:
            self.close(
                VersionMismatch(
                    f"the broker chose protocol version {welcome.version}; "
                    f"this client speaks {m.PROTOCOL_VERSION_MIN} to {m.PROTOCOL_VERSION_MAX}"
                )
            )
            return
        self.welcome = welcome
        identity = self._identity
        if identity.user is None:
            mechanism, response = "ANONYMOUS", b""
        else:
            mechanism, response = "PLAIN", f"\0{identity.user}\0{identity.password}".encode()
        if mechanism not in welcome.mechanisms:
            offered = ", ".join(welcome.mechanisms) or "none"
            remedy = "put user:password@ into the URL" if identity.user is None else "leave the user out of the URL"
            self.close(AuthenticationFailed(f"the broker does not offer {mechanism}, only {offered}: {remedy}"))
            return
        self.post(m.Authenticate(mechanism=mechanism, response=response))

    # --- heartbeat ------------------------------------------------------------------------------------------------

    def _start_heartbeat(self) -> None:
        assert self.welcome is not None
        self._heartbeat_seconds = self.welcome.heartbeat_seconds
        if self._heartbeat_seconds:
            self._heartbeat = self._timers.call_after(self._heartbeat_seconds / 2, self._beat)

    def _beat(self) -> None:
        if self.error is not None or self._heartbeat is None:
            return
        now = self._runtime.now()
        step = self._heartbeat_seconds / 2
        silence = now - self._received_at
        # If this very call is late, the loop was blocked and answers may lie in the socket: judge next time.
        late = now - self._heartbeat.due > step
        if silence > HEARTBEATS_MISSED_MAX * self._heartbeat_seconds and not late:
            self.end(HeartbeatLost(f"the broker was silent for {silence:.1f} seconds"))
            return
        if silence >= step or not self._sent_since_beat:
            self.post(m.Ping())
        self._sent_since_beat = False
        self._heartbeat = self._timers.call_at(now + step, self._beat)

    def _heard(self) -> None:
        self._asked_at = None
        if self._is_silent:
            self._is_silent = False
            self._owner.session_heard(self)

    def watch(self) -> None:
        """Look after silence more closely than heartbeats do: there are others who may lead instead."""
        if self._watch is None and self.error is None:
            self._watch = self._timers.call_after(WATCH_SECONDS, self._look)

    def _look(self) -> None:
        if self.error is not None or self._watch is None:
            return
        now = self._runtime.now()
        silence = now - self._received_at
        if now - self._watch.due > WATCH_SECONDS:
            pass  # the loop was blocked, and answers may lie in the socket: judge next time
        elif self._asked_at is None:
            if silence >= (ASK_SECONDS if self._awaited else ASK_SECONDS_IDLE):
                self._asked_at = now
                self.post(m.Ping())
        elif not self._is_silent and now - self._asked_at >= SILENT_SECONDS:
            self._is_silent = True
            self._owner.session_silent(self)
        self._watch = self._timers.call_at(now + WATCH_SECONDS, self._look)
