"""Thousands of power cuts: random lives of a log on the simulated disk, each ended at a random operation, then checked.

    python -m tests.storage.power_cuts --count 10000 --seed 1
    python -m tests.storage.power_cuts --mutants          # each known mistake must be caught

A life appends groups, syncs, marks, rolls, recycles, truncates, discards, prepares spares, promises epochs, closes and
restarts, until the power goes off in the middle of some operation. Recovery itself is cut too. Afterwards a plain list
says what must be there:

- every entry whose sync had returned, byte for byte, in order, with the right chain;
- nothing but entries that were appended, in the place where they were appended, and nothing that was truncated away;
- a promise that was saved; the same cluster id and incarnation;
- and recovering once more gives the same log.

A failure names its seed; the same seed gives the same run.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import random
import struct
import sys
import time
from dataclasses import dataclass, field
from hashlib import blake2b
from unittest import mock

import google_crc32c

from sluicemq.storage import LogOptions, Record, SegmentLog, StorageError
from sluicemq.storage import log as log_module
from sluicemq.storage import recovery as recovery_module
from sluicemq.storage import segment as segment_module
from sluicemq.storage.segment_index import SegmentIndex
from sluicemq.storage.spares import SparePool
from sluicemq.storage.superblock import SuperblockStore
from tests.disk import PowerCut, SimulatedDisk

LIVES_MAX = 5
STEPS_MAX = 300


def chain_of(previous_chain: bytes, previous_zxid: int, record: Record) -> bytes:
    """The chain as the format describes it, written down a second time."""
    body = record.header + record.payload
    neutral = struct.pack(
        "<QQIIBBHI",
        record.zxid,
        previous_zxid,
        len(record.header),
        len(record.payload),
        record.kind,
        record.kind_version,
        record.flags,
        google_crc32c.value(body),
    )
    return blake2b(previous_chain + neutral, digest_size=8).digest()


@dataclass
class Model:
    """What the log must hold: entries in order, and how many of them are safe.

    `entries` is the whole history, also of discarded segments: a position is a count of entries.
    """

    entries: list[Record] = field(default_factory=list)
    chains: list[bytes] = field(default_factory=lambda: [bytes(8)])
    safe: int = 0
    start: int = 0
    truncating_to: int | None = None
    discarding_to: int | None = None
    promised: int = 0
    promising: int = 0

    def zxid_at(self, position: int) -> int:
        return self.entries[position - 1].zxid if position else 0

    def position_of(self, zxid: int) -> int:
        for position in range(len(self.entries), -1, -1):
            if self.zxid_at(position) == zxid:
                return position
        raise AssertionError(f"zxid {zxid:#x} was never appended, or was truncated")

    def add(self, record: Record) -> None:
        self.chains.append(chain_of(self.chains[-1], self.zxid_at(len(self.entries)), record))
        self.entries.append(record)

    def cut_to(self, position: int) -> None:
        del self.entries[position:], self.chains[position + 1 :]
        self.safe = min(self.safe, position)


class Story:
    """One seed: some lives of one log, with a power cut at the end of each."""

    def __init__(self, seed: int) -> None:
        self.rng = rng = random.Random(seed)
        self.disk = SimulatedDisk(rng)
        self.model = Model()
        self.identity: tuple[bytes, bytes] | None = None
        self.cuts = 0
        self.operations = 0
        self.seen: collections.Counter[str] = collections.Counter()
        segment_bytes = rng.choice((16, 16, 32)) * 1024
        self.options = LogOptions(
            segment_bytes=segment_bytes,
            initial_bytes=rng.choice((8192, segment_bytes)),
            growth_bytes=rng.choice((1, 4096, 10_000)),
            spares_max=rng.choice((0, 1, 2)),
            zero_piece_bytes=rng.choice((4096, 16384)),
            index_stride_bytes=rng.choice((64, 1024, 8192)),
            read_bytes=rng.choice((4096, 65536)),
            generations_reserved=rng.choice((1, 2, 64)),
        )
        self.body_bytes_max = rng.choice((40, 700, 7000))
        # Each seed prefers other deeds, so that rare sequences become common in some.
        self.weights = [rng.choice((0, 1, 1, 4)) for _ in self.DEEDS]
        self.weights[0] = 6

    def run(self) -> None:
        for _ in range(self.rng.randint(1, LIVES_MAX)):
            self.disk.cut_power_after(int(self.rng.choice((20, 100, 400)) * self.rng.random()) + 1)
            try:
                log = self.open()
                for _ in range(STEPS_MAX):
                    log = self.rng.choices(self.DEEDS, self.weights)[0](self, log)
                self.disk.cut_power()
            except PowerCut:
                pass
            self.recover_and_check()

    # --- Deeds
    # -------------------------------------------------------------------------------------------------------------

    def open(self) -> SegmentLog:
        log = SegmentLog.open(self.disk, options=self.options)
        recovery = log.recovery
        self.seen["torn tails cut"] += recovery.cut is not None
        self.seen["truncations finished"] += recovery.truncation_finished
        self.seen["superblocks repaired"] += recovery.superblock_repaired
        self.seen["recoveries of more than one segment"] += recovery.segments > 1
        identity = (log.cluster_id, log.incarnation)
        assert self.identity in (None, identity), "the directory became another one"
        self.identity = identity
        return log

    def append(self, log: SegmentLog) -> SegmentLog:
        rng, zxid = self.rng, log.last_zxid
        group = []
        for _ in range(rng.choice((1, 1, 3, 8))):
            zxid = ((zxid >> 32) + rng.randint(1, 3)) << 32 if not zxid or rng.random() < 0.05 else zxid + 1
            body = rng.randbytes(rng.randint(0, self.body_bytes_max))
            split = rng.randint(0, min(30, len(body)))
            record = Record(
                zxid, rng.randint(1, 255), rng.randint(0, 255), rng.randint(0, 65535), body[:split], body[split:]
            )
            group.append(record)
        for record in group:
            self.model.add(record)
        log.append(group)
        assert log.last_chain == self.model.chains[-1]
        return log

    def sync(self, log: SegmentLog) -> SegmentLog:
        assert log.sync() == log.last_zxid
        self.model.safe = len(self.model.entries)
        return log

    def append_and_sync(self, log: SegmentLog) -> SegmentLog:
        return self.sync(self.append(log))

    def mark_idle(self, log: SegmentLog) -> SegmentLog:
        log.mark_idle()
        self.model.safe = len(self.model.entries)
        return log

    def truncate(self, log: SegmentLog) -> SegmentLog:
        model = self.model
        first, last = model.position_of(log.start_zxid), len(model.entries)
        target = max(first, last - self.rng.randint(0, self.rng.choice((3, 50))))
        model.truncating_to = target
        log.truncate_after(model.zxid_at(target))
        model.truncating_to = None
        model.cut_to(target)
        model.safe = target
        assert log.last_zxid == model.zxid_at(target)
        assert log.last_chain == model.chains[target]
        return log

    def discard(self, log: SegmentLog) -> SegmentLog:
        model = self.model
        model.discarding_to = self.rng.randint(model.start, len(model.entries))
        log.begin_at(model.zxid_at(model.discarding_to))
        start = model.position_of(log.start_zxid)
        assert model.start <= start <= model.discarding_to
        model.start, model.discarding_to = start, None
        return log

    def prepare_spare(self, log: SegmentLog) -> SegmentLog:
        expected = log.needs_spare
        assert log.prepare_spare() == expected
        return log

    def promise(self, log: SegmentLog) -> SegmentLog:
        self.model.promising = self.model.promised + self.rng.randint(0, 2)
        log.save_promised_epoch(self.model.promising)
        self.model.promised = self.model.promising
        self.model.safe = len(self.model.entries)
        return log

    def close_and_open(self, log: SegmentLog) -> SegmentLog:
        log.close()
        self.model.safe = len(self.model.entries)
        return self.open()

    def kill_and_open(self, log: SegmentLog) -> SegmentLog:
        """kill -9: the kernel keeps all writes, synced or not; the next start must not take them for durable."""
        remaining = self.disk
        self.disk = remaining.restart()
        if remaining.cut_at is not None:
            self.disk.cut_power_after(max(1, remaining.cut_at - remaining.operations))
        last = log.last_zxid
        log = self.open()
        assert log.last_zxid == last, "kill -9 lost what was written"
        self.model.safe = len(self.model.entries)
        return log

    def read(self, log: SegmentLog) -> SegmentLog:
        self.check_entries(log, self.model.start, len(self.model.entries))
        return log

    DEEDS = (
        append,
        append_and_sync,
        sync,
        mark_idle,
        truncate,
        discard,
        prepare_spare,
        promise,
        close_and_open,
        kill_and_open,
        read,
    )

    # --- Checks
    # ------------------------------------------------------------------------------------------------------------

    def crash(self) -> None:
        """Count only cuts that hit something: during an operation, or with unsynced work behind them."""
        self.cuts += self.disk.operations > 0
        self.operations += self.disk.operations
        self.disk = self.disk.crash()

    def recover_and_check(self) -> None:
        self.crash()
        while self.rng.random() < 0.4:
            self.disk.cut_power_after(self.rng.randint(1, 25))
            try:
                self.open()
                break
            except PowerCut:
                self.crash()
        if not self.disk.powered:
            self.crash()
        else:
            self.disk = self.disk.restart()
        log = self.open()
        last = self.check_state(log)
        # Once more, after a power cut in which nothing was left to lose: the same log, and nothing to repair.
        before = (log.last_zxid, log.last_chain, log.start_zxid, log.promised_epoch)
        self.disk = self.disk.crash()
        again = self.open()
        assert (again.last_zxid, again.last_chain, again.start_zxid, again.promised_epoch) == before
        assert again.recovery.cut is None
        assert not again.recovery.truncation_finished
        assert not again.recovery.superblock_repaired
        self.check_entries(again, self.model.start, last)
        self.disk = self.disk.restart()

    def check_state(self, log: SegmentLog) -> int:
        model = self.model
        last = model.position_of(log.last_zxid)
        assert log.synced_zxid == log.last_zxid
        if last != model.truncating_to:
            assert last >= model.safe, f"lost: entry {last} is the last, {model.safe} were confirmed"
        assert log.last_chain == model.chains[last]
        start = model.position_of(log.start_zxid)
        limit = model.start if model.discarding_to is None else model.discarding_to
        assert model.start <= start <= limit, "the log starts at another place"
        assert log.promised_epoch in (model.promised, model.promising)
        model.cut_to(last)
        model.safe, model.start = last, start
        model.promised = model.promising = log.promised_epoch
        model.truncating_to = model.discarding_to = None
        self.check_entries(log, start, last)
        return last

    def check_entries(self, log: SegmentLog, start: int, last: int) -> None:
        found: list[Record] = []
        position = log.start_zxid
        bytes_max = self.rng.choice((1, 3000, 1 << 20))
        while records := log.read_after(position, bytes_max):
            found += records
            position = records[-1].zxid
        assert found == self.model.entries[start:last], "the log does not hold what was appended"
        if found:
            wanted = self.rng.choice(found)
            assert log.read(wanted.zxid) == wanted
            assert log.first_zxid == found[0].zxid


# --- Mutants: mistakes that the cuts must catch
# -------------------------------------------------------------------------------


def _reports_sync_early(log: SegmentLog) -> int:
    log._synced_zxid = log._last_zxid
    return log._last_zxid


def _rolls_without_sync(original):
    def roll(log):
        log._dirty = False
        return original(log)

    return roll


def _installs_without_sync(directory, name, file, header, stride):
    file.pwritev([header.to_page()], 0)
    directory.rename(name, segment_module.segment_name(header.sequence))
    directory.sync()
    return segment_module.Segment(file, header, file.size(), SegmentIndex(stride))


def _installs_without_directory_sync(directory, name, file, header, stride):
    file.pwritev([header.to_page()], 0)
    file.sync()
    directory.rename(name, segment_module.segment_name(header.sequence))
    return segment_module.Segment(file, header, file.size(), SegmentIndex(stride))


def _writes_superblock_unsynced(store, superblock):
    for copy in range(2):
        store._file.pwritev([superblock.to_page()], copy * 4096)
    store.current = superblock


def _forgets_intent(store, truncation):
    """The truncation is carried out, but a power cut in its middle is not remembered."""


def _retires_without_directory_sync(original):
    def retire(pool, segments):
        with mock.patch.object(pool._directory, "sync"):
            original(pool, segments)

    return retire


def _answers_sync_early(log: SegmentLog) -> int:
    return log._last_zxid


MUTANTS = {
    "sync answered without being done": lambda: mock.patch.object(SegmentLog, "sync", _answers_sync_early),
    "sync reported before it is done": lambda: mock.patch.object(SegmentLog, "sync", _reports_sync_early),
    "roll without a sync of the old segment": lambda: mock.patch.object(
        SegmentLog, "_roll", _rolls_without_sync(SegmentLog._roll)
    ),
    "segment header not synced": lambda: mock.patch.object(log_module, "install", _installs_without_sync),
    "segment name not synced": lambda: mock.patch.object(log_module, "install", _installs_without_directory_sync),
    "superblock not synced": lambda: mock.patch.object(SuperblockStore, "_write", _writes_superblock_unsynced),
    "truncation without intent": lambda: mock.patch.object(SuperblockStore, "save_truncation", _forgets_intent),
    "truncation without zeroing": lambda: mock.patch.object(recovery_module, "zero_range"),
    "checksums without generation": lambda: mock.patch.object(segment_module, "seed_of", return_value=0),
    "retired names not synced": lambda: mock.patch.object(
        SparePool, "retire", _retires_without_directory_sync(SparePool.retire)
    ),
    "what recovery read is not synced": lambda: mock.patch.object(recovery_module, "sync_end"),
}


def first_seed_that_catches(mutant: str, seed: int, seeds_max: int) -> tuple[int, str] | None:
    """The first seed whose story fails with this mistake in the log, and how it shows."""
    with MUTANTS[mutant]():
        for candidate in range(seed, seed + seeds_max):
            try:
                Story(candidate).run()
            except (AssertionError, StorageError) as failure:
                return candidate, f"{type(failure).__name__}: {failure}".partition("\n")[0]
    return None


@dataclass
class Result:
    """Figures of a run."""

    cuts: int = 0
    operations: int = 0
    first_seed: int = 0
    last_seed: int = 0
    seen: collections.Counter[str] = field(default_factory=collections.Counter)


def run_cuts(count: int, seed: int) -> Result:
    """Stories from this seed on until this many power cuts happened. Raises AssertionError that names the seed."""
    result = Result(first_seed=seed)
    while result.cuts < count:
        story = Story(seed)
        try:
            story.run()
        except Exception as failure:
            failure.add_note(f"replay: python -m tests.storage.power_cuts --count 1 --seed {seed}")
            raise
        result.cuts += story.cuts
        result.operations += story.operations
        result.seen += story.seen
        result.last_seed = seed
        seed += 1
    return result


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000, help="power cuts to make")
    parser.add_argument("--seed", type=int, default=1, help="first seed")
    parser.add_argument("--mutants", action="store_true", help="check that each known mistake is caught")
    options = parser.parse_args(arguments)
    if options.mutants:
        missed = 0
        for mutant in MUTANTS:
            caught = first_seed_that_catches(mutant, options.seed, 2000)
            missed += caught is None
            print(f"{mutant}: " + ("NOT CAUGHT" if caught is None else "caught by seed {}, {}".format(*caught)))
        return min(missed, 1)
    started = time.perf_counter()
    result = run_cuts(options.count, options.seed)
    seconds = time.perf_counter() - started
    print(
        f"{result.cuts} power cuts, seeds {result.first_seed} to {result.last_seed}, "
        f"{result.operations} disk operations: 0 confirmed entries lost; "
        f"{seconds:.1f} s, {result.operations / seconds:.0f} operations/s"
    )
    print(", ".join(f"{count} {what}" for what, count in result.seen.items()))
    return 0


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main())
