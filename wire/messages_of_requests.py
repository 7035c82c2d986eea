"""Messages about requests and their replies, which pass through the broker without being stored.

As in `messages`: vocabulary only, and even field numbers must be understood. A request itself is an ordinary message
with the header `REQUEST_HEADER`; its reply goes to the mailbox that stands there.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from typing import Any, NamedTuple

from sluicemq.wire.fields import Message, binary, map_of_text, message, optional, text, unsigned, wire_field

__all__ = [
    "MAILBOX_BYTES",
    "MAILBOX_SECRET_BYTES",
    "REPLY_DELIVERED",
    "REPLY_DROPPED",
    "REPLY_HELD",
    "REPLY_LATE",
    "REQUEST_HEADER",
    "REQUEST_NUMBER_BITS",
    "MailboxOpened",
    "OpenMailbox",
    "Replied",
    "Reply",
    "ReplyAddress",
    "ReplyArrived",
    "mailbox_of",
    "reply_address",
]

REQUEST_HEADER = "sluicemq-request"
"""Header of a request: a list of the mailbox, the number of the request, and for how many milliseconds from when it was
published somebody waits for the reply."""
MAILBOX_BYTES = 16
"""Bytes of a mailbox's name: nobody guesses it, so that only who got a request can reply to it."""
MAILBOX_SECRET_BYTES = 32
"""Bytes of what opens a mailbox: chosen by chance by its owner, and told to nobody but brokers."""
REQUEST_NUMBER_BITS = 63
"""Of the number of a request: by chance as well, so that it stands for the right to reply to this one."""
_NUMBER_MAX = (1 << REQUEST_NUMBER_BITS) - 1

REPLY_DELIVERED = "delivered"
"""The reply is on its way to whoever asked."""
REPLY_HELD = "held"
"""Whoever asked is not connected at the moment: the reply waits for it, in memory, as long as it is wanted."""
REPLY_LATE = "late"
"""Nobody waits for it any more: it was dropped."""
REPLY_DROPPED = "dropped"
"""It was dropped, because too many wait already."""

_mailbox = binary(MAILBOX_BYTES)


def mailbox_of(secret: bytes) -> bytes:
    """Return the name of the mailbox that *secret* opens: the first bytes of its SHA-256.

    The name stands in every request. It does not say the secret: so who can read a request can reply to it, but can
    never have the replies; and every broker sees whose the mailbox is without ever having heard of it.
    """
    return sha256(secret).digest()[:MAILBOX_BYTES]


class ReplyAddress(NamedTuple):
    """Where a reply goes: a mailbox, the number of the request, and until when it is wanted, in the broker's time."""

    mailbox: bytes
    number: int
    deadline_ms: int


def reply_address(headers: Mapping[str, Any], published_ms: int) -> ReplyAddress | None:
    """Return the mailbox that the headers of a request name; None: they name none, or nonsense."""
    value = headers.get(REQUEST_HEADER)
    if not isinstance(value, (list, tuple)) or len(value) != 3:
        return None
    mailbox, number, milliseconds = value
    if not isinstance(mailbox, bytes) or len(mailbox) != MAILBOX_BYTES:
        return None
    if not all(type(each) is int and 0 <= each <= _NUMBER_MAX for each in (number, milliseconds)):
        return None
    return ReplyAddress(mailbox, number, min(published_ms + milliseconds, _NUMBER_MAX))


@message(170)
class OpenMailbox(Message):
    """Send here what is replied to the mailbox of this secret, from now on. Answered by MAILBOX_OPENED.

    Its name is the first 16 bytes of the SHA-256 of *secret*, 32 bytes of chance. A session has one mailbox, and takes
    it over from an earlier connection. What was held for it comes at once.
    """

    secret: bytes = wire_field(2, binary(MAILBOX_SECRET_BYTES))


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
