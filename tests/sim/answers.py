"""Whether everybody who asked was told: the account of what clients asked of nodes that lived on.

Clients take silence for an unknown outcome and ask again, so a node that forgets who waits would never show in what
they see. It shows here: a request that reached a node must be answered, be it with a refusal, unless the process or the
leadership that took it is over. This module must not know what is asked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.sim.world import Violation

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable

    from tests.sim.driver import Process
    from tests.sim.service import Lead
    from tests.sim.world import World

ANSWER_SECONDS_MAX = 1.0
"""Longest that an answer may take where everything that was proposed is applied, and all nodes hear each other."""


class Answers:
    """What was asked and not answered yet.

    Args:
        world: Says what time it is.
        weighed: How often E8 was looked at with something at stake: answers that did not come at once.

    """

    def __init__(self, world: World, weighed: Counter[str]) -> None:
        self._world = world
        self._weighed = weighed
        self._count = 0
        # By number: since when, of which process and leadership, and what.
        self._open: dict[int, tuple[float, Process, Lead | None, str]] = {}

    def asked(self, process: Process, what: str, reply: Callable[[Any], None]) -> Callable[[Any], None]:
        """A request has reached *process*; return who is to be told instead of *reply*."""
        self._count += 1
        number = self._count
        since = self._world.now
        # Reads outlive a leadership: the core refuses them at its end.
        self._open[number] = since, process, None if what == "read" else process.service.lead, what

        def answered(result: Any) -> None:
            if self._open.pop(number, None) is not None:
                self._weighed["E8"] += self._world.now > since
            reply(result)

        return answered

    def check(self) -> None:
        """E8: nobody waits who was asked long ago. For a cluster at rest."""
        for since, process, lead, what in self._open.values():
            over = not process.alive or (lead is not None and lead.over)
            if not over and self._world.now - since > ANSWER_SECONDS_MAX:
                asked = f"{what} asked of node {process.node.number} at {since:.3f} s"
                raise Violation(f"E8 silence: {asked} is not answered at {self._world.now:.3f} s")
