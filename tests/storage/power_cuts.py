"""Thousands of power cuts: random lives of a log on the simulated disk, each ended at a random operation, then checked.

    python -m tests.storage.power_cuts --count 10000 --seed 1
    python -m tests.storage.power_cuts --mutants          # each known mistake must be caught

A life appends groups, syncs, marks, rolls, recycles, truncates, moves the log's beginning, removes and rewrites files
of the live store, damages their indexes, prepares spares, promises epochs, closes and restarts, until the power goes
off in the middle of some operation. Recovery itself is cut too. Afterwards a plain list says what must be there:

- every entry whose sync had returned, byte for byte, in order, with the right chain;
- nothing but entries that were appended, in the place where they were appended, and nothing that was truncated away;
- every entry before the log's beginning that nobody called dead, as it was written or as it was rewritten, and a
  rewriting either wholly done or not at all;
- a promise that was saved; the same cluster id and incarnation;
- and recovering once more gives the same log.

A failure names its seed; the same seed gives the same run.
"""

from __future__ import annotations

import collections
import contextlib
import random
import struct
from dataclasses import dataclass, field
from hashlib import blake2b
from unittest import mock

import google_crc32c

from sluicemq.storage import LiveFile, LogOptions, Record, SegmentLog, ZxidNotFound
from sluicemq.storage import live as live_module
from sluicemq.storage import live_recovery as live_recovery_module
from sluicemq.storage import live_store as live_store_module
from sluicemq.storage import log as log_module
from sluicemq.storage import recovery as recovery_module
from sluicemq.storage import segment as segment_module
from sluicemq.storage import segment_index as segment_index_module
from sluicemq.storage import sparse as sparse_module
from sluicemq.storage.live import LiveKind
from sluicemq.storage.live_store import LiveStore
from sluicemq.storage.segment_index import SegmentIndex
from sluicemq.storage.spares import SparePool
from sluicemq.storage.superblock import SuperblockStore
from tests.disk import PowerCut, SimulatedDisk
from tests.seeds import PowerCuts

LIVES_MAX = 5
SPARSE = 250  # any kind: storage does not know them
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
    beginning_at: int | None = None
    promised: int = 0
    promising: int = 0
    # Of entries before `start`: how they were rewritten, last, and which may be missing.
    rewritten: dict[int, Record] = field(default_factory=dict)
    dead: set[int] = field(default_factory=set)
    # What an unfinished rewriting would change.
    rewriting: dict[int, Record] = field(default_factory=dict)
    dying: set[int] = field(default_factory=set)

    def living(self) -> dict[int, Record]:
        """What must be readable before the beginning of the log proper."""
        return {
            record.zxid: self.rewritten.get(record.zxid, record)
            for record in self.entries[: self.start]
            if record.zxid not in self.dead
        }

    def finish_rewriting(self) -> None:
        self.rewritten |= self.rewriting
        self.dead |= self.dying
        self.rewriting, self.dying = {}, set()

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
            live_open_max=rng.choice((1, 2, 64)),
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

    def begin_later(self, log: SegmentLog) -> SegmentLog:
        model = self.model
        model.beginning_at = self.rng.randint(model.start, len(model.entries))
        log.begin_at(model.zxid_at(model.beginning_at))
        start = model.position_of(log.start_zxid)
        assert model.start <= start <= model.beginning_at
        model.start, model.beginning_at = start, None
        self.check_live(log)
        return log

    def some_live_files(self, log: SegmentLog) -> list[LiveFile]:
        files = log.live_files()
        first = self.rng.randrange(len(files)) if files else 0
        return files[first : first + self.rng.choice((1, 1, 2, 5))]

    def reclaim(self, log: SegmentLog) -> SegmentLog:
        files = self.some_live_files(log)
        if files:
            dead = {record.zxid for file in files for record in log.walk_live(file)}
            self.model.dead |= dead
            first, last = files[0].first_sequence, files[-1].last_sequence
            assert log.reclaim(first, last) == len(files)
            assert not [file for file in log.live_files() if first <= file.first_sequence <= last]
            self.seen["live files removed"] += len(files)
            self.check_live(log)
        return log

    def install_sparse(self, log: SegmentLog) -> SegmentLog:
        files = self.some_live_files(log)
        if not files:
            return log
        model, rng = self.model, self.rng
        share = rng.choice((0.1, 0.5, 0.9))
        kept = []
        for record in (record for file in files for record in log.walk_live(file)):
            if record.zxid in model.dead or rng.random() > share:
                model.dying.add(record.zxid)
            elif rng.random() < 0.5:
                kept.append(record)
            else:
                kept.append(record._replace(kind=SPARSE, payload=record.payload[rng.randint(0, 20) :]))
                model.rewriting[record.zxid] = kept[-1]
        if rng.random() < 0.3:
            # Most cuts would miss these few operations.
            soon = self.disk.operations + rng.randint(1, 20)
            self.disk.cut_at = min(soon, self.disk.cut_at or soon)
        live = log.install_sparse(files[0].first_sequence, files[-1].last_sequence, iter(kept))
        model.finish_rewriting()
        assert list(log.walk_live(live)) == kept
        self.seen["live files rewritten"] += len(files)
        self.check_live(log)
        return log

    def damage_index(self, log: SegmentLog) -> SegmentLog:
        """An index is derived: whatever becomes of it, entries are found, or it is made anew."""
        names = [name for name in self.disk.names() if name.startswith("index-")]
        if names:
            name = self.rng.choice(names)
            size = len(self.disk.content_of(name))
            if size:
                self.disk.flip_bit(name, self.rng.choice((self.rng.randrange(size), size - 1)), self.rng.randrange(8))
                self.seen["indexes damaged"] += 1
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
        begin_later,
        reclaim,
        install_sparse,
        damage_index,
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
        assert not again.recovery.replacements_finished
        self.check_live(again)
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
        limit = model.start if model.beginning_at is None else model.beginning_at
        assert model.start <= start <= limit, "the log starts at another place"
        self.seen["replacements finished"] += log.recovery.replacements_finished
        assert log.promised_epoch in (model.promised, model.promising)
        model.cut_to(last)
        model.safe, model.start = last, start
        model.promised = model.promising = log.promised_epoch
        model.truncating_to = model.beginning_at = None
        self.settle_rewriting(log)
        self.check_live(log)
        self.check_entries(log, start, last)
        return last

    def settle_rewriting(self, log: SegmentLog) -> None:
        """The power went off in the middle of a rewriting: see whether it happened, and hold it to that."""
        model = self.model
        wanted = next((zxid for zxid in model.rewriting if model.rewriting[zxid] != model.living().get(zxid)), None)
        if wanted is not None and log.read(wanted) == model.rewriting[wanted]:
            model.finish_rewriting()
        elif wanted is None and model.dying:
            # Nothing tells; whatever is missing must be missing.
            model.finish_rewriting()
        else:
            model.rewriting, model.dying = {}, set()

    def check_live(self, log: SegmentLog) -> None:
        model, files = self.model, log.live_files()
        living = model.living()
        known = {record.zxid: record for record in model.entries[: model.start]}
        ends = [0, *(end for file in files for end in (file.first_sequence, file.last_sequence))]
        assert ends == sorted(ends), "two files stand for one segment"
        found: dict[int, Record] = {}
        for file in files:
            for record in log.walk_live(file):
                assert record.zxid not in found, "an entry lies in two files"
                assert file.first_zxid <= record.zxid <= file.last_zxid
                assert record in (known[record.zxid], model.rewritten.get(record.zxid)), "an entry that nobody wrote"
                found[record.zxid] = record
        assert list(found) == sorted(found)
        for zxid, record in living.items():
            assert found.get(zxid) == record, f"entry {zxid:#x} of the live store is lost"
        for zxid in self.rng.sample(sorted(known), min(5, len(known))):
            try:
                records = log.read_along(zxid, self.rng.choice((1, 5000)))
            except ZxidNotFound:
                assert zxid not in found
            else:
                assert log.read(zxid) == records[0] == found[zxid]
                assert records == [found[record.zxid] for record in records]
        statistics = log.statistics()
        assert statistics.live_files_open <= self.options.live_open_max
        assert (statistics.live_files, statistics.live_bytes) == (len(files), sum(file.bytes for file in files))
        self.seen["indexes rebuilt"] += statistics.indexes_rebuilt > 0

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


