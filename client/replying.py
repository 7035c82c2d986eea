"""Replies to requests: what `Message.reply` does.

The request says where its reply goes: to a mailbox, past the log (`requesting`), or to a queue, where it is stored like
any message. Must not know who asked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from sluicemq.client.errors import RequestFailed, SluiceError
from sluicemq.client.options import Body, check_attributes, owned_body
from sluicemq.client.outgoing import Attributes, Pending
from sluicemq.client.producer import SEND_SECONDS, enter
from sluicemq.client.publisher import Publisher
from sluicemq.client.reconnect import Link
from sluicemq.wire import messages as m
from sluicemq.wire.batch import encode_batch
from sluicemq.wire.errors import error_to_wire
from sluicemq.wire.fields import Message as WireMessage
from sluicemq.wire.settings import check_name

REPLY_TO_HEADER = "reply-to"
"""Header by which a message names the queue that replies to it shall go to."""
CORRELATION_HEADER = "correlation-id"
"""Header by which a reply in a queue says what it replies to: that of the request, else the request's message id."""
ERROR_HEADER = "sluicemq-error"
"""Header of a reply in a queue that says that the request failed; its body is empty."""


def wants_reply(headers: Mapping[str, Any], published_ms: int) -> bool:
    """Whether a message with these headers is a request to which a reply can go."""
    return isinstance(headers.get(REPLY_TO_HEADER), str) or m.reply_address(headers, published_ms) is not None


class Replying:
    """Sends replies, for all messages of one client.

    Args:
        link: The client's connection.
        seconds: How long the broker's answer is waited for.
        publisher: Returns the client's shared producer, for replies that go to queues.

    """

    def __init__(self, link: Link, seconds: float, publisher: Callable[[], Publisher]) -> None:
        self._link = link
        self._seconds = seconds
        self._publisher = publisher

    async def reply(
        self,
        request_headers: Mapping[str, Any],
        published_ms: int,
        message_id: str,
        body: Body,
        headers: Mapping[str, Any] | None,
        error: RequestFailed | None = None,
    ) -> bool:
        """Reply to a request; return whether somebody may get it; see `Message.reply`."""
        owned = owned_body(body)
        check_attributes(None, None, headers, None)
        address = m.reply_address(request_headers, published_ms)
        if address is not None:
            tail = None if error is not None else encode_batch([owned], headers=None if headers is None else [headers])
            answer = await self._link.request(_message(address, error), timeout=self._seconds, tail=tail)
            assert isinstance(answer.message, m.Replied)
            return answer.message.outcome in (m.REPLY_DELIVERED, m.REPLY_HELD)
        queue = request_headers.get(REPLY_TO_HEADER)
        if not isinstance(queue, str):
            return False
        correlation = request_headers.get(CORRELATION_HEADER, message_id)
        own_headers = {**(headers or {}), CORRELATION_HEADER: correlation}
        if error is not None:
            own_headers[ERROR_HEADER] = error.text
        publisher = self._publisher()
        pending = Pending(publisher.now() + SEND_SECONDS)
        await publisher.ready()
        enter(publisher, pending, check_name(queue), owned, Attributes(None, None, own_headers))
        await publisher.wait(pending)
        return True

    def fail_soon(self, request_headers: Mapping[str, Any], published_ms: int, reason: str) -> None:
        """Tell whoever waits for the reply that there will be none, without waiting for the broker."""
        address = m.reply_address(request_headers, published_ms)
        session = self._link.session
        if address is not None and session is not None:
            session.request(_message(address, RequestFailed(reason)), _ignore)


def _message(address: m.ReplyAddress, error: RequestFailed | None) -> m.Reply:
    return m.Reply(
        mailbox=address.mailbox,
        number=address.number,
        deadline_ms=address.deadline_ms,
        error=None if error is None else error_to_wire(error),
    )


def _ignore(_reply: WireMessage | None, _tail: memoryview | None, _error: SluiceError | None) -> None:
    """Who rejects a message does not wait for what becomes of the reply."""
