"""A message as `Client.peek` and `Client.replay` show it: a plain value, nothing to settle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Self

from sluicemq.client.delivery_buffer import Run
from sluicemq.wire.message_ids import default_message_id
from sluicemq.wire.messages import RUN_NUMBERS
from sluicemq.wire.positions import format_position
from sluicemq.wire.routes import destination_of

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class PeekedMessage:
    """A message that was looked at.

    Attributes:
        body: The payload.
        key: As sent.
        subject: As sent.
        headers: As sent; read-only.
        position: Where it lies.
        message_id: The sender's id, else the one that every message gets.
        published_at: Aware UTC datetime.
        deliveries: How often it was delivered so far; 0 in a replay, which does not know.
        attempts: How many attempts have begun so far; likewise.
        destination: Where it was published to: the queue, or the whole name below the topic; see `Message`.

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
    destination: str = ""

    @classmethod
    def of(cls, run: Run, offset: int, group: int, queue: str = "", topic: str = "") -> Self:
        """Return message *offset* of *run*, seen in *queue*: *topic*, or a subscription of it, where that is not ""."""
        index = run.first_index + offset
        given = run.message_id(offset)
        elsewhere = destination_of(topic, run.subject(offset) or "") if topic else queue
        return cls(
            body=run.bodies[offset],
            key=run.key(offset),
            subject=run.subject(offset),
            headers=run.headers(offset),
            position=format_position(group, run.zxid, index),
            message_id=default_message_id(run.id_base, index) if given is None else given,
            published_at=_EPOCH + timedelta(milliseconds=run.published_ms),
            deliveries=run.deliveries,
            attempts=run.attempts,
            destination=run.destination or elsewhere,
        )


def runs_of(numbers: list[int], tail: memoryview, destinations: Sequence[str] = ()) -> list[Run]:
    """Return the runs of a PEEKED or REPLAYED frame.

    Raises:
        ProtocolError: They do not match the tail.

    """
    found: list[Run] = []
    start = 0
    for position in range(0, len(numbers), RUN_NUMBERS):
        run = numbers[position : position + RUN_NUMBERS]
        end = start + run[3]
        number = position // RUN_NUMBERS
        destination = destinations[number] if number < len(destinations) else ""
        found.append(Run(None, 0, run, tail[start:end], destination))
        start = end
    return found


def peeked_messages(
    numbers: list[int],
    tail: memoryview,
    group: int,
    queue: str = "",
    topic: str = "",
    destinations: Sequence[str] = (),
) -> list[PeekedMessage]:
    """Return the messages of a PEEKED frame about *queue*, see `PeekedMessage.of`. Raises as `runs_of`."""
    runs = runs_of(numbers, tail, destinations)
    return [PeekedMessage.of(run, offset, group, queue, topic) for run in runs for offset in range(run.count)]
