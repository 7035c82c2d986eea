"""The pace of every queue on the leader: counters are read once a second where anything happened.

One timer for all queues; a broker at rest has nothing to do. Must not know sockets, nor what limits there are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from sluicemq.broker.queues.shaping.meters import Counters, Meter, Pace

if TYPE_CHECKING:
    from sluicemq.broker.pipeline.road import Road
    from sluicemq.broker.queues.queue import Queue

READ_SECONDS = 1.0
READ_QUEUES_MAX = 1_000
"""Most queues that are read in one go, about a millisecond; others have their turn in between."""


class MeteringStage:
    """Reads the counters of this leader's queues."""

    def __init__(self, road: Road) -> None:
        self._road = road
        self._meters: dict[int, Meter] = {}
        self._delivered: dict[int, int] = {}
        self._touched: set[int] = set()
        self._due: float | None = None
        self._timer = road.timer(lambda: self._due, self._read, is_upkeep=True)

    def start(self, nursery: trio.Nursery) -> None:
        """Run the timer in *nursery*."""
        nursery.start_soon(self._timer.run)

    def touch(self, queue_id: int) -> None:
        """Something became ready in a queue."""
        if queue_id not in self._touched:
            self._touch(queue_id)

    def _touch(self, queue_id: int) -> None:
        self._touched.add(queue_id)
        if queue_id not in self._meters:
            queue = self._road.machine.queue(queue_id)
            if queue is None:
                return
            # The first messages are there already when this is heard of: the pace begins with those that follow.
            self._meters[queue_id] = Meter(self._counters(queue), trio.current_time())
        if self._due is None:
            self._due = trio.current_time() + READ_SECONDS
            self._timer.changed(self._due)

    def delivered(self, queue_id: int, messages: int) -> None:
        """Messages of a queue were sent."""
        self._delivered[queue_id] = self._delivered.get(queue_id, 0) + messages
        if queue_id not in self._touched:
            self._touch(queue_id)

    def queue_gone(self, queue_id: int) -> None:
        """The queue was deleted."""
        self._meters.pop(queue_id, None)
        self._delivered.pop(queue_id, None)
        self._touched.discard(queue_id)

    def _counters(self, queue: Queue) -> Counters:
        ready = queue.ready - self._road.dispatch.unapplied_messages(queue)
        return Counters(queue.published_total, self._delivered.get(queue.id, 0), ready)

    def pace(self, queue: Queue) -> Pace:
        """Return how fast messages of *queue* come and go."""
        meter = self._meters.get(queue.id)
        if meter is None:
            # Nothing has happened there; whoever lists all queues makes none of them cost anything.
            return Pace(0.0, 0.0, None if queue.ready else 0.0)
        meter.read(self._counters(queue), trio.current_time())
        return meter.pace()

    def _read(self) -> None:
        machine, now = self._road.machine, trio.current_time()
        for _ in range(min(READ_QUEUES_MAX, len(self._touched))):
            queue_id = self._touched.pop()
            queue = machine.queue(queue_id)
            if queue is None:
                self.queue_gone(queue_id)
            else:
                self._meters[queue_id].read(self._counters(queue), now)
        # Those that are left have their turn at once, the others in a second, if anything happens by then.
        self._due = now if self._touched else None
