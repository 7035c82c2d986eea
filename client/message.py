"""A message as a handler sees it, and a batch of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self, overload

from sluicemq.client.errors import AlreadySettled, RequestFailed
from sluicemq.client.handling import DeathNote, Reject, Retry, death_note, error_text, reason_of
from sluicemq.client.options import Body, Duration, seconds_of
from sluicemq.client.replying import wants_reply
from sluicemq.client.settlement import Verdict
from sluicemq.client.tag_ranges import FlatRanges, count_tags, pairs
from sluicemq.wire.message_ids import default_message_id
from sluicemq.wire.messages import VERDICT_ACK, VERDICT_NACK, VERDICT_REJECT, VERDICT_RELEASE
from sluicemq.wire.positions import format_position
from sluicemq.wire.routes import destination_of

if TYPE_CHECKING:
    from sluicemq.client.attachment import Attachment
    from sluicemq.client.delivery_buffer import Run, Slice

EXTEND_SECONDS_MIN = 0.05
ACK = Verdict(VERDICT_ACK)
NACK = Verdict(VERDICT_NACK)
RELEASE = Verdict(VERDICT_RELEASE)
_VERDICT_NAMES = {
    VERDICT_ACK: "acknowledged",
    VERDICT_NACK: "nacked",
    VERDICT_RELEASE: "given back",
    VERDICT_REJECT: "rejected",
}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _nack(delay: Duration | None, reason: str) -> Verdict:
    if delay is None and not reason:
        return NACK
    return Verdict(VERDICT_NACK, None if delay is None else seconds_of(delay, "delay"), reason_of(reason))


def verdict_on(error: BaseException | None) -> Verdict:
    """Return what the end of a handler means for its message."""
    if error is None:
        return ACK
    if isinstance(error, Retry):
        return Verdict(VERDICT_NACK, error.delay_seconds, reason_of(error.reason))
    if isinstance(error, Reject):
        return Verdict(VERDICT_REJECT, None, reason_of(error.reason))
    return Verdict(VERDICT_NACK, None, error_text(error)) if isinstance(error, Exception) else RELEASE


class Joinable(Protocol):
    """What a message needs of the transaction that it is part of."""

    def left(self, message: Message | Batch) -> None:
        """The message's own block is over."""


