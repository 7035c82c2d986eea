"""Calls as RequestCalls has them.

Made by a test from `sluicemq.client.request_calls`, see `tests/client/blocking/facade.py`; do not edit.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sluicemq.client.blocking.calls._base import Base
from sluicemq.client.blocking.requesting import PendingReply
from sluicemq.client.options import Body, Duration
from sluicemq.client.request_calls import REQUEST_SECONDS
from sluicemq.client.requesting import OnReply, ReplyMessage, RequestStatistics


class RequestCalls(Base):
    """These calls of the client."""

    def request(
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
        return self._io.call(
            self._inner.request,
            destination,
            body,
            timeout=timeout,
            key=key,
            subject=subject,
            headers=headers,
            message_id=message_id,
            priority=priority,
        )

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
            on_reply: Called once in the client's loop, with the reply or with the error; it must be quick.

        Returns:
            The reply, to be awaited when it suits.
        """
        return PendingReply(
            self._io,
            self._io.call(
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
            ),
        )

    def request_statistics(self) -> RequestStatistics:
        """Return figures about this client's requests."""
        return self._io.run(self._inner.request_statistics)
