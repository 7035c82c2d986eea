"""Queues that go when nobody uses them: the leader knows who consumes, so it proposes that they go.

It counts from the last consumer that left, the last message that came and the last declaration, whichever is latest,
and from its own beginning: who consumed before that is not in the log. Apply judges what the log says. Must not know
sockets.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

import trio

from sluicemq.broker.queues.entries_of_queues import ExpireQueue

if TYPE_CHECKING:
    from sluicemq.broker.pipeline.road import Road
    from sluicemq.broker.queues.outcomes import Outcome
    from sluicemq.broker.queues.queue import Queue

AT_ONCE_MAX = 100
"""Most queues that are looked at before others have their turn."""
LOOK_AGAIN_MS = 1_000
"""After so long a queue is looked at again that somebody consumes or that could not go."""


class UnusedQueues:
    """When to look at which queue; a queue stands here once, as long as it may expire."""

    def __init__(self, road: Road) -> None:
        self._road = road
        self._looks: list[tuple[int, int]] = []  # a heap of (log time, number)
        self._known: dict[int, int] = {}  # since when nobody is known to consume it, by number
        self._timer = road.timer(self._next_look, self._look)

    def start(self, nursery: trio.Nursery) -> None:
        """Take up the queues that exist, and run the timer in *nursery*."""
        for queue in self._road.machine.queues():
            if queue.settings["expires"] is not None:
                self.watch(queue.id)
        nursery.start_soon(self._timer.run)

    def watch(self, queue_id: int) -> None:
        """Note that a queue may expire; again: that it was used."""
        now_ms = self._road.clock.now_ms()
        is_new = queue_id not in self._known
        self._known[queue_id] = now_ms
        queue = self._road.machine.queue(queue_id)
        if is_new and queue is not None:
            self._push(self._due_ms(queue), queue_id)

    def left(self, queue_id: int) -> None:
        """Note that a consumer of a queue has gone."""
        if queue_id in self._known:
            self._known[queue_id] = self._road.clock.now_ms()

    def _push(self, due_ms: int, queue_id: int) -> None:
        heapq.heappush(self._looks, (due_ms, queue_id))
        self._timer.changed(self._next_look())

    def _due_ms(self, queue: Queue) -> int:
        seconds: float = queue.settings["expires"] or 0.0
        return max(queue.used_ms, self._known[queue.id]) + round(seconds * 1000) + 1

    def _next_look(self) -> float | None:
        if not self._looks:
            return None
        return trio.current_time() + max(0.0, (self._looks[0][0] - self._road.clock.now_ms()) / 1000)

    def _look(self) -> None:
        now_ms = self._road.clock.now_ms()
        for _ in range(AT_ONCE_MAX):
            if not self._looks or self._looks[0][0] > now_ms:
                return
            _, queue_id = heapq.heappop(self._looks)
            queue = self._road.machine.queue(queue_id)
            if queue is None or queue.settings["expires"] is None:
                del self._known[queue_id]
            elif self._road.dispatch.consumer_count(queue_id) or queue.leased:
                self._known[queue_id] = now_ms
                self._push(max(self._due_ms(queue), now_ms + LOOK_AGAIN_MS), queue_id)
            elif self._due_ms(queue) > now_ms:
                self._push(self._due_ms(queue), queue_id)
            else:
                self._expire(queue, now_ms)

    def _expire(self, queue: Queue, now_ms: int) -> None:
        queue_id = queue.id

        def on_applied(outcome: Outcome) -> None:
            if outcome.error is None:
                self._known.pop(queue_id, None)
            else:
                self._push(self._road.clock.now_ms() + LOOK_AGAIN_MS, queue_id)

        self._road.propose(ExpireQueue(now_ms, queue_id, self._known[queue_id]), on_applied=on_applied)
