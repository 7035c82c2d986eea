"""The calls of a client by which it asks others and gets their replies."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

from sluicemq.client.asking import Asking
from sluicemq.client.errors import InvalidRequest
from sluicemq.client.options import Body, Duration, seconds_of
from sluicemq.client.outgoing import Pending
from sluicemq.client.producer import Submitted, attributes_of, enter
from sluicemq.client.publisher import Publisher
from sluicemq.client.replying import REPLY_TO_HEADER
from sluicemq.client.requesting import OnReply, PendingReply, ReplyMessage, Requests, RequestStatistics
from sluicemq.wire.messages import REQUEST_HEADER
from sluicemq.wire.settings import check_name

REQUEST_SECONDS = 10.0
"""How long a reply is waited for unless the caller says otherwise."""


class RequestCalls(Asking):
    """The calls of a client that are about requests; `Client` has them."""

    @abstractmethod
    def _requests(self) -> Requests:
        """Return what serves these calls. Raises ClientClosed."""

    @abstractmethod
    def _shared_publisher(self) -> Publisher:
        """Return the producer that single sends share. Raises ClientClosed."""

    async def request(
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
    ) -> ReplyMessage:
        """Send a request and wait for its reply, which whoever consumes it gives with `message.reply`.

        The request is stored like any message, with *timeout* as its lifetime: nobody works for who has left. The reply
        is not stored: it comes straight here, also when the connection, or the broker that leads, changes meanwhile.

        Args:
            destination: The queue (or a topic: then the first reply counts).
            body: The payload.
            timeout: Seconds or timedelta for everything, reconnecting included.
            key: As for `send`, and so are the others.
            subject: Likewise.
            headers: Likewise.
            message_id: Likewise.
            priority: Likewise.

        Raises:
            RequestTimeout: No reply in time. The request may be worked on, or have been.
            RequestFailed: Whoever served it says that it failed.
            RequestDied: Its last attempt failed, and nobody tries again; a `RequestFailed` as well.
            LimitReached: 10,000 requests of this client wait already.
            QueueNotFound: No queue of that name. And whatever else `send` raises.

        """
        pending = await self.submit_request(
            destination,
            body,
            timeout=timeout,
            key=key,
            subject=subject,
            headers=headers,
            message_id=message_id,
            priority=priority,
        )
        try:
            return await pending
        finally:
            if not pending.done:
                pending.cancel()

    async def submit_request(
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
            on_reply: Called once in the client's loop, with the reply or with the error; it must be quick.

        Returns:
            The reply, to be awaited when it suits.

        """
        seconds = seconds_of(timeout, "timeout", minimum=0.001)
        if on_reply is not None and not callable(on_reply):
            raise TypeError(f"on_reply must be callable or None, not {type(on_reply).__name__}")
        check_name(destination, "destination")
        attributes = attributes_of(key, subject, headers, message_id, ttl=seconds, priority=priority)
        for name in (REQUEST_HEADER, REPLY_TO_HEADER):
            if headers is not None and name in headers:
                raise InvalidRequest(f"the header {name!r} says where replies go, and replies to a request come here")
        requests = self._requests()
        return await requests.submit(self._shared_publisher(), destination, body, attributes, seconds, on_reply)

    async def tell(
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
            The receipt, to be awaited by who wants to know that the request is stored.

        """
        check_name(destination, "destination")
        attributes = attributes_of(key, subject, headers, message_id, priority=priority)
        publisher = self._shared_publisher()
        pending = Pending(publisher.now() + seconds_of(timeout, "timeout"))
        await publisher.ready()
        if not enter(publisher, pending, destination, body, attributes):
            await publisher.wait_for_room(pending)
        await publisher.runtime.checkpoint()
        return Submitted(publisher, pending)

    def request_statistics(self) -> RequestStatistics:
        """Return figures about this client's requests."""
        return self._requests().statistics()
