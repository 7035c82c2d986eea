"""The road of a send: into the window, onto the wire, and back to the task that waits.

One publisher has one producer number and any number of destinations; `Producer` and `Client.send` are its faces. The
rules of numbers and resends are in `sending_window`; here they meet the session, the loop and the clock.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from functools import partial

import anyio

from sluicemq.client.errors import (
    ClientClosed,
    MessageTooLarge,
    ProducerFenced,
    RequestTimeout,
    SluiceError,
    another,
    keep,
)
from sluicemq.client.outgoing import Attributes, OutgoingBatch, Pending
from sluicemq.client.receipts import Confirmation, acks_name
from sluicemq.client.reconnect import Link
from sluicemq.client.resend import Unsettled
from sluicemq.client.runtime import Runtime, Slot
from sluicemq.client.sending_window import Failed, SendingWindow, WindowLimits, outcome_unknown
from sluicemq.client.session import Session
from sluicemq.client.timers import Timer, Timers
from sluicemq.wire import messages as m
from sluicemq.wire.batch import BATCH_BYTES_DEFAULT, BATCH_MESSAGES_MAX
from sluicemq.wire.fields import Message

log = logging.getLogger("sluicemq.client")

BLOCKED_SECONDS = 1.0
"""How long a BLOCKED without a time holds sends back before they try again."""


class _Standing:
    """A send that stands in line for room in the window."""

    __slots__ = ("insert", "messages", "size_bytes", "slot")

    def __init__(self, insert: Callable[[], None], messages: int, size_bytes: int) -> None:
        self.insert = insert
        self.messages = messages
        self.size_bytes = size_bytes
        self.slot: Slot | None = None


class Publisher:
    """Sends for one producer number.

    Attributes:
        error: Why nothing can be sent any more; None while it can.
        acks: Whose disks confirm what is sent without another word about that.

    """

    def __init__(
        self,
        runtime: Runtime,
        timers: Timers,
        link: Link,
        name: str = "",
        limits: WindowLimits | None = None,
        acks: int = m.ACKS_QUORUM,
        waits_limits: bool = True,
    ) -> None:
        self.error: SluiceError | None = ClientClosed("enter the producer with 'async with' before sending")
        self.runtime = runtime
        self.now = runtime.now
        self.window = SendingWindow(limits, waits=waits_limits)
        self._link = link
        self._timers = timers
        self._name = name
        self.acks = acks
        self._session: Session | None = None
        self._opening = False
        self._hop = runtime.hop(self._pump)
        self._last_count = 1
        self._line: dict[Pending, _Standing] = {}
        self._idle_waiters: list[Slot] = []
        self._timer: Timer | None = None
        self._timer_due = math.inf
        self._blocked: set[str] = set()
        self._retry: Timer | None = None
        self._limited: dict[str, Timer] = {}
        self._refused_by_limit: dict[str, tuple[int, SluiceError]] = {}  # how often in a row, and how last
        self._answers = 0
        self._refusals = link.retrying.series()
        # Whether somebody may want to send again what was sent under this number.
        self._left_unknown = False

    # --- for the faces --------------------------------------------------------------------------------------------

    async def ready(self) -> None:
        """Raise what would make a send fail, before anything of it is kept.

        A cancelled task would otherwise be told that its message was not sent, and it would be stored all the same.
        """
        if self.error is not None:
            raise another(self.error)
        await self.runtime.checkpoint_if_cancelled()

    def check_size(self, size_bytes: int) -> None:
        """Refuse a body that the broker would not take.

        Raises:
            MessageTooLarge: It is larger than the broker allows.

        """
        session = self._session
        if session is not None and session.opened is not None and size_bytes > session.opened.message_bytes_max:
            maximum = session.opened.message_bytes_max
            raise MessageTooLarge(
                f"a message of {size_bytes} bytes; the broker takes {maximum}",
                message_bytes=size_bytes,
                message_bytes_max=maximum,
            )

    def check_sizes(self, bodies: list[bytes], batch_bytes: int) -> None:
        """Refuse bodies, together in a batch of *batch_bytes*, of which the broker would not take one.

        Raises:
            MessageTooLarge: One is larger than the broker allows.

        """
        session = self._session
        # None is larger than all of them together, which is known already.
        if session is not None and session.opened is not None and batch_bytes > session.opened.message_bytes_max:
            self.check_size(max(map(len, bodies)))

    def batch_limits(self) -> tuple[int, int]:
        """Return the most messages and the most bytes that one batch may have.

        Before the first connection nobody knows: a broker that was not set up otherwise takes the defaults.
        """
        session = self._session
        if session is None or session.opened is None:
            return BATCH_MESSAGES_MAX, BATCH_BYTES_DEFAULT
        return session.opened.batch_messages_max, session.opened.batch_bytes_max

    def enter(
        self, pending: Pending, destination: str, body: bytes, attributes: Attributes, size_bytes: int, acks: int
    ) -> bool:
        """Collect one message if the window has room, else let it stand in line; return whether it had."""
        if self.error is not None:
            raise another(self.error)
        window = self.window
        if pending.deadline < self._timer_due:
            self._arm(pending.deadline)
        if self._line or not window.has_room(1, size_bytes):
            insert = partial(window.collect, destination, body, attributes, pending, size_bytes, acks)
            self._line[pending] = _Standing(insert, 1, size_bytes)
            return False
        window.collect(destination, body, attributes, pending, size_bytes, acks)
        # A lone sender must not wait a turn of the loop; one of many shall, because the others will join its batch.
        if not window.in_flight and self._last_count == 1:
            self._pump()
        else:
            self._hop.schedule()
        return True

    def enter_whole(self, pending: Pending, batch: OutgoingBatch) -> bool:
        """Queue the batch of a `send_many` if the window has room, else let it stand in line; return whether it had."""
        if self.error is not None:
            raise another(self.error)
        window = self.window
        if pending.deadline < self._timer_due:
            self._arm(pending.deadline)
        if self._line or not window.has_room(batch.count, batch.size_bytes):
            self._line[pending] = _Standing(partial(window.add_whole, batch), batch.count, batch.size_bytes)
            return False
        window.add_whole(batch)
        self._pump()
        return True

    async def wait_for_room(self, pending: Pending) -> None:
        """Wait until *pending*, which stands in line, has entered the window.

        Raises:
            SluiceError: It failed meanwhile: its time is over, or the publisher ended.

        """
        standing = self._line.get(pending)
        if standing is not None:
            standing.slot = Slot()
            try:
                await self.runtime.park(standing.slot)
            except BaseException:
                self.withdraw(pending)
                raise
        if pending.error is not None:
            raise another(pending.error)

    async def wait(self, pending: Pending) -> Confirmation:
        """Wait for the receipt of *pending*.

        Cancelled before its batch was sent, the message is withdrawn; later, it stays sent.

        Raises:
            SluiceError: What the broker said, or that the time is over.

        """
        if pending.confirmation is None and pending.error is None:
            try:
                await self.runtime.park(pending)
            except BaseException:
                if pending.confirmation is None and pending.error is None:
                    self.withdraw(pending)
                raise
        if pending.confirmation is not None:
            return pending.confirmation
        assert pending.error is not None
        raise another(pending.error)

    def withdraw(self, pending: Pending) -> bool:
        """Take *pending* back if it has not been sent; return whether that was possible."""
        if self._line.pop(pending, None) is None and not self.window.withdraw(pending):
            return False
        pending.batch = None
        self._admit()
        self._wake_idle()
        return True

    async def open(self, timeout: float) -> None:
        """Get the producer number now, so that a first send need not wait for it.

        Raises:
            SluiceError: The broker refused, or none could be reached in time.

        """
        answer = await self._link.request(m.OpenProducer(name=self._name), timeout=timeout)
        assert isinstance(answer.message, m.ProducerOpened)
        self.window.numbered(answer.message.producer)
        self.join()

    def join(self) -> None:
        """Take part in sessions; a number that is not there yet is asked for with the first send."""
        self.error = None
        self._link.add(self)

    async def flushed(self) -> None:
        """Wait until everything that was sent so far has its answer or has failed."""
        waiting = [pending for batch in self.window.everything() for pending in batch.pendings]
        waiting.extend(self._line)
        for pending in waiting:
            while pending.confirmation is None and pending.error is None and not self._is_withdrawn(pending):
                slot = Slot()
                self._idle_waiters.append(slot)
                await self.runtime.park(slot)

    async def flushed_in_time(self, quiet_seconds: float) -> None:
        """Wait as `flushed` does, but give up when no answer comes for *quiet_seconds*."""
        while self.error is None:
            answers = self._answers
            with anyio.move_on_after(quiet_seconds):
                await self.flushed()
                return
            if self._answers == answers:
                return

    def _is_withdrawn(self, pending: Pending) -> bool:
        return pending.batch is None and pending not in self._line

    def close(self, error: SluiceError) -> None:
        """End: everything that waits, and every later send, fails with *error*."""
        if self.error is not None:
            return
        self.error = error
        self._link.remove(self)
        session, window = self._session, self.window
        # A number under which something may be sent again is left for the broker to forget in its own time.
        needed = self._left_unknown or any(batch.awaiting or batch.stale for batch in window.in_flight)
        if session is not None and window.number and session.error is None and not needed:
            session.request(m.CloseProducer(producer=self.window.number), lambda _message, _tail, _error: None)
        self._end(error)

    def _end(self, error: SluiceError) -> None:
        self._session = None
        for timer in (self._timer, self._retry, *self._limited.values()):
            if timer is not None:
                timer.cancel()
        for batch in self.window.give_up():
            for index, pending in enumerate(batch.pendings):
                self._fail(pending, self._end_error(batch, index, pending, error))
        for pending in list(self._line):
            self._fail(pending, error)
        self._wake_idle()

    def _end_error(self, batch: OutgoingBatch, index: int, pending: Pending, error: SluiceError) -> SluiceError:
        if not (batch.awaiting or batch.stale):
            batch.refusal = error
            return error
        if isinstance(error, ClientClosed):
            closed = ClientClosed(
                f"{error.text}; this message may or may not have been stored",
                destination=batch.destination,
                producer=batch.producer,
                sequence=batch.sequence,
                index=index,
            )
            keep(closed, Unsettled(self, batch, pending))
            return closed
        return self._unknown(batch, error, index, pending)

    def _unknown(self, batch: OutgoingBatch, cause: SluiceError | None, index: int, pending: Pending) -> SluiceError:
        """Return the error for a send that may or may not be stored, with all that a resend takes."""
        self._left_unknown = True
        error = outcome_unknown(batch, cause, index)
        keep(error, Unsettled(self, batch, pending))
        return error

    # --- resends that the user asks for ---------------------------------------------------------------------------

    def holds(self, batch: OutgoingBatch) -> bool:
        """Whether *batch* is still on its way, or waits for a connection."""
        return self.window.holds(batch)

    async def wait_again(self, pending: Pending, seconds: float) -> Confirmation:
        """Wait for the answer to *pending*, whose time was over, for so many seconds more.

        Raises:
            SluiceError: As for the first send.

        """
        pending.error = None
        pending.deadline = self.now() + seconds
        if pending.deadline < self._timer_due:
            self._arm(pending.deadline)
        return await self.wait(pending)

    # --- as a resident of the link --------------------------------------------------------------------------------

    def session_opened(self, session: Session) -> None:
        """Send again what was not answered, then go on."""
        self._session = session
        self._blocked.clear()
        self._pump()

    def session_lost(self, error: SluiceError) -> None:
        """Keep everything for the next session."""
        del error
        self._session = None
        self._opening = False
        self._blocked.clear()
        self._fail_batches(self.window.connection_lost())

    def failed(self, error: SluiceError) -> None:
        """The client has failed for good."""
        if self.error is None:
            self.error = error
            self._end(error)

    def forked(self, error: SluiceError) -> None:
        """This is the child of a fork: nothing here works any more."""
        self.error, self._session = error, None
        waiting = [pending for batch in self.window.give_up() for pending in batch.pendings]
        for pending in (*waiting, *self._line):
            pending.error = error
        self._line.clear()

    def blocked(self, notice: m.Blocked) -> None:
        """Hold back sends because the broker asks for it."""
        self._blocked.add(notice.destination)
        log.warning("the broker holds back publishing to %s: %s", notice.destination or "every queue", notice.reason)
        self._timers.call_after(notice.retry_after or BLOCKED_SECONDS, lambda: self.unblocked(notice.destination))

    def unblocked(self, destination: str) -> None:
        """Go on."""
        self._blocked.discard(destination)
        self._pump()

    # --- onto the wire --------------------------------------------------------------------------------------------

    def _held_back(self) -> bool:
        if not self._blocked:
            return False
        window = self.window
        front = window.backlog[0].destination if window.backlog else None
        return "" in self._blocked or front in self._blocked

    def _pump(self) -> None:
        """Send what may be sent now."""
        session = self._session
        if session is None:
            return
        window = self.window
        while not (self._blocked and self._held_back()):
            batch = window.next()
            if batch is None:
                break
            self._last_count = batch.count
            try:
                data = batch.encode()
                publish = m.Publish(batch.destination, batch.producer, batch.sequence, batch.acks)
                session.request(publish, partial(self._answered, batch), data)
            except SluiceError as error:
                # Nothing left us: for the window that is a refusal like any other.
                self._refused(batch, error)
        if window.wants_number and not self._opening:
            self._opening = True
            session.request(m.OpenProducer(name=self._name), self._number_came)

    def _number_came(self, reply: Message | None, _tail: memoryview | None, error: SluiceError | None) -> None:
        self._opening = False
        if isinstance(reply, m.ProducerOpened):
            self.window.numbered(reply.producer)
            self._pump()
        elif self._session is not None and self._session.error is None:
            assert error is not None
            if error.retryable:
                self._hold(error)
            elif self.error is None:
                self._link.remove(self)
                self.failed(error)

    def _answered(
        self, batch: OutgoingBatch, reply: Message | None, _tail: memoryview | None, error: SluiceError | None
    ) -> None:
        session = self._session
        if session is None or (error is not None and session.error is not None):
            return  # the session's end; `session_lost` deals with all batches at once
        self._answers += 1
        if error is None:
            assert isinstance(reply, m.Published)
            self._refusals.failures = 0
            if self._refused_by_limit:
                self._refused_by_limit.pop(batch.destination, None)
            welcome = session.welcome
            confirmation = Confirmation(
                0 if welcome is None else welcome.group_id,
                reply.zxid,
                reply.duplicate,
                batch.producer,
                batch.sequence,
                batch.count,
                batch.message_ids,
                reply.known,
                reply.known_bits,
                acks_name(reply.acks),
                reply.id_base,
            )
            failed = self.window.confirmed(batch)
            wake = self.runtime.wake
            for index, pending in enumerate(batch.pendings):
                pending.index = index
                pending.confirmation = confirmation
                pending.batch = None  # a receipt that is kept must not keep the bodies
                wake(pending)
            self._fail_batches(failed)
        else:
            self._refused(batch, error)
        if self._line:
            self._admit()
        if self._idle_waiters:
            self._wake_idle()
        if self.window.backlog or self.window.in_flight:
            self._pump()

    def _refused(self, batch: OutgoingBatch, error: SluiceError) -> None:
        if self.window.keeps(batch, error):
            self._hold(error)
        elif self.window.waits_for(batch, error):
            self._limit(batch.destination, error)
        self._fail_batches(self.window.refused(batch, error))
        if self.window.lost:
            log.warning(
                "the broker does not know the last %d batches any more that it confirmed to this producer (number %d): "
                "was a backup restored, was `sluicemq cluster force-new` used, or were they sent with acks='leader'?",
                self.window.lost,
                batch.producer,
            )
            self.window.lost = 0
        if isinstance(error, ProducerFenced) and self.error is None:
            self._link.remove(self)
            self.failed(error)

    def _hold(self, error: SluiceError) -> None:
        self.window.held = True
        if self._retry is not None:
            self._retry.cancel()
        self._retry = self._timers.call_after(self._refusals.pause(error), self._release)

    def _limit(self, destination: str, error: SluiceError) -> None:
        """Send nothing more to a destination until the broker takes more, as it said."""
        if destination in self._limited:
            return  # what was sent behind the first refused batch was refused as well
        failures = self._refused_by_limit.get(destination, (0, error))[0] + 1
        self._refused_by_limit[destination] = failures, error
        self.window.limited.add(destination)
        pause = self._link.retrying.pause_limited(error, failures)
        self._limited[destination] = self._timers.call_after(pause, partial(self._unlimit, destination))

    def _unlimit(self, destination: str) -> None:
        self.window.limited.discard(destination)
        del self._limited[destination]
        self._pump()

    def _release(self) -> None:
        self.window.held = False
        self._pump()

    # --- ends of waits --------------------------------------------------------------------------------------------

    def _fail_batches(self, failed: list[Failed]) -> None:
        for batch, error in failed:
            if "index" not in error.fields:
                batch.refusal = error
            for index, pending in enumerate(batch.pendings):
                if "index" in error.fields:
                    self._fail(pending, self._unknown(batch, _cause_of(error), index, pending))
                else:
                    self._fail(pending, error)
        if failed:
            self._admit()
            self._wake_idle()

    def _fail(self, pending: Pending, error: SluiceError) -> None:
        if pending.confirmation is None and pending.error is None:
            pending.error = error
            standing = self._line.pop(pending, None)
            if standing is not None and standing.slot is not None:
                self.runtime.wake(standing.slot)
            self.runtime.wake(pending)

    def _admit(self) -> None:
        """Let those at the head of the line enter for whom there is room now."""
        entered = False
        while self._line:
            pending, standing = next(iter(self._line.items()))
            if not self.window.has_room(standing.messages, standing.size_bytes):
                break
            del self._line[pending]
            standing.insert()
            entered = True
            if standing.slot is not None:
                self.runtime.wake(standing.slot)
        if entered:
            self._hop.schedule()

    def _wake_idle(self) -> None:
        waiters, self._idle_waiters = self._idle_waiters, []
        for waiter in waiters:
            self.runtime.wake(waiter)

    # --- deadlines ------------------------------------------------------------------------------------------------

    def _arm(self, due: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_due = due
        self._timer = self._timers.call_at(due, self._check_deadlines)

    def _check_deadlines(self) -> None:
        now = self.now()
        self._timer, self._timer_due = None, math.inf
        next_due = math.inf
        for batch in self.window.everything():
            for index, pending in enumerate(list(batch.pendings)):
                if pending.deadline > now:
                    next_due = min(next_due, pending.deadline)
                elif pending.error is None:
                    self._expire(batch, index, pending)
        for pending in list(self._line):
            if pending.deadline > now:
                next_due = min(next_due, pending.deadline)
            else:
                self._fail(pending, self._late())
        self._admit()
        self._wake_idle()
        if next_due < math.inf:
            self._arm(next_due)

    def _expire(self, batch: OutgoingBatch, index: int, pending: Pending) -> None:
        if self.window.withdraw(pending):
            self._fail(pending, self._late(batch.destination))
        else:
            self._fail(pending, self._unknown(batch, self._late(), index, pending))

    def _late(self, destination: str = "") -> SluiceError:
        if self._session is None:
            return self._link.unreachable()
        if destination in self._refused_by_limit:
            refusal = self._refused_by_limit[destination][1]
            error = RequestTimeout(f"the broker did not take it in time: {refusal}", **refusal.fields)
            error.__cause__ = refusal
            return error
        return RequestTimeout("the broker did not confirm in time")


def _cause_of(error: SluiceError) -> SluiceError | None:
    return error.__cause__ if isinstance(error.__cause__, SluiceError) else None
