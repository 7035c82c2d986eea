"""Policies: whose turn it is among the consumers of a queue that have credit.

Every policy works the same way. `add` lists a consumer that can take messages; `next` chooses one and takes it out;
after its pick it is added again, if it can take more. Where there was nothing for it, `undo` makes it as if `next` had
not been called. So a policy sees each pick once, however large it is.

| policy | who comes next | a choice costs |
| --- | --- | --- |
| `RoundRobin` | who waited longest | O(1) |
| `SmoothWeighted` | each in proportion to its weight, evenly spread | O(log consumers + different weights) |
| `Random` | anybody | O(1) |
| `LeastInFlight` | who holds the fewest messages, of equals who waited longest | O(log consumers) |
| `TwoChoices` | of two that chance names, who holds fewer messages | O(1) |

Listed consumers are able, and those that are not any more are removed. Chance comes from outside, as a function that
returns an integer from 0 to below its argument. This module must not know queues or messages.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, ClassVar, TypeAlias

from sluicemq.broker.queues.dispatching.smooth_weighted import SmoothWeights

if TYPE_CHECKING:
    from collections.abc import Callable

    from sluicemq.broker.queues.dispatching.consumers import Consumer

    Chance: TypeAlias = Callable[[int], int]

_STALE_MAX = 64
"""Entries of a heap that may be out of date before it is tidied, beside as many as there are consumers."""


class Policy(ABC):
    """Chooses among the consumers listed."""

    weighs_load: ClassVar[bool] = False
    """Whether it wants to hear by `changed` what consumers hold."""

    __slots__ = ()

    @abstractmethod
    def add(self, consumer: Consumer) -> None:
        """List *consumer*, which is able and not listed."""

    @abstractmethod
    def next(self) -> Consumer | None:
        """Choose a consumer and take it out; None where none is listed."""

    @abstractmethod
    def undo(self, consumer: Consumer) -> None:
        """Put *consumer*, chosen last, back as if it had not been chosen."""

    @abstractmethod
    def remove(self, consumer: Consumer) -> None:
        """Take *consumer*, which is listed, out: it has gone or lost its credit."""

    def changed(self, consumer: Consumer) -> None:
        """Note that *consumer*, which is listed, holds more or less than before."""
        assert self.weighs_load, "only a policy that weighs load wants to hear of it"


class RoundRobin(Policy):
    """Who waited longest."""

    __slots__ = ("_line", "_stale")

    def __init__(self) -> None:
        # One that was removed is dropped when it is met, or once such are the larger half: so that a consumer which
        # comes and goes costs the same every time.
        self._line: deque[Consumer] = deque()
        self._stale = 0

    def __len__(self) -> int:
        return len(self._line)

    def add(self, consumer: Consumer) -> None:
        """See `Policy`."""
        consumer.listed = True
        self._line.append(consumer)

    def next(self) -> Consumer | None:
        """See `Policy`."""
        line = self._line
        while line:
            consumer = line.popleft()
            consumer.listed = False
            if consumer.gone:
                self._stale -= 1
            elif consumer.able:
                return consumer
        return None

    def undo(self, consumer: Consumer) -> None:
        """See `Policy`."""
        consumer.listed = True
        self._line.appendleft(consumer)

    def remove(self, consumer: Consumer) -> None:
        """See `Policy`."""
        if consumer.gone:  # one that only lost its credit keeps its turn, if it has credit again by then
            self._stale += 1
            if 2 * self._stale > len(self._line):
                self._line = deque(listed for listed in self._line if not listed.gone)
                self._stale = 0


class SmoothWeighted(Policy):
    """Each in proportion to its weight, evenly spread: see `SmoothWeights`."""

    __slots__ = ("_weights",)

    def __init__(self) -> None:
        self._weights = SmoothWeights()

    def add(self, consumer: Consumer) -> None:
        """See `Policy`."""
        consumer.listed = True
        self._weights.add(consumer)

    def next(self) -> Consumer | None:
        """See `Policy`."""
        consumer = self._weights.next()
        if consumer is not None:
            consumer.listed = False
        return consumer

    def undo(self, consumer: Consumer) -> None:
        """See `Policy`."""
        consumer.listed = True
        self._weights.undo(consumer)

    def remove(self, consumer: Consumer) -> None:
        """See `Policy`."""
        consumer.listed = False
        self._weights.remove(consumer)


class _Bag(Policy):
    """Consumers in no order, each to be reached in one step."""

    __slots__ = ("_chance", "_consumers")

    def __init__(self, chance: Chance) -> None:
        self._chance = chance
        self._consumers: list[Consumer] = []

    def add(self, consumer: Consumer) -> None:
        """See `Policy`."""
        consumer.listed = True
        consumer.place = len(self._consumers)
        self._consumers.append(consumer)

    def undo(self, consumer: Consumer) -> None:
        """See `Policy`."""
        self.add(consumer)

    def remove(self, consumer: Consumer) -> None:
        """See `Policy`."""
        consumer.listed = False
        last = self._consumers.pop()
        if last is not consumer:
            last.place = consumer.place
            self._consumers[last.place] = last


class Random(_Bag):
    """Anybody, each as likely as the others.

    Args:
        chance: Returns an integer from 0 to below its argument.

    """

    __slots__ = ()

    def next(self) -> Consumer | None:
        """See `Policy`."""
        if not self._consumers:
            return None
        consumer = self._consumers[self._chance(len(self._consumers))]
        self.remove(consumer)
        return consumer


class TwoChoices(_Bag):
    """Of two different ones that chance names, who holds fewer messages.

    The fullest of n consumers is log(log(n)) above the mean at most, about, where chance alone leaves log(n): nearly
    what looking at all of them gives, and no list has to be kept in order.

    Args:
        chance: Returns an integer from 0 to below its argument.

    """

    __slots__ = ()

    def next(self) -> Consumer | None:
        """See `Policy`."""
        count = len(self._consumers)
        if not count:
            return None
        consumer = self._consumers[self._chance(count)]
        if count > 1:
            # Any of the others, each as likely: the one drawn first stands in for the last.
            second = self._chance(count - 1)
            other = self._consumers[second if second != consumer.place else count - 1]
            if other.held_messages < consumer.held_messages:
                consumer = other
        self.remove(consumer)
        return consumer


class LeastInFlight(Policy):
    """Who holds the fewest messages; of equals, who waited longest."""

    weighs_load = True

    __slots__ = ("_heap", "_listed", "_tickets")

    def __init__(self) -> None:
        # (messages held, turn, ticket, consumer): of a consumer's entries the one with its newest ticket counts.
        self._heap: list[tuple[int, int, int, Consumer]] = []
        self._tickets = 0
        self._listed = 0

    def add(self, consumer: Consumer) -> None:
        """See `Policy`."""
        consumer.listed = True
        self._listed += 1
        consumer.turn = self._tickets + 1
        self._push(consumer)

    def next(self) -> Consumer | None:
        """See `Policy`."""
        heap = self._heap
        while heap:
            _held, _turn, ticket, consumer = heappop(heap)
            if consumer.listed and consumer.place == ticket:
                consumer.listed = False
                self._listed -= 1
                return consumer
        return None

    def undo(self, consumer: Consumer) -> None:
        """See `Policy`."""
        consumer.listed = True
        self._listed += 1
        self._push(consumer)

    def remove(self, consumer: Consumer) -> None:
        """See `Policy`."""
        consumer.listed = False
        self._listed -= 1

    def changed(self, consumer: Consumer) -> None:
        """See `Policy`."""
        self._push(consumer)

    def _push(self, consumer: Consumer) -> None:
        self._tickets += 1
        consumer.place = self._tickets
        heappush(self._heap, (consumer.held_messages, consumer.turn, self._tickets, consumer))
        if len(self._heap) > 2 * self._listed + _STALE_MAX:
            self._heap = [entry for entry in self._heap if entry[3].listed and entry[3].place == entry[2]]
            heapify(self._heap)


def policy_named(name: str, chance: Chance) -> Policy:
    """Return a new policy by the value of the setting `dispatch`."""
    if name == "weighted":
        return SmoothWeighted()
    if name == "random":
        return Random(chance)
    if name == "least_in_flight":
        return LeastInFlight()
    if name == "two_choices":
        return TwoChoices(chance)
    assert name == "round_robin", f"{name!r} is a policy"
    return RoundRobin()