def _rewrites_without_sync(original):
    def write(file, *arguments):
        with mock.patch.object(type(file), "sync"):
            return original(file, *arguments)

    return write


def _removes_before_it_names(original):
    def install(store, first_sequence, last_sequence, records):
        records, remove = list(records), store._remove
        dense = [file for file in store._choose(first_sequence, last_sequence) if file.kind is LiveKind.DENSE]
        remove(dense)
        with mock.patch.object(store, "_remove", lambda dead: remove([file for file in dead if file not in dense])):
            return original(store, first_sequence, last_sequence, records)

    return install


def _one_generation_for_all():
    patches = contextlib.ExitStack()
    for module in (segment_module, live_module, live_recovery_module, sparse_module):
        patches.enter_context(mock.patch.object(module, "seed_of", return_value=0))
    return patches


class _Checksum(int):
    """Equal to every other checksum."""

    __hash__ = int.__hash__

    def __eq__(self, other: object) -> bool:
        return True

    def __ne__(self, other: object) -> bool:
        return False


def _forgets_the_beginning(original):
    def save(store, **fields):
        original(store, **{name: value for name, value in fields.items() if name != "first_segment" or value == 1})

    return save


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
    "checksums without generation": _one_generation_for_all,
    "retired names not synced": lambda: mock.patch.object(
        SparePool, "retire", _retires_without_directory_sync(SparePool.retire)
    ),
    "rewritten file not synced": lambda: mock.patch.object(
        live_store_module, "write_sparse", _rewrites_without_sync(sparse_module.write_sparse)
    ),
    "old files removed before the new one is named": lambda: mock.patch.object(
        LiveStore, "install", _removes_before_it_names(LiveStore.install)
    ),
    "removal of what was replaced not finished": lambda: mock.patch.object(
        recovery_module, "finish_replacements", return_value=0
    ),
    "checksum of an index not compared": lambda: mock.patch.object(
        segment_index_module, "crc32c", lambda table: _Checksum(google_crc32c.value(table))
    ),
    "beginning of the log not saved": lambda: mock.patch.object(
        SuperblockStore, "save", _forgets_the_beginning(SuperblockStore.save)
    ),
    "what recovery read is not synced": lambda: mock.patch.object(recovery_module, "sync_end"),
}


def tell(seed: int) -> Story:
    story = Story(seed)
    story.run()
    return story


CUTS = PowerCuts("tests.storage.power_cuts", tell, MUTANTS, "no confirmed entry lost")

if __name__ == "__main__":
    CUTS.main(__doc__)
