"""A queue as it was at one moment: what `freeze` writes down. This module must not know how queues change."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from sluicemq.broker.queues.chunks import FifoImage
    from sluicemq.broker.queues.notes import Note
    from sluicemq.broker.queues.runs import Run


class FrozenQueue(NamedTuple):
    """A queue as it was at one moment; the first fields are the columns of `sections.QUEUES`."""

    id: int
    vhost: str
    name: str
    settings: dict[str, Any]
    created_ms: int
    published_total: int
    settled_total: int
    purged_total: int
    redelivered_total: int
    retained: tuple[int, ...] | None
    expired_total: int
    dropped_total: int
    dead_total: int
    moved_total: int
    bytes: int | None
    next_note: int
    used_ms: int
    redriven_total: int
    discarded_total: int
    parked: list[int]
    waiting: list[int]
    lanes: list[tuple[int, FifoImage]]
    returned: list[Run]
    delayed: FifoImage | None
    history: FifoImage | None
    expiring: FifoImage | None
    dead: FifoImage
    notes: list[tuple[int, Note]]
    paused: int
    declared: frozenset[str]
