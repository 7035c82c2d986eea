"""What a million delayed messages cost: memory, nacks, CLOCK, and the first touch under a freeze. A script.

    python -m tests.broker.queues.measure_delayed

All messages are singles, each due in a millisecond of its own: once in the order in which they came (one delay for
all), once in any order. Bounds that must hold on the machines that we build on (2 cores, Python 3.11): 64 MB for the
million, 5 ms for a nack of 1,000, 5 ms for a CLOCK of 1,000, 1 ms for what the first entry under a freeze pays. Exits
with 1 when one is broken. Run it alone: other load shows.
"""

from __future__ import annotations

import gc
import random
import sys
import time
import tracemalloc

from sluicemq.broker.queues import entries as e
from sluicemq.broker.queues.machine import Machine
from sluicemq.broker.queues.queue import Queue
from sluicemq.broker.queues.runs import Run, flat_runs
from sluicemq.wire.messages import VERDICT_NACK
from tests.broker.queues.measure import report

MESSAGES = 1_000_000
NACKS = 1_000
CLOCK_ITEMS = 1_000
now = time.process_time
_DAY_MS = 86_400_000


class Delays:
    """A machine with a queue, a session, and singles that are published, granted and given back with a delay."""

    def __init__(self) -> None:
        self.machine = Machine()
        self.zxid = 0
        self.queue_id = self.apply(e.Declare(1, "/", "queue", "orders", {}))
        self.session = self.apply(e.SessionOpen(1, "/", "", "", b""))
        self.producer = self.apply(e.ProducerOpen(1, "/", "", ""))
        self.sequence = 0
        self.tag = 1

    @property
    def queue(self) -> Queue:
        found = self.machine.queue(self.queue_id)
        assert found is not None
        return found

    def apply(self, entry: e.Entry) -> int:
        self.zxid += 1
        self.machine.apply(self.zxid, entry)
        return self.zxid

    def lease(self, count: int) -> None:
        """Publish and lease so many singles."""
        for _ in range(count):
            self.sequence += 1
            self.apply(e.Publish(1, self.queue_id, self.producer, self.sequence, 1, 100, None, b"x" * 100))
        runs = self.machine.peek(self.queue_id, 0, count)
        self.apply(e.Grant(1, self.queue_id, self.session, 1, self.tag, flat_runs(runs)))
        self.tag += count

    def nack(self, count: int, due_ms: int) -> float:
        """Lease so many singles and give them back in one SETTLE; return the seconds of that."""
        self.lease(count)
        settle = e.Settle(1, self.session, 1, VERDICT_NACK, [self.tag - count, self.tag - 1], due_ms)
        began = now()
        self.apply(settle)
        return now() - began

    def wait(self, due_times: list[int]) -> float:
        """Let singles wait until these times, one each, without what makes them; return the seconds."""
        delayed = self.queue.delayed
        self.queue.published_total += len(due_times)
        runs = [
            [Run(zxid, zxid, 0, 1, 1, 100, 1, 1, 1)] for zxid in range(self.zxid + 1, self.zxid + len(due_times) + 1)
        ]
        began = now()
        for due_ms, run in zip(due_times, runs, strict=True):
            delayed.add(due_ms, run)
        seconds = now() - began
        self.zxid += len(due_times)
        self.machine.applied_zxid = self.zxid
        self.machine.due_changed(self.queue)
        return seconds


def due_times(messages: int, in_any_order: bool) -> list[int]:
    times = list(range(_DAY_MS, _DAY_MS + 10 * messages, 10))
    if in_any_order:
        random.Random(7).shuffle(times)
    return times


def measure(in_any_order: bool) -> bool:
    order = "in any order" if in_any_order else "one delay"
    delays = Delays()
    times = due_times(MESSAGES, in_any_order)
    adding = delays.wait(times)
    held = report(f"{order}: one of a million delayed, each alone", adding / MESSAGES * 1e6, None)
    gc.collect()
    gc.freeze()
    rng = random.Random(8)
    nacks = [delays.nack(NACKS, rng.choice(times) + 1) for _ in range(10)]
    held &= report(f"{order}: a nack of {NACKS:,} into the middle", max(nacks) * 1e3, 5, "ms")
    nacks = [delays.nack(NACKS, times[0] + 11 * MESSAGES + number) for number in range(10)]
    held &= report(f"{order}: a nack of {NACKS:,} behind all others", max(nacks) * 1e3, 5, "ms")
    delays.lease(NACKS)
    began = now()
    freeze = delays.machine.freeze()
    freezing = now() - began
    began = now()
    delays.apply(e.Settle(1, delays.session, 1, VERDICT_NACK, [delays.tag - 1, delays.tag - 1], times[5] + 3))
    touching = now() - began
    held &= report(f"{order}: freezing", freezing * 1e3, None, "ms")
    held &= report(f"{order}: the first touch under the freeze", touching * 1e3, 1, "ms")
    gc.disable()
    longest = 0.0
    packing = now()
    while not freeze.done:
        began = now()
        end = began + 0.002
        freeze.pack(lambda: now() < end)  # noqa: B023  # called within the turn
        longest = max(longest, now() - began)
    held &= report(f"{order}: packing, all slices", (now() - packing) * 1e3, None, "ms")
    held &= report(f"{order}: the longest slice, of 2 ms", longest * 1e3, 5, "ms")
    gc.enable()
    clocks = []
    for _ in range(100):
        began = now()
        delays.apply(e.Clock(2 * _DAY_MS, CLOCK_ITEMS))
        clocks.append(now() - began)
    held &= report(f"{order}: CLOCK of {CLOCK_ITEMS:,}, mean", sum(clocks) / len(clocks) * 1e3, None, "ms")
    held &= report(f"{order}: CLOCK of {CLOCK_ITEMS:,}, longest", max(clocks) * 1e3, 5, "ms")
    gc.unfreeze()
    return held


def memory(in_any_order: bool) -> bool:
    """Trace what stays of a million delayed singles."""
    order = "in any order" if in_any_order else "one delay"
    delays = Delays()
    times = due_times(MESSAGES, in_any_order)
    delayed = delays.queue.delayed
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for due_ms in times:
        delayed.add(due_ms, [Run(due_ms, due_ms, 0, 1, 1, 100, 1, 1, 1)])
    used = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    return report(f"{order}: memory of a million", used / 1e6, 64, "MB")


def main() -> int:
    """Measure and print everything; return the exit code."""
    held = True
    for in_any_order in (False, True):
        held &= measure(in_any_order)
    for in_any_order in (False, True):
        held &= memory(in_any_order)
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
