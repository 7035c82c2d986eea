"""Does a broker bear a bad disk and a full one? `python -m tests.e2e.disk_faults [--seconds 60] [--folder DIR]`.

Two parts, on the real process. **Faults**: strace lets one system call on one file of the data directory fail (EIO,
ENOSPC; write or sync; log, superblock, spare segment), at another moment in every round. The process must end at once,
non-zero, with one text that names the file, the errno and the way on; no confirm may leave after the fault; and a new
process must serve every message that was confirmed. **Small disk** (`tests.e2e.small_disk`): a file system of 256 MiB
is filled to the brim, by the broker and by a stranger's file, and freed again.

The first part needs strace and the right to trace, the second the right to mount: root, or user namespaces. What cannot
be done here is named, and is no failure; the exit code is 1 where a promise was broken.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from tests.e2e import small_disk
from tests.e2e.broker_process import START_SECONDS_MAX, BrokerFailed, BrokerProcess
from tests.e2e.sync_trace import STRACE, parse_trace, prove
from tests.e2e.wire_client import ConnectionEnded, WireClient

QUEUE = "faulty"
WRITE_CALLS = ("pwrite64", "pwritev", "pwritev2")
SYNC_CALLS = ("fdatasync", "fsync")
END_SECONDS_MAX = 30.0
"""From the last thing that a client heard to the end of the process; it takes milliseconds without strace, on a machine
with nothing else to do."""
PUBLISHES_MAX = 3_000
BODY_BYTES = 1_000
SEGMENT = "segment-{:016d}"
OPTIONS = (
    *("--segment-bytes", "256KiB", "--spares-max", "1", "--disk-free-bytes-min", "1MiB"),
    *("--snapshot-every-bytes", "512KiB"),
)


@dataclass(frozen=True)
class Fault:
    """One way in which a disk fails.

    Attributes:
        name: What it is called here.
        calls: System calls that fail.
        error: Name of the errno.
        file: Name of the file whose calls are counted; empty: all files, by the thread that calls.
        first: The earliest call that fails.
        last: The latest.
        named: What the broker's text must name, as a regular expression.
        moment: "running"; "starting" on the data of a run before; or "stopping" cleanly.

    """

    name: str
    calls: tuple[str, ...]
    error: str
    file: str
    first: int
    last: int
    named: str
    moment: str = "running"


FAULTS = (
    Fault("write to the log, EIO", WRITE_CALLS, "EIO", SEGMENT.format(1), 40, 120, "segment-"),
    Fault("sync of the log, EIO", SYNC_CALLS, "EIO", SEGMENT.format(1), 40, 120, "segment-"),
    Fault("write to the log, ENOSPC", WRITE_CALLS, "ENOSPC", SEGMENT.format(2), 10, 120, "segment-"),
    Fault("sync of the log, ENOSPC", SYNC_CALLS, "ENOSPC", SEGMENT.format(2), 10, 120, "segment-"),
    Fault("write to the superblock, EIO", WRITE_CALLS, "EIO", "superblock", 5, 7, "superblock|segment-"),
    Fault("sync of the superblock, EIO", SYNC_CALLS, "EIO", "superblock", 5, 7, "superblock|segment-"),
    Fault("sync of the superblock at a start, EIO", SYNC_CALLS, "EIO", "superblock", 1, 1, "superblock", "starting"),
    Fault("write to the log at a start, EIO", WRITE_CALLS, "EIO", SEGMENT.format(1), 1, 1, "segment-", "starting"),
    Fault("write to a spare, EIO", WRITE_CALLS, "EIO", "zeroing-4", 1, 1, "zeroing-"),
    Fault("sync of a spare, EIO", SYNC_CALLS, "EIO", "zeroing-4", 1, 1, "zeroing-"),
    Fault("write to a snapshot, EIO", WRITE_CALLS, "EIO", "snapshot.new", 1, 2, "snapshot"),
    Fault("sync of a snapshot, EIO", SYNC_CALLS, "EIO", "snapshot.new", 1, 1, "snapshot"),
    Fault("write to the page file, EIO", WRITE_CALLS, "EIO", "pages", 2, 2, "pages"),
    Fault("sync of the page file, EIO", SYNC_CALLS, "EIO", "pages", 2, 2, "pages"),
    Fault("all writes of a clean stop, EIO", WRITE_CALLS, "EIO", "", 0, 0, "segment-|superblock|snapshot", "stopping"),
)


@dataclass(frozen=True)
class Outcome:
    """What one round showed.

    Attributes:
        confirmed: Messages that were confirmed before the end.
        seconds: From the last word of the broker to its end.
        text: What it said.
        problems: Promises that were broken.

    """

    confirmed: int
    seconds: float
    text: str
    problems: list[str]


def tracing_possible() -> str:
    """Return why strace cannot be used here, or nothing."""
    try:
        tried = subprocess.run(["strace", "-o", "/dev/null", "true"], capture_output=True, check=False, timeout=30)
    except FileNotFoundError:
        return "strace is not installed (apt-get install strace)"
    return "" if tried.returncode == 0 else "strace may not trace here (the capability SYS_PTRACE is missing)"


def run_fault(fault: Fault, folder: Path, rng: random.Random) -> Outcome:
    """Let a broker meet *fault*, and judge how it ended and what its successor knows."""
    data, trace = folder / "data", folder / "trace"
    prefix = injecting(fault, data, trace, rng.randint(fault.first, fault.last))
    broker = BrokerProcess(data, options=OPTIONS, prefix=prefix if fault.moment == "running" else ())
    confirmed: list[bytes] = []
    try:
        broker.start()
        if fault.moment == "running":
            confirmed, ended = publish(broker)
            code = broker.wait(timeout=END_SECONDS_MAX)
        else:
            confirmed, ended = publish(broker, publishes_max=20)
            if fault.moment == "stopping":
                code = stop_on_a_bad_disk(broker, fault, trace)
            else:
                broker.stop()
                broker.prefix = prefix
                ended = time.monotonic()
                broker.spawn()
                code = broker.wait(timeout=START_SECONDS_MAX)
    except BrokerFailed as error:
        return Outcome(len(confirmed), 0.0, "", [str(error)])
    finally:
        broker.kill()
    seconds = time.monotonic() - ended
    said = broker.stderr
    problems = [*judge_end(fault, code, said), *judge_trace(trace.read_text(errors="replace"), data)]
    problems += judge_successor(BrokerProcess(data, options=OPTIONS), confirmed)
    return Outcome(len(confirmed), seconds, said.strip().splitlines()[-1] if said.strip() else "", problems)


def injecting(fault: Fault, data: Path, trace: Path, number: int) -> list[str]:
    """Return the command in front of a broker's that lets call *number* fail.

    Where the file is known, the trace holds its calls only; else everything, so that replies are in it.
    """
    return [
        *("strace", "-D", "-f", "-qq", "-y", "-s", "0", "-o", str(trace), "-P", str(data / fault.file)),
        *("-e", "trace=" + ",".join("?" + call for call in (*WRITE_CALLS, *SYNC_CALLS))),
        *("-e", f"inject={','.join(fault.calls)}:error={fault.error}:when={number}"),
    ]


def publish(broker: BrokerProcess, *, publishes_max: int = PUBLISHES_MAX) -> tuple[list[bytes], float]:
    """Publish one by one until the broker ends; return the confirmed bodies, and when the last word was heard."""
    confirmed: list[bytes] = []
    heard = time.monotonic()
    # The connection breaks somewhere in here: that is what the broker's end looks like.
    with contextlib.suppress(ConnectionEnded, ConnectionError, TimeoutError), WireClient(broker.url) as client:
        client.declare(QUEUE)
        producer = client.open_producer()
        for sequence in range(1, publishes_max + 1):
            body = (b"message %d " % sequence).ljust(BODY_BYTES, b".")
            client.publish(QUEUE, producer, sequence, [body])
            confirmed.append(body)
            heard = time.monotonic()
    return confirmed, heard


def stop_on_a_bad_disk(broker: BrokerProcess, fault: Fault, trace: Path) -> int:
    """Attach strace to a broker that runs, let every write fail from now on, and stop it."""
    tracer = subprocess.Popen(
        [
            *("strace", "-f", "-qq", "-y", "-s", "0", "-o", str(trace), "-p", str(broker.pid)),
            *("-e", "trace=" + ",".join("?" + call for call in (*WRITE_CALLS, *SYNC_CALLS))),
            *("-e", f"inject={','.join(fault.calls)}:error={fault.error}:when=1+"),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        while "TracerPid:\t0\n" in Path(f"/proc/{broker.pid}/status").read_text(encoding="ascii"):
            time.sleep(0.01)
        broker.terminate()
        return broker.wait(timeout=END_SECONDS_MAX)
    finally:
        tracer.wait(timeout=END_SECONDS_MAX)


def judge_end(fault: Fault, code: int, said: str) -> list[str]:
    """Return what was wrong with the process's last words."""
    problems = []
    if code in (0, -9):
        problems.append(f"the process ended with {code}")
    if "Traceback" in said:
        problems.append(f"it wrote a traceback:\n{said}")
    texts = [line for line in said.splitlines() if re.search(rf"\({fault.error}, errno \d+\)", line)]
    if len(texts) != 1:
        problems.append(f"it named {fault.error} in {len(texts)} lines instead of one:\n{said}")
    elif not re.search(fault.named, texts[0]) or "start again" not in texts[0]:
        problems.append(f"its text lacks the file or the way on: {texts[0]}")
    return problems


