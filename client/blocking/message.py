"""A message, and a batch, as a thread that handles it sees them: `received` with verdicts that any thread may give.

A verdict is posted to the I/O thread and the handler goes on; only where it may be too late for it, or where the broker
must confirm it, does the thread wait for an answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from sluicemq.client.blocking.io_thread import IoThread
from sluicemq.client.errors import RequestFailed
from sluicemq.client.options import Body, Duration, seconds_of
from sluicemq.client.received import (
    ACK,
    EXTEND_SECONDS_MIN,
    ReceivedBatch,
    ReceivedMessage,
    already_settled,
    nack_of,
    reject_of,
    verdict_on,
)
from sluicemq.client.settlement import Verdict
from sluicemq.wire.messages import VERDICT_REJECT, VERDICT_RELEASE

if TYPE_CHECKING:
    from sluicemq.client.attachment import Attachment
    from sluicemq.client.delivery_buffer import Run, Slice


def surely_held(owner: Attachment, tag: int) -> bool:
    """Whether the lease of *tag* certainly holds, as far as another thread than the loop's can see."""
    if owner.over or owner.host.cumulative or owner.now() >= owner.book.safe_until:
        return False
    try:
        return not owner.is_lost(tag)
    except (IndexError, RuntimeError):  # the loop changes it right now
        return False


class Message(ReceivedMessage):
    """One delivered message. Its methods may be called from any thread.

    `with message:` acknowledges it on success, nacks it by the queue's retry policy on an exception (the next attempt
    finds its type and text in `last_error`), and gives it back without counting an attempt on KeyboardInterrupt.
    `Retry` and `Reject` say something else, and end there.

    One that is let go of without a verdict is nacked by the retry policy half a minute later, or after its lease if
    that is shorter, unless the consumer acknowledges by `ack_through`.

    Attributes:
        body: The payload.
        tag: The delivery's number, for logs; counted by the consumer's connection.

    """

    __slots__ = ("_io",)

    def __init__(self, io: IoThread, run: Run, offset: int, batch: Batch | None = None) -> None:
        super().__init__(run, offset, batch)
        self._io = io

    @property
    def run(self) -> Run:
        """With what it was delivered; for the client's own use."""
        return self._run

    def give_up(self) -> None:
        """Nobody will have this object, so that nobody shall miss its verdict; for the client's own use."""
        self._verdict = VERDICT_RELEASE

    def ack(self, confirm: bool = False) -> None:
        """Say that the message is dealt with; it will not come again.

        Does not wait for the broker unless *confirm*.

        Args:
            confirm: Wait until the verdict is committed.

        Raises:
            LeaseLost: The lease is over: somebody else may have the message now.
            AlreadySettled: It got another verdict before.
            OutcomeUnknown: Only with *confirm*: the connection broke before the answer, or none came within the
                client's `request_timeout`.

        """
        if confirm:
            self._io.call(self._confirmed)
        else:
            self._give(ACK)

    async def _confirmed(self) -> None:
        self.settle_now(ACK)
        await self.attachment.settled(self.tag)

    def nack(self, delay: Duration | None = None, reason: str = "") -> None:
        """Say that the attempt failed; the message comes again, unless it has used up the queue's `max_deliveries`.

        Args:
            delay: Seconds or timedelta until then; default: the queue's retry policy.
            reason: Why; at most 200 characters are kept.

        Raises:
            LeaseLost: The lease is over.
            AlreadySettled: It got another verdict before.

        """
        self._give(nack_of(delay, reason))

    def reject(self, reason: str = "") -> None:
        """Say that no attempt will succeed: the message becomes a dead letter at once.

        Args:
            reason: Why; at most 200 characters are kept beside the dead letter.

        Raises:
            LeaseLost: The lease is over.
            AlreadySettled: It got another verdict before.

        """
        self._give(reject_of(reason))

    def extend(self, seconds: Duration) -> None:
        """Let the lease end *seconds* from now (at least); waits for the broker's answer.

        Raises:
            LeaseLost: The lease is over.
            AlreadySettled: The message got a verdict before.
            OutcomeUnknown: No answer came within the client's `request_timeout`.

        """
        duration = seconds_of(seconds, "seconds", minimum=EXTEND_SECONDS_MIN)
        owner, tags = self.tags_to_extend()
        self._io.call(owner.extend, tags, duration)

    # --- as a request ---------------------------------------------------------------------------------------------

    def reply(self, body: Body, headers: Mapping[str, Any] | None = None) -> bool:
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
        return self._io.call(self.send_reply, body, headers, None)

    def reply_error(self, reason: str, *, retryable: bool = False) -> bool:
        """Reply that the request failed: whoever waits gets `RequestFailed` with *reason*; otherwise as `reply`.

        `Reject` and `reject` say the same by themselves, as no attempt follows.
        """
        return self._io.call(self.send_reply, b"", None, RequestFailed(str(reason), retryable=retryable))

    # --- verdicts -------------------------------------------------------------------------------------------------

    def _give(self, verdict: Verdict) -> None:
        before = self.verdict
        if before:
            if before != verdict.code:
                raise already_settled("message", before)
            return
        owner: Attachment = self._run.owner
        if verdict.code != VERDICT_REJECT and surely_held(owner, self.tag):
            self._io.post(owner.settle, self.tag, verdict)
            self._verdict = verdict.code
        else:
            self._io.run(self.settle_now, verdict)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        ends_here = self.ends_here(error)
        owner: Attachment = self._run.owner
        if self._io.error is not None:
            return ends_here  # the child of a fork leaves the block; the message is the parent's
        verdict = verdict_on(error)
        quick = self._transaction is None and verdict.code != VERDICT_REJECT
        if quick and not self.verdict and surely_held(owner, self.tag):
            self._io.post(owner.settle, self.tag, verdict)
            self._verdict = verdict.code
        elif self._transaction is not None or not self.verdict:
            self._io.run(self.settle_with, error)
        return ends_here


class Batch(ReceivedBatch[Message]):
    """Messages that one `receive` returned; may be empty. Its verdicts reach all of them that have none yet.

    `with batch:` settles them as `with message:` settles one.

    Attributes:
        verdict: Code of the verdict that the batch got, 0 before.

    """

    __slots__ = ("_io",)

    def __init__(self, io: IoThread, owner: Attachment | None, slices: list[Slice]) -> None:
        super().__init__(owner, slices)
        self._io = io

    def _message(self, run: Run, offset: int) -> Message:
        return Message(self._io, run, offset, self)

    def ack(self, confirm: bool = False) -> None:
        """Acknowledge every message of the batch; arguments and errors as for `Message.ack`."""
        self._io.call(self.settle, ACK, confirm=confirm)

    def nack(self, delay: Duration | None = None, reason: str = "") -> None:
        """Nack every message of the batch; arguments and errors as for `Message.nack`."""
        self._io.call(self.settle, nack_of(delay, reason))

    def reject(self, reason: str = "") -> None:
        """Reject every message of the batch; arguments and errors as for `Message.reject`."""
        self._io.call(self.settle, reject_of(reason))

    def extend(self, seconds: Duration) -> None:
        """Extend the lease of every message without a verdict; errors as for `Message.extend`."""
        duration = seconds_of(seconds, "seconds", minimum=EXTEND_SECONDS_MIN)
        owner, tags = self.tags_to_extend()
        if owner is not None:
            self._io.call(owner.extend, tags, duration)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        ends_here = self.ends_here(error)
        if self._io.error is None:
            self._io.run(self.settle_with, error)
        return ends_here
