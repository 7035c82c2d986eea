"""The face of a producer for threads: `send`, `submit`, `send_many`, `flush`.

What a message costs is paid on the thread that sends it: checks, and for `send_many` the packing. The I/O thread puts
it into the window that it shares with all others, and wakes whoever waits for the answer, without a task in between.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Mapping
from datetime import datetime
from types import TracebackType
from typing import Any, Self

from sluicemq.client.blocking.io_thread import IoThread, Waiting, now
from sluicemq.client.errors import InternalError, RequestTimeout, SluiceError, another
from sluicemq.client.options import Body, Duration, seconds_of
from sluicemq.client.outgoing import Attributes, OutgoingBatch, Pending
from sluicemq.client.producer import (
    UNSEEN_FAILURES_MAX,
    NewMessage,
    attributes_of,
    listed,
    measured,
    whole_batch,
)
from sluicemq.client.producer import Producer as AsyncProducer
from sluicemq.client.publisher import Publisher
from sluicemq.client.receipts import Confirmation, Receipt, Receipts, acks_number

_one_waits = threading.Lock()


class Submitted:
    """The receipt of a submitted message: ask for it as often as you like, from any thread."""

    __slots__ = ("_io", "_pending", "_seen", "_waiting")

    def __init__(self, io: IoThread, pending: Pending) -> None:
        self._io = io
        self._pending = pending
        self._seen = False
        self._waiting: Waiting | None = None

    @property
    def done(self) -> bool:
        """Whether `result` would not wait."""
        return self._pending.confirmation is not None or self._pending.error is not None

    def result(self, timeout: Duration | None = None) -> Receipt:
        """Wait for the receipt and return it.

        Args:
            timeout: How long to wait, in seconds or as a timedelta; default: until the send's own time is over.

        Raises:
            RequestTimeout: There is none yet; the message is still under way.
            SluiceError: As `Producer.send`.

        """
        pending = self._pending
        if not self.done:
            if self._io.error is not None:
                raise another(self._io.error)
            self._io.check_thread()
            with _one_waits:
                if self._waiting is None:
                    self._waiting = Waiting()
                    pending.handle = self._waiting
            # Looked at once more: an answer that came before the handle was there has woken nobody.
            if not self.done and not self._waiting.wait(None if timeout is None else seconds_of(timeout, "timeout")):
                raise RequestTimeout("there is no receipt yet; the message is still under way")
        self._seen = True
        return Receipt(_confirmed(pending), pending.index)

    @property
    def unseen_error(self) -> SluiceError | None:
        """Its failure, as long as nobody asked for the receipt."""
        return None if self._seen else self._pending.error

    def __repr__(self) -> str:
        pending = self._pending
        state = "confirmed" if pending.confirmation else f"failed: {pending.error}" if pending.error else "under way"
        return f"<Submitted {state}>"


class Producer:
    """Sends to one destination; made by `Client.producer`, used with `with`. Any thread may send."""

    def __init__(self, io: IoThread, inner: AsyncProducer) -> None:
        self.destination = inner.destination
        self._io = io
        self._inner = inner
        self._publisher = inner.publisher
        self._submitted: deque[Submitted] = deque()
        self._remembering = threading.Lock()

    def send(
        self,
        body: Body,
        key: str | None = None,
        subject: str | None = None,
        headers: Mapping[str, Any] | None = None,
        message_id: str | None = None,
        timeout: Duration | None = None,
        *,
        delay: Duration | None = None,
        at: datetime | None = None,
        ttl: Duration | None = None,
        priority: int = 0,
        acks: str | None = None,
    ) -> Receipt:
        """Send one message and wait until it is durable.

        Sends of several threads travel together in batches without any of them waiting for a timer.

        Args:
            body: The payload.
            key: Groups messages that belong together.
            subject: What the message is about.
            headers: Text to plain value (whatever msgpack can carry).
            message_id: The sender's own id; without it the message gets one, see `Receipt.message_id`.
            timeout: Seconds or timedelta for everything, reconnecting included; default: the producer's.
            delay: Seconds or timedelta, up to ten years, for which nobody gets it. They count from when the broker
                first took it, also after a resend.
            at: Time, with a time zone, before which nobody gets it; not together with *delay*.
            ttl: Seconds or timedelta, at least a millisecond, for which it may be delivered, from when it is due.
            priority: 0 to 9; those of a higher one go first.
            acks: "quorum", "all" or "leader" (unsafe: it may be lost), as for `Client.producer`; default: the
                producer's. `Receipt.acks` says which of them was reached.

        Raises:
            TypeError: The body is a str (call `.encode()`), or another argument has the wrong type.
            InvalidRequest: *acks* is none of these, or another argument cannot be.
            MessageTooLarge: It is larger than the broker takes.
            BatchTooLarge: Its headers have more items than a batch may have.
            QueueNotFound: No queue of that name.
            OutcomeUnknown: The time is over and it may have been stored; carries producer, sequence and index.
            RequestTimeout: The time is over and it was never sent, though there was a connection.
            ConnectionFailed: The same, and there was none.
            ProducerFenced: A newer producer of this name has taken over.
            ClientClosed: The producer or its client is closed.

        """
        attributes = attributes_of(key, subject, headers, message_id, delay, at, ttl, priority)
        seconds = self._inner.timeout if timeout is None else seconds_of(timeout, "timeout")
        return send(self._io, self._publisher, self.destination, body, attributes, seconds, acks)

    def submit(
        self,
        body: Body,
        key: str | None = None,
        subject: str | None = None,
        headers: Mapping[str, Any] | None = None,
        message_id: str | None = None,
        timeout: Duration | None = None,
        *,
        delay: Duration | None = None,
        at: datetime | None = None,
        ttl: Duration | None = None,
        priority: int = 0,
        acks: str | None = None,
    ) -> Submitted:
        """Send one message and wait only for room in the window; arguments as for `send`.

        Returns:
            Its receipt, to be asked for when it suits. A failure that nobody asked for is raised by `flush` and on
            leaving the producer.

        """
        attributes = attributes_of(key, subject, headers, message_id, delay, at, ttl, priority)
        seconds = self._inner.timeout if timeout is None else seconds_of(timeout, "timeout")
        submitted = submit(self._io, self._publisher, self.destination, body, attributes, seconds, acks)
        with self._remembering:
            kept = self._submitted
            while kept and kept[0].done and kept[0].unseen_error is None:
                kept.popleft()
            if len(kept) >= UNSEEN_FAILURES_MAX and kept[0].done:
                kept.popleft()
            kept.append(submitted)
        return submitted

    def send_many(
        self, messages: Iterable[Body | NewMessage], timeout: Duration | None = None, *, acks: str | None = None
    ) -> Receipts:
        """Send messages as one batch, all or nothing, and wait until it is durable.

        Args:
            messages: Bodies, or `NewMessage` where a message is more than its body; both may be mixed.
            timeout: As for `send`.
            acks: As for `send`.

        Returns:
            One receipt a message, in order; made lazily.

        Raises:
            BatchTooLarge: More messages or bytes than one batch may have; send them in parts.
            SluiceError: As for `send`.

        """
        publisher = self._publisher
        raise_error(self._io, publisher)
        pending = Pending(now() + (self._inner.timeout if timeout is None else seconds_of(timeout, "timeout")))
        acks_wanted = publisher.acks if acks is None else acks_number(acks)
        items = listed(messages)
        if not items:
            return Receipts(Confirmation(0, 0, False, 0, 0, 0, None))
        batch = whole_batch(publisher, self.destination, items, pending)
        batch.acks = acks_wanted
        waiting = pending.handle = Waiting()
        self._io.post(_enter_whole, publisher, pending, batch)
        return Receipts(confirmation_of(self._io, publisher, pending, waiting))

    def flush(self) -> None:
        """Wait until everything that was sent or submitted so far has its answer.

        Raises:
            SluiceError: The first failure among the submitted messages whose receipt nobody has asked for.

        """
        self._io.call(self._publisher.flushed)
        self._raise_unseen()

    def _raise_unseen(self) -> None:
        error = None
        with self._remembering:
            kept: deque[Submitted] = deque()
            for submitted in self._submitted:
                if not submitted.done:
                    kept.append(submitted)
                elif error is None:
                    error = submitted.unseen_error
            self._submitted = kept
        if error is not None:
            raise another(error)

    def __enter__(self) -> Self:
        self._io.call(self._inner.__aenter__)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait for what is under way as long as answers come, then end the producer.

        If the block failed, that takes at most `close_timeout` seconds in all; else no more than that from one answer
        to the next. What has none by then ends in `ClientClosed`, which is raised here if nobody asked for it.
        """
        if self._io.error is not None:
            return  # the child of a fork leaves the block; the producer is the parent's
        self._io.call(self._inner.__aexit__, kind, error, None)
        if error is None:
            self._raise_unseen()


