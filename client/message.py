"""A message as a handler sees it, and a batch of them: `received` with what a task awaits."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from sluicemq.client.errors import RequestFailed
from sluicemq.client.options import Body, Duration, seconds_of
from sluicemq.client.received import (
    ACK,
    EXTEND_SECONDS_MIN,
    ReceivedBatch,
    ReceivedMessage,
    nack_of,
    reject_of,
)

if TYPE_CHECKING:
    from sluicemq.client.delivery_buffer import Run


class Message(ReceivedMessage):
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

    __slots__ = ()

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
        if self.settle_now(ACK) or confirm:
            await self.attachment.settled(self.tag if confirm else None)

    async def nack(self, delay: Duration | None = None, reason: str = "") -> None:
        """Say that the attempt failed; the message comes again, unless it has used up the queue's `max_deliveries`.

        Args:
            delay: Seconds or timedelta until then; default: the queue's retry policy.
            reason: Why; at most 200 characters are kept.

        Raises:
            LeaseLost: The lease is over.
            AlreadySettled: It got another verdict before.

        """
        if self.settle_now(nack_of(delay, reason)):
            await self.attachment.settled(None)

    async def reject(self, reason: str = "") -> None:
        """Say that no attempt will succeed: the message becomes a dead letter at once.

        Args:
            reason: Why; at most 200 characters are kept beside the dead letter.

        Raises:
            LeaseLost: The lease is over.
            AlreadySettled: It got another verdict before.

        """
        if self.settle_now(reject_of(reason)):
            await self.attachment.settled(None)

    async def extend(self, seconds: Duration) -> None:
        """Let the lease end *seconds* from now (at least); waits for the broker's answer.

        Raises:
            LeaseLost: The lease is over.
            AlreadySettled: The message got a verdict before.
            OutcomeUnknown: No answer came within the client's `request_timeout`.

        """
        duration = seconds_of(seconds, "seconds", minimum=EXTEND_SECONDS_MIN)
        owner, tags = self.tags_to_extend()
        await owner.extend(tags, duration)

    # --- as a request ----------------------------------------------------------------------------------------------

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
        return await self.send_reply(body, headers, None)

    async def reply_error(self, reason: str, *, retryable: bool = False) -> bool:
        """Reply that the request failed: whoever waits gets `RequestFailed` with *reason*; otherwise as `reply`.

        `Reject` and `reject` say the same by themselves, as no attempt follows.
        """
        return await self.send_reply(b"", None, RequestFailed(str(reason), retryable=retryable))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        ends_here = self.ends_here(error)
        if self.settle_with(error):
            await self.attachment.settled(None)  # noqa: ASYNC102 - bounded by close_timeout
        return ends_here


class Batch(ReceivedBatch[Message]):
    """Messages that one `receive` returned; may be empty. Its verdicts reach all of them that have none yet.

    `async with batch:` settles them as `async with message:` settles one.

    Attributes:
        verdict: Code of the verdict that the batch got, 0 before.

    """

    __slots__ = ()

    def _message(self, run: Run, offset: int) -> Message:
        return Message(run, offset, self)

    async def ack(self, confirm: bool = False) -> None:
        """Acknowledge every message of the batch; arguments and errors as for `Message.ack`."""
        await self.settle(ACK, confirm=confirm)

    async def nack(self, delay: Duration | None = None, reason: str = "") -> None:
        """Nack every message of the batch; arguments and errors as for `Message.nack`."""
        await self.settle(nack_of(delay, reason))

    async def reject(self, reason: str = "") -> None:
        """Reject every message of the batch; arguments and errors as for `Message.reject`."""
        await self.settle(reject_of(reason))

    async def extend(self, seconds: Duration) -> None:
        """Extend the lease of every message without a verdict; errors as for `Message.extend`."""
        duration = seconds_of(seconds, "seconds", minimum=EXTEND_SECONDS_MIN)
        owner, tags = self.tags_to_extend()
        if owner is not None:
            await owner.extend(tags, duration)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        ends_here = self.ends_here(error)
        owner = self.settle_with(error)
        if owner is not None:
            await owner.settled(None)  # noqa: ASYNC102 - bounded by close_timeout
        return ends_here
