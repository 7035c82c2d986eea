"""A queue with its consumers: what is offered next, and whose turn it is.

A pick is a plan: between it and its GRANT's apply the machine still shows the messages as ready. So a cursor runs ahead
of the machine: what lies before it was picked already. It counts runs since the beginning of the queue, so whatever is
consumed or purged in front of it moves nothing. Runs that came back to their former places wait in a list of their own
and are offered first. This module must not know other queues.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sortedcontainers import SortedDict

from sluicemq.broker.queues.chunks import AHEAD_RUNS
from sluicemq.broker.queues.dispatching.baskets import Basket
from sluicemq.broker.queues.dispatching.modes import SHARED, active_of, may_deliver
from sluicemq.broker.queues.dispatching.policies import Policy, policy_named

if TYPE_CHECKING:
    from sluicemq.broker.queues.chunks import Chunk
    from sluicemq.broker.queues.dispatching.consumers import Consumer
    from sluicemq.broker.queues.dispatching.policies import Chance
    from sluicemq.broker.queues.queue import Queue
    from sluicemq.broker.queues.runs import Run

_READ_RUNS_MIN = 4
_READ_RUNS_MAX = 512


class Line:
    """A queue with its consumers.

    Args:
        queue: The queue; read, never changed.
        chance: Returns an integer from 0 to below its argument.

    Attributes:
        queue: The queue.
        settings: Its settings when the line last looked.
        consumers: Who is here by (session, number), in the order in which they came.
        single: Whether one of them takes part, and not all.
        active: That one; None where all take part, or nobody is there.
        policy: Whose turn it is among those that take part and have credit.
        returned: Runs that came back to their places, by place.
        planned: Messages of picks whose GRANT is not applied.
        waiting: Whether it stands in the dispatcher's list of those that may have something.
        stalled: Whether its last look met a run that is not in memory.
        gone: Whether its queue was deleted.

    """

    __slots__ = (
        "_arrivals",
        "_chance",
        "_first",
        "_ordinal",
        "active",
        "consumers",
        "gone",
        "planned",
        "policy",
        "queue",
        "returned",
        "settings",
        "single",
        "stalled",
        "waiting",
    )

    def __init__(self, queue: Queue, chance: Chance) -> None:
        self.queue = queue
        self.consumers: dict[tuple[int, int], Consumer] = {}
        self.active: Consumer | None = None
        self.settings = queue.settings
        self.policy: Policy = policy_named(self.settings["dispatch"], chance)
        self.returned: SortedDict[tuple[int, int, int], Run] = SortedDict((run.place, run) for run in queue.returned)
        self.single = self.settings["mode"] != SHARED
        self.planned = 0
        self.waiting = False
        self.stalled = False
        self.gone = False
        self._chance = chance
        self._arrivals = 0
        self._ordinal = queue.main.head  # the cursor: run of main,
        self._first = 0  # and index within its batch of the first message that was not picked yet

    @property
    def offers(self) -> bool:
        """Whether anything is there to be picked."""
        return bool(self.returned) or self._ordinal < self.queue.main.tail

    # --- consumers -----------------------------------------------------------------------------------------------

    def add_consumer(self, consumer: Consumer) -> None:
        """Let *consumer* take part, behind all others."""
        self._arrivals += 1
        consumer.arrival = self._arrivals
        consumer.line = self
        self.consumers[consumer.identity] = consumer
        if self.single:
            self._choose_active()

    def drop_consumer(self, consumer: Consumer) -> None:
        """Give *consumer* no turn any more."""
        consumer.gone = True
        del self.consumers[consumer.identity]
        if consumer.listed:
            self.policy.remove(consumer)
        if consumer is self.active:
            self._choose_active()

    def credit_changed(self, consumer: Consumer) -> bool:
        """Note that the credit of *consumer*, or what it holds, has changed; return whether it may get messages."""
        if not consumer.listed:
            if not consumer.eligible or not consumer.able:
                return False
            self.policy.add(consumer)
        elif not consumer.able:
            self.policy.remove(consumer)
        elif self.policy.weighs_load:
            self.policy.changed(consumer)
        return True

    def follow_settings(self) -> None:
        """Take changes of the queue's settings over; where they concern whose turn it is, that begins anew."""
        before, self.settings = self.settings, self.queue.settings
        if self.settings["mode"] != before["mode"] or self.settings["dispatch"] != before["dispatch"]:
            self._choose_active()

    def _choose_active(self) -> None:
        mode = self.settings["mode"]
        self.single = mode != SHARED
        self.active = active_of(mode, self.consumers.values())
        self.policy = policy_named(self.settings["dispatch"], self._chance)
        for consumer in self.consumers.values():
            consumer.listed = False
            consumer.current = 0
            consumer.eligible = mode == SHARED or consumer is self.active
            if consumer.eligible and consumer.able:
                self.policy.add(consumer)

    @property
    def closed(self) -> bool:
        """Whether nobody may get messages until others have let go of theirs; only where one takes part."""
        active = self.active
        if active is None:
            return True
        return not may_deliver(active.identity, self.queue.leases.keys(), self.planned - active.planned)

    # --- messages ------------------------------------------------------------------------------------------------

    def take(
        self, messages_max: int, bytes_max: int, spare_messages: int = 0, spare_bytes: int = 0
    ) -> tuple[list[Run], int, int]:
        """Take runs: at most so many messages and about so many bytes, but one message if there is any.

        See `Basket` for what *spare_messages* and *spare_bytes* are.

        Returns:
            The runs, their messages and about their bytes.

        """
        basket = Basket(messages_max, bytes_max, spare_messages, spare_bytes)
        returned = self.returned
        while returned and basket.open:
            _place, run = returned.popitem(0)
            rest = basket.add(run)
            if rest is not None:
                returned[rest.place] = rest
        main = self.queue.main
        if self._ordinal < main.head:  # granted or purged, as it lies behind the cursor or is gone
            self._ordinal, self._first = main.head, 0
        read_max = _READ_RUNS_MIN
        while basket.open and self._ordinal < main.tail:
            found = main.read(self._ordinal, read_max)
            if not found:
                self.stalled = True
                break
            for run in found:
                if run.first < self._first:
                    run = run.split(self._first - run.first)[1]
                rest = basket.add(run)
                if rest is not None:
                    self._first = rest.first
                    break
                self._ordinal += 1
                self._first = 0
                if not basket.open:
                    break
            read_max = min(2 * read_max, _READ_RUNS_MAX)
        return basket.runs, basket.messages, basket.bytes

    def missing(self) -> list[Chunk]:
        """Return the chunks that the next look needs and that are not in memory, and some that follow them."""
        self.stalled = False
        return self.queue.main.missing(self._ordinal, AHEAD_RUNS)
