"""Does the disk hold what is alive and little more, and does nobody notice how? A command, and a test runs it shortly.

    python -m tests.e2e.steady_state --seconds 600 [--rate MESSAGES_A_SECOND]

A producer publishes at half the rate that this machine takes (measured first, unless given), a consumer acknowledges
everything but one message in a hundred, which it gives back with an hour's delay: what is alive lies thinly spread over
everything that was ever written. Printed are, over time, the disk use against the bytes alive, and at the end the
publish latency while the reclaimer worked against that of the rest of the time. Latency counts from when a batch was
due, so a stall counts for every batch behind it.

Latency while the reclaimer works is not only its own doing: the log begins segments and snapshots are taken in the same
moments. So with `--control SECONDS` the same is done once more for so long with a reclaimer that is all but asleep, and
the latencies of both whole runs are compared.

The promises: at every look the live store takes at most three times the bytes that are alive plus two segments; beside
it lie the log proper (what is newer than the older of two snapshots) and the spare segments, which do not grow. The
99th percentile while reclaiming is within twice that of the rest, or of the control, if there is one. The exit code
says whether both held.
"""

from __future__ import annotations

import argparse
import multiprocessing
import select
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from sluicemq.wire import messages as m
from sluicemq.wire.batch import encode_batch
from tests.e2e.broker_process import BrokerProcess
from tests.e2e.long_backlog import UNHEARD, receive
from tests.e2e.wire_client import WireClient

if TYPE_CHECKING:
    from collections.abc import Sequence
    from multiprocessing.connection import Connection

QUEUE = "steady"
DELAY_SECONDS = 3600.0
GIVEN_BACK_EVERY = 100
CREDIT_MESSAGES = 50_000
SETTLE_MESSAGES = 1_000
MIB = 1 << 20
MESSAGE_OVERHEAD_BYTES = 15
"""What a message takes beside its body in the record of a batch of which one in a hundred is alive, about: its head in
the batch and its range; the record's own head is counted with `BATCH_OVERHEAD_BYTES`."""
BATCH_OVERHEAD_BYTES = 150
CALIBRATION_SECONDS = 6.0


class Options(NamedTuple):
    """What is published and for how long."""

    seconds: float
    rate: float
    batch: int
    body_bytes: int


class Look(NamedTuple):
    """One look at a running broker.

    Attributes:
        seconds: Since the start.
        disk_bytes: All files of the data directory, as they lie on the disk.
        store_bytes: Files of the live store among them.
        alive_bytes: What the messages take that are alive, as the users know them.
        reclaiming: Whether the reclaimer was at work.
        alive_told: What the reclaimer believes is alive in the live store.

    """

    seconds: float
    disk_bytes: int
    store_bytes: int
    alive_bytes: int
    reclaiming: bool
    alive_told: int


# --- clients, each in a process of its own ---------------------------------------------------------------------------


def publish(url: str, options: Options, results: Connection) -> None:
    """Publish batches when they are due, or as fast as they are confirmed without a rate; send the latencies."""
    body = bytes(options.body_bytes)
    tail = encode_batch([body] * options.batch)
    with WireClient(url) as client:
        producer = client.open_producer()
        interval = options.batch / options.rate if options.rate else 0.0
        window_max = 8 if not options.rate else 1 << 30
        started = time.monotonic()
        due, sequence = started, 0
        waiting: list[float] = []
        latencies: list[tuple[float, float]] = []
        confirmed = 0
        while (now := time.monotonic()) < started + options.seconds or confirmed < sequence:
            frames = bytearray()
            ending = now >= started + options.seconds
            while not ending and due <= now and sequence - confirmed < window_max:
                sequence += 1
                message = m.Publish(QUEUE, producer, sequence)
                frames += client.connection.send(message, correlation=UNHEARD, tail_length=len(tail))
                frames += tail
                waiting.append(due if interval else now)
                due += interval
            if frames:
                client.socket.sendall(frames)
            patience = max(0.0, due - time.monotonic()) if interval and not ending else 1.0
            if not select.select([client.socket], [], [], patience)[0]:
                continue
            for received in receive(client):
                assert isinstance(received.message, m.Published), received.message
                at = time.monotonic()
                latencies.append((at, at - waiting[confirmed]))
                confirmed += 1
        results.send((confirmed * options.batch, latencies))