def judge_trace(trace: str, data: Path) -> list[str]:
    """Return what the broker did to the file after the fault: nothing may follow, least of all a success."""
    lines = trace.splitlines()
    faults = [number for number, line in enumerate(lines) if "(INJECTED)" in line]
    if not faults:
        return ["the fault never happened: too few calls on the file"]
    thread = lines[faults[0]].split()[0]
    later = [line for line in lines[faults[0] + 1 :] if "(INJECTED)" not in line and line.split()[0] == thread]
    return [f"the thread went on writing below {data.name}: {line}" for line in later if str(data) in line][:1]


def judge_confirms(trace: str, data: Path) -> tuple[int, list[str]]:
    """Return how many confirms a whole trace (`STRACE`) proves, and what is wrong with it.

    A confirm needs a successful sync before it, and none may leave once a write or a sync has failed.
    """
    lines = trace.splitlines()
    proofs, problems = prove(parse_trace(lines), str(data))
    faults = [number for number, line in enumerate(lines) if "(INJECTED)" in line]
    if not faults:
        problems.append("the fault never happened")
    late = [proof.replied.began + 1 for proof in proofs if faults and proof.replied.began > faults[0]]
    problems += [f"line {line} confirms after the fault" for line in late]
    return len(proofs), problems


def tracing_everything(calls: tuple[str, ...], error: str, trace: Path, number: int) -> list[str]:
    """Return the command in front of a broker's that writes a whole trace, and lets a thread's call *number* fail."""
    return [*STRACE, "-e", f"inject={','.join(calls)}:error={error}:when={number}", "-o", str(trace)]


