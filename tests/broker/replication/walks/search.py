"""The walk: first everything that happens without a delay, then all with one, with two, and so on.

A delay is a step out of turn (`Ensemble.steps`). A walk that is bounded in states has thus seen everything that up to
so many delays can bring about, at any moment of which crashes, elections and proposals come; that reaches the
interesting ends of long runs, where plain breadth would still stand at the beginning. A walk that comes to its end has
seen all.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.broker.replication.walks.ensemble import Ensemble, State
from tests.broker.replication.walks.shell import Broken

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.broker.replication.walks.bounds import Bounds

UNSETTLED_SHOWN_MAX = 3


@dataclass
class Report:
    """What a walk has seen."""

    bounds: Bounds
    steps: int = 0
    depth: int = 0
    """Steps of the longest way that was walked."""
    complete: bool = False
    """Whether no state within the bounds is left."""
    by_delays: list[int] = field(default_factory=list)
    """States that were reached with 0, 1, 2, ... delays; the last figure is partial unless the walk is complete."""
    beyond: int = 0
    """Steps that led beyond the highest epoch and were not walked on from."""
    resting: int = 0
    """States in which nothing happens by itself any more."""
    settled: int = 0
    """Those of them in which a leader serves and all have the same log."""
    unsettled: list[list[str]] = field(default_factory=list)
    """Ways to a few of the others."""
    node_states: int = 0
    core_steps: int = 0
    seconds: float = 0.0
    transitions: Counter[str] = field(default_factory=Counter)
    epochs_served: set[int] = field(default_factory=set)
    violation: str | None = None
    way: list[str] = field(default_factory=list)
    """The steps that lead to the violation."""

    @property
    def states(self) -> int:
        """How many states were visited."""
        return sum(self.by_delays)


class Walk:
    """One walk within *bounds* over at most *states_max* states and *seconds_max* seconds."""

    def __init__(self, bounds: Bounds, states_max: int, seconds_max: float = float("inf")) -> None:
        self.report = Report(bounds)
        self._ensemble = Ensemble(bounds, self.report.transitions)
        self._states_max = states_max
        self._seconds_max = seconds_max
        self._begun = time.monotonic()
        self._came: dict[State, tuple[State | None, str, int]] = {}
        """For each state: from which one, by what, after how many steps."""

    def run(self, say: Callable[[str], None] | None = None) -> Report:
        """Walk until nothing is left, the bound is reached, or an invariant breaks."""
        report = self.report
        present: State | None = None
        try:
            first = self._ensemble.beginning()
            left: list[tuple[State, State | None, str, int]] = [(first, None, "", 0)]
            while left and not self._stopped():
                level: list[State] = []
                for state, before, told, depth in left:
                    if state not in self._came:
                        self._came[state] = before, told, depth
                        level.append(state)
                left = []
                known = report.states
                report.by_delays.append(len(self._came) - known)
                for present in level:  # grows while it is walked through
                    if self._stopped():
                        left.append((present, None, "", 0))
                        break
                    self._expand(present, level, left)
                    report.by_delays[-1] = len(self._came) - known
                if say is not None:
                    delays = len(report.by_delays) - 1
                    say(f"{delays} delays: {len(self._came)} states, {time.monotonic() - self._begun:.0f} s")
            report.complete = not left
        except Broken as broken:
            report.violation = str(broken)
            if present is not None:
                report.way = self._way(present)
        report.node_states, report.core_steps = self._ensemble.nodes.count, self._ensemble.nodes.steps
        report.seconds = time.monotonic() - self._begun
        return report

    def _stopped(self) -> bool:
        return len(self._came) >= self._states_max or time.monotonic() - self._begun > self._seconds_max

    def _expand(self, present: State, level: list[State], left: list[tuple[State, State | None, str, int]]) -> None:
        report, ensemble, came = self.report, self._ensemble, self._came
        depth = came[present][2] + 1
        rests = True
        for cost, told, after in ensemble.steps(present):
            report.steps += 1
            if after.spent == present.spent:
                rests = False
            if after in came:
                continue
            if ensemble.beyond(after):
                report.beyond += 1
            elif cost:
                left.append((after, present, told, depth))
            else:
                came[after] = present, told, depth
                level.append(after)
        report.depth = max(report.depth, depth - 1)
        if rests:
            report.resting += 1
            if ensemble.settled(present):
                report.settled += 1
                report.epochs_served.add(ensemble.epoch(present))
            elif len(report.unsettled) < UNSETTLED_SHOWN_MAX:
                report.unsettled.append(self._way(present))

    def _way(self, last: State) -> list[str]:
        told = [self._ensemble.describe(last)]
        before, what, _ = self._came[last]
        while before is not None:
            told.append(what)
            before, what, _ = self._came[before]
        told.reverse()
        return told


def walk(bounds: Bounds, states_max: int, seconds_max: float = float("inf")) -> Report:
    """Walk and return what was seen."""
    return Walk(bounds, states_max, seconds_max).run()
