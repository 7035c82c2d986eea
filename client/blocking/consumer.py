"""The face of a consumer for threads: iteration, `receive`, `drain`."""

from __future__ import annotations

import threading
from queue import Empty
from types import TracebackType
from typing import Self

from sluicemq.client.blocking.crossing import CROSS_MESSAGES_LOW, CrossingConsumer
from sluicemq.client.blocking.io_thread import IoThread, now
from sluicemq.client.blocking.message import Batch, Message, surely_held
from sluicemq.client.consumer import Consumer as AsyncConsumer
from sluicemq.client.consumer import OnLeaseLost
from sluicemq.client.consumer_statistics import ConsumerStatistics
from sluicemq.client.errors import another
from sluicemq.client.options import Duration
from sluicemq.client.received import RELEASE


class Consumer:
    """Receives from one queue; made by `Client.consumer`, used with `with`.

    Any number of threads may iterate it; each message goes to one of them. Leases are renewed by the I/O thread,
    however long a handler keeps its own thread.
    """

    def __init__(self, io: IoThread, inner: AsyncConsumer) -> None:
        assert isinstance(inner, CrossingConsumer)
        self._io = io
        self._inner = inner
        self._taking = threading.Lock()

    @property
    def queue(self) -> str:
        """Name of the queue."""
        return self._inner.queue

    @property
    def on_lease_lost(self) -> OnLeaseLost | None:
        """Called on the I/O thread, which it must not hold up, when handed-out messages lose their leases.

        It gets a `LeaseLost` (its fields: `queue`, `messages`, `reason`); also when a verdict is refused after the
        fact. Without it a warning goes to the log.
        """
        return self._inner.on_lease_lost

    @on_lease_lost.setter
    def on_lease_lost(self, function: OnLeaseLost | None) -> None:
        self._inner.on_lease_lost = function

    # --- iteration ------------------------------------------------------------------------------------------------

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Message:
        io, inner = self._io, self._inner
        crossed = inner.crossed
        while True:
            if io.error is not None:
                raise another(io.error)
            try:
                message = crossed.get_nowait()
            except Empty:
                if not inner.is_open:
                    self._raise_end()
                io.check_thread()
                io.post(inner.want)
                message = crossed.get()
            if message is None:
                crossed.put(None)  # for the other threads
                self._raise_end()
                continue
            if crossed.qsize() == CROSS_MESSAGES_LOW:
                io.post(inner.want)
            run, tag = message.run, message.tag
            owner = run.owner
            with self._taking:
                inner.taken_count += 1
                if inner.taken[0] is not owner or inner.taken[1] < tag:
                    inner.taken = (owner, tag)
            certain = run.deliveries == 1 and now() + owner.report_seconds < owner.book.safe_until
            if (certain and surely_held(owner, tag)) or io.run(inner.hand_over, message):
                return message
            message.give_up()

    def _raise_end(self) -> None:
        error = self._inner.end()
        if error is not None:
            raise error
        raise StopIteration

    def receive(self, max_messages: int = 1000, max_wait: Duration | None = None) -> Batch:
        """Return the messages at hand, waiting for the first one if there is none.

        Asking for more than half the credit raises the credit.

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

        async def receive() -> Batch:
            # A batch from here on: one that Ctrl-C keeps from whoever called is missed when it is collected.
            return Batch(self._io, *await self._inner.receive_detached(max_messages, max_wait))

        return self._io.await_(receive, on_abandoned=lambda batch: batch.settle_all(RELEASE))

    # --- verdicts on more than one message ------------------------------------------------------------------------

    def ack_through(self, message: Message) -> None:
        """Acknowledge *message* and every message that was handed out before it on the same connection.

        From its first call on, messages that user code lets go of stay with this consumer until it is called again.

        Raises:
            LeaseLost: The lease of *message* is over; the earlier ones that are still held are acknowledged.

        """
        self._io.call(self._inner.ack_through, message)

    def flush(self) -> None:
        """Send the verdicts that wait, and wait until all that were given are committed.

        Raises:
            LeaseLost: Verdicts given since the last flush came too late; `messages` says how many.
            OutcomeUnknown: The connection broke before the answer, or none came within `request_timeout`.

        """
        self._io.call(self._inner.flush)

    def drain(self) -> None:
        """End cleanly: take nothing more, give back what was not handed out, and wait until that is done.

        Every `for` ends after the message it has, on every thread; messages that were handed out can still be settled
        until the client closes. Does not wait for them. Takes at most `close_timeout` seconds.
        """
        self._io.call(self._inner.drain)

    def statistics(self) -> ConsumerStatistics:
        """Return the consumer's figures."""
        return self._io.run(self._inner.statistics)

    # --- life -----------------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self._io.call(self._inner.__aenter__)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give back what was not handed out, and wait at most `close_timeout` seconds until that is done."""
        if self._io.error is None:
            self._io.call(self._inner.__aexit__, None, None, None)
