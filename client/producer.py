"""The face of a producer: `send`, `submit`, `send_many`, `flush`."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Any, Self

import anyio

from sluicemq.client.errors import BatchTooLarge, ClientClosed, SluiceError, another
from sluicemq.client.options import Body, Duration, check_attributes, delivery_of, owned_body, seconds_of
from sluicemq.client.outgoing import (
    MESSAGE_OVERHEAD_BYTES,
    NO_ATTRIBUTES,
    Attributes,
    OutgoingBatch,
    Pending,
    check_message_values,
    message_size,
)
from sluicemq.client.publisher import Publisher
from sluicemq.client.receipts import Confirmation, Receipt, Receipts, acks_number
from sluicemq.client.runtime import Slot

SEND_SECONDS = 30.0
"""How long a send may take in all, reconnecting included, unless the user says otherwise."""
CHECKPOINT_SUBMITS = 64
"""While the window has room, `submit` lets the loop have its turn after so many of them."""
UNSEEN_FAILURES_MAX = 1_000
"""Most failed submissions whose receipts nobody has looked at that are kept for `flush` to report."""


@dataclass(frozen=True, slots=True)
class NewMessage:
    """A message for `send_many` that is more than its body.

    Attributes:
        body: The payload; bytes, bytearray or memoryview.
        key: Groups messages that belong together; at most 1 KiB.
        subject: What the message is about; at most 1 KiB.
        headers: Text to plain value.
        message_id: The sender's own id; at most 256 bytes. Without it each message gets one.
        delay: Seconds or timedelta for which nobody gets it, from when the broker took it.
        at: Time, with a time zone, before which nobody gets it; not together with *delay*.
        ttl: Seconds or timedelta for which it may be delivered, from when it is due.
        priority: 0 to 9; those of a higher one go first.

    """

    body: Body
    key: str | None = None
    subject: str | None = None
    headers: Mapping[str, Any] | None = None
    message_id: str | None = None
    delay: Duration | None = None
    at: datetime | None = None
    ttl: Duration | None = None
    priority: int = 0


class Submitted:
    """The receipt of a submitted message: await it as often as you like.

    Raises when awaited:
        SluiceError: As `Producer.send`.
    """

    __slots__ = ("_others", "_pending", "_publisher", "_seen")

    def __init__(self, publisher: Publisher, pending: Pending) -> None:
        self._publisher = publisher
        self._pending = pending
        self._others: list[Slot] = []
        self._seen = False

    @property
    def done(self) -> bool:
        """Whether awaiting it would not wait."""
        return self._pending.confirmation is not None or self._pending.error is not None

    def __await__(self) -> Generator[Any, Any, Receipt]:
        return self._wait().__await__()

    async def _wait(self) -> Receipt:
        self._seen = True
        pending, runtime = self._pending, self._publisher.runtime
        while not self.done:
            # One task waits for the answer itself, the others for that task.
            if pending.handle is None:
                try:
                    await runtime.park(pending)
                finally:
                    others, self._others = self._others, []
                    for other in others:
                        runtime.wake(other)
            else:
                slot = Slot()
                self._others.append(slot)
                await runtime.park(slot)
        if pending.confirmation is not None:
            return Receipt(pending.confirmation, pending.index)
        assert pending.error is not None
        raise another(pending.error)

    @property
    def unseen_error(self) -> SluiceError | None:
        """Its failure, as long as nobody awaited it."""
        return None if self._seen else self._pending.error

    def __repr__(self) -> str:
        pending = self._pending
        state = "confirmed" if pending.confirmation else f"failed: {pending.error}" if pending.error else "under way"
        return f"<Submitted {state}>"


class Producer:
    """Sends to one destination; made by `Client.producer`, used with `async with`. Any task of the loop may send."""

    def __init__(
        self,
        publisher: Publisher,
        destination: str,
        timeout: float,
        close_seconds: float,
        registry: dict[Publisher, None],
    ) -> None:
        self.destination = destination
        self._publisher = publisher
        self._timeout = timeout
        self._close_seconds = close_seconds
        self._registry = registry
        self._budget = CHECKPOINT_SUBMITS
        self._submitted: deque[Submitted] = deque()

    @property
    def publisher(self) -> Publisher:
        """What sends; for the client's own use."""
        return self._publisher

    @property
    def timeout(self) -> float:
        """How many seconds a send may take, unless it says otherwise."""
        return self._timeout

    async def send(
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

        Sends of several tasks travel together in batches without any of them waiting for a timer.

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
        publisher = self._publisher
        pending = Pending(publisher.now() + (self._timeout if timeout is None else seconds_of(timeout, "timeout")))
        attributes = attributes_of(key, subject, headers, message_id, delay, at, ttl, priority)
        acks_wanted = None if acks is None else acks_number(acks)
        await publisher.ready()
        enter(publisher, pending, self.destination, body, attributes, acks_wanted)
        confirmation = await publisher.wait(pending)
        return Receipt(confirmation, pending.index)

    async def submit(
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
            Its receipt, to be awaited when it suits. A failure that nobody awaits is raised by `flush` and on leaving
            the producer.

        """
        publisher = self._publisher
        pending = Pending(publisher.now() + (self._timeout if timeout is None else seconds_of(timeout, "timeout")))
        attributes = attributes_of(key, subject, headers, message_id, delay, at, ttl, priority)
        acks_wanted = None if acks is None else acks_number(acks)
        await publisher.ready()
        if not enter(publisher, pending, self.destination, body, attributes, acks_wanted):
            await publisher.wait_for_room(pending)
        self._budget -= 1
        if self._budget <= 0:
            self._budget = CHECKPOINT_SUBMITS
            await publisher.runtime.checkpoint()
        submitted = Submitted(publisher, pending)
        self._remember(submitted)
        return submitted

    def _remember(self, submitted: Submitted) -> None:
        kept = self._submitted
        while kept and kept[0].done and kept[0].unseen_error is None:
            kept.popleft()
        if len(kept) >= UNSEEN_FAILURES_MAX and kept[0].done:
            kept.popleft()
        kept.append(submitted)

    async def send_many(
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
        pending = Pending(publisher.now() + (self._timeout if timeout is None else seconds_of(timeout, "timeout")))
        acks_wanted = publisher.acks if acks is None else acks_number(acks)
        await publisher.ready()
        items = messages if type(messages) is list else listed(messages)
        if not items:
            return Receipts(_EMPTY)
        batch = whole_batch(publisher, self.destination, items, pending)
        batch.acks = acks_wanted
        publisher.enter_whole(pending, batch)
        return Receipts(await publisher.wait(pending))

    async def flush(self) -> None:
        """Wait until everything that was sent or submitted so far has its answer.

        Raises:
            SluiceError: The first failure among the submitted messages whose receipt nobody has awaited.

        """
        await self._publisher.flushed()
        self._raise_unseen()

    def _raise_unseen(self) -> None:
        error = None
        kept: deque[Submitted] = deque()
        for submitted in self._submitted:
            if not submitted.done:
                kept.append(submitted)
            elif error is None:
                error = submitted.unseen_error
        self._submitted = kept
        if error is not None:
            raise another(error)

    async def __aenter__(self) -> Self:
        await self._publisher.open(self._timeout)
        self._registry[self._publisher] = None
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait for what is under way as long as answers come, then end the producer.

        If the body failed, that takes at most `close_timeout` seconds in all; else no more than that from one answer
        to the next. What has none by then ends in `ClientClosed`, which is raised here if nobody awaited it.
        """
        try:
            if error is None:
                await self._publisher.flushed_in_time(self._close_seconds)  # noqa: ASYNC102 - bounded by close_timeout
            else:
                with anyio.move_on_after(self._close_seconds, shield=True):
                    await self._publisher.flushed()
        finally:
            self._registry.pop(self._publisher, None)
            self._publisher.close(ClientClosed(f"the producer for {self.destination!r} is closed"))
        if error is None:
            self._raise_unseen()


def attributes_of(
    key: str | None,
    subject: str | None,
    headers: Mapping[str, Any] | None,
    message_id: str | None,
    delay: Duration | None = None,
    at: datetime | None = None,
    ttl: Duration | None = None,
    priority: int = 0,
) -> Attributes:
    """Return what accompanies a body, checked; arguments and errors as for `Producer.send`."""
    if delay is None and at is None and ttl is None and type(priority) is int and not priority:
        if key is None and subject is None and headers is None and message_id is None:
            return NO_ATTRIBUTES
        due = lifetime = urgency = None
    else:
        due, lifetime, urgency = delivery_of(delay, at, ttl, priority)
    check_attributes(key, subject, headers, message_id)
    own_headers = None if headers is None else dict(headers)
    return Attributes(key, subject, own_headers, message_id, due, lifetime, urgency)


def enter(
    publisher: Publisher,
    pending: Pending,
    destination: str,
    body: Body,
    attributes: Attributes,
    acks: int | None = None,
) -> bool:
    """Check one message and put it into the window or in line for it; return whether there was room.

    Without *acks* those disks confirm it that the publisher asks for.
    """
    if type(body) is bytes and attributes is NO_ATTRIBUTES:  # nearly every message: without one more call
        publisher.check_size(len(body))
        size_bytes = len(body) + MESSAGE_OVERHEAD_BYTES
    else:
        body, size_bytes = measured(publisher, body, attributes)
    return publisher.enter(pending, destination, body, attributes, size_bytes, publisher.acks if acks is None else acks)


def measured(publisher: Publisher, body: Body, attributes: Attributes) -> tuple[bytes, int]:
    """Return the body of a checked message and the most bytes that the message takes; legal from any thread.

    Raises:
        TypeError: The body is none.
        MessageTooLarge: It is larger than the broker takes.
        BatchTooLarge: Its headers have more items than a batch may have.

    """
    if type(body) is not bytes:
        body = owned_body(body)
    publisher.check_size(len(body))
    if attributes is NO_ATTRIBUTES:
        return body, len(body) + MESSAGE_OVERHEAD_BYTES
    size_bytes = message_size(body, attributes)
    if attributes.headers is not None:
        check_message_values(attributes)
    return body, size_bytes


def whole_batch(
    publisher: Publisher, destination: str, items: list[Body | NewMessage], pending: Pending
) -> OutgoingBatch:
    """Return the batch of one `send_many`, checked.

    Raises:
        TypeError: An item that is neither body nor `NewMessage`, or holds a wrong type.
        BatchTooLarge: More than one batch may have.
        MessageTooLarge: One of the messages is larger than the broker takes.

    """
    attributes: list[Attributes] | None = None
    if set(map(type, items)) == {bytes}:
        # The fast case stays free of Python loops. The list is the user's: keep our own.
        bodies: list[bytes] = list(items)  # type: ignore[arg-type]
    else:
        bodies, attributes = _rows(items)
    messages_max, bytes_max = publisher.batch_limits()
    batch = OutgoingBatch(destination, whole=True)
    if len(bodies) <= messages_max:
        batch.fill(bodies, attributes, pending)
        publisher.check_sizes(bodies, batch.size_bytes)
    if len(bodies) > messages_max or batch.size_bytes > bytes_max:
        size = sum(map(len, bodies))
        raise BatchTooLarge(
            f"a batch of {len(bodies)} messages with bodies of {size} bytes; the broker takes {messages_max} messages "
            f"and {bytes_max} bytes: send it in parts",
            messages=len(bodies),
            messages_max=messages_max,
            batch_bytes=size,
            batch_bytes_max=bytes_max,
        )
    return batch


def _rows(items: list[Body | NewMessage]) -> tuple[list[bytes], list[Attributes] | None]:
    bodies: list[bytes] = []
    attributes: list[Attributes] = []
    for item in items:
        if isinstance(item, NewMessage):
            row = attributes_of(
                *(item.key, item.subject, item.headers, item.message_id, item.delay, item.at, item.ttl, item.priority)
            )
            body = owned_body(item.body)
        else:
            row, body = NO_ATTRIBUTES, owned_body(item)
        bodies.append(body)
        attributes.append(row)
    return bodies, attributes if any(row is not NO_ATTRIBUTES for row in attributes) else None


def listed(messages: object) -> list[Body | NewMessage]:
    """Return the items of what a user passes as many messages."""
    if isinstance(messages, (bytes, bytearray, memoryview, str)) or not isinstance(messages, Iterable):
        what = f"send_many takes a list (or another iterable) of bodies or NewMessage, not {type(messages).__name__}"
        raise TypeError(what + (": use send for a single body" if isinstance(messages, Iterable) else ""))
    return list(messages)


_EMPTY = Confirmation(0, 0, False, 0, 0, 0, None)