def judge_successor(broker: BrokerProcess, confirmed: list[bytes]) -> list[str]:
    """Return which confirmed messages a new process does not serve, in order."""
    try:
        broker.start()
        with WireClient(broker.url) as client:
            client.consume(QUEUE, credit=100_000)
            served: list[bytes] = []
            while len(served) < len(confirmed):
                served += client.delivery().bodies
        broker.stop()
    except (BrokerFailed, TimeoutError) as error:
        return [f"after the fault: {error!r}"]
    finally:
        broker.kill()
    return [] if served[: len(confirmed)] == confirmed else ["confirmed messages are missing, or out of order"]


def run_faults(seconds: float, folder: Path, rng: random.Random) -> int:
    """Run every fault, then more rounds until the time is over; return the number of broken promises."""
    deadline = time.monotonic() + seconds
    rounds = broken = 0
    while not rounds or time.monotonic() < deadline:
        for fault in FAULTS:
            if rounds >= len(FAULTS) and time.monotonic() >= deadline:
                break
            with tempfile.TemporaryDirectory(dir=folder, prefix="fault-") as place:
                outcome = run_fault(fault, Path(place), rng)
            rounds += 1
            verdict = "kept" if not outcome.problems else "BROKEN"
            sys.stdout.write(
                f"{fault.name:40} {outcome.confirmed:5} confirmed, ended in {outcome.seconds:6.3f} s  {verdict}\n"
            )
            for problem in outcome.problems:
                sys.stdout.write(f"    {problem}\n")
            broken += len(outcome.problems)
            sys.stdout.flush()
    return broken


def main(arguments: list[str] | None = None) -> int:
    """Run both parts and print what they showed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, help="How long to go on with faults (60).")
    parser.add_argument("--seed", type=int, default=None, help="Seed of the moments at which calls fail.")
    parser.add_argument("--folder", type=Path, default=None, help="Where the data lies for the time being.")
    parser.add_argument("--part", choices=("all", "faults", "small-disk"), default="all", help="What to run (all).")
    chosen = parser.parse_args(arguments)
    seed = random.SystemRandom().randrange(1 << 32) if chosen.seed is None else chosen.seed
    broken = 0
    with tempfile.TemporaryDirectory(dir=chosen.folder, prefix="sluicemq-disk-") as folder:
        if chosen.part != "small-disk":
            hindrance = tracing_possible()
            if hindrance:
                sys.stdout.write(f"faults: not done here, {hindrance}\n")
            else:
                sys.stdout.write(f"faults, seed {seed}\n")
                broken += run_faults(chosen.seconds, Path(folder), random.Random(seed))
        if chosen.part != "faults":
            broken += small_disk.run(Path(folder))
    sys.stdout.write("every promise was kept\n" if not broken else f"{broken} promises were broken\n")
    return int(broken > 0)


if __name__ == "__main__":
    sys.exit(main())
