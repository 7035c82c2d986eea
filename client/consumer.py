"""The face of a consumer: async iteration, `receive`, `drain`. It outlives connections; attachments do not."""

from __future__ import annotations

import logging
from collections.abc import Callable
from types import TracebackType
from typing import Self

import anyio

from sluicemq.client.attachment import Attachment
from sluicemq.client.consumer_requests import ConsumerRequests
from sluicemq.client.consumer_statistics import ConsumerStatistics as ConsumerStatistics
from sluicemq.client.delivery_buffer import Slice
from sluicemq.client.dropped_messages import what_is_dropped
from sluicemq.client.errors import ClientClosed, ConnectionFailed, LeaseLost, RequestTimeout, SluiceError, another
from sluicemq.client.message import Batch, Message
from sluicemq.client.options import Duration, count_of, seconds_of
from sluicemq.client.received import ACK, ReceivedMessage
from sluicemq.client.reconnect import Link
from sluicemq.client.replying import Replying
from sluicemq.client.runtime import Runtime, Slot
from sluicemq.client.session import Session
from sluicemq.client.timers import Timer, Timers
from sluicemq.wire import messages as m
from sluicemq.wire.errors import error_from_wire
from sluicemq.wire.fields import Message as WireMessage

log = logging.getLogger("sluicemq.client")

CREDIT_DEFAULT = 500
CREDIT_MAX = 1_000_000
"""Most messages that a user may ask for, as credit or with one `receive`."""
CREDIT_BYTES_DEFAULT = 16 * 1024 * 1024
LEASE_SECONDS_DEFAULT = 30.0
LEASE_SECONDS_MIN = 0.05
MAX_LEASE_SECONDS_DEFAULT = 12 * 3600.0
CHECKPOINT_MESSAGES = 64
"""While messages are at hand, the loop gets its turn after so many of them,"""
CHECKPOINT_SECONDS = 0.005
"""or after so long, whichever comes first."""

OnLeaseLost = Callable[[LeaseLost], None]


