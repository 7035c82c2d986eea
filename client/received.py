"""A delivered message and a batch of them, as far as it matters not who waits how: facts, verdicts, transactions.

`message` adds what tasks await, `blocking.message` what threads call. What changes the books of an attachment
(`settle_now`, `settle_all`, `join`, ...) runs on the event loop that owns them; the facts may be read anywhere.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, overload

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


def nack_of(delay: Duration | None, reason: str) -> Verdict:
    """Return the verdict "again", with what is given of *delay* and *reason*."""
    if delay is None and not reason:
        return NACK
    return Verdict(VERDICT_NACK, None if delay is None else seconds_of(delay, "delay"), reason_of(reason))


def reject_of(reason: str) -> Verdict:
    """Return the verdict "never again"."""
    return Verdict(VERDICT_REJECT, None, reason_of(reason))


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

    def left(self, message: ReceivedMessage | ReceivedBatch[Any]) -> None:
        """The message's own block is over."""


class ReceivedMessage:
    """One delivered message: what is known of it, and its verdict.

    Attributes:
        body: The payload.
        tag: The delivery's number, for logs; counted by the consumer's connection.

    """

    __slots__ = ("_batch", "_offset", "_run", "_transaction", "_value", "_verdict", "body", "tag")

    def __init__(self, run: Run, offset: int, batch: ReceivedBatch[Any] | None = None) -> None:
        self._run = run
        self._offset = offset
        self._batch = batch
        self._verdict = 0
        self._transaction: Joinable | None = None
        self.body: bytes = run.bodies[offset]
        self.tag: int = run.first_tag + offset

    @property
    def value(self) -> Any:
        """The body as the codec of a handler of `App` decoded it; where none did, the body itself."""
        try:
            return self._value
        except AttributeError:
            return self.body

    def set_value(self, value: Any) -> None:
        """Let *value* be what the body means; for the client's own use."""
        self._value = value

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

    # --- its verdict ----------------------------------------------------------------------------------------------

    @property
    def verdict(self) -> int:
        """Code of the verdict that the message got, alone or with its batch; 0 before."""
        return self._verdict or (self._batch.verdict if self._batch is not None else 0)

    def settle_now(self, verdict: Verdict) -> bool:
        """Give the verdict; False if it had the same one before.

        Raises:
            LeaseLost: The lease is over.
            AlreadySettled: It got another verdict before.

        """
        owner: Attachment = self._run.owner
        before = self._verdict
        if not before:
            if owner.settle(self.tag, verdict):
                self._verdict = verdict.code
                if verdict.code == VERDICT_REJECT:
                    self.rejected(verdict.reason)
                return True
            if owner.is_lost(self.tag):
                raise owner.lease_lost(1, [self.tag, self.tag])
            # The batch, or ack_through, has settled it.
            before = (self._batch.verdict if self._batch is not None else 0) or VERDICT_ACK
        if before != verdict.code:
            raise already_settled("message", before)
        return False

    def settle_with(self, error: BaseException | None) -> bool:
        """Give the verdict that the end of the message's own block means; return whether user code has to wait for it.

        A lease that ended meanwhile was reported to the consumer when it did: the handler's loop must survive it.
        """
        if self._transaction is not None:
            self._transaction.left(self)
            return False
        if self._verdict:
            return False
        owner: Attachment = self._run.owner
        verdict = verdict_on(error)
        if not owner.settle(self.tag, verdict):
            return False
        self._verdict = verdict.code
        if verdict.code == VERDICT_REJECT:
            self.rejected(verdict.reason)
        return verdict is not RELEASE

    def ends_here(self, error: BaseException | None) -> bool:
        """Whether *error*, which leaves the message's own block, said what is to become of it, and is used up."""
        return self._transaction is None and isinstance(error, (Retry, Reject))

    def tags_to_extend(self) -> tuple[Attachment, FlatRanges]:
        """Return whose lease is to be extended.

        Raises:
            AlreadySettled: It got a verdict before.

        """
        if self._verdict:
            raise already_settled("message", self._verdict)
        return self._run.owner, [self.tag, self.tag]

    # --- as a request ----------------------------------------------------------------------------------------------

    @property
    def wants_reply(self) -> bool:
        """Whether somebody asked, who waits for a reply or wants it in a queue."""
        return wants_reply(self.headers, self._run.published_ms)

    def rejected(self, reason: str) -> None:
        """No attempt will follow: tell whoever waits for a reply, if anybody does; for the client's own use."""
        headers = self.headers
        if headers:
            owner: Attachment = self._run.owner
            owner.host.replying.fail_soon(headers, self._run.published_ms, reason or "the request was rejected")

    async def send_reply(self, body: Body, headers: Mapping[str, Any] | None, error: RequestFailed | None) -> bool:
        """Reply, or say that the request failed; return whether somebody may get it. For the client's own use."""
        owner: Attachment = self._run.owner
        replying = owner.host.replying
        return await replying.reply(self.headers, self._run.published_ms, self.message_id, body, headers, error)

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
            raise already_settled("message", self._verdict)
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

    def __del__(self) -> None:
        if not self._verdict and self._batch is None:
            self._run.owner.dropped.note(self.tag, self.tag)

    def __repr__(self) -> str:
        return f"<Message {self.message_id} attempt {self.attempt}, {len(self.body)} bytes>"


