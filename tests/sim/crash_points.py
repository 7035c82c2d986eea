"""A crash at every single effect of one scripted run (T3a).

The script leads three nodes through everything that the protocol has: formation, broadcast, a learner that lags (DIFF),
a leader that is cut off while clients still reach it (election, TRUNC), a learner that lags too far (SNAP), the lead
handed over. Its run without a crash is always the same, so its effects can be numbered, over all nodes. Then, once for
each number and each way to go down, it is run again up to that effect, which is not carried out any more; the node
comes back, and the run goes on to its end with all invariants.
"""

from __future__ import annotations

import contextlib
import dataclasses
import random
import time
from concurrent.futures import ProcessPoolExecutor
from typing import TYPE_CHECKING, Any
from unittest import mock

from sluicemq.broker.replication.options import Options
from sluicemq.storage import LogOptions
from tests.sim.driver import Process
from tests.sim.faults import Fault
from tests.sim.simulation import Choice, Conditions, Simulation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.sim.node import Node
    from tests.sim.simulation import Result

KIB = 1024
SCRIPT = (
    Fault(0.9, "kill", 1, 0.3, 0.0),
    Fault(1.6, "lone_leader", 0, 2.6, 0.0),
    Fault(4.6, "kill", 1, 2.8, 0.0),
    Fault(8.4, "transfer", 0, 0.0, 0.0),
)
"""What happens to the three nodes, besides the crash.

The times are such that all three methods of synchronization occur; a test asks for that. A change of the core's times
may ask for others here.
"""
CHOICE = Choice(
    features=False,
    nodes=3,
    profile="calm",
    batches=48,
    busy_seconds=8.8,
    conditions=Conditions(sync_seconds=0.002, latency_seconds=0.002, late_probability=0.0, reset_probability=0.0),
)
SEED = 1


def _kill(run: ScriptedRun, node: Node) -> None:
    node.crash(power=False)


def _cut_power(run: ScriptedRun, node: Node) -> None:
    node.crash(power=True)


def _cut_power_otherwise(run: ScriptedRun, node: Node) -> None:
    run.world.random.seed("another fate of what was not synced")
    node.crash(power=True)


def _cut_power_in_write(run: ScriptedRun, node: Node) -> None:
    node.disk.cut_power_after(1 + run.crash_at % 3)


def _cut_all_power(run: ScriptedRun, node: Node) -> None:
    for each in run.nodes.values():
        each.crash(power=True)


OUTCOMES: dict[str, Callable[[ScriptedRun, Node], None]] = {
    "kill": _kill,
    "power": _cut_power,
    "power, otherwise": _cut_power_otherwise,
    "power in a write": _cut_power_in_write,
    "all power": _cut_all_power,
}
"""How the node, or the room, goes down."""


class ScriptedRun(Simulation):
    """The script, with a crash before one effect.

    Args:
        crash_at: Number of the effect, from 1; 0: no crash.
        outcome: One of `OUTCOMES`.

    """

    def __init__(self, crash_at: int = 0, outcome: str = "kill", *, tracing: bool = False) -> None:
        super().__init__(SEED, CHOICE, tracing=tracing)
        self.crash_at = crash_at
        self.outcome = outcome
        self.effects = 0
        self.struck: str | None = None
        self.faults = list(SCRIPT)
        habits, settings = self.habits, self.settings
        habits.producers, habits.consumers, habits.queues, habits.window = 2, 2, 1, 2
        habits.batches, habits.batch_messages_max, habits.body_bytes_max = CHOICE.batches // 2, 2, 8000
        habits.think_seconds, habits.credit, habits.work_seconds = 0.3, 8, 0.05
        habits.nack_probability = 0.1
        settings.log = LogOptions(
            segment_bytes=20 * KIB, initial_bytes=8 * KIB, growth_bytes=4 * KIB, spares_max=1, zero_piece_bytes=16 * KIB
        )
        settings.replica = Options(message_bytes_max=16 * KIB, window_bytes_max=32 * KIB, snapshot_retry_seconds=0.3)
        settings.snapshot_entries = 18
        settings.join_drops = False
        settings.restart_seconds = (0.05, 0.1)

    def run(self) -> Result:
        """Go through the script."""
        with _counted(self):
            return super().run()

    def passes(self, process: Process, effect: Any) -> bool:
        """Count an effect; return whether it may be carried out."""
        self.effects += 1
        if self.effects == self.crash_at:
            node = process.node
            self.struck = f"{type(effect).__name__} of node {node.number} at {self.world.now:.4f} s"
            self.world.say(node.number, f"CRASH before effect {self.effects}, {self.struck}")
            OUTCOMES[self.outcome](self, node)
        return process.alive


@contextlib.contextmanager
def _counted(run: ScriptedRun) -> Iterator[None]:
    real = Process.__init__

    def begin(process: Process, node: Node) -> None:
        with mock.patch.object(Process, "begin"):
            real(process, node)
        for kind, perform in list(process._perform.items()):
            process._perform[kind] = _guarded(run, process, perform)
        process.begin()

    with mock.patch.object(Process, "__init__", begin):
        yield


def _guarded(run: ScriptedRun, process: Process, perform: Callable[[Any], None]) -> Callable[[Any], None]:
    def guarded(effect: Any) -> None:
        if run.passes(process, effect):
            perform(effect)

    return guarded


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What came of one crash."""

    crash_at: int
    outcome: str
    struck: str | None
    violation: str | None


def crash(crash_at: int, outcome: str) -> Outcome:
    """Run the script with one crash."""
    run = ScriptedRun(crash_at, outcome)
    violation = run.run().violation
    return Outcome(crash_at, outcome, run.struck, None if violation is None else str(violation))


def points(every: int = 1, first: int = 1) -> list[tuple[int, str]]:
    """Return all crashes, or every so manieth of them."""
    run = ScriptedRun()
    violation = run.run().violation
    assert violation is None, f"the script by itself: {violation}"
    numbers = [(number, name) for number in range(1, run.effects + 1) for name in OUTCOMES]
    return numbers[first - 1 :: every]


def crash_everywhere(every: int, jobs: int, limit_seconds: float | None) -> int:
    """Run all crashes; print what was found, return how many broke an invariant."""
    begun = time.monotonic()
    chosen = points(every)
    print(f"{len(chosen)} crashes of the script", flush=True)
    random.Random(0).shuffle(chosen)  # so that a run that is stopped has seen something of everything
    failed = done = 0
    with ProcessPoolExecutor(jobs) as pool:
        for start in range(0, len(chosen), 200):
            if limit_seconds is not None and time.monotonic() - begun > limit_seconds:
                break
            part = chosen[start : start + 200]
            for found in pool.map(crash, [one for one, _ in part], [two for _, two in part], chunksize=10):
                done += 1
                if found.violation is not None:
                    failed += 1
                    print(
                        f"crash {found.crash_at} by {found.outcome}, {found.struck}: {found.violation}"[:400],
                        flush=True,
                    )
            print(f"{done} of {len(chosen)} crashes, {failed} failed, {time.monotonic() - begun:.0f} s", flush=True)
    return failed
