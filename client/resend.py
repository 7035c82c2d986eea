"""What an `OutcomeUnknown` remembers, so that its messages can be sent again under their first number and sequence.

The identity alone is not enough: a single send travels in a batch with others, and only the same batch may be sent
under the same sequence. So the error keeps the batch, as long as somebody keeps the error; a pickled one does not. This
module must not know how a window numbers its batches, nor when an outcome is unknown.
"""

from __future__ import annotations

from typing import Protocol

from sluicemq.client.errors import (
    Conflict,
    ConnectionFailed,
    InvalidRequest,
    OutcomeUnknown,
    ProducerNotFound,
    RequestTimeout,
    SequenceGap,
    SluiceError,
    another,
    keep,
    kept,
)
from sluicemq.client.outgoing import OutgoingBatch, Pending
from sluicemq.client.receipts import Confirmation, Receipts, acks_name
from sluicemq.client.reconnect import Link
from sluicemq.wire import messages as m


class Sender(Protocol):
    """The publisher that sent the batch first."""

    def holds(self, batch: OutgoingBatch) -> bool:
        """Whether the batch is still on its way, or waits for a connection."""

    async def wait_again(self, pending: Pending, seconds: float) -> Confirmation:
        """Wait for the answer to *pending*, whose batch it holds and whose time was over."""


class Unsettled:
    """A send whose outcome is unknown.

    Attributes:
        sender: Who sent it.
        batch: What it was part of.
        pending: Its place in that batch.

    """

    __slots__ = ("batch", "pending", "sender")

    def __init__(self, sender: Sender, batch: OutgoingBatch, pending: Pending) -> None:
        self.sender = sender
        self.batch = batch
        self.pending = pending

    def receipts(self, confirmation: Confirmation) -> Receipts:
        """Return the receipts of what was sent: one, or those of a whole `send_many`."""
        if self.batch.whole:
            return Receipts(confirmation)
        index = self.batch.pendings.index(self.pending)
        return Receipts(confirmation, range(index, index + 1))


async def resend(link: Link, error: SluiceError, seconds: float) -> Receipts:
    """Find out what became of the messages of *error*, sending them again if need be; see `Client.resend`."""
    unsettled = kept(error)
    if not isinstance(unsettled, Unsettled):
        raise InvalidRequest(
            f"this {type(error).__name__} holds no messages to send again: it must be the very error that a send "
            "raised, in the same process (a pickled one keeps only the identity)"
        )
    batch, pending = unsettled.batch, unsettled.pending
    if pending.confirmation is not None:
        return unsettled.receipts(pending.confirmation)  # the answer came after all, when nobody waited any more
    if batch.refusal is not None:
        raise another(batch.refusal)
    if pending not in batch.pendings:
        raise RequestTimeout("the message was taken back before it could be sent again; it is not stored: send it anew")
    if unsettled.sender.holds(batch):
        if pending.handle is not None:
            raise Conflict("another task is resending these messages: wait for that one")
        return unsettled.receipts(await unsettled.sender.wait_again(pending, seconds))
    pending.confirmation = await _publish(link, unsettled, seconds)
    return unsettled.receipts(pending.confirmation)


async def _publish(link: Link, unsettled: Unsettled, seconds: float) -> Confirmation:
    """Send the batch outside of any window: under its number nothing else was or will be sent."""
    batch = unsettled.batch
    who = f"batch {batch.sequence} of producer {batch.producer}"
    request = m.Publish(batch.destination, batch.producer, batch.sequence, batch.acks)
    try:
        answer = await link.request(request, timeout=seconds, tail=batch.encode())
    except (RequestTimeout, ConnectionFailed) as error:
        unknown = OutcomeUnknown(
            f"{who} may or may not have been stored, and the resend was not answered: {error}",
            destination=batch.destination,
            producer=batch.producer,
            sequence=batch.sequence,
            index=batch.pendings.index(unsettled.pending),
        )
        keep(unknown, unsettled)
        raise unknown from error
    except ProducerNotFound as error:
        raise ProducerNotFound(
            f"the broker does not know producer {batch.producer} (any more), so nobody can tell whether {who} was "
            "stored: look into the queue, or send the messages anew where a duplicate does no harm",
            **error.fields,
        ) from error
    except SequenceGap as error:
        raise SequenceGap(
            f"{who} is not stored, and batches before it, from {error.fields.get('expected')}, are not either: resend "
            "those first, or send these messages anew",
            **error.fields,
        ) from error
    published = answer.message
    assert isinstance(published, m.Published)
    welcome = None if link.session is None else link.session.welcome
    return Confirmation(
        0 if welcome is None else welcome.group_id,
        published.zxid,
        published.duplicate,
        batch.producer,
        batch.sequence,
        batch.count,
        batch.message_ids,
        published.known,
        published.known_bits,
        acks_name(published.acks),
        published.id_base,
    )
