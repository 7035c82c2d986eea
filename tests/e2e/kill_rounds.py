"""kill -9 under load, again and again: `python -m tests.e2e.kill_rounds --rounds 30 --seed 1 [--reclaiming]`.

Producers and consumers, each a process of its own, work on one queue of one broker process. Each round waits until
messages flow, then kills the broker at a random instant and starts it again on the same directory and port; some rounds
kill it once more while it recovers. After the last round the producers get everything confirmed, the queue is
drained, and `total_queue` judges what everybody wrote down. Prints what happened in each round, and exits with 1 when a
promise was broken. With `--reclaiming` segments are small and snapshots frequent, and each kill comes while files of
the log are being dropped and rewritten.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.e2e.broker_process import PROGRAM, BrokerFailed, BrokerProcess, unused_port
from tests.e2e.journal import read_journals
from tests.e2e.wire_client import WireClient

QUEUE = "kill rounds"
PRODUCERS = 2
CONSUMERS = 2
BUSY_SECONDS_MAX = 60.0
"""How long messages may take to flow again after a restart."""
INSTANT_SECONDS_MAX = 0.5
"""A kill comes at a random instant of this span, once messages flow."""
DRAIN_SECONDS_MAX = 120.0
POLL_SECONDS = 0.01
RECOVERY_KILL_SHARE = 0.2
RECLAIM_SECONDS_MAX = 20.0
"""How long it may take until something is reclaimed in a life of the broker."""
RECLAIMING_OPTIONS = (
    "--segment-bytes",
    "256KiB",
    "--snapshot-every-bytes",
    "256KiB",
    "--snapshot-every-entries",
    "500",
)
RECLAIM_INSTANT_SECONDS_MAX = 0.02
"""A kill comes at a random instant of this span, once files are being reclaimed."""


@dataclass
class Round:
    """What happened in one round."""

    killed_at: float
    recovery_kills: int
    start_seconds: float
    batches_in_flight: int = 0
    deliveries_in_flight: int = 0
    reclaimed_bytes: int = 0


@dataclass
class Result:
    """What a whole run showed."""

    violations: list[str]
    rounds: list[Round]
    counts: dict[str, int] = field(default_factory=dict)


def run_rounds(
    directory: Path,
    *,
    rounds: int,
    seed: int,
    client: str = "wire",
    options: tuple[str, ...] = (),
    program: tuple[str, ...] = PROGRAM,
    graceful_share: float = 0.0,
    reclaiming: bool = False,
) -> Result:
    """Do the rounds in *directory* and return the judgement."""
    chance = random.Random(seed)
    broker = BrokerProcess(directory / "data", port=unused_port(), options=options, program=program)
    workers: list[subprocess.Popen[bytes]] = []
    journals: list[Path] = []
    done: list[Round] = []
    try:
        broker.start()
        with WireClient(broker.url) as operator:
            operator.declare(QUEUE, retry_delay=0.0)
        for role, number in [("producer", n) for n in range(PRODUCERS)] + [("consumer", n) for n in range(CONSUMERS)]:
            journal = directory / f"{role}-{number}.journal"
            journals.append(journal)
            workers.append(_start_worker(client, role, number, broker.url, journal, chance.getrandbits(32)))
        for _ in range(rounds):
            _wait_until_busy(broker, workers)
            reclaimed_bytes = 0
            if reclaiming:
                reclaimed_bytes = _wait_until_reclaiming(broker)
                _pause(chance.uniform(0, RECLAIM_INSTANT_SECONDS_MAX))
            else:
                _pause(chance.uniform(0, INSTANT_SECONDS_MAX))
            killed_at = time.monotonic()
            if chance.random() < graceful_share:
                broker.stop()
            broker.kill()
            recovery_kills = 0
            while chance.random() < RECOVERY_KILL_SHARE:
                recovery_kills += 1
                broker.spawn()
                _pause(chance.uniform(0.05, 0.6))
                broker.kill()
            broker.start()
            done.append(Round(killed_at, recovery_kills, broker.start_seconds, reclaimed_bytes=reclaimed_bytes))
        _wait_until_busy(broker, workers)
        _finish(workers[:PRODUCERS])
        with WireClient(broker.url) as operator:
            _wait_until_drained(operator)
        _finish(workers[PRODUCERS:])
        broker.stop()
    finally:
        broker.kill()
        for worker in workers:
            worker.kill()
            worker.wait()
            if worker.stdin is not None:
                worker.stdin.close()
    ledger, counts = read_journals(journals)
    for one in done:
        one.batches_in_flight, one.deliveries_in_flight = ledger.in_flight(one.killed_at)
    counts["messages sent"] = ledger.sent_messages
    counts["messages confirmed"] = ledger.confirmed_messages
    counts["messages delivered"] = ledger.delivered_messages
    counts["messages delivered again"] = ledger.redelivered_messages
    return Result(ledger.violations(), done, counts)


def _start_worker(client: str, role: str, number: int, url: str, journal: Path, seed: int) -> subprocess.Popen[bytes]:
    module = {"wire": "tests.e2e.kill_worker", "library": "tests.e2e.kill_worker_library"}[client]
    return subprocess.Popen(
        [sys.executable, "-m", module, role, str(number), url, QUEUE, str(journal), str(seed)],
        stdin=subprocess.PIPE,
        cwd=Path(__file__).resolve().parents[2],
        env=dict(os.environ),
    )


def _wait_until_busy(broker: BrokerProcess, workers: list[subprocess.Popen[bytes]]) -> None:
    """Return once all workers are there, and messages are published, delivered and settled in this life of it."""
    deadline = time.monotonic() + BUSY_SECONDS_MAX
    with WireClient(broker.url) as operator:
        while True:
            figures = operator.statistics()
            names = ("published_messages_total", "delivered_messages_total", "settled_messages_total")
            if figures["connections"] > len(workers) and all(figures[name] > 0 for name in names):
                return
            for worker in workers:
                if worker.poll() is not None:
                    raise BrokerFailed(f"a client process ended with {worker.returncode}: {worker.args!r}")
            if time.monotonic() > deadline:
                raise BrokerFailed(
                    f"not all messages flow after {BUSY_SECONDS_MAX} s: {figures}\n{operator.queue_info(QUEUE)}\n"
                    f"the broker said:\n{broker.stderr}"
                )
            _pause(POLL_SECONDS)


def _wait_until_reclaiming(broker: BrokerProcess) -> int:
    """Return while files are being dropped or rewritten, not for the first time in this life: how many bytes so far."""
    deadline = time.monotonic() + RECLAIM_SECONDS_MAX
    with WireClient(broker.url) as operator:
        while True:
            figures = operator.statistics()
            reclaimed: int = figures["reclaim_dropped_bytes_total"] + figures["reclaim_replaced_bytes_total"]
            if figures["reclaim_working"] and reclaimed:
                return reclaimed
            if time.monotonic() > deadline:
                raise BrokerFailed(f"nothing is reclaimed after {RECLAIM_SECONDS_MAX} s: {figures}")


def _wait_until_drained(operator: WireClient) -> None:
    deadline = time.monotonic() + DRAIN_SECONDS_MAX
    while True:
        state = operator.queue_info(QUEUE)
        if not (state["ready"] or state["leased"] or state["delayed"]):
            return
        if time.monotonic() > deadline:
            raise BrokerFailed(f"the queue is not empty after {DRAIN_SECONDS_MAX} s: {state}")
        _pause(POLL_SECONDS)


def _finish(workers: list[subprocess.Popen[bytes]]) -> None:
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write(b"stop\n")
        worker.stdin.flush()
    for worker in workers:
        code = worker.wait(DRAIN_SECONDS_MAX)
        if code != 0:
            raise BrokerFailed(f"a client process ended with {code}: {worker.args!r}")


def _pause(seconds: float) -> None:
    """Let *seconds* pass: the random instant of a kill, or the time between two questions."""
    threading.Event().wait(seconds)


def main(arguments: list[str] | None = None) -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--client", choices=("wire", "library"), default="wire")
    parser.add_argument("--directory", type=Path, help="keep data and journals here (default: a temporary directory)")
    parser.add_argument("--graceful-share", type=float, default=0.0, help="share of rounds that stop it by SIGTERM")
    parser.add_argument("--segment-bytes", default="1MiB", help="small, so that segments roll and are recycled")
    parser.add_argument("--reclaiming", action="store_true", help="kill it while files are dropped and rewritten")
    chosen = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="sluicemq-kill-") as temporary:
        directory = chosen.directory or Path(temporary)
        directory.mkdir(parents=True, exist_ok=True)
        started = time.monotonic()
        sizes = RECLAIMING_OPTIONS if chosen.reclaiming else ("--segment-bytes", chosen.segment_bytes)
        options = (*sizes, "--log-level", "warning")
        result = run_rounds(
            directory,
            rounds=chosen.rounds,
            seed=chosen.seed,
            client=chosen.client,
            options=options,
            graceful_share=chosen.graceful_share,
            reclaiming=chosen.reclaiming,
        )
    print(f"seed {chosen.seed}, {chosen.rounds} rounds, {chosen.client} client, {time.monotonic() - started:.0f} s")
    print("round  unconfirmed batches  unsettled deliveries  kills in recovery  restart (s)  reclaimed (KiB)")
    for number, one in enumerate(result.rounds, 1):
        print(
            f"{number:5}  {one.batches_in_flight:19}  {one.deliveries_in_flight:20}  {one.recovery_kills:17}"
            f"  {one.start_seconds:11.2f}  {one.reclaimed_bytes // 1024:15}"
        )
    for name, value in sorted(result.counts.items()):
        print(f"{name:28} {value:10,}")
    for violation in result.violations:
        print(f"VIOLATED {violation}")
    print("FAILED" if result.violations else "every promise held")
    return 1 if result.violations else 0


if __name__ == "__main__":
    sys.exit(main())
