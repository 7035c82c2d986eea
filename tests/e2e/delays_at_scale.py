"""A million delayed messages: `python -m tests.e2e.delays_at_scale [--messages 1000000] [--due-seconds 10]`.

Against a broker of its own: how fast messages with random due times over a year are scheduled, in batches; how much
memory a million of them takes; how late messages come of which 5,000 are due each second; and whether a million that
are due in the same instant hold anybody up. Prints a table, and exits with 1 where a bound is broken.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path

from sluicemq.wire import messages as m
from sluicemq.wire.batch import encode_batch
from tests.e2e.broker_process import BrokerProcess
from tests.e2e.wire_client import WireClient

YEAR_MS = 365 * 86_400_000
BATCH = 2_000
BODY = b"x" * 100
WINDOW_BATCHES = 8
DUE_A_SECOND = 5_000
CREDIT = 50_000
RESIDENT_MB_MAX = 300
LATE_MS_MAX = 20
RATE_WANTED = 300_000
STALL_MS_MAX = 20


def publish(client: WireClient, queue: str, tails: list[bytes]) -> float:
    """Publish these batches with a window of unconfirmed ones; return the seconds."""
    producer = client.open_producer()
    waiting: list[int] = []
    began = time.monotonic()
    for sequence, tail in enumerate(tails, 1):
        if len(waiting) >= WINDOW_BATCHES:
            client.reply_to(waiting.pop(0))
        waiting.append(client.send(m.Publish(queue, producer, sequence), tail))
    for correlation in waiting:
        client.reply_to(correlation)
    return time.monotonic() - began


def batches(times: list[int]) -> list[bytes]:
    """Return batches of messages that are due then."""
    return [
        encode_batch([BODY] * len(part), due_times=part)
        for part in (times[start : start + BATCH] for start in range(0, len(times), BATCH))
    ]


class Table:
    """Prints figures with their bounds, and knows whether all held."""

    def __init__(self) -> None:
        self.held = True

    def add(self, what: str, value: float, unit: str, bound: float | None = None, *, at_least: bool = False) -> None:
        """Print one figure."""
        broken = bound is not None and (value < bound if at_least else value > bound)
        self.held &= not broken
        sign = "at least" if at_least else "at most"
        wanted = "" if bound is None else f"  ({sign} {bound:,.0f}){' BROKEN' if broken else ''}"
        print(f"{what:58} {value:12,.1f} {unit}{wanted}", flush=True)


def schedule(broker: BrokerProcess, table: Table, messages: int) -> None:
    """A year of random due times."""
    rng = random.Random(7)
    with WireClient(broker.url) as client:
        client.declare("year")
        now_ms = int(time.time() * 1000)
        tails = batches([now_ms + 3_600_000 + rng.randrange(YEAR_MS) for _ in range(messages)])
        before = broker.usage()
        seconds = publish(client, "year", tails)
        after = broker.usage()
        cpu = after.cpu_seconds - before.cpu_seconds
        table.add(f"scheduled, random over a year, batches of {BATCH:,}", messages / seconds, "a second", None)
        table.add("  processor time of the broker", cpu / messages * 1e6, "µs a message")
        table.add("  one alone of it, were the disk free", messages / cpu, "a second", RATE_WANTED, at_least=True)
        table.add(
            "  same delay for all of a batch", _same_delay(client, messages), "a second", RATE_WANTED, at_least=True
        )
        table.add("  resident memory", broker.usage().resident_bytes / 1e6, "MB", RESIDENT_MB_MAX)
        assert client.queue_info("year")["delayed"] == messages


def _same_delay(client: WireClient, messages: int) -> float:
    client.declare("same")
    tail = encode_batch([BODY] * BATCH, due_times=[-86_400_000] * BATCH)
    seconds = publish(client, "same", [tail] * (messages // BATCH))
    client.request(m.PurgeQueue("same"), m.Purged)
    return messages // BATCH * BATCH / seconds


def lateness(broker: BrokerProcess, table: Table, seconds: int) -> None:
    """So many are due each second, evenly; how late does each come?"""
    with WireClient(broker.url) as client, WireClient(broker.url) as publisher:
        client.declare("due")
        start_ms = int(time.time() * 1000) + 2_000
        times = [start_ms + number * 1000 // DUE_A_SECOND for number in range(seconds * DUE_A_SECOND)]
        random.Random(8).shuffle(times)
        for start in range(0, len(times), BATCH):
            part = times[start : start + BATCH]
            bodies = [b"%d" % due for due in part]
            tail = encode_batch(bodies, due_times=part)
            producer = publisher.open_producer()
            publisher.request(m.Publish("due", producer, 1), m.Published, tail)
        consumer = client.consume("due", credit=CREDIT)
        late: list[float] = []
        while len(late) < len(times):
            delivery = client.delivery(timeout=60.0)
            now_ms = time.time() * 1000
            late += [now_ms - int(body) for body in delivery.bodies]
            # Not waited for: the next delivery is not to be late because of the last one's verdict.
            client.send(m.Settle(consumer, m.VERDICT_ACK, delivery.tags))
        late.sort()
        table.add(f"lateness at {DUE_A_SECOND:,} due a second, median", late[len(late) // 2], "ms")
        table.add("  99 of 100", late[len(late) * 99 // 100], "ms", LATE_MS_MAX)
        table.add("  worst", late[-1], "ms")


def instant(broker: BrokerProcess, table: Table, messages: int) -> None:
    """All are due in the same instant."""
    with WireClient(broker.url) as client:
        client.declare("instant")
        seconds = max(5, messages // 40_000)
        due_ms = int(time.time() * 1000) + seconds * 1000
        publish(client, "instant", batches([due_ms] * messages))
        rng = random.Random(9)
        singles = [due_ms - rng.randrange(1, 50) for _ in range(messages // 10)]
        publish(client, "instant", batches(singles))
        left = due_ms / 1000 - time.time() - 0.2
        table.add("published before the instant, to spare", left, "s")
        if left > 0:
            time.sleep(left)
        stalled = client.statistics()["loop_stall_seconds_max"]
        longest = 0.0
        while client.queue_info("instant")["delayed"]:
            longest = max(longest, client.ping())
        done = time.time() - due_ms / 1000
        table.add(f"{messages:,} and {len(singles):,} runs of their own due together: all ready", done, "s after")
        table.add("  longest turn of the event loop so far, before", stalled * 1000, "ms")
        statistics = client.statistics()
        table.add("  and with it", statistics["loop_stall_seconds_max"] * 1000, "ms")
        table.add("  most processor time of a turn", statistics["loop_turn_cpu_seconds_max"] * 1000, "ms", STALL_MS_MAX)
        table.add("  longest round trip of somebody else", longest * 1000, "ms")


def main() -> int:
    """Measure and print everything; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--due-seconds", type=int, default=10)
    given = parser.parse_args()
    table = Table()
    with tempfile.TemporaryDirectory() as folder, BrokerProcess(Path(folder) / "data") as broker:
        schedule(broker, table, given.messages)
        lateness(broker, table, given.due_seconds)
        instant(broker, table, given.messages)
    return 0 if table.held else 1


if __name__ == "__main__":
    sys.exit(main())
