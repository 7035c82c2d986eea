"""When a publish is confirmed that asked for more, or less, than a quorum.

`all`: every broker that votes has it on its disk, so that whichever is left, it is there. While one of them is away
that cannot be had: after `ALL_SECONDS` the confirm says that a quorum has it. `leader`: this broker's disk has it, and
perhaps no other; it may be lost when another one leads, and its verdict is not known yet. By default nothing of this is
asked, and costs nothing. Must not know sockets.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from typing import TYPE_CHECKING

import trio

from sluicemq.broker.queues.outcomes import Outcome, Published
from sluicemq.wire.messages import ACKS_ALL, ACKS_LEADER, ACKS_QUORUM

if TYPE_CHECKING:
    from collections.abc import Callable

    from sluicemq.broker.pipeline.road import Road

ALL_SECONDS = 5.0
"""How long a publish that asks for all brokers waits for them."""
WAITING_MAX = 10_000
"""Most publishes that wait for all brokers, those among them that were told of a quorum and are only not forgotten yet;
beyond them a quorum is what is said at once."""


class ForAll:
    """A publish that a quorum has, and that waits for the others.

    Args:
        outcome: What is known of it.
        on_outcome: Hears the outcome, once.

    Attributes:
        until: How long it waits.
        told: Whether its sender was told.

    """

    def __init__(self, outcome: Outcome, on_outcome: Callable[[Outcome], None], until: float) -> None:
        self.until = until
        self.told = False
        self._outcome = outcome
        self._on_outcome = on_outcome

    def tell(self, acks: int) -> None:
        """Tell the sender who has it, unless that was done."""
        value = self._outcome.value
        if not self.told and isinstance(value, Published):
            self.told = True
            self._on_outcome(Outcome(dataclasses.replace(value, acks=acks)))


class AtLeader:
    """A publish that is confirmed when this broker's disk has it, or when it is judged, whichever comes first.

    Args:
        count: Messages in it.
        on_outcome: Hears the outcome, once.
        id_base: Id of the first message.

    """

    def __init__(self, count: int, on_outcome: Callable[[Outcome], None], id_base: int = 0) -> None:
        self._count = count
        self._id_base = id_base
        self._on_outcome = on_outcome
        self._told = False

    def __call__(self, outcome: Outcome) -> None:
        """It is judged: a quorum has it."""
        if not self._told:
            self._told = True
            self._on_outcome(outcome)

    def durable(self, zxid: int) -> bool:
        """This broker's disk has it; return whether that was news to who waits."""
        was_told = self._told
        self(Outcome(Published(zxid, self._count, False, acks=ACKS_LEADER, id_base=self._id_base)))
        return not was_told


class AcknowledgingStage:
    """Publishes of this leadership that wait for all brokers, or for this one only."""

    def __init__(self, road: Road) -> None:
        self._road = road
        self._for_all: deque[ForAll] = deque()  # those that wait longest first
        self._registered = 0
        self._at_leader: deque[tuple[int, AtLeader]] = deque()
        self._timer = road.timer(lambda: self._for_all[0].until if self._for_all else None, self._late)

    def start(self, nursery: trio.Nursery) -> None:
        """Run the timer in *nursery*."""
        nursery.start_soon(self._timer.run)

    def for_all(self, on_outcome: Callable[[Outcome], None]) -> Callable[[Outcome], None]:
        """Return who is to be told that a publish is applied, so that *on_outcome* is when all brokers have it."""

        def applied(outcome: Outcome) -> None:
            if not isinstance(outcome.value, Published) or outcome.error is not None:
                on_outcome(outcome)
            elif self._registered >= WAITING_MAX:
                on_outcome(Outcome(dataclasses.replace(outcome.value, acks=ACKS_QUORUM)))
            else:
                self._wait(ForAll(outcome, on_outcome, trio.current_time() + ALL_SECONDS))

        return applied

    def _wait(self, publish: ForAll) -> None:
        self._registered += 1

        def all_have() -> None:
            self._registered -= 1
            publish.tell(ACKS_ALL)
            self._road.after_answers()

        # The place of a duplicate lies further back, or is forgotten; the entry that said so stands behind it.
        self._road.when_all_have(self._road.machine.applied_zxid, all_have)
        if not publish.told:
            self._for_all.append(publish)
            self._timer.changed(publish.until)

    def at_leader(self, zxid: int, publish: AtLeader) -> None:
        """Tell *publish* when the entry *zxid* is on this broker's disk."""
        self._at_leader.append((zxid, publish))

    def durable(self, zxid: int) -> None:
        """This broker's disk has everything up to *zxid*."""
        waiting = self._at_leader
        told = False
        while waiting and waiting[0][0] <= zxid:
            place, publish = waiting.popleft()
            told = publish.durable(place) or told
        if told:  # the turn of applying is over, or comes with the quorum, which is what they do not wait for
            self._road.after_answers()

    def _late(self) -> None:
        now = trio.current_time()
        waiting = self._for_all
        while waiting and (waiting[0].told or waiting[0].until <= now):
            waiting.popleft().tell(ACKS_QUORUM)
        self._road.after_answers()
