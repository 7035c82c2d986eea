"""Smooth weighted round robin, in logarithmic time.

The rule is the one that made nginx known for it: at each turn every consumer's *current* grows by its weight; the one
with the largest current, of equals the first to come, is chosen; its current falls by the sum of all weights. With the
weights 5, 1 and 1 that gives a a b a c a a, where plain weights would give a a a a a b c.

Written down so, each turn touches every consumer. Here none is touched but the one chosen: consumers of one weight grow
by the same, so their order does not change, and a count of turns says by how much they have grown. Each different
weight has a heap of its own, and a turn looks at the top of each. This module must not know what a turn is for.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sluicemq.broker.queues.dispatching.consumers import Consumer

_STALE_MAX = 64
"""Entries of a heap that may be out of date before it is tidied, beside as many as there are consumers in it."""


class _Group:
    """Consumers of one weight, by what they are owed."""

    __slots__ = ("heap", "listed", "weight")

    def __init__(self, weight: int) -> None:
        self.weight = weight
        self.listed = 0
        # (-base, arrival, ticket, consumer); current is base + turns * weight, the ticket that of its newest entry.
        self.heap: list[tuple[int, int, int, Consumer]] = []

    def top(self) -> Consumer:
        """Return who is owed most; entries out of date are dropped on the way."""
        heap = self.heap
        while heap[0][3].place != heap[0][2]:
            heappop(heap)
        return heap[0][3]

    def tidy(self) -> None:
        """Drop what is out of date, if it is the larger half."""
        if len(self.heap) > 2 * self.listed + _STALE_MAX:
            self.heap = [entry for entry in self.heap if entry[3].place == entry[2]]
            heapify(self.heap)


class SmoothWeights:
    """Consumers by their weights.

    Of a consumer's fields these are its own: `current`, true while it is not in here; `turn`, the base from which that
    follows while it is; `place`, the ticket of its entry.
    """

    __slots__ = ("_groups", "_tickets", "_total", "_turns")

    def __init__(self) -> None:
        self._groups: dict[int, _Group] = {}
        self._total = 0
        self._turns = 0
        self._tickets = 0

    def add(self, consumer: Consumer) -> None:
        """Let *consumer* take part, with what it was owed when it left."""
        weight = consumer.weight
        group = self._groups.get(weight)
        if group is None:
            group = self._groups[weight] = _Group(weight)
        self._tickets += 1
        consumer.place = self._tickets
        consumer.turn = consumer.current - self._turns * weight
        heappush(group.heap, (-consumer.turn, consumer.arrival, self._tickets, consumer))
        group.listed += 1
        self._total += weight

    def next(self) -> Consumer | None:
        """Choose a consumer and take it out; None where there is none."""
        best: Consumer | None = None
        best_current = 0
        turns = self._turns + 1
        for group in self._groups.values():
            consumer = group.top()
            current = turns * group.weight + consumer.turn
            if best is None or current > best_current or (current == best_current and consumer.arrival < best.arrival):
                best, best_current = consumer, current
        if best is None:
            return None
        self._turns = turns
        best.current = best_current - self._total
        self._take_out(best)
        return best

    def undo(self, consumer: Consumer) -> None:
        """Take the last turn back, which was *consumer*'s."""
        self._turns -= 1
        # It had grown by its weight, and fallen by the sum of all, its own included.
        consumer.current += self._total
        self.add(consumer)

    def remove(self, consumer: Consumer) -> None:
        """Take *consumer* out without a turn; it stays owed what it is owed."""
        consumer.current = self._turns * consumer.weight + consumer.turn
        self._take_out(consumer)

    def _take_out(self, consumer: Consumer) -> None:
        consumer.place = 0  # no ticket has this number: its entry is out of date
        group = self._groups[consumer.weight]
        group.listed -= 1
        self._total -= consumer.weight
        if group.listed:
            group.tidy()
        else:
            del self._groups[consumer.weight]
