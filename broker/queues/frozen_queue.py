"""A queue as it was at one moment: what `freeze` writes down. This module must not know how queues change."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from sluicemq.broker.queues.windows import windows_of

if TYPE_CHECKING:
    from sluicemq.broker.queues.chunks import FifoImage
    from sluicemq.broker.queues.notes import Note
    from sluicemq.broker.queues.queue import Queue
    from sluicemq.broker.queues.runs import Run
    from sluicemq.broker.queues.window import WindowImage


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
    windows: list[tuple[int, WindowImage]]


def frozen_queue(queue: Queue) -> FrozenQueue:
    """Return a copy of *queue* that nothing changes any more; chunks are not copied, so it takes microseconds."""
    history = queue.history
    return FrozenQueue(
        queue.id,
        queue.vhost,
        queue.name,
        queue.settings,
        queue.created_ms,
        queue.published_total,
        queue.settled_total,
        queue.purged_total,
        queue.redelivered_total,
        None if history is None else history.places(),
        queue.expired_total,
        queue.dropped_total,
        queue.dead_total,
        queue.moved_total,
        queue.bytes,
        queue.notes.next_number,
        queue.used_ms,
        queue.redriven_total,
        queue.discarded_total,
        [] if queue.keys is None else list(queue.keys.parked),
        [] if queue.keys is None else queue.keys.flat_waiting(),
        [(priority, lane.image()) for priority, lane in queue.lanes.items() if lane.messages],
        queue.returned.frozen(),
        queue.delayed.image(),
        None if history is None else history.runs.image(),
        None if queue.lanes.expiring is None else queue.lanes.expiring.image(),
        queue.dead.image(),
        queue.notes.frozen(),
        queue.paused,
        queue.declared,
        [(kind, window.image()) for kind, window in windows_of(queue)],
    )
