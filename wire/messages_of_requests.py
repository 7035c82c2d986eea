"""Messages about requests and their replies, which pass through the broker without being stored.

As in `messages`: vocabulary only, and even field numbers must be understood. A request itself is an ordinary message
with the header `REQUEST_HEADER`; its reply goes to the mailbox that stands there.
"""

from __future__ import annotations

from typing import Any

from sluicemq.wire.fields import Message, binary, map_of_text, message, optional, text, unsigned, wire_field

__all__ = [
    "MAILBOX_BYTES",
    "REPLY_DELIVERED",
    "REPLY_DROPPED",
    "REPLY_HELD",
    "REPLY_LATE",
    "REQUEST_HEADER",
    "MailboxOpened",
    "OpenMailbox",
    "Replied",
    "Reply",
    "ReplyArrived",
]

REQUEST_HEADER = "sluicemq-request"
"""Header of a request: a list of the mailbox, the number of the request, and for how many milliseconds from when it was
published somebody waits for the reply."""
MAILBOX_BYTES = 16
"""Bytes of a mailbox's name: chosen by chance, so that only who got a request can reply to it."""

REPLY_DELIVERED = "delivered"
"""The reply is on its way to whoever asked."""
REPLY_HELD = "held"
"""Whoever asked is not connected at the moment: the reply waits for it, in memory, as long as it is wanted."""
REPLY_LATE = "late"
"""Nobody waits for it any more: it was dropped."""
REPLY_DROPPED = "dropped"
"""It was dropped, because too many wait already."""

_mailbox = binary(MAILBOX_BYTES)


@message(170)
class OpenMailbox(Message):
    """Send here what is replied to this mailbox, from now on. Answered by MAILBOX_OPENED.

    A session has one. What was held for it comes at once.
    """

    mailbox: bytes = wire_field(2, _mailbox)


@message(171)
class MailboxOpened(Message):
    """Replies to the mailbox come to this connection."""


@message(172)
class Reply(Message):
    """Reply to a request: a batch of one message (the tail), or the *error* why it failed. Answered by REPLIED.

    *deadline_ms* (milliseconds since 1970): nobody waits for it from then on.
    """

    mailbox: bytes = wire_field(2, _mailbox)
    number: int = wire_field(4, unsigned(64))
    deadline_ms: int = wire_field(6, unsigned(64))
    error: dict[str, Any] | None = wire_field(8, optional(map_of_text), default=None)


@message(173)
class Replied(Message):
    """What became of the reply: one of the `REPLY_*`."""

    outcome: str = wire_field(2, text(16))


@message(174)
class ReplyArrived(Message):
    """Broker to client, unasked: the reply to request *number* of the mailbox, as in REPLY."""

    number: int = wire_field(2, unsigned(64))
    error: dict[str, Any] | None = wire_field(4, optional(map_of_text), default=None)
