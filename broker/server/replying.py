"""OPEN_MAILBOX and REPLY: requests that are answered past the log.

As in `requests`: unpack, ask for permission, hand on, reply.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sluicemq.broker.server.authorization import authorize
from sluicemq.wire import messages as m
from sluicemq.wire.errors import InvalidRequest

if TYPE_CHECKING:
    from sluicemq.broker.server.client_session import ClientSession, Handler
    from sluicemq.wire.fields import Message


def open_mailbox(session: ClientSession, message: Message, correlation: int, tail: memoryview) -> None:
    """OPEN_MAILBOX: MAILBOX_OPENED goes out before what was held."""
    del tail
    assert isinstance(message, m.OpenMailbox)
    authorize(session.identity, "request", (session.vhost, "vhost", session.vhost))
    _check_bytes("the secret of a mailbox", message.secret, m.MAILBOX_SECRET_BYTES)
    session.reply(correlation, m.MailboxOpened())
    session.server.mailboxes.open(session, m.mailbox_of(message.secret), session.road.clock.now_ms())


def reply(session: ClientSession, message: Message, correlation: int, tail: memoryview) -> None:
    """REPLY: passed on at once; REPLIED says what became of it."""
    assert isinstance(message, m.Reply)
    authorize(session.identity, "reply", (session.vhost, "vhost", session.vhost))
    _check_bytes("the name of a mailbox", message.mailbox, m.MAILBOX_BYTES)
    if (message.error is None) != bool(tail):
        raise InvalidRequest("a reply has either a body or an error")
    data: bytes | memoryview = b""
    if tail:
        batch = session.road.produce.checked_batch(tail, ())
        if batch.count != 1:
            raise InvalidRequest(f"a reply is one message, not {batch.count}")
        data = batch.data
    box = session.vhost, message.mailbox
    now_ms = session.road.clock.now_ms()
    mailboxes = session.server.mailboxes
    outcome = mailboxes.reply(box, message.number, message.deadline_ms, message.error, data, now_ms)
    session.reply(correlation, m.Replied(outcome))


def _check_bytes(what: str, value: bytes, wanted: int) -> None:
    if len(value) != wanted:
        raise InvalidRequest(f"{what} has {wanted} bytes, not {len(value)}")


HANDLERS: dict[type[Message], Handler] = {m.OpenMailbox: open_mailbox, m.Reply: reply}
"""Handler by message; `requests` takes them over."""