# --- shared with the client's own sends -------------------------------------------------------------------------------


def raise_error(io: IoThread, publisher: Publisher) -> None:
    """Raise what would make a send fail, before anything of it is kept."""
    io.check_thread()
    error = io.error or publisher.error
    if error is not None:
        raise another(error)


def post(
    io: IoThread,
    publisher: Publisher,
    pending: Pending,
    destination: str,
    body: Body,
    attributes: Attributes,
    acks: str | None,
) -> int:
    """Let one message enter the window; return the most bytes that it takes."""
    raise_error(io, publisher)
    wanted = publisher.acks if acks is None else acks_number(acks)
    owned, size_bytes = measured(publisher, body, attributes)
    io.post(_enter, publisher, pending, destination, owned, attributes, size_bytes, wanted)
    return size_bytes


def send(
    io: IoThread,
    publisher: Publisher,
    destination: str,
    body: Body,
    attributes: Attributes,
    seconds: float,
    acks: str | None,
) -> Receipt:
    """Send one message and wait for its receipt."""
    pending = Pending(now() + seconds)
    waiting = pending.handle = Waiting()
    post(io, publisher, pending, destination, body, attributes, acks)
    return Receipt(confirmation_of(io, publisher, pending, waiting), pending.index)


def submit(
    io: IoThread,
    publisher: Publisher,
    destination: str,
    body: Body,
    attributes: Attributes,
    seconds: float,
    acks: str | None,
) -> Submitted:
    """Send one message and wait only for room in the window."""
    pending = Pending(now() + seconds)
    size_bytes = post(io, publisher, pending, destination, body, attributes, acks)
    if io.crowded or not publisher.window.has_room(1, size_bytes):
        io.call(publisher.wait_for_room, pending)
    return Submitted(io, pending)


