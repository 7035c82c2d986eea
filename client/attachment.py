"""A consumer on one session: what it was delivered, what it holds, what it has settled.

Tags mean something only on the session that delivered them, so a message keeps its attachment and not its consumer.
When a connection is lost, the attachment waits for another one on which the session goes on: verdicts gather meanwhile,
and those of which nobody knows whether they arrived are kept. Then the broker says which leases are still ours. When
the session ends the attachment is over for good: every message that was handed out and not settled has lost its lease.
"""

from __future__ import annotations

import logging
from functools import partial
from math import inf
from typing import TYPE_CHECKING

import anyio

from sluicemq.client.delivery_buffer import DeliveryBuffer, Slice
from sluicemq.client.dropped_messages import GRACE_SECONDS_MAX, DroppedMessages
from sluicemq.client.errors import ClientClosed, LeaseLost, OutcomeUnknown, SluiceError, another
from sluicemq.client.extending import OnAnswer, ask_in_frames, in_time
from sluicemq.client.leases import LeaseBook
from sluicemq.client.lost_leases import CONNECTION_ENDED, CONSUMER_ENDED, EXPIRED, FORKED, LostLeases, explain
from sluicemq.client.runtime import Holder, Runtime, Slot
from sluicemq.client.session import Session
from sluicemq.client.settlement import Confirmation, SettleFrame, SettlementBuffer, Verdict, in_frames
from sluicemq.client.tag_ranges import FlatRanges, TagRanges, count_tags, pairs, within, without
from sluicemq.client.timers import Timer, Timers
from sluicemq.wire import messages as m
from sluicemq.wire.fields import Message as WireMessage

if TYPE_CHECKING:
    from sluicemq.client.attachment_host import AttachmentHost, Crossing

log = logging.getLogger("sluicemq.client")

SETTLES_UNDER_WAY_MAX = 64
"""Most SETTLE frames that wait for their answer; what is settled meanwhile melts together in the buffer."""
SETTLE_RANGES_WAITING_MAX = 10_000
"""With so many ranges in the buffer, the next verdict waits."""
RESUMED_RANGES_MAX = 4_096
"""Most ranges of tags with which a consumer goes on after a reconnect; those with the highest tags are let go."""
RELEASE = Verdict(m.VERDICT_RELEASE)
HANDED_OVER = Verdict(m.VERDICT_HANDED_OVER)
LET_GO = Verdict(m.VERDICT_NACK, None, "the consumer let go of the message without a verdict")
BLOCKED_SHARE = 0.1
"""A renewal that comes later than this share of the lease shows a blocked event loop."""
REPORT_SHARE = 0.2
"""A message in hand when so much of its lease is left is reported: should the lease end, that was an attempt."""


