"""`connect` and the client for threads: the async client, entered on the I/O thread, and faces for what it makes."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Iterator, Mapping
from datetime import datetime
from types import TracebackType
from typing import Any, Self, Unpack

import anyio

from sluicemq.client import client as asynchronous
from sluicemq.client.blocking.calls import Calls
from sluicemq.client.blocking.consumer import Consumer
from sluicemq.client.blocking.crossing import CrossingConsumer
from sluicemq.client.blocking.io_thread import EXIT_SECONDS, Hosted, IoThread, io_thread
from sluicemq.client.blocking.producer import Producer, Submitted, send, submit
from sluicemq.client.blocking.reading import Listing, Replay
from sluicemq.client.blocking.requesting import PendingReply
from sluicemq.client.blocking.transaction import Half, Transaction
from sluicemq.client.checkers import Check, Checker
from sluicemq.client.consumer import (
    CREDIT_BYTES_DEFAULT,
    CREDIT_DEFAULT,
    LEASE_SECONDS_DEFAULT,
    MAX_LEASE_SECONDS_DEFAULT,
    OnLeaseLost,
)
from sluicemq.client.consumer import Consumer as AsyncConsumer
from sluicemq.client.delays import DelayedMessage
from sluicemq.client.errors import ClientClosed, SluiceError
from sluicemq.client.options import Body, Delivery, Duration, seconds_of
from sluicemq.client.producer import SEND_SECONDS, attributes_of
from sluicemq.client.publisher import Publisher
from sluicemq.client.receipts import Receipt
from sluicemq.client.replay import START
from sluicemq.client.request_calls import REQUEST_SECONDS
from sluicemq.client.requesting import OnReply, RequestStatistics
from sluicemq.wire import messages as m
from sluicemq.wire.settings import check_name

log = logging.getLogger("sluicemq.client")


class _AsyncClient(asynchronous.Client):
    """The client on the loop, as far as threads need something else of it."""

    _consumer_type: type[AsyncConsumer] = CrossingConsumer

    @property
    def close_seconds(self) -> float:
        """The option `close_timeout`."""
        return self._close_seconds

    async def made_consumer(self, queue: str, options: dict[str, Any]) -> CrossingConsumer:
        """Do what `consumer` does, on the loop."""
        consumer = self.consumer(queue, **options)
        assert isinstance(consumer, CrossingConsumer)
        return consumer

    def publisher_for(self, destination: str) -> Publisher:
        """Return what sends for `Client.send`, if it may be used as it is; checks *destination*."""
        parts = self._alive()
        if destination not in parts.checked_destinations:
            check_name(destination, "destination")
            parts.remember_destination(destination)
        return parts.shared_publisher()

    def knows(self, destination: str) -> bool:
        """Whether the name was found good before; legal from any thread."""
        return self._parts is not None and destination in self._parts.checked_destinations

    async def flush_publishers(self) -> None:
        """Wait for the answers to everything that any producer sent, at most `close_timeout` seconds."""
        with anyio.move_on_after(self._close_seconds):
            for publisher in list(self._alive().publishers):
                await publisher.flushed()


class Client(Calls):
    """A connection to a broker or a cluster; made by `connect`, used with `with`, or with `open` and `close`.

    It outlives single connections. Everything may be called from any thread. What is still open when the process ends
    is flushed and closed then.
    """

    def __init__(self, inner: _AsyncClient) -> None:
        self._inner = self._own = inner
        self._io: IoThread = io_thread()
        self._hosted: Hosted | None = None
        self._shared: Publisher | None = None

    # --- producers and consumers ----------------------------------------------------------------------------------

    def producer(
        self, destination: str, name: str | None = None, *, timeout: Duration = SEND_SECONDS, acks: str = "quorum"
    ) -> Producer:
        """Return a producer for *destination*, to be entered with `with`.

        Args:
            destination: Name of the queue.
            name: A name fences the older producer of the same name: that one must stop.
            timeout: How long a send may take in all, reconnecting included, unless the send says otherwise.
            acks: When a message counts as sent: "quorum" of the brokers have it on disk; "all" of them, where the
                receipt says "quorum" after 5 seconds in which one was away; or only the "leader", unsafe: what it
                confirmed is lost if it dies for good, or even if only another one leads.

        Raises:
            InvalidRequest: A name or *acks* that is not allowed.

        """
        return Producer(self._io, self._io.run(self._inner.producer, destination, name, timeout=timeout, acks=acks))

    def send(
        self,
        destination: str,
        body: Body,
        key: str | None = None,
        subject: str | None = None,
        headers: Mapping[str, Any] | None = None,
        message_id: str | None = None,
        timeout: Duration = SEND_SECONDS,
        *,
        acks: str = "quorum",
        **delivery: Unpack[Delivery],
    ) -> Receipt:
        """Send one message and wait until it is durable; arguments and errors as for `Producer.send`.

        All such sends share one producer, and travel together like those of a producer.
        """
        attributes = attributes_of(key, subject, headers, message_id, **delivery)
        seconds = seconds_of(timeout, "timeout")
        return send(self._io, self._publisher(destination), destination, body, attributes, seconds, acks)

    def _publisher(self, destination: str) -> Publisher:
        publisher = self._shared
        if publisher is None or publisher.error is not None or not self._own.knows(destination):
            publisher = self._shared = self._io.run(self._own.publisher_for, destination)
        return publisher

    def consumer(
        self,
        queue: str,
        *,
        credit: int = CREDIT_DEFAULT,
        credit_bytes: int = CREDIT_BYTES_DEFAULT,
        lease: Duration = LEASE_SECONDS_DEFAULT,
        auto_renew: bool = True,
        max_lease: Duration = MAX_LEASE_SECONDS_DEFAULT,
        name: str | None = None,
        weight: int = 1,
        on_lease_lost: OnLeaseLost | None = None,
    ) -> Consumer:
        """Return a consumer of *queue*, to be entered with `with`.

        Args:
            queue: Name of the queue.
            credit: Most messages that the broker delivers ahead of their settlement; 1 to 1,000,000.
            credit_bytes: Most bytes of them; at least one message comes however large it is.
            lease: How long a message is ours before it must be settled or renewed.
            auto_renew: Renew the leases of all messages that are held; the I/O thread does it.
            max_lease: Renewal of a message that user code has stops after so long.
            name: Shown by the broker's tools.
            weight: Its share where dispatch="weighted" or ordering="key", its rank in mode="failover"; 1 to 1,000.
            on_lease_lost: See `Consumer.on_lease_lost`.

        Raises:
            TypeError: An argument has the wrong type.
            InvalidRequest: An argument is out of range.
            ClientClosed: The client is closed.

        """
        options = {
            "credit": credit,
            "credit_bytes": credit_bytes,
            "lease": lease,
            "auto_renew": auto_renew,
            "max_lease": max_lease,
            "name": name,
            "weight": weight,
            "on_lease_lost": on_lease_lost,
        }
        return Consumer(self._io, self._io.call(self._own.made_consumer, queue, options))

    # --- requests -------------------------------------------------------------------------------------------------

    def submit_request(
        self,
        destination: str,
        body: Body,
        *,
        timeout: Duration = REQUEST_SECONDS,
        key: str | None = None,
        subject: str | None = None,
        headers: Mapping[str, Any] | None = None,
        message_id: str | None = None,
        priority: int = 0,
        on_reply: OnReply | None = None,
    ) -> PendingReply:
        """Send a request and wait only for room in the window; arguments as for `request`.

        Args:
            destination: As for `request`, and so are the others.
            body: Likewise.
            timeout: Likewise.
            key: Likewise.
            subject: Likewise.
            headers: Likewise.
            message_id: Likewise.
            priority: Likewise.
            on_reply: Called once on the I/O thread, with the reply or with the error; it must be quick.

        Returns:
            The reply, to be asked for when it suits.

        """
        pending = self._io.call(
            self._inner.submit_request,
            destination,
            body,
            timeout=timeout,
            key=key,
            subject=subject,
            headers=headers,
            message_id=message_id,
            priority=priority,
            on_reply=on_reply,
        )
        return PendingReply(self._io, pending)

    def tell(
        self,
        destination: str,
        body: Body,
        *,
        timeout: Duration = REQUEST_SECONDS,
        key: str | None = None,
        subject: str | None = None,
        headers: Mapping[str, Any] | None = None,
        message_id: str | None = None,
        priority: int = 0,
    ) -> Submitted:
        """Send a request to which no reply is wanted, and wait only for room in the window; arguments as for `request`.

        `message.reply` of whoever serves it returns False, and does nothing. The request has no lifetime of its own:
        it is worked on whenever somebody comes for it.

        Returns:
            The receipt, to be asked for by who wants to know that the request is stored.

        """
        attributes = attributes_of(key, subject, headers, message_id, priority=priority)
        seconds = seconds_of(timeout, "timeout")
        return submit(self._io, self._publisher(destination), destination, body, attributes, seconds, None)

    def request_statistics(self) -> RequestStatistics:
        """Return figures about this client's requests."""
        return self._io.run(self._inner.request_statistics)

    # --- transactions ---------------------------------------------------------------------------------------------

    def transaction(self, *, timeout: Duration = SEND_SECONDS) -> Transaction:
        """Return a transaction, to be used with `with`: sends and verdicts that hold as a whole or not at all.

            for message in consumer:
                with message, client.transaction() as tx:
                    tx.send("billing", b"...")
                    tx.ack(message)

        Args:
            timeout: How long the commit may take, in seconds or as a timedelta, reconnecting included.

        """
        return Transaction(self._io, self._io.run(self._inner.transaction, timeout=timeout))

    def prepare(
        self,
        destination: str,
        body: Body,
        key: str | None = None,
        subject: str | None = None,
        headers: Mapping[str, Any] | None = None,
        message_id: str | None = None,
        *,
        check: str,
        check_after: Duration = m.CHECK_AFTER_SECONDS_DEFAULT,
        timeout: Duration = SEND_SECONDS,
        **delivery: Unpack[Delivery],
    ) -> Half:
        """Return a prepared message, to be used with `with`; entering stores it, and nobody sees it before the commit.

            with client.prepare("orders", body, check="order-service") as half:
                database.execute(...)
                database.commit()

        Args:
            destination: Queue, topic, or name below a topic.
            body: The payload.
            key: As for `send`.
            subject: Likewise.
            headers: Likewise.
            message_id: Likewise.
            check: Name of the group whose members know what became of it, see `transaction_checker`.
            check_after: Seconds or timedelta, at least 0.1, after which the group is asked for the first time. The
                intervals double, up to a minute; after 15 questions it is parked for operators.
            timeout: How long storing it, and deciding it, may take.
            delivery: As for `send`. A delay counts from when it is prepared.

        Raises on entering:
            QueueNotFound, QueueFull, QueuePaused: It cannot be sent there.
            OutcomeUnknown: No answer in time; if it was stored, the check-back decides.
            LimitReached: There are too many undecided ones.

        """
        half = self._io.run(
            lambda: self._inner.prepare(
                destination,
                body,
                key,
                subject,
                headers,
                message_id,
                check=check,
                check_after=check_after,
                timeout=timeout,
                **delivery,
            )
        )
        return Half(self._io, half)

    def transaction_checker(self, group: str, function: Check) -> Checker:
        """Let *function* be asked, as long as this client lives, what became of prepared messages of *group*.

        Args:
            group: What `prepare` names as `check`.
            function: Gets an `Undecided` and returns a `Decision`, or None where it does not know yet. It runs in a
                worker thread; others are asked meanwhile, and one that raises does not know.

        Returns:
            Its figures.

        """
        return self._io.run(self._inner.transaction_checker, group, function)

    def transactions(self, group: str = "") -> Iterator[dict[str, Any]]:
        """Yield the prepared messages that are undecided, oldest first; *group* "" means all.

        Their keys: `transaction` (its name), `state` ("prepared" or "parked"), `destination`, `group`, `members` (how
        many could be asked now), `checks`, `next_check_at` and `prepared_at` (milliseconds since 1970), `messages`,
        `bytes`, `destination_exists`, `producer`, `sequence`.
        """
        return Listing(self._io, lambda: self._inner.transactions(group))

    # --- reading --------------------------------------------------------------------------------------------------

    def replay(
        self, queue: str, from_: str | datetime = START, to: str | datetime | None = None, *, follow: bool = False
    ) -> Replay:
        """Return what the queue retains, to be read with `for`: also what is settled, without leases.

        Needs the setting `retention`. Nothing changes by it, and any number of replays read beside each other and
        beside consumers. It goes on after a reconnect where it was.

        Args:
            queue: The queue.
            from_: Begin with this position (the message is included), with what was published at this time (an aware
                datetime) or later, or with the oldest message that is retained: "start".
            to: End before this position or time; None: with the newest message when the replay begins.
            follow: Wait for what is published later, until *to* if that is given. Then no timeout ends it.

        Raises while iterating:
            QueueNotFound: No queue of that name.
            RetentionOff: The queue retains nothing.
            PositionExpired: Not everything from there on is retained any more, or not when its turn came; its
                `oldest_position` is where to begin instead.
            MessageNotFound: The next messages were given up when the broker's log was repaired; its `next_position` is
                where to go on.

        """
        return Replay(self._io, self._io.run(self._inner.replay, queue, from_, to, follow=follow))

    def delayed(
        self, queue: str, *, since: datetime | None = None, until: datetime | None = None
    ) -> Iterator[DelayedMessage]:
        """Yield what waits in *queue*, or a topic, in the order in which it is due, a page at a time; nothing changes.

        What comes or goes meanwhile may be among them or not.

        Args:
            queue: Name of the queue, or of a topic for what that delays.
            since: Aware datetime: only what is due then or later.
            until: Aware datetime: only what is due before.

        Raises:
            QueueNotFound: Neither a queue nor a topic of that name.
            InvalidRequest: A time without a time zone.

        """
        return Listing(self._io, lambda: self._inner.delayed(queue, since=since, until=until))

    # --- life -----------------------------------------------------------------------------------------------------

    def open(self) -> Self:
        """Connect, as entering the client does: for programs whose clients live longer than a block.

        Raises:
            ConnectionFailed: No broker could be reached in time; each address stands in the text with its cause.
            AuthenticationFailed: The broker does not take these credentials.
            VersionMismatch: No common protocol version.
            ClientClosed: It was opened before.

        """
        io = self._io
        if self._hosted is not None:
            raise ClientClosed("a client is opened once: call connect() again")
        hosted = self._hosted = Hosted(self._inner)
        io.call(hosted.enter)
        io.open[self] = None
        return self

    def close(self) -> None:
        """Send what waits, at most `close_timeout` seconds; then everything that still waits gets `ClientClosed`.

        Leaving the client does this too. Does nothing where it was closed before, and in the child of a fork.
        """
        self._close(None)

    def close_at_exit(self) -> None:
        """Close it because the process ends; for the client's own use."""
        self._close(2 * self._own.close_seconds + EXIT_SECONDS)

    def _close(self, seconds: float | None) -> None:
        hosted = self._hosted
        if hosted is None or self._io.error is not None or self._io.open.pop(self, self) is self:
            return

        async def close() -> None:
            try:
                await self._own.flush_publishers()
            except SluiceError as error:
                log.info("what was sent last is not confirmed: %s", error)
            await hosted.leave()

        self._io.await_(close, seconds=seconds)

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def connect(
    url: str,
    *,
    name: str | None = None,
    connect_timeout: Duration = 10.0,
    close_timeout: Duration = 2.0,
    heartbeat: Duration = 10.0,
    request_timeout: Duration = 30.0,
    tls: ssl.SSLContext | None = None,
) -> Client:
    """Return a client for `with connect(url) as client:`, for programs without an event loop.

    Args:
        url: `sluicemq://[user:password@]host:port[,host:port...][/vhost]`; the one that leads is looked for.
        name: Shown by the broker's tools.
        connect_timeout: Seconds (or a timedelta, as everywhere) until the first connection must stand.
        close_timeout: Most seconds that leaving waits for verdicts and sends under way.
        heartbeat: Seconds between signs of life that we propose, at most 3,600; 0 = none.
        request_timeout: Seconds that any other call than a send waits for its answer.
        tls: An SSLContext: encrypt, and check the broker's certificate as the context says.

    Raises on entering:
        ConnectionFailed: No broker could be reached in time; each address stands in the text with its cause.
        AuthenticationFailed: The broker does not take these credentials.
        VersionMismatch: No common protocol version.
        InvalidRequest: The URL or an option is wrong (raised at once).

    """
    return Client(
        _AsyncClient(
            url,
            name=name,
            connect_timeout=connect_timeout,
            close_timeout=close_timeout,
            heartbeat=heartbeat,
            request_timeout=request_timeout,
            tls=tls,
        )
    )
