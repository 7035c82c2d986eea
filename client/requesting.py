"""Requests that wait for a reply: numbered, bounded, each with its deadline.

A request is an ordinary message with a header that names this client's mailbox; the reply comes to the mailbox past the
log. The mailbox is the client's, not the connection's: it is opened anew on every connection, and what was replied
meanwhile comes then. So a request outlives a lost connection, and a leader; what it does not outlive is its deadline.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import Any

from sluicemq.client.delivery_buffer import NO_HEADERS
from sluicemq.client.errors import LimitReached, OutcomeUnknown, RequestTimeout, SluiceError, another
from sluicemq.client.options import Body
from sluicemq.client.outgoing import Attributes, Pending
from sluicemq.client.producer import enter
from sluicemq.client.publisher import Publisher
from sluicemq.client.reconnect import Link
from sluicemq.client.runtime import Runtime, Slot
from sluicemq.client.session import Session
from sluicemq.client.timers import Timer, Timers
from sluicemq.wire import messages as m
from sluicemq.wire.batch import Batch
from sluicemq.wire.errors import error_from_wire
from sluicemq.wire.fields import Message as WireMessage

log = logging.getLogger("sluicemq.client")

REQUESTS_PENDING_MAX = 10_000
"""Most requests of one client that wait for their replies."""


@dataclass(frozen=True, slots=True)
class ReplyMessage:
    """What was replied to a request.

    Attributes:
        body: The payload.
        headers: What stands beside it; read-only.

    """

    body: bytes
    headers: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class RequestStatistics:
    """A client's requests, counted since it was entered.

    Attributes:
        pending: Requests that wait for their replies now.
        sent: Requests that were sent.
        replied: Those that got a reply.
        failed: Those that failed otherwise than by their time: refused, or replied to with an error.
        timed_out: Those to which nobody replied in time.
        late: Replies that came when nobody waited for them any more; they were dropped. A request that was worked on
            twice has a second one.

    """

    pending: int
    sent: int
    replied: int
    failed: int
    timed_out: int
    late: int


OnReply = Callable[[ReplyMessage | None, SluiceError | None], None]
"""Called once, with the reply or with why there is none."""


class PendingReply:
    """The reply to a request that is under way: await it as often as you like.

    Raises when awaited:
        SluiceError: As `Client.request`.
    """

    __slots__ = ("_error", "_number", "_on_reply", "_reply", "_requests", "_waiters", "destination", "timer")

    def __init__(self, requests: Requests, number: int, destination: str, on_reply: OnReply | None) -> None:
        self.destination = destination
        self.timer: Timer | None = None
        self._requests = requests
        self._number = number
        self._on_reply = on_reply
        self._reply: ReplyMessage | None = None
        self._error: SluiceError | None = None
        self._waiters: list[Slot] = []

    @property
    def done(self) -> bool:
        """Whether awaiting it would not wait."""
        return self._reply is not None or self._error is not None

    def cancel(self) -> None:
        """Wait no longer: a reply that comes is dropped and counted as late. Awaiting it raises `RequestTimeout`."""
        self._requests.give_up(self._number, RequestTimeout("the request was cancelled"))

    def __await__(self) -> Generator[Any, Any, ReplyMessage]:
        return self._wait().__await__()

    async def _wait(self) -> ReplyMessage:
        if not self.done:
            slot = Slot()
            self._waiters.append(slot)
            try:
                await self._requests.runtime.park(slot)
            finally:
                if slot in self._waiters:
                    self._waiters.remove(slot)
        if self._reply is not None:
            return self._reply
        assert self._error is not None, "woken when it is done"
        raise another(self._error)

    def finish(self, reply: ReplyMessage | None, error: SluiceError | None) -> None:
        """Take the outcome, once, and tell whoever waits; for the client's own use."""
        self._reply, self._error = reply, error
        if self.timer is not None:
            self.timer.cancel()
        waiters, self._waiters = self._waiters, []
        for slot in waiters:
            self._requests.runtime.wake(slot)
        if self._on_reply is not None:
            try:
                self._on_reply(reply, error)
            except Exception:
                log.exception("on_reply of a request to %r failed", self.destination)

    def __repr__(self) -> str:
        state = "replied" if self._reply else f"failed: {self._error}" if self._error else "under way"
        return f"<PendingReply from {self.destination!r} {state}>"


class _Sending(Pending):
    """The send of a request: nobody waits for its receipt, but its failure ends the request."""

    __slots__ = ("_error", "_number", "_requests")

    def __init__(self, deadline: float, requests: Requests, number: int) -> None:
        self._requests: Requests | None = None
        super().__init__(deadline)
        self._requests, self._number = requests, number

    @property
    def error(self) -> SluiceError | None:
        """Why the message could not be sent."""
        return self._error

    @error.setter
    def error(self, error: SluiceError | None) -> None:
        self._error = error
        if error is not None and self._requests is not None:
            self._requests.not_sent(self._number, error)


