"""A message as `Client.peek` shows it: a plain value, nothing to settle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Self

from sluicemq.wire.positions import default_message_id, format_position

if TYPE_CHECKING:
    from sluicemq.client.delivery_buffer import Run

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class PeekedMessage:
    """A ready message that was looked at.

    Attributes:
        body: The payload.
        key: As sent.
        subject: As sent.
        headers: As sent; read-only.
        position: Where it lies.
        message_id: The sender's id, else the one that every message gets.
        published_at: Aware UTC datetime.
        deliveries: How often it was delivered so far.
        attempts: How many attempts have begun so far.

    """

    body: bytes
    key: str | None
    subject: str | None
    headers: Mapping[str, Any]
    position: str
    message_id: str
    published_at: datetime
    deliveries: int
    attempts: int

    @classmethod
    def of(cls, run: Run, offset: int, group: int) -> Self:
        """Return message *offset* of *run*."""
        index = run.first_index + offset
        given = run.message_id(offset)
        return cls(
            body=run.bodies[offset],
            key=run.key(offset),
            subject=run.subject(offset),
            headers=run.headers(offset),
            position=format_position(group, run.zxid, index),
            message_id=default_message_id(run.producer, run.sequence, index) if given is None else given,
            published_at=_EPOCH + timedelta(milliseconds=run.published_ms),
            deliveries=run.deliveries,
            attempts=run.attempts,
        )