def consume(url: str, given_back: Connection) -> None:
    """Take everything for ever; acknowledge it, but for one in a hundred; say how many were given back so far."""
    with WireClient(url) as client:
        consumer = client.consume(QUEUE, credit=CREDIT_MESSAGES)
        last_tag, settled, back = 0, 0, 0
        for delivery in client.deliveries:
            last_tag = delivery.last_tag
        while True:
            for received in receive(client):
                if isinstance(received.message, m.Deliver):
                    last_tag += sum(received.message.runs[2 :: m.RUN_NUMBERS])
            if last_tag - settled < SETTLE_MESSAGES:
                continue
            nacked = [tag for tag in range(settled + 1, last_tag + 1) if tag % GIVEN_BACK_EVERY == 0]
            acked = []
            start = settled + 1
            for tag in nacked:
                acked += [start, tag - 1] if start < tag else []
                start = tag + 1
            if start <= last_tag:
                acked += [start, last_tag]
            frames = client.connection.send(m.Settle(consumer, m.VERDICT_ACK, acked, None), correlation=UNHEARD)
            if nacked:
                tags = [tag for tag in nacked for tag in (tag, tag)]
                settle = m.Settle(consumer, m.VERDICT_NACK, tags, DELAY_SECONDS)
                frames += client.connection.send(settle, correlation=UNHEARD)
            client.socket.sendall(frames)
            settled = last_tag
            back += len(nacked)
            given_back.send((last_tag, back))


# --- watching --------------------------------------------------------------------------------------------------------


def disk_bytes(data: Path) -> int:
    """Return what all files in the folder take on the disk."""
    total = 0
    for path in data.iterdir():
        try:
            total += path.stat().st_blocks * 512
        except FileNotFoundError:
            pass
    return total