def already_settled(what: str, code: int) -> AlreadySettled:
    """Return the error for a second verdict on a "message" or "batch" that got the one with *code* before."""
    return AlreadySettled(f"the {what} was {_VERDICT_NAMES[code]} before")


M = TypeVar("M", bound=ReceivedMessage)


class ReceivedBatch(Sequence[M]):
    """Messages that one `receive` returned: what is known of them, and their common verdict.

    Attributes:
        verdict: Code of the verdict that the batch got, 0 before.

    """

    __slots__ = ("_count", "_messages", "_owner", "_slices", "_transaction", "verdict")

    def __init__(self, owner: Attachment | None, slices: list[Slice]) -> None:
        self._owner = owner
        self._slices = slices
        self._count = sum(piece.stop - piece.start for piece in slices)
        self._messages: list[M] | None = None
        self._transaction: Joinable | None = None
        self.verdict = 0

    @abstractmethod
    def _message(self, run: Run, offset: int) -> M:
        """Return one of the messages."""

    def __len__(self) -> int:
        return self._count

    def _all(self) -> list[M]:
        if self._messages is None:
            self._messages = [
                self._message(run, offset) for run, start, stop in self._slices for offset in range(start, stop)
            ]
        return self._messages

    def __iter__(self) -> Iterator[M]:
        return iter(self._all())

    @overload
    def __getitem__(self, index: int) -> M: ...
    @overload
    def __getitem__(self, index: slice) -> list[M]: ...
    def __getitem__(self, index: int | slice) -> M | list[M]:
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

    # --- their verdict --------------------------------------------------------------------------------------------

    def _ranges(self) -> list[int]:
        ranges: list[int] = []
        for run, start, stop in self._slices:
            first, last = run.first_tag + start, run.first_tag + stop - 1
            if ranges and ranges[-1] == first - 1:
                ranges[-1] = last
            else:
                ranges += (first, last)
        return ranges

    def settle_all(self, verdict: Verdict) -> tuple[Attachment | None, FlatRanges, int]:
        """Give the verdict to all messages that have none yet.

        Returns:
            Whose messages they are, nobody where the batch is empty or had this verdict before; their tags; and for how
            many it is too late.

        Raises:
            AlreadySettled: The batch got another verdict before.

        """
        owner = self._owner
        if owner is None:
            return None, [], 0
        if self.verdict:
            if self.verdict != verdict.code:
                raise already_settled("batch", self.verdict)
            return None, [], 0
        ranges = self._ranges()
        lost = owner.settle_ranges(ranges, verdict)
        self._settled(verdict)
        return owner, ranges, lost

    def _settled(self, verdict: Verdict) -> None:
        self.verdict = verdict.code
        if verdict.code == VERDICT_REJECT:
            for message in self._all():
                message.rejected(verdict.reason)

    async def settle(self, verdict: Verdict, *, confirm: bool = False) -> None:
        """Give the verdict to all messages that have none yet, and wait as `Message.ack` does.

        Raises:
            LeaseLost: For some of them it is too late; the others have it.
            AlreadySettled: The batch got another verdict before.
            OutcomeUnknown: Only with *confirm*: no answer.

        """
        owner, ranges, lost = self.settle_all(verdict)
        if owner is None:
            return
        if confirm:
            refused = await owner.confirmed()
            lost += sum(count_tags(refused.take(first, last)) for first, last in pairs(ranges))
        else:
            await owner.settled(None)
        if lost:
            raise owner.lease_lost(lost, ranges)

    def settle_with(self, error: BaseException | None) -> Attachment | None:
        """As `ReceivedMessage.settle_with`; return for whose verdicts user code has to wait."""
        if self._transaction is not None:
            self._transaction.left(self)
            return None
        owner = self._owner
        if self.verdict or owner is None:
            return None
        verdict = verdict_on(error)
        owner.settle_ranges(self._ranges(), verdict)
        self._settled(verdict)
        return None if verdict is RELEASE else owner

    def ends_here(self, error: BaseException | None) -> bool:
        """As `ReceivedMessage.ends_here`."""
        return self._transaction is None and isinstance(error, (Retry, Reject))

    def tags_to_extend(self) -> tuple[Attachment | None, FlatRanges]:
        """As `ReceivedMessage.tags_to_extend`."""
        if self.verdict:
            raise already_settled("batch", self.verdict)
        return self._owner, self._ranges()

    def detach(self) -> tuple[Attachment | None, list[Slice]]:
        """Return whose messages they are and which; the batch is empty then. For the client's own use."""
        owner, slices = self._owner, self._slices
        self._owner, self._slices, self._count, self._messages = None, [], 0, []
        return owner, slices

    # --- as part of a transaction ----------------------------------------------------------------------------------

    def join(self, transaction: Joinable, verdict: Verdict) -> tuple[Attachment | None, FlatRanges]:
        """Get *verdict* when *transaction* commits, all messages that have none yet; as `Message.join`."""
        owner = self._owner
        if owner is None or (self._transaction is transaction and self.verdict == verdict.code):
            return None, []
        if self.verdict:
            raise already_settled("batch", self.verdict)
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

    def __del__(self) -> None:
        # Each of its messages keeps it, so nobody has any of them.
        if not self.verdict and self._owner is not None:
            for first, last in pairs(self._ranges()):
                self._owner.dropped.note(first, last)

    def __repr__(self) -> str:
        return f"<Batch of {self._count} messages>"
