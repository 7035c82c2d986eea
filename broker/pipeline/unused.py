"""Queues that go when nobody uses them: the leader knows who consumes, so it proposes that they go.

It counts from the last consumer that left, the last message that came and the last declaration, whichever is latest.
Who consumes is not in the log: so it says of queues that are used that they are, when their consumers come and go and a
few times within the time after which they would go. A leader that begins takes them to be used for as long as they may
have been without being said to be, and leaves their consumers some time to come back. Apply judges what the log says.
Must not know sockets.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

import trio

from sluicemq.broker.queues.entries_of_queues import ExpireQueue, MarkUsed

if TYPE_CHECKING:
    from sluicemq.broker.pipeline.road import Road
    from sluicemq.broker.queues.outcomes import Outcome
    from sluicemq.broker.queues.queue import Queue

AT_ONCE_MAX = 100
"""Most queues that are looked at before others have their turn."""
LOOK_AGAIN_MS = 1_000
"""After so long a queue is looked at again that somebody consumes or that could not go."""
MARKS = 8
"""So often it is said, within the time after which it would go, that a queue is used."""
MARK_MS_MIN = 10_000
"""It is said of no queue more often than this."""
COME_BACK_MS = 30_000
"""So long after a leader began no queue goes whose consumers may have lost their connection to the one before."""


def mark_ms(queue: Queue) -> int:
    """Return after which time it is said again that a queue is used."""
    return max(_lifetime_ms(queue) // MARKS, MARK_MS_MIN)


def _lifetime_ms(queue: Queue) -> int:
    seconds: float = queue.settings["expires"] or 0.0
    return round(seconds * 1000)


class UnusedQueues:
    """When to look at which queue; a queue stands here once, as long as it may expire."""

    def __init__(self, road: Road) -> None:
        self._road = road
        self._looks: list[tuple[int, int]] = []  # a heap of (log time, number)
        self._known: dict[int, int] = {}  # since when nobody is known to consume it, by number
        self._to_mark: dict[int, None] = {}  # of these it is to be said that they are used
        self._timer = road.timer(self._next_look, self._look, is_upkeep=True)

    def start(self, nursery: trio.Nursery) -> None:
        """Take up the queues that exist, and run the timer in *nursery*."""
        now_ms = self._road.clock.now_ms()
        for queue in self._road.machine.queues():
            if queue.settings["expires"] is not None:
                back_ms = now_ms - _lifetime_ms(queue) + COME_BACK_MS
                self._known[queue.id] = min(now_ms, max(queue.used_ms + mark_ms(queue), back_ms))
                self._push(self._due_ms(queue), queue)
        nursery.start_soon(self._timer.run)

    def watch(self, queue_id: int) -> None:
        """Note that a queue may expire; again: that it was used."""
        now_ms = self._road.clock.now_ms()
        is_new = queue_id not in self._known
        self._known[queue_id] = now_ms
        queue = self._road.machine.queue(queue_id)
        if is_new and queue is not None:
            self._push(self._due_ms(queue), queue)

    def came_or_left(self, queue_id: int) -> None:
        """Note that a consumer of a queue has come or gone."""
        if queue_id in self._known:
            self._known[queue_id] = self._road.clock.now_ms()
            self._mark(queue_id)

    def _mark(self, queue_id: int) -> None:
        """Let it be said that a queue is used, unless that was said a short time ago."""
        queue = self._road.machine.queue(queue_id)
        if queue is not None and self._known[queue_id] - queue.used_ms >= mark_ms(queue):
            self._to_mark[queue_id] = None
            self._timer.changed(self._next_look())

    def _push(self, due_ms: int, queue: Queue) -> None:
        look_ms = min(due_ms, self._road.clock.now_ms() + mark_ms(queue))
        heapq.heappush(self._looks, (look_ms, queue.id))
        self._timer.changed(self._next_look())

    def _due_ms(self, queue: Queue) -> int:
        return max(queue.used_ms, self._known[queue.id]) + _lifetime_ms(queue) + 1

    def _next_look(self) -> float | None:
        if self._to_mark:
            return trio.current_time()
        if not self._looks:
            return None
        return trio.current_time() + max(0.0, (self._looks[0][0] - self._road.clock.now_ms()) / 1000)

    def _look(self) -> None:
        now_ms = self._road.clock.now_ms()
        for _ in range(AT_ONCE_MAX):
            if not self._looks or self._looks[0][0] > now_ms:
                break
            _, queue_id = heapq.heappop(self._looks)
            queue = self._road.machine.queue(queue_id)
            if queue is None or queue.settings["expires"] is None:
                del self._known[queue_id]
            elif self._road.dispatch.consumer_count(queue_id) or queue.leased:
                self._known[queue_id] = now_ms
                self._mark(queue_id)
                self._push(max(self._due_ms(queue), now_ms + LOOK_AGAIN_MS), queue)
            elif self._due_ms(queue) > now_ms:
                self._push(self._due_ms(queue), queue)
            else:
                self._expire(queue, now_ms)
        marked = list(self._to_mark)[:AT_ONCE_MAX]
        if marked:
            for queue_id in marked:
                del self._to_mark[queue_id]
            self._road.propose(MarkUsed(now_ms, marked), lazy=True)

    def _expire(self, queue: Queue, now_ms: int) -> None:
        queue_id = queue.id

        def on_applied(outcome: Outcome) -> None:
            still = self._road.machine.queue(queue_id)
            if outcome.error is None or still is None:
                self._known.pop(queue_id, None)
            else:
                heapq.heappush(self._looks, (self._road.clock.now_ms() + LOOK_AGAIN_MS, queue_id))
                self._timer.changed(self._next_look())

        self._road.propose(ExpireQueue(now_ms, queue_id, self._known[queue_id]), on_applied=on_applied)