class Message:
    """One delivered message.

    `async with message:` acknowledges it on success, nacks it by the queue's retry policy on an exception (the next
    attempt finds its type and text in `last_error`), and gives it back without counting an attempt on cancellation.
    `Retry` and `Reject` say something else, and end there.

    One that is let go of without a verdict is nacked by the retry policy half a minute later, or after its lease if
    that is shorter, unless the consumer acknowledges by `ack_through`.

    Attributes:
        body: The payload.
        tag: The delivery's number, for logs; counted by the consumer's connection.

    """

    __slots__ = ("_batch", "_offset", "_run", "_transaction", "_verdict", "body", "tag")

    def __init__(self, run: Run, offset: int, batch: Batch | None = None) -> None:
        self._run = run
        self._offset = offset
        self._batch = batch
        self._verdict = 0
        self._transaction: Joinable | None = None
        self.body: bytes = run.bodies[offset]
        self.tag: int = run.first_tag + offset

    @property
    def key(self) -> str | None:
        """The key that the sender gave."""
        return self._run.key(self._offset)

    @property
    def subject(self) -> str | None:
        """The subject that the sender gave."""
        return self._run.subject(self._offset)

    @property
    def destination(self) -> str:
        """Where the message was published to: the queue, or the whole name below the topic of this subscription.

        What was published to the topic itself with a subject has the subject as the rest of its name.
        """
        run = self._run
        if run.destination:
            return run.destination
        owner: Attachment = run.owner
        if not owner.topic:
            return owner.host.queue
        return destination_of(owner.topic, run.subject(self._offset) or "")

    @property
    def headers(self) -> Mapping[str, Any]:
        """The headers that the sender gave; read-only, empty if there are none."""
        return self._run.headers(self._offset)

    @property
    def attempt(self) -> int:
        """Which attempt this is, from 1: how often user code has begun with it, this time included."""
        return self._run.attempts + 1

    @property
    def redelivery_reason(self) -> str | None:
        """Why it came back, where it was given to a consumer of this queue before.

        `nacked`, `expired` (its lease), `session_ended`, or `max_deliveries` (of a poisoned key's message that was
        put behind the others). None on a first delivery, or after it was given back in good order.
        """
        note = self._run.note
        return None if note is None or note.get("origin") else str(note.get("kind", ""))

    @property
    def last_error(self) -> str | None:
        """What the last attempt said when it failed; None where it said nothing."""
        note = self._run.note
        return None if note is None else str(note.get("text", "")) or None

    @property
    def dead_letter(self) -> DeathNote | None:
        """Whence and why the message came, if it died in another queue and lies in the dead-letter queue here."""
        note = self._run.note
        return death_note(note, "") if note is not None and note.get("origin") else None

    @property
    def position(self) -> str:
        """Where the message lies: the opaque text that its sender's receipt holds too."""
        run = self._run
        return format_position(run.owner.group, run.zxid, run.first_index + self._offset)

    @property
    def message_id(self) -> str:
        """The id that the sender gave, else the one that every message gets."""
        run = self._run
        given = run.message_id(self._offset)
        return default_message_id(run.id_base, run.first_index + self._offset) if given is None else given

    @property
    def published_at(self) -> datetime:
        """When it was published: an aware UTC datetime, by the broker's clock."""
        return _EPOCH + timedelta(milliseconds=self._run.published_ms)

    @property
    def lease_lost(self) -> bool:
        """Whether the lease is known to be over without a verdict."""
        return not self._verdict and self._run.owner.is_lost(self.tag)

    @property
    def attachment(self) -> Attachment:
        """The consumer's connection that delivered it; for the client's own use."""
        owner: Attachment = self._run.owner
        return owner

    async def ack(self, confirm: bool = False) -> None:
        """Say that the message is dealt with; it will not come again.

        Does not wait for the broker unless *confirm*, or unless very many verdicts are under way.

        Args:
            confirm: Wait until the verdict is committed.

        Raises:
            LeaseLost: The lease is over: somebody else may have the message now.
            AlreadySettled: It got another verdict before.
            OutcomeUnknown: Only with *confirm*: the connection broke before the answer, or none came within the
                client's `request_timeout`.

        """
        owner: Attachment = self._run.owner
        if self._settle(owner, ACK) or confirm:
            await owner.settled(self.tag if confirm else None)

    async def nack(self, delay: Duration | None = None, reason: str = "") -> None:
        """Say that the attempt failed; the message comes again, unless it has used up the queue's `max_deliveries`.

        Args:
            delay: Seconds or timedelta until then; default: the queue's retry policy.
            reason: Why; at most 200 characters are kept.

        Raises:
            LeaseLost: The lease is over.
            AlreadySettled: It got another verdict before.

        """
        owner: Attachment = self._run.owner
        if self._settle(owner, _nack(delay, reason)):
            await owner.settled(None)

    async def reject(self, reason: str = "") -> None:
        """Say that no attempt will succeed: the message becomes a dead letter at once.

        Args:
            reason: Why; at most 200 characters are kept beside the dead letter.

        Raises:
            LeaseLost: The lease is over.
            AlreadySettled: It got another verdict before.

        """
        owner: Attachment = self._run.owner
        verdict = Verdict(VERDICT_REJECT, None, reason_of(reason))
        if self._settle(owner, verdict):
            self.rejected(verdict.reason)
            await owner.settled(None)

    async def extend(self, seconds: Duration) -> None:
        """Let the lease end *seconds* from now (at least); waits for the broker's answer.

        Raises:
            LeaseLost: The lease is over.
            AlreadySettled: The message got a verdict before.
            OutcomeUnknown: No answer came within the client's `request_timeout`.

        """
        duration = seconds_of(seconds, "seconds", minimum=EXTEND_SECONDS_MIN)
        if self._verdict:
            raise AlreadySettled(f"the message was {_VERDICT_NAMES[self._verdict]} before")
        owner: Attachment = self._run.owner
        await owner.extend([self.tag, self.tag], duration)

    # --- as a request ----------------------------------------------------------------------------------------------

    @property
    def wants_reply(self) -> bool:
        """Whether somebody asked, who waits for a reply or wants it in a queue."""
        return wants_reply(self.headers, self._run.published_ms)

    async def reply(self, body: Body, headers: Mapping[str, Any] | None = None) -> bool:
        """Reply to the request that the message is; wait until the broker has taken the reply.

        Settles nothing: acknowledge the message as any other, and reply before, so that it comes again if you die.

        Args:
            body: The payload.
            headers: What stands beside it.

        Returns:
            Whether somebody may get it. False where nobody waits any more, or no reply is wanted.

        Raises:
            MessageTooLarge: Whoever asked takes no frame of this size.
            RequestTimeout: No answer from the broker within the client's `request_timeout`.
            QueueNotFound: The queue that the request names in its header `reply-to` does not exist.

        """
        return await self._reply(body, headers, None)

    async def reply_error(self, reason: str, *, retryable: bool = False) -> bool:
        """Reply that the request failed: whoever waits gets `RequestFailed` with *reason*; otherwise as `reply`.

        `Reject` and `reject` say the same by themselves, as no attempt follows.
        """
        return await self._reply(b"", None, RequestFailed(str(reason), retryable=retryable))

    def rejected(self, reason: str) -> None:
        """No attempt will follow: tell whoever waits for a reply, if anybody does; for the client's own use."""
        headers = self.headers
        if headers:
            owner: Attachment = self._run.owner
            owner.host.replying.fail_soon(headers, self._run.published_ms, reason or "the request was rejected")

    async def _reply(self, body: Body, headers: Mapping[str, Any] | None, error: RequestFailed | None) -> bool:
        owner: Attachment = self._run.owner
        replying = owner.host.replying
        return await replying.reply(self.headers, self._run.published_ms, self.message_id, body, headers, error)

    def _settle(self, owner: Attachment, verdict: Verdict) -> bool:
        """Give the verdict; False if it had the same one before."""
        before = self._verdict
        if not before:
            if owner.settle(self.tag, verdict):
                self._verdict = verdict.code
                return True
            if owner.is_lost(self.tag):
                raise owner.lease_lost(1, [self.tag, self.tag])
            # The batch, or ack_through, has settled it.
            before = (self._batch.verdict if self._batch is not None else 0) or VERDICT_ACK
        if before != verdict.code:
            raise AlreadySettled(f"the message was {_VERDICT_NAMES[before]} before")
        return False

    # --- as part of a transaction ----------------------------------------------------------------------------------

    def join(self, transaction: Joinable, verdict: Verdict) -> tuple[Attachment | None, FlatRanges]:
        """Get *verdict* when *transaction* commits; for the client's own use.

        Returns:
            Whose message it is, and its tag as a range; nobody where it has this verdict from the transaction already.

        Raises:
            LeaseLost: The lease is over.
            AlreadySettled: It got a verdict before.

        """
        if self._transaction is transaction and self._verdict == verdict.code:
            return None, []
        owner: Attachment = self._run.owner
        if not self._verdict and not owner.held_of([self.tag, self.tag])[0]:
            if owner.is_lost(self.tag):
                raise owner.lease_lost(1, [self.tag, self.tag])
            self._verdict = (self._batch.verdict if self._batch is not None else 0) or VERDICT_ACK
        if self._verdict:
            raise AlreadySettled(f"the message was {_VERDICT_NAMES[self._verdict]} before")
        self._transaction, self._verdict = transaction, verdict.code
        return owner, [self.tag, self.tag]

    def leave_transaction(self, *, done: bool = False) -> None:
        """Be part of the transaction no more: settled where that is *done*, else as before."""
        self._transaction = None
        if not done:
            self._verdict = 0

    def give_back(self, verdict: Verdict) -> None:
        """Get this verdict because the transaction was rolled back after the message's own block."""
        owner: Attachment = self._run.owner
        if owner.settle(self.tag, verdict):
            self._verdict = verdict.code

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        signal = isinstance(error, (Retry, Reject))
        if self._transaction is not None:
            self._transaction.left(self)
            return False
        if self._verdict:
            return signal
        owner: Attachment = self._run.owner
        verdict = verdict_on(error)
        # A lease that ended meanwhile was reported to the consumer when it did: the handler's loop must survive it.
        if owner.settle(self.tag, verdict):
            self._verdict = verdict.code
            if verdict.code == VERDICT_REJECT:
                self.rejected(verdict.reason)
            if verdict is not RELEASE:
                await owner.settled(None)  # noqa: ASYNC102 - bounded by close_timeout
        return signal

    def __del__(self) -> None:
        if not self._verdict and self._batch is None:
            self._run.owner.dropped.note(self.tag, self.tag)

    def __repr__(self) -> str:
        return f"<Message {self.message_id} attempt {self.attempt}, {len(self.body)} bytes>"