def run(folder: Path, options: Options, serve_options: Sequence[str], *, show: bool) -> tuple[float, list[Look], list]:
    """Run one broker with both clients; return messages a second, the looks and the latencies."""
    context = multiprocessing.get_context("spawn")
    with BrokerProcess(folder / "data", options=serve_options) as broker, WireClient(broker.url) as client:
        client.declare(QUEUE)
        results, results_end = context.Pipe(duplex=False)
        counts, counts_end = context.Pipe(duplex=False)
        consumer = context.Process(target=consume, args=(broker.url, counts_end), daemon=True)
        publisher = context.Process(target=publish, args=(broker.url, options, results_end), daemon=True)
        consumer.start()
        publisher.start()
        looks: list[Look] = []
        started = shown = time.monotonic()
        taken = back = 0
        while not results.poll(0.05):
            assert publisher.is_alive(), broker.stderr
            assert consumer.is_alive(), broker.stderr
            while counts.poll():
                taken, back = counts.recv()
            figures = client.statistics()
            # One in a hundred of every batch, or of every hundredth batch, whichever is rarer.
            batches = min(back, taken // options.batch)
            alive = back * (options.body_bytes + MESSAGE_OVERHEAD_BYTES) + batches * BATCH_OVERHEAD_BYTES
            looks.append(
                Look(
                    time.monotonic() - started,
                    disk_bytes(broker.data),
                    figures["live_bytes"],
                    alive,
                    bool(figures["reclaim_working"]),
                    figures["live_bytes_alive"],
                )
            )
            if show and time.monotonic() - shown >= max(1.0, options.seconds / 20):
                shown = time.monotonic()
                print_look(looks[-1], figures)
        messages, latencies = results.recv()
        elapsed = time.monotonic() - started
        consumer.kill()
        consumer.join()
        publisher.join()
        latencies = [(at - started, latency) for at, latency in latencies]
        if show:
            info = client.queue_info(QUEUE)
            print_figures(client.statistics(), info)
        broker.stop(timeout=120.0)
        return messages / elapsed, looks, latencies


def print_look(look: Look, figures: dict) -> None:
    """Print a line of the course of things."""
    ratio = look.store_bytes / look.alive_bytes if look.alive_bytes else 0.0
    say(
        f"{look.seconds:7.1f} s  disk {look.disk_bytes / MIB:8.1f} MiB: log {figures['log_bytes'] / MIB:7.1f} in "
        f"{figures['segments']} segments, {figures['spare_segments']} spares, store {look.store_bytes / MIB:7.1f} in "
        f"{figures['live_files']} files; alive {look.alive_bytes / MIB:7.1f} (told {look.alive_told / MIB:.1f}), "
        f"store/alive {ratio:.2f}"
    )


def print_figures(figures: dict, info: dict) -> None:
    """Print what the reclaimer did."""
    read, written = figures["reclaim_read_bytes_total"], figures["reclaim_written_bytes_total"]
    replaced = figures["reclaim_replaced_bytes_total"]
    say(
        f"reclaimed: {figures['reclaim_passes_total']} passes, {figures['reclaim_abandoned_total']} abandoned; dropped "
        f"{figures['reclaim_dropped_bytes_total'] / MIB:.1f} MiB, read {read / MIB:.1f}, wrote {written / MIB:.1f} in "
        f"place of {replaced / MIB:.1f}; pinned by the oldest message {info['pinned_bytes'] / MIB:.1f} MiB"
    )


def percentile(latencies: Sequence[float], share: float) -> float:
    """Return the latency that this share is within, in milliseconds; 0 without any."""
    ordered = sorted(latencies)
    return 1000 * ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0


def split(looks: Sequence[Look], latencies: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    """Return the latencies while the reclaimer worked, and those of the rest of the time."""
    working: list[float] = []
    rest: list[float] = []
    number = 0
    for at, latency in latencies:
        while number + 1 < len(looks) and looks[number + 1].seconds < at:
            number += 1
        (working if looks[number].reclaiming else rest).append(latency)
    return working, rest


def say(text: str) -> None:
    """Print a line."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600.0, help="How long (600).")
    parser.add_argument(
        "--rate", type=float, default=0.0, help="Messages a second; half of the largest rate by default."
    )
    parser.add_argument("--batch", type=int, default=100, help="Messages a batch (100).")
    parser.add_argument("--size", type=int, default=100, help="Bytes of a body (100).")
    parser.add_argument("--segment-mib", type=int, default=64, help="MiB of one segment of the log (64).")
    parser.add_argument("--control", type=float, default=0.0, help="Seconds of the same without reclaiming (0).")
    parser.add_argument("--folder", type=Path, default=None, help="Where the data lies for the time being.")
    parser.add_argument("options", nargs="*", help="More options of `sluicemq serve`, behind `--`.")
    arguments = parser.parse_args()
    segment_bytes = arguments.segment_mib * MIB
    serve_options = ["--segment-bytes", str(segment_bytes), *arguments.options]
    rate = arguments.rate
    with tempfile.TemporaryDirectory(dir=arguments.folder, prefix="sluicemq-steady-") as folder:
        if not rate:
            trial = Options(CALIBRATION_SECONDS, 0.0, arguments.batch, arguments.size)
            most, _, _ = run(Path(folder) / "trial", trial, serve_options, show=False)
            rate = most / 2
            say(f"largest rate {most:,.0f} messages/s; half of it is used")
        options = Options(arguments.seconds, rate, arguments.batch, arguments.size)
        without: list[float] = []
        if arguments.control:
            asleep = [*serve_options, "--reclaim-bytes-per-second-max", "64KiB"]
            control = options._replace(seconds=arguments.control)
            _, _, slept = run(Path(folder) / "control", control, asleep, show=False)
            without = [latency for _, latency in slept]
            shutil.rmtree(Path(folder) / "control")
        reached, looks, latencies = run(Path(folder) / "steady", options, serve_options, show=True)
    say(f"published {reached:,.0f} messages/s (wanted {rate:,.0f}) for {options.seconds:.0f} s")
    beyond = [look for look in looks if look.store_bytes > 3 * look.alive_bytes + 2 * segment_bytes]
    worst = max(looks, key=lambda look: look.store_bytes - 3 * look.alive_bytes)
    say(
        f"store within 3 times the live bytes plus two segments: {'no' if beyond else 'yes'}; nearest at "
        f"{worst.seconds:.0f} s with {worst.store_bytes / MIB:.1f} of "
        f"{(3 * worst.alive_bytes + 2 * segment_bytes) / MIB:.1f} MiB"
    )
    last = looks[-1]
    bound = 3 * last.alive_bytes + 2 * segment_bytes
    say(f"at the end: all files {last.disk_bytes / MIB:.1f} MiB; 3 x alive + 2 segments are {bound / MIB:.1f} MiB")
    working, rest = split(looks, latencies)
    everything = [latency for _, latency in latencies]
    for name, some in (
        ("while reclaiming", working),
        ("otherwise", rest),
        ("in the whole run", everything),
        ("in the control without reclaiming", without),
    ):
        say(
            f"publish latency {name}: p50 {percentile(some, 0.5):.2f} ms, p99 {percentile(some, 0.99):.2f} ms, "
            f"p99.9 {percentile(some, 0.999):.2f} ms, longest {percentile(some, 1.0):.2f} ms ({len(some)} batches)"
        )
    compared = (everything, without) if without else (working, rest)
    slower = all(compared) and percentile(compared[0], 0.99) > 2 * percentile(compared[1], 0.99)
    return int(bool(beyond) or slower)


if __name__ == "__main__":
    sys.exit(main())
