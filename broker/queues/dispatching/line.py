"""A queue with its consumers: what is offered next, and whose turn it is.

A pick is a plan: between it and its GRANT's apply the machine still shows the messages as ready. So cursors run ahead
of the machine, one for each priority. Runs that came back to their former places wait in a list of their own and are
offered before all others of their priority. This module must not know other queues.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sortedcontainers import SortedDict

from sluicemq.broker.queues.dispatching.baskets import Basket
from sluicemq.broker.queues.dispatching.cursors import Cursor
from sluicemq.broker.queues.dispatching.key_order import KeyOrder
from sluicemq.broker.queues.dispatching.modes import FAILOVER, SHARED, active_of, may_deliver
from sluicemq.broker.queues.dispatching.policies import Policy, policy_named

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sluicemq.broker.queues.chunks import Chunk
    from sluicemq.broker.queues.dispatching.consumers import Consumer
    from sluicemq.broker.queues.dispatching.policies import Chance
    from sluicemq.broker.queues.queue import Queue
    from sluicemq.broker.queues.runs import Place, Run
    from sluicemq.broker.queues.shaping.gates import Gate


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
        gate: What bounds how much may go, and when; None where nothing does.
        policy: Whose turn it is among those that take part and have credit.
        cursors: What is picked of each lane, highest priority first.
        keys: What is known of the keys, where the queue is ordered by them; else None.
        returned: Runs that came back to their places, by place; none where there are keys, which know them.
        planned: Messages of picks whose GRANT is not applied.
        waiting: Whether it stands in the dispatcher's list of those that may have something.
        stalled: Whether its last look met a run that is not in memory.
        gone: Whether its queue was deleted.
        is_astray: Whether a grant met messages that were not there, or not in front: cursors may stand where nothing
            begins any more. Never where there are keys.

    """

    __slots__ = (
        "_arrivals",
        "_chance",
        "active",
        "consumers",
        "cursors",
        "gate",
        "gone",
        "is_astray",
        "keys",
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
        self.gate: Gate | None = None
        self.settings = queue.settings
        self.policy: Policy = policy_named(self.settings["dispatch"], chance)
        self.returned: SortedDict[Place, Run] = SortedDict((run.place, run) for run in queue.returned)
        self.single = self.settings["mode"] != SHARED
        self.planned = 0
        self.waiting = False
        self.stalled = False
        self.gone = self.is_astray = False
        self._chance = chance
        self._arrivals = 0
        self.cursors = [Cursor(priority, lane) for priority, lane in queue.lanes.items()]
        self.keys = KeyOrder(self) if self.settings["ordering"] == "key" else None

    @property
    def offers(self) -> bool:
        """Whether anything is there to be picked, for a queue without keys; to be asked before `take`."""
        if not self.queue.lanes.only_main:
            self._follow_lanes()
        if self.returned:
            return True
        for cursor in self.cursors:  # noqa: SIM110 - half the time of a generator, at every pick
            if cursor.ordinal < cursor.lane.tail:
                return True
        return False

    @property
    def unfinished(self) -> bool:
        """Whether the last look gave up before it had seen all that may be there."""
        return self.keys is not None and self.keys.unfinished

    # --- consumers -----------------------------------------------------------------------------------------------

    def add_consumer(self, consumer: Consumer) -> None:
        """Let *consumer* take part, behind all others."""
        self._arrivals += 1
        consumer.arrival = self._arrivals
        consumer.line = self
        self.consumers[consumer.identity] = consumer
        if self.single:
            if self.active is None or (self.settings["mode"] == FAILOVER and consumer.weight > self.active.weight):
                self._choose_active()
            else:
                consumer.eligible = False
        elif self.keys is not None:
            self.keys.joined(consumer)

    def drop_consumer(self, consumer: Consumer) -> None:
        """Give *consumer* no turn any more."""
        consumer.gone = True
        del self.consumers[consumer.identity]
        if consumer.listed:
            self.policy.remove(consumer)
        if self.keys is not None:
            self.keys.left(consumer)
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
            return False
        elif self.policy.weighs_load:
            self.policy.changed(consumer)
        if self.keys is not None:
            self.keys.can_take_more(consumer)
        return True

    def follow_settings(self) -> None:
        """Take changes of the queue's settings over; where they concern whose turn it is, that begins anew."""
        before, self.settings = self.settings, self.queue.settings
        if before is self.settings:
            return
        if self.settings["mode"] != before["mode"] or self.settings["dispatch"] != before["dispatch"]:
            self._choose_active()
        if self.settings["ordering"] != before["ordering"]:
            # The queue held nothing when that was declared.
            self.keys = KeyOrder(self) if self.settings["ordering"] == "key" else None
            for cursor in self.cursors:
                cursor.begin()
        elif self.keys is not None:
            self.keys.settings_changed()

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
        if self.keys is not None:
            self.keys.consumers_changed()

    @property
    def closed(self) -> bool:
        """Whether nobody may get messages until others have let go of theirs; only where one takes part."""
        active = self.active
        if active is None:
            return True
        return not may_deliver(active.identity, self.queue.leases.keys(), self.planned - active.planned)

    @property
    def takers(self) -> int:
        """Among how many consumers is shared what may go for now."""
        return 1 if self.single else max(1, len(self.consumers))

    # --- messages ------------------------------------------------------------------------------------------------

    def returned_to_places(self, runs: Iterable[Run]) -> None:
        """Note that *runs* went back to their places."""
        if self.keys is not None:
            self.keys.take_back(runs)
        else:
            for run in runs:
                # One message may have died in two subscriptions: one is known then, and the queue looked at anew.
                self.is_astray = self.is_astray or run.place in self.returned
                self.returned[run.place] = run

    def removed(self, runs: Iterable[Run]) -> None:
        """Note that *runs* are not there any more; of interest are those that came back, and rests of those cut."""
        returned = self.returned
        for run in runs:
            if self.keys is not None:
                self.keys.removed(run)
            elif returned:
                before = returned.peekitem(max(returned.bisect_right(run.place) - 1, 0))[0]
                for place in list(returned.irange(min(before, run.place), (*run.place[:3], run.first + run.size - 1))):
                    returned.update((part.place, part) for part in returned.pop(place).outside(run))

    def begin_again(self) -> None:
        """Look at the queue anew: something left it from under a cursor. Nothing must be planned."""
        runs = list(self.queue.returned)
        # Of those at one place the first can be had.
        self.returned = SortedDict((run.place, run) for run in reversed(runs))
        self.is_astray = len(self.returned) < len(runs)
        for cursor in self.cursors:
            cursor.begin()

    def purged(self) -> None:
        """Note that nothing of what was ready is there any more."""
        self.returned.clear()
        if self.keys is not None:
            self.keys.purged()

    def take(
        self, messages_max: int, bytes_max: int, spare_messages: int = 0, spare_bytes: int = 0
    ) -> tuple[list[Run], int, int]:
        """Take runs: at most so many messages and about so many bytes, but one message if there is any.

        See `Basket` for what *spare_messages* and *spare_bytes* are.

        Returns:
            The runs, their messages and about their bytes.

        """
        basket = Basket(messages_max, bytes_max, spare_messages, spare_bytes)
        for cursor in self.cursors:
            if self.returned:
                self._take_returned(basket, cursor.priority)
            if not basket.open or not cursor.fill(basket):
                self.stalled = cursor.stalled
                break
        return basket.runs, basket.messages, basket.bytes

    def _take_returned(self, basket: Basket, priority: int) -> None:
        """Take what came back and has this priority or a higher one: it lay in front of all others of its own."""
        returned = self.returned
        while returned and basket.open:
            place, run = returned.peekitem(0)
            if run.priority < priority:
                return
            del returned[place]
            rest = basket.add(run)
            if rest is not None:
                returned[rest.place] = rest

    def _follow_lanes(self) -> None:
        """Make cursors of lanes that are new; they stand highest priority first."""
        lanes = list(self.queue.lanes.items())
        if len(self.cursors) != len(lanes):
            known = {cursor.priority: cursor for cursor in self.cursors}
            self.cursors = [known.get(priority) or Cursor(priority, lane) for priority, lane in lanes]

    def missing(self) -> list[Chunk]:
        """Return the chunks that the last look needed and that are not in memory, and some that follow them."""
        self.stalled = False
        if self.keys is not None:
            wanted, self.keys.wanted = self.keys.wanted, []
            return wanted
        return next((missing for cursor in self.cursors if (missing := cursor.missing())), [])