class Consumer:
    """Receives from one queue; made by `Client.consumer`, used with `async with`.

    Any number of tasks may iterate it; each message goes to one of them. While messages are at hand, taking one and
    settling it wait for nothing and are no checkpoints, except every 64 messages or 5 ms.

    Attributes:
        on_lease_lost: Called with a `LeaseLost` (its fields: `queue`, `messages`, `reason`) when handed-out messages
            lose their leases, or a verdict is refused after the fact. Without it a warning goes to the log.

    """

    def __init__(
        self,
        runtime: Runtime,
        timers: Timers,
        link: Link,
        queue: str,
        *,
        name: str,
        weight: int,
        credit: int,
        credit_bytes: int,
        lease_seconds: float,
        auto_renew: bool,
        max_lease_seconds: float,
        on_lease_lost: OnLeaseLost | None,
        request_seconds: float,
        close_seconds: float,
        by_number: dict[int, tuple[Consumer, Attachment]],
        replying: Replying,
    ) -> None:
        self.replying = replying
        self.queue = queue
        self.on_lease_lost = on_lease_lost
        self.lease_seconds = lease_seconds
        self.auto_renew = auto_renew
        self.max_lease_seconds = max_lease_seconds
        self._runtime = runtime
        self._now = runtime.now
        self._timers = timers
        self._link = link
        self._requests = ConsumerRequests(queue, name, weight, credit, credit_bytes, lease_seconds)
        self.request_seconds = request_seconds
        self._close_seconds = close_seconds
        self._by_number = by_number
        self._attachment: Attachment | None = None
        # The attachment while its connection is lost, until another one comes on which the session goes on.
        self._cut_off: Attachment | None = None
        self._session: Session | None = None
        self._retry: Timer | None = None
        self._refusals = link.retrying.series()
        self._waiting: dict[Slot, None] = {}
        self._attach_waiters: list[Slot] = []
        self._cancel_waiters: list[Slot] = []
        self._flush_hop = runtime.hop(self._flush)
        self._error: SluiceError | None = None
        self._entered = self._draining = False
        # The broker has said that no delivery follows.
        self._cancelled = False
        self._budget = self._ack_budget = CHECKPOINT_MESSAGES
        self._yield_by = 0.0
        self._lost_since_flush = self._delivered = self._handed_out = self._redelivered = 0
        self._counts = {m.VERDICT_ACK: 0, m.VERDICT_NACK: 0, m.VERDICT_RELEASE: 0, m.VERDICT_REJECT: 0}
        self._leases_lost = self._dropped = self._attachments = 0
        self.cumulative = False

    # --- iteration ------------------------------------------------------------------------------------------------

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Message:
        now = self._now()
        self._budget -= 1
        if self._budget <= 0 or now >= self._yield_by:
            await self._checkpoint()
            now = self._now()
        while True:
            attachment = self._attachment
            if attachment is not None and attachment.buffer.count:
                ends_soon = now + attachment.report_seconds >= attachment.book.safe_until
                if ends_soon and now >= attachment.book.safe_until:
                    attachment.expire(now)
                taken = attachment.buffer.take_one()
                if taken is not None:
                    run, offset = taken
                    self._handed_out += 1
                    if run.deliveries > 1:
                        self._redelivered += 1
                    if run.deliveries > 1 or ends_soon:
                        attachment.report_hand_over([Slice(run, offset, offset + 1)])
                    return Message(run, offset)
            if self._draining:
                raise StopAsyncIteration
            await self._wait_for_messages()
            now = self._now()

    async def receive(self, max_messages: int = 1000, max_wait: Duration | None = None) -> Batch:
        """Return the messages at hand, waiting for the first one if there is none.

        Cancelling it loses nothing. Asking for more than half the credit raises the credit.

        Args:
            max_messages: Most messages to return; 1 to 1,000,000.
            max_wait: Seconds or timedelta to wait for the first message; default: as long as it takes.

        Returns:
            At least one message, or an empty batch when *max_wait* has passed or the consumer was drained meanwhile.

        Raises:
            InvalidRequest: An argument is out of range.
            ClientClosed: The consumer was drained or closed before.
            SluiceError: The consumer is over, for example because its queue was deleted.

        """
        count_of(max_messages, "max_messages", maximum=CREDIT_MAX)
        wait = None if max_wait is None else seconds_of(max_wait, "max_wait")
        if self._draining:
            raise ClientClosed(f"the consumer of {self.queue!r} was drained")
        self._raise_credit(2 * max_messages)
        if self._budget <= 0 or self._now() >= self._yield_by:
            await self._checkpoint()
        batch = self._take(max_messages)
        if batch is not None:
            return batch
        if wait is None:
            return await self._first(max_messages)
        with anyio.move_on_after(wait):
            return await self._first(max_messages)
        return Batch(None, [])

    async def _first(self, max_messages: int) -> Batch:
        while True:
            if self._draining:
                return Batch(None, [])
            await self._wait_for_messages()
            batch = self._take(max_messages)
            if batch is not None:
                return batch

    def _take(self, messages_max: int) -> Batch | None:
        attachment = self._attachment
        if attachment is None or not attachment.buffer.count:
            return None
        now = self._now()
        ends_soon = now + attachment.report_seconds >= attachment.book.safe_until
        if ends_soon and now >= attachment.book.safe_until:
            attachment.expire(now)
        slices = attachment.buffer.take(messages_max)
        if not slices:
            return None
        count = redelivered = 0
        for run, start, stop in slices:
            count += stop - start
            if run.deliveries > 1:
                redelivered += stop - start
        if redelivered:
            self._redelivered += redelivered
        if redelivered or ends_soon:
            attachment.report_hand_over(slices)
        self._handed_out += count
        self._budget -= count
        return Batch(attachment, slices)

    async def _wait_for_messages(self) -> None:
        """Wait until there may be messages, or an end of waiting."""
        if self._error is not None:
            raise another(self._error)
        if not self._entered:
            raise ClientClosed(f"enter the consumer of {self.queue!r} with 'async with' before receiving")
        slot = Slot()
        self._waiting[slot] = None
        try:
            await self._runtime.park(slot)
        except BaseException:
            # Woken and cancelled at once: the message that woke this task must wake another one.
            if self._waiting.pop(slot, slot) is slot:
                self._wake_waiting()
            raise
        self._budget = self._ack_budget = CHECKPOINT_MESSAGES
        self._yield_by = self._now() + CHECKPOINT_SECONDS

    def _wake_waiting(self) -> None:
        attachment = self._attachment
        count = len(self._waiting) if self._over else 0 if attachment is None else attachment.buffer.count
        while count > 0 and self._waiting:
            slot = next(iter(self._waiting))
            del self._waiting[slot]
            self._runtime.wake(slot)
            count -= 1

    @property
    def _over(self) -> bool:
        return self._draining or self._error is not None

    async def _checkpoint(self) -> None:
        await self._runtime.checkpoint()
        self._budget = self._ack_budget = CHECKPOINT_MESSAGES
        self._yield_by = self._now() + CHECKPOINT_SECONDS

    async def step(self) -> None:
        """After a verdict: let others run now and then."""
        self._ack_budget -= 1
        if self._ack_budget <= 0:
            await self._checkpoint()

    # --- verdicts on more than one message ------------------------------------------------------------------------

    async def ack_through(self, message: ReceivedMessage) -> None:
        """Acknowledge *message* and every message that was handed out before it on the same connection.

        From its first call on, messages that user code lets go of stay with this consumer until it is called again.

        Raises:
            LeaseLost: The lease of *message* is over; the earlier ones that are still held are acknowledged.

        """
        owner = message.attachment
        if owner.host is not self:
            raise ValueError("the message belongs to another consumer")
        self.cumulative = True
        owner.settle_ranges([1, message.tag], ACK)
        await owner.settled(None)
        if owner.is_lost(message.tag):
            raise owner.lease_lost(1, [message.tag, message.tag])

    async def flush(self) -> None:
        """Send the verdicts that wait, and wait until all that were given are committed.

        Raises:
            LeaseLost: Verdicts given since the last flush came too late; `messages` says how many.
            OutcomeUnknown: The connection broke before the answer, or none came within `request_timeout`.

        """
        attachment = self._attachment or self._cut_off
        if attachment is not None:
            await attachment.confirmed()
        else:
            await self._runtime.checkpoint()
        lost, self._lost_since_flush = self._lost_since_flush, 0
        if lost:
            raise LeaseLost(f"the leases of {lost} messages were over", queue=self.queue, messages=lost)

    async def drain(self) -> None:
        """End cleanly: take nothing more, give back what was not handed out, and wait until that is done.

        Every `async for` ends after the message it has; messages that were handed out can still be settled until the
        client closes. Does not wait for them. Takes at most `close_timeout` seconds, and is not cancelled meanwhile.
        """
        if self._draining:
            await self._runtime.checkpoint()
            return
        self._draining = True
        attachment, session = self._attachment, self._session
        self._wake_waiting()
        if attachment is not None and session is not None:
            self._part(session, attachment)
            await self._parted(attachment)
        elif self._cut_off is not None:
            self._cut_off.release_buffered()
            await self._parted(self._cut_off)
        else:
            await self._runtime.checkpoint()

    def _part(self, session: Session, attachment: Attachment) -> None:
        """Want nothing more and give back what lies here; in this order, or it would come again at once."""
        self._cancel(session, attachment)
        attachment.release_buffered()

    async def _parted(self, attachment: Attachment) -> None:
        """Wait until the broker has back what was not handed out: the next consumer then gets it first, in order."""
        with anyio.move_on_after(self._close_seconds, shield=True):
            if not self._cancelled:
                slot = Slot()
                self._cancel_waiters.append(slot)
                await self._runtime.park(slot)
            try:
                await attachment.released()
            except SluiceError as error:
                log.info("what the consumer of %r gave back was not confirmed: %s", self.queue, error)

    def _cancel(self, session: Session, attachment: Attachment) -> None:
        """Ask the broker to deliver nothing more."""

        def on_reply(_reply: WireMessage | None, _tail: memoryview | None, _error: SluiceError | None) -> None:
            self._cancelled = True
            if attachment.is_idle:
                self.idle(attachment)
            waiters, self._cancel_waiters = self._cancel_waiters, []
            for slot in waiters:
                self._runtime.wake(slot)

        session.request(m.CancelConsumer(consumer=attachment.number), on_reply)

    # --- figures --------------------------------------------------------------------------------------------------

    def statistics(self) -> ConsumerStatistics:
        """Return the consumer's figures."""
        attachment = self._attachment or self._cut_off
        buffered = 0 if attachment is None else attachment.buffer.count
        held = 0 if attachment is None else attachment.book.count
        return ConsumerStatistics(
            delivered=self._delivered,
            handed_out=self._handed_out,
            redelivered=self._redelivered,
            acked=self._counts[m.VERDICT_ACK],
            nacked=self._counts[m.VERDICT_NACK],
            released=self._counts[m.VERDICT_RELEASE],
            rejected=self._counts[m.VERDICT_REJECT],
            leases_lost=self._leases_lost,
            buffered=buffered,
            in_hand=held - buffered,
            attached=self._attachment is not None,
            attachments=self._attachments,
            dropped=self._dropped,
        )

    # --- called by attachments ------------------------------------------------------------------------------------

    def leases_lost(self, messages: int, reason: str, *, handed: bool) -> None:
        """Count and report lost leases; those of messages that nobody saw are no news."""
        if not handed:
            return
        self._leases_lost += messages
        self._lost_since_flush += messages
        error = LeaseLost(
            f"{messages} messages of {self.queue!r} lost their leases ({reason}); they may be delivered again",
            queue=self.queue,
            messages=messages,
            reason=reason,
        )
        if self.on_lease_lost is None:
            log.warning("%s", error)
            return
        try:
            self.on_lease_lost(error)
        except Exception:
            log.exception("on_lease_lost of the consumer of %r failed", self.queue)

    def settled_counted(self, code: int, messages: int) -> None:
        """Count verdicts."""
        self._counts[code] += messages

    def messages_dropped(self, messages: int) -> None:
        """Count what user code let go of; say it once, for it is a mistake in a program."""
        if not self._dropped:
            log.warning("%s", what_is_dropped(messages, self.queue, self.lease_seconds))
        self._dropped += messages

    def idle(self, attachment: Attachment) -> None:
        """Forget an attachment that was left and has nothing to do any more."""
        if self._cancelled and attachment is self._attachment:
            self._link.remove(self)
            self._detach(self._error or ClientClosed(f"the consumer of {self.queue!r} was drained"))

    def schedule_flush(self) -> None:
        """Send verdicts at the next turn of the loop."""
        self._flush_hop.schedule()

    def _flush(self) -> None:
        attachment = self._attachment
        if attachment is not None:
            attachment.flush()

    # --- frames ---------------------------------------------------------------------------------------------------

    def delivered(self, attachment: Attachment, message: m.Deliver, tail: memoryview) -> None:
        """Take in a DELIVER frame."""
        self._delivered += attachment.deliver(message, tail)
        if self._draining or self._error is not None:
            attachment.release_buffered()
        elif self._waiting:
            self._wake_waiting()

    def ended(self, message: m.ConsumerEnded) -> None:
        """The broker has ended the consumer."""
        self._end(error_from_wire(message.error))

    def _end(self, error: SluiceError) -> None:
        if self._error is None:
            self._error = error
        if self._retry is not None:
            self._retry.cancel()
        self._link.remove(self)
        self._detach(error)
        self._wake_waiting()
        self._wake_attach_waiters()

    def _detach(self, error: SluiceError) -> None:
        attachment = self._attachment or self._cut_off
        self._attachment = self._cut_off = None
        if attachment is not None:
            self._by_number.pop(attachment.number, None)
            attachment.end(error)

    # --- as a resident of the link --------------------------------------------------------------------------------

    def session_opened(self, session: Session) -> None:
        """Go on with the consumer, or create it anew on the new session."""
        self._session = session
        cut_off = self._cut_off
        if cut_off is not None and session.opened is not None and session.opened.resumed:
            self._resume(session, cut_off)
            return
        if cut_off is not None:
            self._detach(ConnectionFailed("the connection was lost for longer than the broker keeps a session"))
        if self._over:
            self._link.remove(self)
            return
        self._consume()

    def _resume(self, session: Session, attachment: Attachment) -> None:
        """Ask for our leases on *session*, which is the one that we had."""
        named = attachment.tags_to_keep()

        def on_reply(reply: WireMessage | None, _tail: memoryview | None, error: SluiceError | None) -> None:
            if session is not self._session or session.error is not None or attachment is not self._cut_off:
                return
            if isinstance(reply, m.ConsumerResumed):
                self._attachment, self._cut_off = attachment, None
                if self._over:
                    self._cancel(session, attachment)
                attachment.resumed(session, reply, named)
                self._wake_waiting()
            elif error is not None and error.retryable and self._entered and not self._over:
                self._detach(error)
                self._retry = self._timers.call_after(self._refusals.pause(error), self._consume)
            elif error is not None:
                self._end(error)

        last_tag = attachment.buffer.last_tag
        session.request(self._requests.resume(attachment.number, named, last_tag, cancelled=self._over), on_reply)

    def _consume(self) -> None:
        session = self._session
        if session is None or session.error is not None:
            return

        def on_reply(reply: WireMessage | None, _tail: memoryview | None, error: SluiceError | None) -> None:
            if session is not self._session or session.error is not None:
                return
            if isinstance(reply, m.Consuming):
                self._attached(session, reply)
            elif error is not None and error.retryable and (self._entered or error.retry_after is not None):
                self._retry = self._timers.call_after(self._refusals.pause(error), self._consume)
            elif error is not None:
                self._end(error)

        try:
            session.request(self._requests.consume(), on_reply)
        except SluiceError as error:  # what we ask for cannot travel: that ends this consumer and nobody else
            self._end(error)

    def _attached(self, session: Session, consuming: m.Consuming) -> None:
        number = consuming.consumer
        attachment = Attachment(self, session, number, self._runtime, self._timers, consuming.topic)
        self._attachment = attachment
        self._refusals.failures = 0
        self._attachments += 1
        self._by_number[number] = (self, attachment)
        self._link.attached(number)
        if self._over:
            self._cancel(session, attachment)
        self._wake_attach_waiters()

    def _wake_attach_waiters(self) -> None:
        waiters, self._attach_waiters = self._attach_waiters, []
        for slot in waiters:
            self._runtime.wake(slot)

    def session_lost(self, error: SluiceError) -> None:
        """The attachment waits for the connection on which the session goes on; else the next one brings another."""
        self._session = None
        if self._retry is not None:
            self._retry.cancel()
        if self._link.can_resume and (self._attachment is not None or self._cut_off is not None):
            self._cut_off = self._attachment or self._cut_off
            self._attachment = None
        else:
            self._detach(error)

    def failed(self, error: SluiceError) -> None:
        """The client has failed, or is closed."""
        self._session = None
        self._end(error)

    def forked(self, error: SluiceError) -> None:
        """This is the child of a fork: nothing here works any more."""
        self._error, self._session = error, None
        self._waiting.clear()
        attachment = self._attachment or self._cut_off
        self._attachment = self._cut_off = None
        if attachment is not None:
            attachment.forked()

    def _raise_credit(self, messages: int) -> None:
        if messages <= self._requests.credit:
            return
        self._requests.credit = messages
        attachment, session = self._attachment, self._session
        if attachment is not None and session is not None:
            session.post(self._requests.change_credit(attachment.number))

    # --- life -----------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        if self._entered or self._error is not None:
            raise ClientClosed(f"the consumer of {self.queue!r} was entered before: make a new one")
        self._link.add(self)
        try:
            with anyio.move_on_after(self.request_seconds):
                while self._attachment is None and self._error is None:
                    slot = Slot()
                    self._attach_waiters.append(slot)
                    await self._runtime.park(slot)
        except BaseException:
            self.leave()
            raise
        if self._error is not None:
            raise another(self._error)
        if self._attachment is None:
            late = RequestTimeout(f"the broker did not start a consumer of {self.queue!r} in time")
            problem = self._link.unreachable() if self._session is None else late
            self.leave()
            raise problem
        self._entered = True
        self._yield_by = self._now() + CHECKPOINT_SECONDS
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give back what was not handed out, and wait at most `close_timeout` seconds until that is done."""
        attachment = self._attachment or self._cut_off
        wait = self._error is None and attachment is not None and kind is not GeneratorExit
        self.leave()
        if wait and attachment is not None:
            await self._parted(attachment)  # noqa: ASYNC102 - bounded by close_timeout

    def leave(self) -> None:
        """Give back at once what was not handed out; what was can be settled until the client closes."""
        attachment, session = self._attachment, self._session
        if self._error is None and not self._draining:
            self._error = ClientClosed(f"the consumer of {self.queue!r} is closed")
            if attachment is not None and session is not None:
                self._cancel(session, attachment)
        attachment = attachment or self._cut_off
        if attachment is not None:
            attachment.release_buffered()
        else:
            self._link.remove(self)
        self._wake_waiting()
        self._wake_attach_waiters()