class Attachment:
    """One consumer on one session.

    Attributes:
        host: The consumer.
        group: Group id for the positions of its messages.
        number: The consumer's number on this session.
        session_number: The session's own, by which a transaction says whose leases it settles.
        topic: The topic that the queue is a subscription of; "" where it is none.
        buffer: Messages that were not handed out yet.
        book: Leases of everything delivered and not settled.
        dropped: What user code let go of without a verdict.
        over: Whether the session, or the consumer on it, has ended.
        report_seconds: A message whose lease ends within this time is reported when user code has or gets it.
        now: The loop's clock.
        crossing: Where messages go from the buffer on their way to user code, if it runs on other threads.

    """

    def __init__(
        self, host: AttachmentHost, session: Session, number: int, runtime: Runtime, timers: Timers, topic: str = ""
    ) -> None:
        self.topic = topic
        self.group = 0 if session.welcome is None else session.welcome.group_id
        self.number = number
        self.session_number = 0 if session.opened is None else session.opened.session
        self.buffer = DeliveryBuffer(self)
        self.book = LeaseBook()
        self.dropped = DroppedMessages()
        self.over = False
        self.report_seconds = host.lease_seconds * REPORT_SHARE
        self.host = host
        self._session = session
        self._runtime = runtime
        self.now = runtime.now
        self.crossing: Crossing | None = None
        self._timers = timers
        self._settlements = SettlementBuffer()
        self._under_way: dict[SettleFrame, None] = {}
        self._confirms: list[Confirmation] = []
        self._room_waiters: list[Slot] = []
        self._resume_waiters: list[Slot] = []
        self._lost = LostLeases()
        self._refusal_reason = EXPIRED
        self._report_timer: Timer | None = None
        self._renewal: Timer | None = None
        self._sweep: Timer | None = None
        self._grace_seconds = min(host.lease_seconds, GRACE_SECONDS_MAX)
        if host.auto_renew:
            self._renewal = timers.call_after(host.lease_seconds / 3, self._renew)
            self._sweep = timers.call_after(self._grace_seconds / 3, self._look_for_dropped)

    # --- a lost connection ----------------------------------------------------------------------------------------

    @property
    def is_cut_off(self) -> bool:
        """Whether the connection is lost, and the session may go on with another one."""
        return not self.over and self._session.error is not None

    def tags_to_keep(self) -> FlatRanges:
        """Return the tags of everything that we hold, or gave a verdict on of which we do not know that it arrived."""
        if self.now() >= self.book.safe_until:
            self.expire(self.now())
        tags = TagRanges(self.book.held(1, self.buffer.last_tag))
        for settle in self._under_way:
            for first, last in pairs(settle.tags):
                tags.add(first, last)
        waiting = self._settlements.take()
        for verdict, ranges in waiting:
            for first, last in pairs(ranges):
                tags.add(first, last)
                self._settlements.add(verdict, first, last)
        return tags.flat()[: 2 * RESUMED_RANGES_MAX]

    def resumed(self, session: Session, resumed: m.ConsumerResumed, named: FlatRanges) -> None:
        """Go on with *session*, of whose tags we *named* those to keep: what is not ours any more is lost."""
        self._session = session
        self.topic = resumed.topic or self.topic
        kept = without(without(named, resumed.lost), resumed.settled)
        end = self.now() + self.host.lease_seconds
        held = self.book.held(1, self.buffer.last_tag)
        for first, last in pairs(within(held, resumed.settled)):
            self.book.take(first, last)  # by a transaction, which does not know yet that it holds
        self.lost(without(without(held, kept), resumed.settled), CONNECTION_ENDED)
        self.book.renewed(kept, end)
        self.buffer.go_on(resumed.next_tag)
        under_way, self._under_way = list(self._under_way), {}
        for settle in under_way:
            again = within(settle.tags, kept)
            settle.lost += without(without(settle.tags, again), resumed.settled)
            if again:
                settle.tags = again
                self._post(settle)
            else:
                self._answer(settle, settle.lost)
        for verdict, tags in self._settlements.take():
            gone = without(without(tags, kept), resumed.settled)
            if gone:
                self._refused(SettleFrame(verdict, gone), gone)
            for first, last in pairs(within(tags, kept)):
                self._settlements.add(verdict, first, last)
        self.flush(force=True)
        if self._renewal is not None:
            self._renewal.cancel()
            self._renewal = self._timers.call_after(self.host.lease_seconds / 3, self._renew)
        self._wake_resume_waiters()
        if self.is_idle:
            self.host.idle(self)

    def _wake_resume_waiters(self) -> None:
        waiters, self._resume_waiters = self._resume_waiters, []
        for slot in waiters:
            self._runtime.wake(slot)

    @property
    def is_idle(self) -> bool:
        """Whether nothing is held and nothing is under way."""
        return not (self.book or self._settlements or self._under_way)

    # --- delivery -------------------------------------------------------------------------------------------------

    def deliver(self, message: m.Deliver, tail: memoryview) -> int:
        """Take in a DELIVER frame; return how many messages it brought.

        Raises:
            ProtocolError: It contradicts itself, or what came before.

        """
        count = self.buffer.add(message.first_tag, message.runs, tail, message.destinations, message.notes)
        now = self.now()
        self.book.delivered(message.first_tag, message.first_tag + count - 1, now + self.host.lease_seconds)
        self._arm_report(self.book.safe_until)
        return count

    def report_hand_over(self, slices: list[Slice]) -> None:
        """Tell the broker, before user code gets them, of messages that were delivered before or are soon lost.

        Others are reported by a timer if they are still in hand shortly before their lease ends, which spares most
        first deliveries a word.
        """
        tags: FlatRanges = []
        soon = self.now() + self.report_seconds
        for run, start, stop in slices:
            first, last = run.first_tag + start, run.first_tag + stop - 1
            if run.deliveries > 1:
                tags += (first, last)
            elif soon >= self.book.safe_until:
                tags += self.book.ending(first, last, soon)
        if tags and not self.over:
            self._report(tags)

    def _report_late(self) -> None:
        """Report what user code has and what nobody renews (any more): if it hangs, that was an attempt.

        Renewal moves the ends of all other leases before their time for this comes.
        """
        self._report_timer = None
        if self.over:
            return
        now = self.now()
        book = self.book
        soon = now + self.report_seconds
        tags = book.ending(1, self.in_hand_below - 1, soon, after=now)
        if tags:
            self._report(tags)
        next_end = book.next_end(soon)
        if next_end < inf:
            self._arm_report(next_end)

    def _arm_report(self, end: float) -> None:
        """Look at what user code has shortly before *end*, unless that happens earlier anyway."""
        due = end - self.report_seconds
        if self._report_timer is not None:
            if self._report_timer.due <= due:
                return
            self._report_timer.cancel()
        self._report_timer = self._timers.call_at(due, self._report_late)

    def _report(self, tags: FlatRanges) -> None:
        for part in in_frames(tags):
            self._send(HANDED_OVER, part)

    @property
    def in_hand_below(self) -> int:
        """Tag below which user code got everything that it will get."""
        return self.buffer.next_tag if self.crossing is None else self.crossing.in_hand_below(self)

    def release_buffered(self) -> None:
        """Give back, at once, what was not handed out."""
        buffer = self.buffer
        for tag in () if self.crossing is None else self.crossing.take_back(self):
            if self.book.settle(tag):
                self._settlements.add(RELEASE, tag, tag)
        for first, last in pairs(self.book.take(buffer.next_tag, buffer.last_tag)):
            self._settlements.add(RELEASE, first, last)
        buffer.clear()
        self.flush(force=True)

    # --- leases ---------------------------------------------------------------------------------------------------

    def is_lost(self, tag: int) -> bool:
        """Whether the message *tag* was handed out and its lease ended without a verdict."""
        return tag in self._lost

    def lease_lost(self, messages: int, tags: FlatRanges) -> LeaseLost:
        """Return the error for *messages* among *tags* whose leases are over."""
        what = "the lease of the message is over" if messages == 1 else f"the leases of {messages} messages are over"
        reason = self._lost.reason_of(tags)
        if reason is None and not any(first in self._lost for first, _ in pairs(tags)):
            reason = self._refusal_reason  # a verdict that was given in time and arrived too late
        return LeaseLost(f"{what}: {explain(reason)}", queue=self.host.queue, messages=messages, reason=reason)

    def expire(self, now: float) -> None:
        """Give up every message whose lease has run out by our own clock."""
        expired = self.book.expire(now)
        if not expired:
            return
        blocked = 0.0 if self._renewal is None else now - self._renewal.due
        if blocked > BLOCKED_SHARE * self.host.lease_seconds:
            log.warning(
                "the event loop was blocked for %.1f seconds: the leases (%g seconds) of %d messages of %r ran out; "
                "they will be delivered again. Run blocking code in a thread, or ask for a longer lease",
                blocked, self.host.lease_seconds, count_tags(expired), self.host.queue,
            )  # fmt: skip
        self._lose(expired, EXPIRED)

    def lost(self, tags: FlatRanges, reason: str) -> None:
        """Note that the broker has ended the leases of *tags*."""
        taken: FlatRanges = []
        for first, last in pairs(tags):
            taken += self.book.take(first, last)
        if count_tags(taken) < count_tags(tags):
            self._refusal_reason = reason  # of the others a verdict is under way, which will be refused
        if taken:
            self._lose(taken, reason)

    def _lose(self, tags: FlatRanges, reason: str) -> None:
        """Handle *tags*, which are out of the book already."""
        next_tag, in_hand_below = self.buffer.next_tag, self.in_hand_below
        handed = 0
        for first, last in pairs(tags):
            if first < next_tag:
                until = min(last, next_tag - 1)
                self._lost.add(first, until, reason)
                handed += max(0, min(until, in_hand_below - 1) - first + 1)
        buffered = self.buffer.lose(tags)
        if buffered:
            self.host.leases_lost(buffered, reason, handed=False)
        if handed:
            self.host.leases_lost(handed, reason, handed=True)

    def _renew(self) -> None:
        if self.over:
            return
        now = self.now()
        host = self.host
        if self.is_cut_off:
            self._renewal = self._timers.call_at(now + host.lease_seconds / 3, self._renew)
            return
        self.book.hand_over(self.in_hand_below, now)
        if now >= self.book.safe_until:
            self.expire(now)
        tags = self.book.to_renew(now - host.max_lease_seconds, now + host.lease_seconds)
        for part in in_frames(tags):
            self._request_extension(part, host.lease_seconds, lambda _lost, _error: None)
        self._renewal = self._timers.call_at(now + host.lease_seconds / 3, self._renew)

    def _look_for_dropped(self) -> None:
        """Nack what nobody has in hand any more and nobody settled meanwhile: else it would be renewed for ever."""
        if self.over:
            return
        now = self.now()
        if self.host.cumulative:
            self.dropped.clear()
        else:
            messages = self.dropped.look(now, self.book)
            if messages:
                self.host.messages_dropped(messages)
            due = self.dropped.due(now - self._grace_seconds)
            if due:
                self.settle_ranges(due, LET_GO)
        self._sweep = self._timers.call_at(now + self._grace_seconds / 3, self._look_for_dropped)

    async def extend(self, tags: FlatRanges, seconds: float) -> None:
        """Let the leases of *tags* end *seconds* from now.

        Raises:
            LeaseLost: Some are over; the others are extended.
            OutcomeUnknown: The connection broke before the answer, or none came in time.

        """
        held: FlatRanges = []
        for first, last in pairs(tags):
            held += self.book.held(first, last)
        if not held:
            raise self.lease_lost(count_tags(tags), tags)
        gone, error = await ask_in_frames(
            self._runtime,
            lambda part, on_answer: self._request_extension(part, seconds, on_answer),
            held,
            self.host.request_seconds,
        )
        if error is not None and self.is_cut_off:
            slot = Slot()
            self._resume_waiters.append(slot)
            await self._in_time(slot, "the extension of a lease")
            await self.extend(tags, seconds)
            return
        if error is not None:
            if self.over:
                raise self.lease_lost(count_tags(held), held) from error
            raise another(error)
        if gone:
            raise self.lease_lost(count_tags(gone), gone)

    async def _in_time(self, holder: Holder, what: str) -> None:
        """Wait for *holder*, though not for ever. Raises `OutcomeUnknown`."""
        await in_time(self._runtime, holder, self.host.request_seconds, what)

    def _request_extension(self, tags: FlatRanges, seconds: float, on_answer: OnAnswer) -> None:
        sent_at = self.now()

        def on_reply(reply: WireMessage | None, _tail: memoryview | None, error: SluiceError | None) -> None:
            gone: FlatRanges = []
            if isinstance(reply, m.Extended):
                # Counted from the sending: the broker's lease ends no earlier than that.
                gone = reply.lost
                self.lost(gone, EXPIRED)
                self.book.renewed(tags, sent_at + seconds)
                if not self.over and self.book:
                    self._arm_report(self.book.safe_until)
            on_answer(gone, error)

        self._session.request(m.Extend(consumer=self.number, tags=tags, seconds=seconds), on_reply)

    # --- verdicts -------------------------------------------------------------------------------------------------

    def held_of(self, tags: FlatRanges) -> tuple[FlatRanges, int]:
        """Return those of *tags* that are ours and have no verdict, and for how many it is too late."""
        now = self.now()
        if now >= self.book.safe_until:
            self.expire(now)
        held: FlatRanges = []
        lost = 0
        for first, last in pairs(tags):
            held += self.book.held(first, last)
            if self._lost:
                lost += self._lost.count(first, last)
        return held, lost

    def settled_together(self, tags: FlatRanges, verdict: Verdict) -> None:
        """A transaction gave *tags* a verdict, which holds."""
        for first, last in pairs(tags):
            self.book.take(first, last)
        self.host.settled_counted(verdict.code, count_tags(tags))
        if self.is_idle:
            self.host.idle(self)

    def settle(self, tag: int, verdict: Verdict) -> bool:
        """Give the verdict on one message; False if it is not ours to settle (any more)."""
        book = self.book
        now = self.now()
        if now >= book.safe_until:
            self.expire(now)
        if not book.settle(tag):
            return False
        if not self._settlements:
            self.host.schedule_flush()
        self._settlements.add(verdict, tag, tag)
        self.host.settled_counted(verdict.code, 1)
        return True

    def settle_ranges(self, tags: FlatRanges, verdict: Verdict) -> int:
        """Give the verdict on all of *tags* that have none; return for how many it is too late."""
        held, lost = self.held_of(tags)
        if not self._settlements:
            self.host.schedule_flush()
        for first, last in pairs(held):
            self.book.take(first, last)
            self._settlements.add(verdict, first, last)
        self.host.settled_counted(verdict.code, count_tags(held))
        return lost

    async def settled(self, confirm_tag: int | None) -> None:
        """After a verdict: wait for its commit if asked to, else for room if too many are waiting, else hardly ever.

        Raises:
            LeaseLost: *confirm_tag* was given, and the broker refused its verdict.
            OutcomeUnknown: *confirm_tag* was given, and the connection broke before the answer, or none came.

        """
        if confirm_tag is not None:
            lost = await self.confirmed()
            if confirm_tag in lost:
                raise self.lease_lost(1, [confirm_tag, confirm_tag])
        elif len(self._under_way) >= SETTLES_UNDER_WAY_MAX and self._settlements.ranges >= SETTLE_RANGES_WAITING_MAX:
            slot = Slot()
            self._room_waiters.append(slot)
            with anyio.move_on_after(self.host.request_seconds):  # the credit bounds how many verdicts wait
                await self._runtime.park(slot)
        else:
            await self.host.step()

    async def confirmed(self) -> TagRanges:
        """Send what waits and wait until all verdicts under way are committed; return the tags that were refused.

        Raises:
            OutcomeUnknown: The connection broke before the answer, or none came in time.

        """
        self.flush(force=True)
        return await self._answered(set(self._under_way))

    async def released(self) -> None:
        """Send what waits and wait until everything that was given back is; how other verdicts fare is no matter.

        Raises:
            OutcomeUnknown: The connection broke before the answer, or none came in time.

        """
        self.flush(force=True)
        frames = {settle for settle in self._under_way if settle.verdict.code == m.VERDICT_RELEASE}
        if frames:
            await self._answered(frames)

    async def _answered(self, frames: set[SettleFrame]) -> TagRanges:
        if not frames:
            await self._runtime.checkpoint()
            return TagRanges()
        waiter = Confirmation(frames)
        self._confirms.append(waiter)
        try:
            await self._in_time(waiter, "a verdict")
        finally:
            if waiter in self._confirms:
                self._confirms.remove(waiter)
        if waiter.error is not None:
            raise another(waiter.error)
        return waiter.lost

    def flush(self, *, force: bool = False) -> None:
        """Send the verdicts that wait, unless too many frames are under way already."""
        if self.over or (self.is_cut_off and not force):
            return
        if self._settlements and (force or len(self._under_way) < SETTLES_UNDER_WAY_MAX):
            for verdict, tags in self._settlements.take():
                self._send(verdict, tags)

    def _send(self, verdict: Verdict, tags: FlatRanges) -> None:
        self._post(SettleFrame(verdict, tags))

    def _post(self, settle: SettleFrame) -> None:
        self._under_way[settle] = None
        verdict = settle.verdict
        message = m.Settle(
            consumer=self.number,
            verdict=verdict.code,
            tags=settle.tags,
            delay_seconds=verdict.delay_seconds,
            reason=verdict.reason,
        )
        self._session.request(message, partial(self._settled, settle))

    def _settled(
        self, settle: SettleFrame, reply: WireMessage | None, _tail: memoryview | None, error: SluiceError | None
    ) -> None:
        if self.over or (error is not None and self._session.error is not None):
            return  # `end` deals with everything at once
        del self._under_way[settle]
        lost = settle.lost + (reply.lost if isinstance(reply, m.Settled) else settle.tags)
        if error is not None:
            log.warning("a verdict on messages of %r was refused: %s", self.host.queue, error)
        self._answer(settle, lost)

    def _answer(self, settle: SettleFrame, lost: FlatRanges) -> None:
        """A frame was answered, or is as good as answered; it is not under way any more."""
        if lost:
            self._refused(settle, lost)
        self._tell_confirms(settle, lost)
        if len(self._under_way) < SETTLES_UNDER_WAY_MAX:
            self.flush()
            if self.is_idle:
                self.host.idle(self)
            waiters, self._room_waiters = self._room_waiters, []
            for slot in waiters:
                self._runtime.wake(slot)

    def _tell_confirms(self, settle: SettleFrame, lost: FlatRanges) -> None:
        for waiter in list(self._confirms):
            if settle in waiter.frames:
                waiter.frames.discard(settle)
                for first, last in pairs(lost):
                    waiter.lost.add(first, last)
                if not waiter.frames:
                    self._confirms.remove(waiter)
                    self._runtime.wake(waiter)

    def _refused(self, settle: SettleFrame, lost: FlatRanges) -> None:
        if settle.verdict.code == m.VERDICT_HANDED_OVER:
            self.lost(lost, EXPIRED)
        elif settle.verdict.code != m.VERDICT_RELEASE:
            self.host.leases_lost(count_tags(lost), "refused", handed=True)

    def forked(self) -> None:
        """Own nothing any more: the parent process does."""
        self.over = True
        self.book = LeaseBook()
        self._lost = LostLeases()
        self._lost.add(1, max(1, self.buffer.last_tag), FORKED)

    # --- end ------------------------------------------------------------------------------------------------------

    def end(self, error: SluiceError) -> None:
        """The session, or the consumer on it, is over because of *error*."""
        if self.over:
            return
        self.over = True
        for timer in (self._renewal, self._report_timer, self._sweep):
            if timer is not None:
                timer.cancel()
        what, reason = (
            ("consumer", CONSUMER_ENDED) if self._session.error is None and not isinstance(error, ClientClosed)
            else ("connection", CONNECTION_ENDED)
        )  # fmt: skip
        unconfirmed = sum(
            count_tags(settle.tags)
            for settle in self._under_way
            if settle.verdict.code in (m.VERDICT_ACK, m.VERDICT_NACK, m.VERDICT_REJECT)
        ) + sum(count_tags(tags) for verdict, tags in self._settlements.take() if verdict.code != m.VERDICT_RELEASE)
        self._under_way.clear()
        self._lose(self.book.take(1, self.buffer.last_tag), reason)
        self.buffer.clear()
        if unconfirmed:
            self.host.leases_lost(unconfirmed, f"{reason} before the verdict was confirmed", handed=True)
        for waiter in self._confirms:
            waiter.error = OutcomeUnknown(
                f"the {what} ended before the verdict was confirmed; the message may come again: {error}"
            )
            waiter.error.__cause__ = error
            self._runtime.wake(waiter)
        self._confirms.clear()
        for slot in self._room_waiters:
            self._runtime.wake(slot)
        self._room_waiters.clear()
        self._wake_resume_waiters()