class Requests:
    """The requests of one client, and its mailbox.

    Attributes:
        runtime: The running loop.

    """

    def __init__(self, runtime: Runtime, timers: Timers, link: Link) -> None:
        self.runtime = runtime
        self._timers = timers
        self._link = link
        self._secret = secrets.token_bytes(m.MAILBOX_SECRET_BYTES)
        self._mailbox = m.mailbox_of(self._secret)
        self._pending: dict[int, PendingReply] = {}
        self._has_mailbox = False
        self._sent = self._replied = self._failed = self._timed_out = self._late = 0

    def statistics(self) -> RequestStatistics:
        """Return the figures."""
        return RequestStatistics(
            pending=len(self._pending),
            sent=self._sent,
            replied=self._replied,
            failed=self._failed,
            timed_out=self._timed_out,
            late=self._late,
        )

    # --- asking ---------------------------------------------------------------------------------------------------

    async def submit(
        self,
        publisher: Publisher,
        destination: str,
        body: Body,
        attributes: Attributes,
        seconds: float,
        on_reply: OnReply | None,
    ) -> PendingReply:
        """Send a request; wait only for room in the window.

        Raises:
            LimitReached: Too many wait for their replies.
            SluiceError: As for a send.

        """
        await publisher.ready()
        if len(self._pending) >= REQUESTS_PENDING_MAX:
            raise LimitReached(
                f"{len(self._pending)} requests of this client wait for their replies; allowed are "
                f"{REQUESTS_PENDING_MAX}: wait for some of them first",
                limit="requests_pending_max",
                value=REQUESTS_PENDING_MAX,
            )
        if not self._has_mailbox:
            self._has_mailbox = True
            self._link.add(self)
        # By chance: whoever serves one request cannot reply to the next one, which somebody else serves.
        number = secrets.randbits(m.REQUEST_NUMBER_BITS)
        milliseconds = max(round(seconds * 1000), 1)
        headers = {**(attributes.headers or {}), m.REQUEST_HEADER: [self._mailbox, number, milliseconds]}
        deadline = self.runtime.now() + seconds
        sending = _Sending(deadline, self, number)
        pending = PendingReply(self, number, destination, on_reply)
        self._pending[number] = pending
        try:
            entered = enter(
                publisher, sending, destination, body, attributes._replace(headers=headers, ttl=milliseconds)
            )
            self._sent += 1
            pending.timer = self._timers.call_at(deadline, lambda: self._late_now(number, seconds))
            if not entered:
                await publisher.wait_for_room(sending)
        except BaseException:
            if self._pending.pop(number, None) is not None and pending.timer is not None:
                pending.timer.cancel()
            raise
        return pending

    def give_up(self, number: int, error: SluiceError) -> None:
        """Nobody waits for a reply any more."""
        pending = self._pending.pop(number, None)
        if pending is not None:
            self._timed_out += 1
            pending.finish(None, error)

    def not_sent(self, number: int, error: SluiceError) -> None:
        """The request was refused; where nobody knows whether it is stored, a reply may come until its time is over."""
        pending = None if isinstance(error, (OutcomeUnknown, RequestTimeout)) else self._pending.pop(number, None)
        if pending is not None:
            self._failed += 1
            pending.finish(None, error)

    def _late_now(self, number: int, seconds: float) -> None:
        pending = self._pending.get(number)
        if pending is not None:
            what = f"no reply from {pending.destination!r:.300} within {seconds:g} seconds"
            self.give_up(number, RequestTimeout(what, destination=pending.destination))

    # --- replies --------------------------------------------------------------------------------------------------

    def arrived(self, message: m.ReplyArrived, tail: memoryview) -> None:
        """A reply came."""
        pending = self._pending.pop(message.number, None)
        if pending is None:
            self._late += 1
        elif message.error is not None:
            self._failed += 1
            pending.finish(None, error_from_wire(message.error))
        else:
            batch = Batch(tail)
            headers = batch.headers
            self._replied += 1
            pending.finish(ReplyMessage(batch.bodies[0], (headers and headers[0]) or NO_HEADERS), None)

    # --- as a resident of the link --------------------------------------------------------------------------------

    def session_opened(self, session: Session) -> None:
        """Open the mailbox on the new connection."""

        def on_reply(_reply: WireMessage | None, _tail: memoryview | None, error: SluiceError | None) -> None:
            if error is not None and session.error is None:
                # The next request asks for the mailbox once more: whoever refused it may have thought better of it.
                self._has_mailbox = False
                self._link.remove(self)
                self.failed(error)

        session.request(m.OpenMailbox(secret=self._secret), on_reply)

    def session_lost(self, error: SluiceError) -> None:
        """Nothing: who replies meanwhile, replies to the mailbox."""

    def failed(self, error: SluiceError) -> None:
        """No reply will come any more."""
        pending, self._pending = self._pending, {}
        self._failed += len(pending)
        for each in pending.values():
            each.finish(None, error)

    def forked(self, error: SluiceError) -> None:
        """This is the child of a fork: the parent has the mailbox. Wakes nobody, as no loop runs here."""
        self._pending.clear()
