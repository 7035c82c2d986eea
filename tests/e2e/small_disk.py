"""A broker on a disk that fills to the brim and is freed again: `python -m tests.e2e.small_disk KIND MIB FOLDER`.

The story: a stranger's file takes the last byte; publishing is refused with a typed error and nothing else is; the
broker is killed and starts again on the full disk; settlements, deletes and purges go on all the time; the file goes,
and publishing goes on by itself. Then the broker fills the disk itself, down to its own mark, and is given room again.
Once more it fills the disk, and now the consumers catch up: every confirmed message that was not settled is there, and
publishing goes on because what is settled is given back.

The file system is made for the occasion (a tmpfs, or ext4 in a file behind a loop device) in a mount namespace of its
own, so that nothing stays mounted whatever happens. `run` starts a process in such a namespace for each kind.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sluicemq.wire import messages as m
from sluicemq.wire.errors import ResourceLow
from tests.e2e.broker_process import BrokerProcess
from tests.e2e.wire_client import WireClient

if TYPE_CHECKING:
    from collections.abc import Callable

MIB = 1024 * 1024
KINDS = ("tmpfs", "ext4")
BODY_BYTES = 8 * 1024
BATCH_MESSAGES = 16
REFUSED_SECONDS_MAX = 10.0
"""From the moment the disk is full to the first refusal: a moment, on a machine with nothing else to do."""
RESUMED_SECONDS_MAX = 10.0
"""From the moment there is room to the first confirm, likewise."""
WAIT_SECONDS_MAX = 60.0
SETTLEMENTS = 300
BALLAST_SHARE = 4


def namespace_command() -> list[str] | None:
    """Return the command in front of one that may mount, or None where nobody lets us."""
    for command in (["unshare", "-m"], ["unshare", "-Urm"]):
        with contextlib.suppress(OSError):
            tried = [*command, "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
            if subprocess.run(tried, capture_output=True, check=False).returncode == 0:
                return command
    return None


def run(folder: Path, mib: int = 256) -> int:
    """Tell the story on every kind of file system that can be made here; return the number that went wrong."""
    command = namespace_command()
    if command is None:
        sys.stdout.write("small disk: not done here, neither root nor user namespaces may mount\n")
        return 0
    broken = 0
    for kind in KINDS:
        place = folder / kind
        place.mkdir()
        sys.stdout.flush()
        told = subprocess.run(
            [*command, sys.executable, "-m", "tests.e2e.small_disk", kind, str(mib), str(place)],
            check=False,
            cwd=Path(__file__).resolve().parents[2],
        )
        broken += told.returncode not in (0, EXIT_IMPOSSIBLE)
    return broken


EXIT_IMPOSSIBLE = 3


def mount(kind: str, mib: int, folder: Path) -> Path | None:
    """Mount a file system and return where; None where this kind cannot be had."""
    place = folder / "disk"
    place.mkdir()
    if kind == "tmpfs":
        command = ["mount", "-t", "tmpfs", "-o", f"size={mib}m", "tmpfs", str(place)]
    else:
        image = folder / "image"
        with image.open("wb") as file:
            file.truncate(mib * MIB)
        if shutil.which("mkfs.ext4") is None:
            return None
        subprocess.run(["mkfs.ext4", "-q", "-m", "0", str(image)], check=True, stdin=subprocess.DEVNULL)
        command = ["mount", "-o", "loop", str(image), str(place)]
    return place if subprocess.run(command, capture_output=True, check=False).returncode == 0 else None


class Story:
    """A broker on a small disk, a publisher and a consumer of one queue, and what they know.

    Attributes:
        broker: The process.
        confirmed: Numbers of the messages that were confirmed.
        settled: Numbers of those that were acknowledged.
        figures: What was measured, by name.

    """

    def __init__(self, folder: Path, disk: Path, options: tuple[str, ...]) -> None:
        self.disk = disk
        (disk / "data").mkdir()
        (folder / "data").symlink_to(disk / "data")
        # Its standard error goes beside the link, which is on another disk.
        self.broker = BrokerProcess(folder / "data", options=options)
        self.confirmed: list[int] = []
        self.settled: set[int] = set()
        self.figures: dict[str, float] = {}
        self._next = 1
        self._connect()

    def _connect(self) -> None:
        self.broker.start()
        self.publisher = WireClient(self.broker.url)
        self.consumer = WireClient(self.broker.url)
        self.publisher.declare("orders")
        self._producer = self.publisher.open_producer()
        self._sequence = 0
        self._consumer_number = self.consumer.consume("orders", credit=2 * SETTLEMENTS)
        self._taken: list[tuple[int, int]] = []

    # --- what the two do -----------------------------------------------------------------------------------------

    def publish(self) -> None:
        """Publish one batch; raises ResourceLow where it is refused, which burns no number."""
        numbers = range(self._next, self._next + BATCH_MESSAGES)
        bodies = [(b"%d " % number).ljust(BODY_BYTES, b".") for number in numbers]
        self.publisher.publish("orders", self._producer, self._sequence + 1, bodies)
        self._sequence += 1
        self._next += BATCH_MESSAGES
        self.confirmed += numbers

    def publish_until_refused(self, publishes_max: int = 100_000) -> ResourceLow:
        """Publish batch by batch; return the refusal."""
        for _ in range(publishes_max):
            try:
                self.publish()
            except ResourceLow as error:
                return error
        raise AssertionError(f"{publishes_max} batches were taken, none was refused")

    def settle_some(self, count: int = SETTLEMENTS) -> None:
        """Acknowledge the next *count* messages, each by itself."""
        waiting: list[tuple[int, int]] = []
        while len(waiting) < count:
            while not self._taken:
                delivery = self.consumer.delivery(timeout=WAIT_SECONDS_MAX)
                self._taken += [(each.tag, int(each.body.split()[0])) for each in delivery.messages]
            tag, number = self._taken.pop(0)
            waiting.append(
                (self.consumer.send(m.Settle(self._consumer_number, m.VERDICT_ACK, [tag, tag], None)), number)
            )
        for correlation, number in waiting:
            self.consumer.reply_to(correlation)
            self.settled.add(number)

    def state(self) -> dict[str, Any]:
        """Return the broker's figures."""
        return self.consumer.statistics()

    # --- the story -----------------------------------------------------------------------------------------------

    def a_stranger_fills_the_disk(self) -> Path:
        """Write a file until nothing fits any more; wait for the first refusal."""
        stranger = self.disk / "stranger"
        fill(stranger)
        began = time.monotonic()
        wait_until(lambda: self.state()["disk_state"] in ("low", "reserve"))
        self.figures["refused after s"] = time.monotonic() - began
        assert self.figures["refused after s"] <= REFUSED_SECONDS_MAX
        self.publishing_is_refused_with_reasons()
        return stranger

    def publishing_is_refused_with_reasons(self) -> None:
        """The refusal is typed, retryable, and says how much is free and how much must be."""
        for _ in range(3):
            error = self.publish_until_refused(1)
            assert error.retryable
            assert error.retry_after
            assert error.free_bytes < error.needed_bytes, error
            assert "free" in str(error), error
            assert "disk_free_bytes_min" in str(error), error
        assert self.consumer.queue_info("orders")["publishing"] == "refused"

    def everything_else_goes_on(self) -> None:
        """Acknowledge, purge, delete, and connect anew."""
        self.settle_some()
        with WireClient(self.broker.url) as operator:
            operator.declare("orders")
            operator.request(m.PurgeQueue("to-purge"), m.Purged)
            operator.request(m.DeleteQueue("to-delete"), m.Deleted)

    def queues_to_lose(self) -> None:
        """Make those that the operator purges and deletes."""
        for name in ("to-purge", "to-delete"):
            self.publisher.declare(name)

    def it_is_killed_and_starts_on_the_full_disk(self) -> None:
        """SIGKILL; the next process serves what was confirmed, refuses publishing, and settles."""
        self.publisher.close()
        self.consumer.close()
        self.broker.kill()
        began = time.monotonic()
        self._connect()
        self.figures["restart on the full disk s"] = time.monotonic() - began

    def publishing_goes_on_by_itself(self, name: str, seconds_max: float = RESUMED_SECONDS_MAX) -> None:
        """Wait for the first confirm."""
        began = time.monotonic()
        while True:
            try:
                self.publish()
                break
            except ResourceLow:
                assert time.monotonic() - began < WAIT_SECONDS_MAX, "publishing never goes on"
                time.sleep(0.02)
        self.figures[name] = time.monotonic() - began
        assert self.figures[name] <= seconds_max

    def the_broker_fills_the_disk(self) -> None:
        """Publish down to the mark; the reserve must be left."""
        began, before = time.monotonic(), len(self.confirmed)
        error = self.publish_until_refused()
        self.figures["filled by the broker MiB"] = (len(self.confirmed) - before) * BODY_BYTES / MIB
        self.figures["filled by the broker s"] = time.monotonic() - began
        state = self.state()
        self.figures["left free MiB"] = error.free_bytes / MIB
        self.figures["prepared segments left"] = state["spare_segments"]
        assert state["spare_segments"] >= 1, "settlements have a whole prepared segment"

    def everything_confirmed_is_there(self) -> None:
        """Drain the queue; what was confirmed and not settled comes, once each."""
        self.consumer.close()
        wanted = [number for number in self.confirmed if number not in self.settled]
        found: list[int] = []
        with WireClient(self.broker.url) as client:
            consumer = client.consume("orders", credit=1_000)
            while len(found) < len(wanted):
                delivery = client.delivery(timeout=WAIT_SECONDS_MAX)
                found += [int(body.split()[0]) for body in delivery.bodies]
                client.settle(consumer, delivery.tags)
            assert client.queue_info("orders")["ready"] == 0
        assert sorted(found) == wanted
        self.figures["messages confirmed"] = len(self.confirmed)
        self.figures["messages settled while full"] = len(self.settled)

    def warnings_are_few(self) -> None:
        """One when it begins, one when it ends."""
        said = self.broker.stderr
        began, ended = said.count("publishing is refused:"), said.count("publishing goes on:")
        self.figures["warnings since the restart"] = began + ended
        assert 1 <= began <= 4, said
        assert began - ended in (0, 1), said

    def tell(self) -> None:
        """Do it all."""
        self.queues_to_lose()
        for _ in range(2 * SETTLEMENTS // BATCH_MESSAGES):
            self.publish()
        ballast = self.disk / "ballast"
        fill(ballast, disk_bytes(self.disk) // BALLAST_SHARE)
        stranger = self.a_stranger_fills_the_disk()
        self.everything_else_goes_on()
        self.queues_stay_as_they_are()
        self.it_is_killed_and_starts_on_the_full_disk()
        self.publishing_is_refused_with_reasons()
        self.settle_some(SETTLEMENTS // 2)
        stranger.unlink()
        self.publishing_goes_on_by_itself("resumed after the stranger left s")
        self.the_broker_fills_the_disk()
        self.publishing_is_refused_with_reasons()
        self.settle_some(SETTLEMENTS // 2)
        ballast.unlink()
        self.publishing_goes_on_by_itself("resumed after the ballast went s")
        self.publish_until_refused()
        self.everything_confirmed_is_there()
        self.publishing_goes_on_by_itself("resumed after consumers caught up s", WAIT_SECONDS_MAX)
        self.warnings_are_few()
        self.publisher.close()
        self.broker.stop()

    def queues_stay_as_they_are(self) -> None:
        """What was refused left no trace."""
        info = self.consumer.queue_info("orders")
        assert info["published_total"] == len(self.confirmed)
        assert info["settled_total"] == len(self.settled)


def fill(path: Path, size: int | None = None) -> None:
    """Write zeros to a new file: *size* bytes, or until the disk takes no more."""
    with path.open("wb", buffering=0) as file:
        left = (1 << 50) if size is None else size
        piece = MIB
        while left > 0 and piece:
            try:
                left -= file.write(bytes(min(piece, left)))
            except OSError:
                piece //= 2
        with contextlib.suppress(OSError):
            os.fsync(file.fileno())


def disk_bytes(place: Path) -> int:
    """Return the size of a file system."""
    figures = os.statvfs(place)
    return figures.f_blocks * figures.f_frsize


def wait_until(condition: Callable[[], bool]) -> None:
    """Return once *condition* holds."""
    deadline = time.monotonic() + WAIT_SECONDS_MAX
    while not condition():
        assert time.monotonic() < deadline, "it never came about"
        time.sleep(0.02)


def main(arguments: list[str]) -> int:
    """Tell the story on one file system, in a namespace where mounting is allowed; print the figures."""
    kind, mib, folder = arguments[0], int(arguments[1]), Path(arguments[2])
    disk = mount(kind, mib, folder)
    if disk is None:
        sys.stdout.write(f"small disk, {kind}: not done here, it cannot be mounted\n")
        return EXIT_IMPOSSIBLE
    segment_mib = max(1, mib // 32)
    story = Story(folder, disk, ("--segment-bytes", f"{segment_mib}MiB"))
    try:
        story.tell()
    except Exception as error:
        sys.stdout.write(f"small disk, {kind}: BROKEN: {error!r}\n{story.broker.stderr}\n")
        raise
    finally:
        story.broker.kill()
        sys.stdout.write(f"small disk, {kind} of {mib} MiB\n")
        for name, value in story.figures.items():
            sys.stdout.write(f"    {name:36} {value:10.2f}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