class Batch(Sequence[Message]):
    """Messages that one `receive` returned; may be empty. Its verdicts reach all of them that have none yet.

    `async with batch:` settles them as `async with message:` settles one.

    Attributes:
        verdict: Code of the verdict that the batch got, 0 before.

    """

    __slots__ = ("_count", "_messages", "_owner", "_slices", "_transaction", "verdict")

    def __init__(self, owner: Attachment | None, slices: list[Slice]) -> None:
        self._owner = owner
        self._slices = slices
        self._count = sum(piece.stop - piece.start for piece in slices)
        self._messages: list[Message] | None = None
        self._transaction: Joinable | None = None
        self.verdict = 0

    def __len__(self) -> int:
        return self._count

    def _all(self) -> list[Message]:
        if self._messages is None:
            self._messages = [
                Message(run, offset, self) for run, start, stop in self._slices for offset in range(start, stop)
            ]
        return self._messages

    def __iter__(self) -> Iterator[Message]:
        return iter(self._all())

    @overload
    def __getitem__(self, index: int) -> Message: ...
    @overload
    def __getitem__(self, index: slice) -> list[Message]: ...
    def __getitem__(self, index: int | slice) -> Message | list[Message]:
        return self._all()[index]

    @property
    def bodies(self) -> list[bytes]:
        """All payloads, without making a message of each."""
        if len(self._slices) == 1:
            run, start, stop = self._slices[0]
            return run.bodies[start:stop]
        bodies: list[bytes] = []
        for run, start, stop in self._slices:
            bodies += run.bodies if stop - start == run.count else run.bodies[start:stop]
        return bodies

    async def ack(self, confirm: bool = False) -> None:
        """Acknowledge every message of the batch; arguments and errors as for `Message.ack`."""
        await self._settle(ACK, confirm=confirm)

    async def nack(self, delay: Duration | None = None, reason: str = "") -> None:
        """Nack every message of the batch; arguments and errors as for `Message.nack`."""
        await self._settle(_nack(delay, reason))

    async def reject(self, reason: str = "") -> None:
        """Reject every message of the batch; arguments and errors as for `Message.reject`."""
        verdict = Verdict(VERDICT_REJECT, None, reason_of(reason))
        await self._settle(verdict)
        for message in self._all():
            message.rejected(verdict.reason)

    async def extend(self, seconds: Duration) -> None:
        """Extend the lease of every message without a verdict; errors as for `Message.extend`."""
        duration = seconds_of(seconds, "seconds", minimum=EXTEND_SECONDS_MIN)
        if self.verdict:
            raise AlreadySettled(f"the batch was {_VERDICT_NAMES[self.verdict]} before")
        if self._owner is not None:
            await self._owner.extend(self._ranges(), duration)

    def _ranges(self) -> list[int]:
        ranges: list[int] = []
        for run, start, stop in self._slices:
            first, last = run.first_tag + start, run.first_tag + stop - 1
            if ranges and ranges[-1] == first - 1:
                ranges[-1] = last
            else:
                ranges += (first, last)
        return ranges

    async def _settle(self, verdict: Verdict, *, confirm: bool = False) -> None:
        owner = self._owner
        if owner is None:
            return
        if self.verdict:
            if self.verdict != verdict.code:
                raise AlreadySettled(f"the batch was {_VERDICT_NAMES[self.verdict]} before")
            return
        ranges = self._ranges()
        lost = owner.settle_ranges(ranges, verdict)
        self.verdict = verdict.code
        if confirm:
            refused = await owner.confirmed()
            lost += sum(count_tags(refused.take(first, last)) for first, last in pairs(ranges))
        else:
            await owner.settled(None)
        if lost:
            raise owner.lease_lost(lost, ranges)

    # --- as part of a transaction ----------------------------------------------------------------------------------

    def join(self, transaction: Joinable, verdict: Verdict) -> tuple[Attachment | None, FlatRanges]:
        """Get *verdict* when *transaction* commits, all messages that have none yet; as `Message.join`."""
        owner = self._owner
        if owner is None or (self._transaction is transaction and self.verdict == verdict.code):
            return None, []
        if self.verdict:
            raise AlreadySettled(f"the batch was {_VERDICT_NAMES[self.verdict]} before")
        held, lost = owner.held_of(self._ranges())
        if lost:
            raise owner.lease_lost(lost, self._ranges())
        self._transaction, self.verdict = transaction, verdict.code
        return owner, held

    def leave_transaction(self, *, done: bool = False) -> None:
        """As `Message.leave_transaction`."""
        self._transaction = None
        if not done:
            self.verdict = 0

    def give_back(self, verdict: Verdict) -> None:
        """As `Message.give_back`."""
        if self._owner is not None:
            self._owner.settle_ranges(self._ranges(), verdict)
            self.verdict = verdict.code

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        signal = isinstance(error, (Retry, Reject))
        if self._transaction is not None:
            self._transaction.left(self)
            return False
        if self.verdict or self._owner is None:
            return signal
        verdict = verdict_on(error)
        self._owner.settle_ranges(self._ranges(), verdict)
        self.verdict = verdict.code
        if verdict is not RELEASE:
            await self._owner.settled(None)  # noqa: ASYNC102 - bounded by close_timeout
        return signal

    def __del__(self) -> None:
        # Each of its messages keeps it, so nobody has any of them.
        if not self.verdict and self._owner is not None:
            for first, last in pairs(self._ranges()):
                self._owner.dropped.note(first, last)

    def __repr__(self) -> str:
        return f"<Batch of {self._count} messages>"


__all__ = ["ACK", "NACK", "RELEASE", "Batch", "Message", "verdict_on"]
