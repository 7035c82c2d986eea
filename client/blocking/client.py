"""`connect` and the client for threads: the async client, entered on the I/O thread, and faces for what it makes."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self, Unpack

import anyio

from sluicemq.client import client as asynchronous
from sluicemq.client.blocking.calls import Calls
from sluicemq.client.blocking.crossing import CrossingConsumer
from sluicemq.client.blocking.io_thread import EXIT_SECONDS, Hosted, IoThread, io_thread
from sluicemq.client.blocking.producer import Submitted, send, submit
from sluicemq.client.blocking.relay import Relay
from sluicemq.client.consumer import Consumer as AsyncConsumer
from sluicemq.client.errors import ClientClosed, SluiceError
from sluicemq.client.options import Body, Delivery, Duration, seconds_of
from sluicemq.client.outbox.face import Outbox
from sluicemq.client.outbox.relay import ATTEMPTS_MAX, LEASE_SECONDS, POLL_SECONDS, ROWS_MAX
from sluicemq.client.producer import SEND_SECONDS, attributes_of
from sluicemq.client.publisher import Publisher
from sluicemq.client.receipts import Receipt
from sluicemq.client.request_calls import REQUEST_SECONDS
from sluicemq.wire.settings import check_name

log = logging.getLogger("sluicemq.client")


class _AsyncClient(asynchronous.Client):
    """The client on the loop, as far as threads need something else of it."""

    _consumer_type: type[AsyncConsumer] = CrossingConsumer

    @property
    def close_seconds(self) -> float:
        """The option `close_timeout`."""
        return self._close_seconds

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

    # --- requests -------------------------------------------------------------------------------------------------

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

    # --- outbox ---------------------------------------------------------------------------------------------------

    def relay(
        self,
        outbox: Outbox,
        *,
        poll_interval: Duration = POLL_SECONDS,
        lease: Duration = LEASE_SECONDS,
        batch_messages: int = ROWS_MAX,
        attempts_max: int = ATTEMPTS_MAX,
    ) -> Relay:
        """Return what sends the messages of *outbox*, on the I/O thread; arguments and errors as for `Outbox.relay`.

        `relay.run()` runs it until Ctrl-C, or until the client is closed; `with relay:` runs it beside the block.
        """
        inner = outbox.relay(
            self._inner,
            poll_interval=poll_interval,
            lease=lease,
            batch_messages=batch_messages,
            attempts_max=attempts_max,
        )
        return Relay(self._io, inner)

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
