"""Check-backs: when nobody decides a half message in time, a live member of its group is asked what became of it.

That it is asked, and how often, stands in the log (CHECKED), so a new leader goes on where the old one was. Nobody is
asked, and nothing counted, while no member of the group is there: a service that is down overnight finds its questions
when it comes back. Each question is a frame of its own, so an answer that never comes holds up no other. Must not know
sockets: members are told through `Member`.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import TYPE_CHECKING, Protocol

import trio

from sluicemq.broker.queues.entries_of_transactions import Checked
from sluicemq.broker.queues.outcomes_of_transactions import ChecksDue
from sluicemq.wire.errors import LimitReached, SluiceError

if TYPE_CHECKING:
    from sluicemq.broker.pipeline.road import Road
    from sluicemq.broker.queues.halves import Half
    from sluicemq.broker.queues.outcomes import Outcome

logger = logging.getLogger("sluicemq.checks")

ASKED_AT_ONCE_MAX = 100
"""Most half messages that one CHECKED entry names; their bodies are read together."""
ASKED_BYTES_MAX = 4 * 1024 * 1024
"""About so many bytes of them at a time."""
ROOM_SECONDS = 0.05
"""How often members that take nothing now are looked at again."""
GROUPS_MAX = 1_000
"""Most groups of one member."""

Group = tuple[str, str]
"""Vhost and name."""


class Member(Protocol):
    """A client that may be asked."""

    def ask(self, half: Half, data: bytes | memoryview) -> None:
        """Ask what became of *half*, whose batch is *data*."""

    def takes_more(self) -> bool:
        """Whether its outgoing buffer has room."""


class CheckStage:
    """Asks about half messages of this leader."""

    def __init__(self, road: Road) -> None:
        self._road = road
        self._members: dict[Group, deque[Member]] = {}
        self._to_ask: deque[int] = deque()
        self._wake = trio.Event()
        self._under_way = False
        self._timer = road.timer(self._next, self._fire)
        self.asked_total = 0

    async def run(self) -> None:
        """Ask until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._timer.run)
            nursery.start_soon(self._ask_on)

    # --- members ---------------------------------------------------------------------------------------------------

    def register(self, vhost: str, group: str, member: Member) -> int:
        """Let *member* be asked about half messages of a group; return how many of the group are undecided.

        Raises:
            LimitReached: It is a member of too many groups.

        """
        members = self._members.get((vhost, group))
        if members is None or member not in members:
            if sum(member in others for others in self._members.values()) >= GROUPS_MAX:
                raise LimitReached(
                    f"one connection may check for {GROUPS_MAX} groups", limit="checker_groups_max", value=GROUPS_MAX
                )
            self._members.setdefault((vhost, group), deque()).append(member)
        self.look()
        return self._road.machine.halves.undecided(vhost, group)

    def forget(self, member: Member) -> None:
        """Ask *member* nothing more."""
        for group, members in list(self._members.items()):
            if member in members:
                members.remove(member)
                if not members:
                    del self._members[group]

    def members_of(self, vhost: str, group: str) -> int:
        """How many members of a group are there."""
        return len(self._members.get((vhost, group), ()))

    # --- when ------------------------------------------------------------------------------------------------------

    def look(self) -> None:
        """Something may have to be asked earlier than planned."""
        if self._members:
            self._timer.changed(self._next())

    def _next(self) -> float | None:
        if self._under_way:
            return None
        halves = self._road.machine.halves
        dues = [due[0] for group in self._members if (due := halves.first_due(*group)) is not None]
        if not dues:
            return None
        return trio.current_time() + max(0.0, (min(dues) - self._road.clock.now_ms()) / 1000)

    def _fire(self) -> None:
        if self._road.over:
            return  # the next leader asks
        halves = self._road.machine.halves
        now_ms = self._road.clock.now_ms()
        numbers: list[int] = []
        for group in self._members:
            numbers += halves.due(*group, now_ms, ASKED_AT_ONCE_MAX - len(numbers))
            if len(numbers) >= ASKED_AT_ONCE_MAX:
                break
        if numbers:
            # The next ones wait until these are read and sent: nothing piles up.
            self._under_way = True
            self._road.propose(Checked(now_ms, numbers), on_applied=self._counted)

    def _counted(self, outcome: Outcome) -> None:
        if not isinstance(outcome.value, ChecksDue):  # the leadership ended before it was counted
            self._under_way = False
            return
        for number in outcome.value.parked:
            half = self._road.machine.halves.get(number)
            if half is not None:
                logger.warning(
                    "a prepared message for %s is parked: group %s was asked %d times and did not decide; see "
                    "`sluicemq transaction ls`",
                    half.destination,
                    half.group,
                    half.checks,
                )
        self._to_ask += outcome.value.asked
        self._wake.set()

    # --- asking ----------------------------------------------------------------------------------------------------

    async def _ask_on(self) -> None:
        while True:
            await self._wake.wait()
            self._wake = trio.Event()
            while self._to_ask:
                await self._ask_some()
            self._under_way = False
            self.look()

    async def _ask_some(self) -> None:
        """Read the next few and ask about each that is still undecided."""
        halves = self._road.machine.halves
        some: list[Half] = []
        size = 0
        while self._to_ask and size < ASKED_BYTES_MAX:
            half = halves.get(self._to_ask.popleft())
            if half is not None:
                some.append(half)
                size += half.batch_bytes
        bodies = self._road.bodies
        with bodies.reading():
            for half in some:
                try:
                    stored = (await bodies.load_to_show([half.number]))[half.number]
                except SluiceError as error:
                    logger.warning("nobody can be asked about a prepared message for %s: %s", half.destination, error)
                    continue
                member = await self._member_with_room(half)
                if member is not None and halves.get(half.number) is not None:
                    member.ask(half, stored.batch.data)
                    self._road.after_answers()
                    self.asked_total += 1

    async def _member_with_room(self, half: Half) -> Member | None:
        """Return the member whose turn it is and that takes more; None where none is there any more."""
        while members := self._members.get((half.vhost, half.group)):
            for _ in range(len(members)):
                members.rotate(-1)
                if members[-1].takes_more():
                    return members[-1]
            await trio.sleep(ROOM_SECONDS)
        return None