def confirmation_of(io: IoThread, publisher: Publisher, pending: Pending, waiting: Waiting) -> Confirmation:
    """Wait for the answer. Interrupted by Ctrl-C before the message was sent, it is withdrawn; later, it stays sent."""
    try:
        waiting.wait()
    except BaseException:
        io.post(publisher.withdraw, pending)
        raise
    return _confirmed(pending)


def _confirmed(pending: Pending) -> Confirmation:
    """Return the confirmation that came, or raise what came instead."""
    if pending.confirmation is not None:
        return pending.confirmation
    assert pending.error is not None
    raise another(pending.error)


def _enter(
    publisher: Publisher,
    pending: Pending,
    destination: str,
    body: bytes,
    attributes: Attributes,
    size_bytes: int,
    acks: int,
) -> None:
    try:
        publisher.enter(pending, destination, body, attributes, size_bytes, acks)
    except Exception as error:  # noqa: BLE001 - whoever waits must hear of it
        _fail(publisher, pending, error)


def _enter_whole(publisher: Publisher, pending: Pending, batch: OutgoingBatch) -> None:
    try:
        publisher.enter_whole(pending, batch)
    except Exception as error:  # noqa: BLE001 - likewise
        _fail(publisher, pending, error)


def _fail(publisher: Publisher, pending: Pending, error: Exception) -> None:
    if not isinstance(error, SluiceError):
        problem = InternalError(f"a send failed inside the client: {error!r}; please report it")
        problem.__cause__ = error
        error = problem
    pending.error = error
    publisher.runtime.wake(pending)
