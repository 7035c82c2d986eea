"""Transactions and prepared messages for threads: the async ones, entered and left on the I/O thread."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self, Unpack

from sluicemq.client.blocking.io_thread import IoThread, at_once
from sluicemq.client.blocking.message import Batch, Message
from sluicemq.client.half import Half as AsyncHalf
from sluicemq.client.options import Body, Delivery, Duration
from sluicemq.client.receipts import Receipt, Receipts
from sluicemq.client.transactions import Transaction as AsyncTransaction


class Transaction:
    """Sends and verdicts that hold together; made by `Client.transaction`, used with `with`, by one thread at a time.

    Leaving the block commits; an exception rolls back, which takes nothing but forgetting. A rolled back transaction
    gives its messages back to whoever had them: the `with message` around it then does what it always does.
    """

    def __init__(self, io: IoThread, inner: AsyncTransaction) -> None:
        self._io = io
        self._inner = inner

    @property
    def receipts(self) -> Receipts | list[Receipt]:
        """The receipts of its sends, in their order, once it is committed; empty before."""
        return self._inner.receipts

    @property
    def committed(self) -> bool:
        """Whether all of it is done."""
        return self._inner.committed

    def send(
        self,
        destination: str,
        body: Body,
        key: str | None = None,
        subject: str | None = None,
        headers: Mapping[str, Any] | None = None,
        message_id: str | None = None,
        **delivery: Unpack[Delivery],
    ) -> None:
        """Send one message when the transaction commits; arguments as for `Producer.send`. Waits for nothing.

        Raises:
            TypeError: An argument has the wrong type.
            MessageTooLarge: The message is larger than the broker takes.
            BatchTooLarge: The transaction would be larger than the broker takes.
            Conflict: The transaction is over.

        """
        at_once(self._inner.send(destination, body, key, subject, headers, message_id, **delivery))

    def ack(self, message: Message | Batch) -> None:
        """Acknowledge a message, or a batch of them, when the transaction commits.

        Raises:
            LeaseLost: The lease is over: nothing of the transaction can be done any more, if it was to settle that.
            AlreadySettled: It got a verdict before.
            Conflict: The transaction is over, or has messages of another connection.

        """
        self._io.call(self._inner.ack, message)

    def nack(self, message: Message | Batch, delay: Duration | None = None, reason: str = "") -> None:
        """Let it come again when the transaction commits; arguments as for `Message.nack`, errors as for `ack`."""
        self._io.call(self._inner.nack, message, delay, reason)

    def reject(self, message: Message | Batch, reason: str = "") -> None:
        """Let it die when the transaction commits; errors as for `ack`."""
        self._io.call(self._inner.reject, message, reason)

    def commit(self) -> None:
        """Do all of it, and wait until that is durable. Leaving the block does this too, unless it was done before.

        After `OutcomeUnknown` it may be called again: it is done once, however often it is sent.

        Raises:
            LeaseLost: The lease of a message that it settles is over: nothing was done.
            QueueNotFound, QueueFull, QueuePaused: A destination does not take its messages: nothing was done.
            OutcomeUnknown: No answer in time.
            BatchTooLarge: More than the broker takes in one.
            SluiceError: What else the broker refused it for: nothing was done.

        """
        self._io.call(self._inner.commit)

    def rollback(self) -> None:
        """Forget all of it. Its messages are as they were before; leaving the block does nothing then."""
        self._io.call(self._inner.rollback)

    def __enter__(self) -> Self:
        self._io.call(self._inner.__aenter__)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        return self._io.error is None and self._io.call(self._inner.__aexit__, kind, error, None)

    def __repr__(self) -> str:
        return repr(self._inner)


class Half:
    """A prepared message; made by `Client.prepare`, used with `with`.

    Leaving the block commits it, an exception rolls it back; where neither can be known, the check-back decides.
    """

    def __init__(self, io: IoThread, inner: AsyncHalf) -> None:
        self._io = io
        self._inner = inner

    @property
    def id(self) -> str:
        """Its name: the position of its message."""
        return self._inner.id

    @property
    def receipt(self) -> Receipt:
        """The receipt of the prepared message."""
        return self._inner.receipt

    def commit(self) -> None:
        """Let its consumers have it; leaving the block does this too, unless it was decided before.

        Raises:
            TransactionDecided: It was rolled back meanwhile, by a check-back or an operator.
            TransactionNotFound: It was decided more than a day ago.
            QueueNotFound: Its queue or topic was deleted meanwhile; it stays prepared.
            OutcomeUnknown: No answer in time: call this again, or leave it to the check-back.

        """
        self._io.call(self._inner.commit)

    def rollback(self) -> None:
        """Let nobody ever have it; raises as `commit`, with the decisions the other way round."""
        self._io.call(self._inner.rollback)

    def leave_undecided(self) -> None:
        """Decide nothing when the block ends: for whoever does not know what the database did. The group is asked."""
        self._inner.leave_undecided()

    def __enter__(self) -> Self:
        self._io.call(self._inner.__aenter__)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._io.error is None:
            self._io.call(self._inner.__aexit__, kind, error, None)
