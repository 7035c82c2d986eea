"""What the queue machine costs: microseconds an entry and a run, and bytes a run. A script, not a test.

    python -m tests.broker.queues.measure

Bounds that must hold on the machines that we build on (2 cores, Python 3.11), so that 1,000 batches of 1,000 messages
a second leave room for everything else: PUBLISH 20 µs, GRANT 30 µs, SETTLE of one range over whole pieces 20 µs; for
messages published one by one GRANT and SETTLE 3 µs a run; 72 bytes a run of backlog. Exits with 1 when one is broken.
Run it alone: other load shows.
"""

from __future__ import annotations

import sys
import time
import tracemalloc
from typing import NamedTuple

from sluicemq.broker.queues import entries as e
from sluicemq.broker.queues.dispatching.dispatcher import Dispatcher
from sluicemq.broker.queues.machine import Machine
from sluicemq.broker.queues.outcomes import Settled
from sluicemq.broker.queues.outstanding import Outstanding
from sluicemq.broker.queues.runs import flat_runs
from sluicemq.wire.messages import VERDICT_ACK, VERDICT_NACK, VERDICT_RELEASE

BATCHES = 20_000
SINGLES = 200_000


class Clock:
    """Adds up the time of one kind of step."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.steps = 0
        self.began = 0.0

    def __enter__(self) -> None:
        self.began = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.seconds += time.perf_counter() - self.began
        self.steps += 1

    def microseconds(self, per: int | None = None) -> float:
        return self.seconds * 1e6 / (per or self.steps)


class Figures(NamedTuple):
    """Costs of one load, by step."""

    runs: int
    clocks: dict[str, Clock]


def prepared() -> tuple[Machine, int, int, int]:
    """Return a machine with a queue, a session and a producer, and their numbers."""
    machine = Machine()
    machine.apply(1, e.Declare(1, "/", "queue", "orders", {}))
    machine.apply(2, e.SessionOpen(1, "/", "", "", b""))
    machine.apply(3, e.ProducerOpen(1, "/", "", ""))
    return machine, 1, 2, 3


def publish(machine: Machine, queue: int, producer: int, batches: int, count: int, clock: Clock) -> None:
    payload = b"x" * 100 * count
    for sequence in range(1, batches + 1):
        entry = e.Publish(1, queue, producer, sequence, count, len(payload), None, payload)
        with clock:
            machine.apply(machine.applied_zxid + 1, entry)


def measure(batches: int, count: int, credit: int, verdict: int = VERDICT_ACK, rounds: int = 10**9) -> Figures:
    """Publish, then grant and settle everything in rounds of the consumer's credit."""
    clocks = {name: Clock() for name in ("publish", "pick", "grant", "settle", "credit", "outstanding")}
    machine, queue, session, producer = prepared()
    publish(machine, queue, producer, batches, count, clocks["publish"])
    dispatcher, outstanding = Dispatcher(machine), Outstanding()
    dispatcher.add_consumer(session, 1, queue, credit, 1 << 40)
    runs = 0
    for _ in range(rounds):
        with clocks["pick"]:
            pick = dispatcher.next_pick()
        if pick is None:
            break
        runs += len(pick.runs)
        last = pick.first_tag + pick.messages - 1
        grant = e.Grant(1, queue, session, 1, pick.first_tag, flat_runs(pick.runs))
        with clocks["grant"]:
            machine.apply(machine.applied_zxid + 1, grant)
        with clocks["outstanding"]:
            outstanding.granted(session, 1, pick.first_tag, last, pick.bytes, 30.0)
        settle = e.Settle(1, session, 1, verdict, [pick.first_tag, last])
        with clocks["settle"]:
            outcome = machine.apply(machine.applied_zxid + 1, settle)
        assert isinstance(outcome.value, Settled)
        assert not outcome.value.lost
        with clocks["credit"]:
            dispatcher.settled(session, 1, settle.tags)
            outstanding.take(session, 1, settle.tags)
        dispatcher.on_effects(outcome.effects)
    machine.check()
    return Figures(runs, clocks)


def backlog_bytes(batches: int) -> float:
    """Bytes that the machine keeps for each of so many singly published messages."""
    machine, queue, _, producer = prepared()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    publish(machine, queue, producer, batches, 1, Clock())
    used = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    return used / batches


def report(name: str, value: float, bound: float | None, unit: str = "µs") -> bool:
    held = bound is None or value <= bound
    print(f"{name:<58}{value:9.2f} {unit}" + (f"  (bound {bound:g})" if bound else "") + ("" if held else "  BROKEN"))
    return held


def main() -> int:
    """Measure and print everything; return the exit code."""
    held = True
    big = measure(BATCHES, 1_000, 1_000)
    for step, bound in (("publish", 20), ("pick", None), ("grant", 30), ("settle", 20), ("credit", None)):
        held &= report(f"batches of 1,000: {step}, an entry", big.clocks[step].microseconds(), bound)
    single = measure(SINGLES, 1, 1_000)
    held &= report("single messages: publish, an entry", single.clocks["publish"].microseconds(), 20)
    for step, bound in (("pick", None), ("grant", 3), ("settle", 3), ("credit", None)):
        held &= report(f"single messages: {step}, a run", single.clocks[step].microseconds(single.runs), bound)
    one = measure(SINGLES // 2, 1, 1)
    for step in ("pick", "grant", "settle", "credit", "outstanding"):
        held &= report(f"one message a grant: {step}, an entry", one.clocks[step].microseconds(), None)
    for verdict, name in ((VERDICT_NACK, "nack"), (VERDICT_RELEASE, "release")):
        back = measure(SINGLES // 4, 1, 1_000, verdict, rounds=100)
        for step in ("grant", "settle"):
            held &= report(f"single messages, {name}: {step}, a run", back.clocks[step].microseconds(back.runs), None)
    held &= report("memory of a backlog, a run", backlog_bytes(SINGLES), 72, "bytes")
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
