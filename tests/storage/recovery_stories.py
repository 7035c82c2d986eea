"""A disk for each row of the tables of decisions: what was found there, told as a story, and the start that meets it.

`STORIES` maps the row's name to what makes the disk and returns the start. Used by `test_decisions`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from sluicemq.broker.pipeline.keeping.old_files import check_old_files
from sluicemq.broker.pipeline.keeping.restart import Restart, load_newest
from sluicemq.broker.queues import entries as e
from sluicemq.broker.queues.machine import Machine
from sluicemq.storage import PageFile, SegmentLog, SnapshotStore
from sluicemq.storage.errors import PageCorrupt
from sluicemq.storage.pagefile import StoredPage
from sluicemq.storage.pages import PAGE_BYTES, seal, unseal
from sluicemq.storage.record import CHAIN_START, HEAD_BYTES, encode_head, seed_of
from sluicemq.storage.segment import SegmentHeader, segment_name
from sluicemq.storage.segment_index import index_name
from sluicemq.storage.snapshot_file import snapshot_name
from sluicemq.storage.sparse import SparseHeader, sparse_name
from sluicemq.storage.superblock import Superblock, SuperblockStore, Truncation
from tests.disk import PowerCut, SimulatedDisk
from tests.storage.stories import SMALL, entries, entry, open_log, zxid

Start = Callable[[], Any]
Story = Callable[[], tuple[SimulatedDisk, Start]]
STORIES: dict[str, Story] = {}
FIRST, SECOND, LAST = segment_name(1), segment_name(2), segment_name(4)


def story(*rows: str) -> Callable[[Story], Story]:
    def register(tell: Story) -> Story:
        for row in rows:
            assert row not in STORIES
            STORIES[row] = tell
        return tell

    return register


def plain() -> SimulatedDisk:
    """80 entries over four segments, durable, the broker stopped in order."""
    disk = SimulatedDisk(7)
    log = open_log(disk)
    for start in range(0, 80, 4):
        log.append(entries(zxid(1, start), 4))
        log.sync()
    log.close()
    return disk.restart()


def unconfirmed() -> SimulatedDisk:
    """Three entries are durable, three more were written and not synced when the broker was killed."""
    disk = SimulatedDisk(7)
    log = open_log(disk)
    log.append(entries(zxid(1, 0), 3))
    log.sync()
    log.append(entries(zxid(1, 3), 3))
    return disk.restart()


def lively(*, rewritten: bool = False) -> SimulatedDisk:
    """The log proper begins at segment 4; 1 to 3 are the live store, 1 and 2 perhaps rewritten as one."""
    disk = SimulatedDisk(7)
    log = open_log(disk)
    for start in range(0, 80, 4):
        log.append(entries(zxid(1, start), 4))
    log.sync()
    log.begin_at(log.last_zxid)
    if rewritten:
        files = log.live_files()[:2]
        log.install_sparse(1, 2, [record for file in files for record in list(log.walk_live(file))[::3]])
    log.close()
    return disk.restart()


def start_log(disk: SimulatedDisk) -> Start:
    return lambda: open_log(disk)


def start_and_read(disk: SimulatedDisk) -> Start:
    def start() -> SegmentLog:
        log = open_log(disk)
        for file in log.live_files():
            for _ in log.walk_live(file):
                pass
        return log

    return start


def place_of(disk: SimulatedDisk, name: str, payload: bytes) -> tuple[int, int]:
    content = disk.content_of(name)
    at = content.index(payload)
    return content.rindex(b"\xb5SqR", 0, at), at


def header_of(disk: SimulatedDisk, name: str) -> SegmentHeader:
    return SegmentHeader.from_page(disk.content_of(name)[:PAGE_BYTES])[1]


def change_header(disk: SimulatedDisk, name: str, **fields: Any) -> None:
    disk.overwrite(name, 0, replace(header_of(disk, name), **fields).to_page())


def superblock_of(disk: SimulatedDisk) -> Superblock:
    store = SuperblockStore.load(disk)
    store.close()
    return store.current


def put_superblock(disk: SimulatedDisk, superblock: Superblock) -> None:
    disk.overwrite("superblock", 0, superblock.to_page() * 2)


# --- The superblock -----------------------------------------------------------------------------------------


@story("empty-directory")
def _() -> tuple[SimulatedDisk, Start]:
    disk = SimulatedDisk()
    return disk, start_log(disk)


@story("superblock-missing")
def _() -> tuple[SimulatedDisk, Start]:
    disk = plain()
    disk.unlink("superblock")
    return disk, start_log(disk)


def newer(copy: int) -> Story:
    def tell() -> tuple[SimulatedDisk, Start]:
        disk = plain()
        disk.overwrite("superblock", copy * PAGE_BYTES, seal(b"SluiceSB", 99, b"of the future"))
        return disk, start_log(disk)

    return tell


story("superblock-newer")(newer(0))
story("superblock-half-newer")(newer(1))


def damaged_copies(*copies: int, cluster: bytes | None = None) -> Story:
    def tell() -> tuple[SimulatedDisk, Start]:
        disk = plain()
        for copy in copies:
            disk.flip_bit("superblock", copy * PAGE_BYTES + 50)
        return disk, lambda: SegmentLog.open(disk, options=SMALL, cluster_id=cluster)

    return tell


story("superblock-lost")(damaged_copies(0, 1))
story("superblock-foreign")(damaged_copies(cluster=b"another cluster."))
story("superblock-foreign-second")(damaged_copies(0, cluster=b"another cluster."))
story("superblock-foreign-first")(damaged_copies(1, cluster=b"another cluster."))
story("superblock-first-copy-damaged")(damaged_copies(0))
story("superblock-second-copy-damaged")(damaged_copies(1))
story(
    "superblock-whole",
    "no-installation",
    "log-begun",
    "no-truncation",
    "segment-there",
    "file-whole",
    "joint-whole",
    "end-clean",
)(damaged_copies())


@story("superblock-copy-older")
def _() -> tuple[SimulatedDisk, Start]:
    disk = plain()
    now = superblock_of(disk)
    disk.overwrite("superblock", PAGE_BYTES, replace(now, sequence=now.sequence - 1, promised_epoch=0).to_page())
    return disk, start_log(disk)


# --- Where the log begins -----------------------------------------------------------------------------------


@story("log-not-begun")
def _() -> tuple[SimulatedDisk, Start]:
    disk = SimulatedDisk()
    SuperblockStore.create(disk, Superblock(b"c" * 16, b"i" * 16)).close()
    return disk, start_log(disk)


@story("log-not-begun-yet-data")
def _() -> tuple[SimulatedDisk, Start]:
    disk = plain()
    put_superblock(disk, replace(superblock_of(disk), first_segment=0, last_segment=0))
    for name in (SECOND, segment_name(3), LAST):
        if name in disk.names():
            disk.unlink(name)
    return disk, start_log(disk)


@story("truncation-interrupted")
def _() -> tuple[SimulatedDisk, Start]:
    disk = plain()
    start, _at = place_of(disk, SECOND, b"%d " % zxid(1, 30))
    now = superblock_of(disk)
    put_superblock(disk, replace(now, truncation=Truncation(zxid(1, 29), 2, start), last_segment=2, synced_zxid=0))
    return disk, start_log(disk)


@story("truncation-without-segment")
def _() -> tuple[SimulatedDisk, Start]:
    disk = plain()
    put_superblock(disk, replace(superblock_of(disk), truncation=Truncation(zxid(1, 29), 2, PAGE_BYTES)))
    disk.unlink(SECOND)
    return disk, start_log(disk)


# --- A snapshot of another broker in the place of the log ----------------------------------------------------


def installing(*, missing: bool) -> Story:
    def tell() -> tuple[SimulatedDisk, Start]:
        disk = lively()
        log = open_log(disk)
        installation = log.begin_installation(zxid(9, 7), b"chain  7", b"s" * 16)
        installation.add_entries([entry(5)])
        other = SimulatedDisk()
        SnapshotStore(other, log.cluster_id).begin(zxid(9, 7), b"chain  7", 1).finish()
        installation.add_snapshot(0, other.content_of(snapshot_name(zxid(9, 7))))
        installation.finish()
        log.close()
        disk.cut_power_after(5)  # both copies of the note in the superblock are durable, and nothing else
        with contextlib.suppress(PowerCut):
            installation.switch()
        disk = disk.crash()
        if missing:
            disk.unlink("incoming-" + snapshot_name(zxid(9, 7)))
        return disk, start_log(disk)

    return tell


story("installation-interrupted")(installing(missing=False))
story("installation-without-files")(installing(missing=True))


# --- Compaction ---------------------------------------------------------------------------------------------


def sparse_header(disk: SimulatedDisk, name: str) -> SparseHeader:
    return SparseHeader.from_page(disk.content_of(name)[:PAGE_BYTES])[1]


def put_file(disk: SimulatedDisk, name: str, content: bytes) -> None:
    file = disk.open(name, create=True)
    file.pwritev([content], 0)
    file.sync()
    file.close()
    disk.sync()


@story("rewritten")
def _() -> tuple[SimulatedDisk, Start]:
    disk = lively(rewritten=True)
    return disk, start_log(disk)


@story("rewritten-into-log")
def _() -> tuple[SimulatedDisk, Start]:
    disk = lively(rewritten=True)
    disk.rename(sparse_name(1, 2), sparse_name(3, 9))
    return disk, start_log(disk)


@story("rewritten-across")
def _() -> tuple[SimulatedDisk, Start]:
    disk = lively(rewritten=True)
    put_file(disk, sparse_name(2, 3), disk.content_of(sparse_name(1, 2)))
    return disk, start_log(disk)


@story("rewritten-again")
def _() -> tuple[SimulatedDisk, Start]:
    disk = lively(rewritten=True)
    put_file(disk, sparse_name(2, 2), b"what was merged into the larger one")
    return disk, start_log(disk)


def interrupted(*, damaged: bool) -> Story:
    def tell() -> tuple[SimulatedDisk, Start]:
        before, disk = lively(), lively(rewritten=True)
        old = before.content_of(FIRST)
        if FIRST not in disk.names():
            put_file(disk, FIRST, old)
        if damaged:
            disk.flip_bit(sparse_name(1, 2), PAGE_BYTES + HEAD_BYTES + 100)
        return disk, start_log(disk)

    return tell


story("compaction-interrupted")(interrupted(damaged=False))
story("compaction-damaged")(interrupted(damaged=True))


@story("name-in-use", "index-whole", "old-files-in-order")
def _() -> tuple[SimulatedDisk, Start]:
    disk = lively()
    return disk, start_and_read(disk)


@story("name-unfinished")
def _() -> tuple[SimulatedDisk, Start]:
    disk = lively()
    put_file(disk, "sparse.new", b"half a file")
    return disk, start_log(disk)


@story("index-orphan")
def _() -> tuple[SimulatedDisk, Start]:
    disk = lively()
    put_file(disk, index_name(77), b"the index of a segment that died")
    return disk, start_log(disk)


@story("name-incoming")
def _() -> tuple[SimulatedDisk, Start]:
    disk = lively()
    put_file(disk, "incoming-" + snapshot_name(zxid(9, 7)), b"the first half")

    def start() -> SegmentLog:
        log = open_log(disk)
        assert "incoming-" + snapshot_name(zxid(9, 7)) in disk.names()
        return log

    return disk, start


@story("name-set-aside", "name-strange")
def _() -> tuple[SimulatedDisk, Start]:
    disk = lively()
    put_file(disk, "rejected-" + snapshot_name(7), b"damaged last year")
    put_file(disk, "notes.txt", b"somebody's")

    def start() -> SegmentLog:
        log = open_log(disk)
        assert {"notes.txt", "rejected-" + snapshot_name(7)} <= set(disk.names())
        return log

    return disk, start


# --- First pages --------------------------------------------------------------------------------------------


def missing(name: str) -> Story:
    def tell() -> tuple[SimulatedDisk, Start]:
        disk = plain()
        disk.unlink(name)
        return disk, start_log(disk)

    return tell


story("segment-first-missing")(missing(FIRST))
story("segment-middle-missing")(missing(SECOND))
story("segment-last-missing")(missing(LAST))


@story("file-header-damaged")
def _() -> tuple[SimulatedDisk, Start]:
    disk = plain()
    disk.flip_bit(SECOND, 20)
    return disk, start_log(disk)


@story("file-newer")
def _() -> tuple[SimulatedDisk, Start]:
    disk = plain()
    disk.overwrite(SECOND, 0, seal(b"SluiceSG", 99, b"of the future"))
    return disk, start_log(disk)


@story("file-foreign")
def _() -> tuple[SimulatedDisk, Start]:
    disk = plain()
    change_header(disk, SECOND, group_id=9)
    return disk, start_log(disk)


@story("file-misnamed")
def _() -> tuple[SimulatedDisk, Start]:
    disk = plain()
    disk.overwrite(SECOND, 0, disk.content_of(segment_name(3)))
    return disk, start_log(disk)


@story("file-shortened")
def _() -> tuple[SimulatedDisk, Start]:
    disk = lively(rewritten=True)
    name = sparse_name(1, 2)
    disk.open(name).truncate(sparse_header(disk, name).file_bytes - 8)
    return disk, start_log(disk)


# --- Inside the log, and its end ----------------------------------------------------------------------------


@story("joint-other-chain")
def _() -> tuple[SimulatedDisk, Start]:
    disk = plain()
    change_header(disk, SECOND, chain=b"another.")
    return disk, start_log(disk)


@story("joint-beyond")
def _() -> tuple[SimulatedDisk, Start]:
    disk = plain()
    change_header(disk, SECOND, first_previous_zxid=zxid(1, 2))
    return disk, start_log(disk)


@story("middle-hole")
def _() -> tuple[SimulatedDisk, Start]:
    disk = plain()
    start, _at = place_of(disk, FIRST, b"%d " % zxid(1, 7))
    disk.overwrite(FIRST, start, bytes(600))
    return disk, start_log(disk)


@story("middle-bad-checksum")
def _() -> tuple[SimulatedDisk, Start]:
    disk = plain()
    _start, at = place_of(disk, FIRST, b"%d " % zxid(1, 7))
    disk.flip_bit(FIRST, at + 3)
    return disk, start_log(disk)


def forged(disk: SimulatedDisk, name: str, number: int, *, previous: int, payload_bytes: int = 500) -> None:
    """Put a whole record in the place of entry 1.number that names another one before it, or is too long."""
    start, _at = place_of(disk, name, b"%d " % zxid(1, number))
    record = entry(zxid(1, number), bytes(payload_bytes))
    head, _chain = encode_head(seed_of(header_of(disk, name).generation), start, 0, previous, CHAIN_START, record)
    disk.overwrite(name, start, (head + record.header + record.payload)[: len(disk.content_of(name)) - start])


@story("middle-wrong-previous")
def _() -> tuple[SimulatedDisk, Start]:
    disk = plain()
    forged(disk, FIRST, 7, previous=zxid(1, 3))
    return disk, start_log(disk)


@story("middle-cut-off")
def _() -> tuple[SimulatedDisk, Start]:
    disk = plain()
    forged(disk, FIRST, 7, previous=zxid(1, 6), payload_bytes=50_000)
    return disk, start_log(disk)


@story("end-torn")
def _() -> tuple[SimulatedDisk, Start]:
    disk = unconfirmed()
    start, _at = place_of(disk, FIRST, b"%d " % zxid(1, 3))
    disk.overwrite(FIRST, start, bytes(600))

    def start_it() -> SegmentLog:
        log = open_log(disk)
        assert log.recovery.cut is not None
        assert log.last_zxid == zxid(1, 2)
        return log

    return disk, start_it


@story("end-damaged")
def _() -> tuple[SimulatedDisk, Start]:
    disk = plain()
    _start, at = place_of(disk, LAST, b"%d " % zxid(1, 79))
    disk.flip_bit(LAST, at + 3)
    return disk, start_log(disk)


@story("end-wrong-previous")
def _() -> tuple[SimulatedDisk, Start]:
    disk = unconfirmed()
    forged(disk, FIRST, 5, previous=zxid(1, 1))
    return disk, start_log(disk)


@story("old-files-out-of-order")
def _() -> tuple[SimulatedDisk, Start]:
    disk = lively()
    change_header(disk, SECOND, first_previous_zxid=zxid(9, 9))
    return disk, start_log(disk)


# --- Derived files ------------------------------------------------------------------------------------------


def index_of_second(change: Callable[[SimulatedDisk, str], None]) -> Story:
    def tell() -> tuple[SimulatedDisk, Start]:
        disk = lively()
        change(disk, index_name(2))
        start = start_and_read(disk)

        def rebuilt() -> SegmentLog:
            log = start()
            assert log.statistics().indexes_rebuilt == 1
            return log

        return disk, rebuilt

    return tell


def as_newer(disk: SimulatedDisk, name: str) -> None:
    _version, body = unseal(disk.content_of(name)[:PAGE_BYTES], b"SluiceIX")
    disk.overwrite(name, 0, seal(b"SluiceIX", 99, body[:64]))


story("index-missing")(index_of_second(lambda disk, name: disk.unlink(name)))
story("index-garbage")(index_of_second(lambda disk, name: disk.flip_bit(name, 30)))
story("index-newer")(index_of_second(as_newer))
story("index-misnamed")(index_of_second(lambda disk, name: disk.overwrite(name, 0, disk.content_of(index_name(3)))))
story("index-shortened")(index_of_second(lambda disk, name: disk.flip_bit(name, PAGE_BYTES + 8)))


def pages_on(change: Callable[[SimulatedDisk], None], kept: dict[int, list[int]]) -> Story:
    """Page files of two pages, changed; the snapshot of generation 1 names these slots."""

    def tell() -> tuple[SimulatedDisk, Start]:
        disk = SimulatedDisk(7)
        pages = PageFile.open(disk)
        pages.adopt({})
        for _ in range(2):
            pages.write(pages.allocate(), b"rows")
        pages.sync()
        pages.close()
        change(disk)

        def start() -> object:
            again = PageFile.open(disk)
            try:
                again.adopt({number: [StoredPage(slot, 0, 0) for slot in slots] for number, slots in kept.items()})
            except PageCorrupt as error:
                return error  # what `restart` rejects a snapshot for
            return again

        return disk, start

    return tell


story("pages-whole", "derived-there")(pages_on(lambda disk: None, {1: [0, 1]}))
story("pages-header-damaged")(pages_on(lambda disk: disk.flip_bit("pages", 20), {1: [0, 1]}))
story("pages-copy-missing")(pages_on(lambda disk: disk.unlink("pages"), {1: [0, 1]}))


def shorten_both(disk: SimulatedDisk) -> None:
    for name in ("pages", "pages-copy"):
        disk.open(name).truncate(2 * PAGE_BYTES)


def unlink_both(disk: SimulatedDisk) -> None:
    for name in ("pages", "pages-copy"):
        disk.unlink(name)


story("pages-shortened")(pages_on(shorten_both, {1: [0, 1]}))
story("pages-new")(pages_on(unlink_both, {}))
story("pages-missing")(pages_on(unlink_both, {1: [0, 1]}))


# --- Snapshots ----------------------------------------------------------------------------------------------


def photographed(
    *, at: tuple[int, ...] = (50, 70), begin: bool = True, chain: bytes | None = None, fits: bool = True
) -> SimulatedDisk:
    """`plain`, with snapshots at these entries; the log proper begins at segment 3 or 4 if `begin`."""
    disk = plain()
    log = open_log(disk)
    store = SnapshotStore(disk, log.cluster_id)
    for number in at:
        machine = Machine()
        machine.apply(zxid(1, number), e.Epoch(1, 1))
        writer = store.begin(zxid(1, number), chain or log.chain_at(zxid(1, number)) if fits else CHAIN_START, number)
        freeze = machine.freeze()
        for section in freeze.pack(lambda: True):
            writer.add(section.kind, section.data)
        writer.finish()
    if begin:
        log.begin_at(zxid(1, 49))
    log.close()
    return disk.restart()


def restart(disk: SimulatedDisk, expected: int | None) -> Start:
    """Load the machine as a broker does; `expected` is the entry of the snapshot that it must come from."""

    def start() -> object:
        log = open_log(disk)
        found = Restart()
        machine = load_newest(log, SnapshotStore(disk, log.cluster_id), None, found)
        at = None if found.snapshot is None else found.snapshot.zxid
        assert at == (None if expected is None else zxid(1, expected))
        assert machine.applied_zxid == (0 if expected is None else zxid(1, expected))
        return machine

    return start


def snapshots(change: Callable[[SimulatedDisk], None], expected: int | None, **how: Any) -> Story:
    def tell() -> tuple[SimulatedDisk, Start]:
        disk = photographed(**how)
        change(disk)
        return disk, restart(disk, expected)

    return tell


NAME_50, NAME_70 = snapshot_name(zxid(1, 50)), snapshot_name(zxid(1, 70))


def flip(*names: str, at: int = PAGE_BYTES + 40) -> Callable[[SimulatedDisk], None]:
    def change(disk: SimulatedDisk) -> None:
        for name in names:
            disk.flip_bit(name, at)

    return change


def unlink(*names: str) -> Callable[[SimulatedDisk], None]:
    def change(disk: SimulatedDisk) -> None:
        for name in names:
            disk.unlink(name)

    return change


story("snapshot-newest")(snapshots(lambda disk: None, 70))
story("snapshot-older", "snapshot-damaged")(snapshots(flip(NAME_70), 50))
story("snapshot-header-damaged")(snapshots(flip(NAME_70, at=30), 50))
story("snapshot-misnamed")(snapshots(lambda disk: disk.rename(NAME_70, snapshot_name(zxid(1, 71))), 50))
story("snapshot-none")(snapshots(lambda disk: None, None, at=(), begin=False))
story("snapshot-missing")(snapshots(unlink(NAME_50, NAME_70), None))
story("snapshots-all-damaged")(snapshots(flip(NAME_50, NAME_70), None, begin=False))
story("snapshots-lost")(snapshots(flip(NAME_50, NAME_70), None))
story("snapshot-ahead")(snapshots(lambda disk: None, None, at=(50, 90), chain=b"unknown."))
story("snapshot-too-old")(snapshots(lambda disk: None, None, at=(5,)))
story("snapshot-other-history")(snapshots(lambda disk: None, None, fits=False))


# --- What is alive ------------------------------------------------------------------------------------------


def living(*lost: str) -> Story:
    """A queue keeps a message of each entry up to 1.59 alive; old files are missing."""

    def tell() -> tuple[SimulatedDisk, Start]:
        disk = photographed(at=(), begin=False)
        log = open_log(disk)
        machine = Machine()
        machine.apply(zxid(1, 0), e.Declare(1, "/", "queue", "orders", {}))
        for number in range(1, 60):
            machine.queues()[0].publish(zxid(1, number), 1, 100, 1)
        log.begin_at(log.last_zxid)
        assert log.start_zxid >= zxid(1, 59)
        log.close()
        disk = disk.restart()
        for name in lost:
            disk.unlink(name)

        def start() -> object:
            log = open_log(disk)
            check_old_files(log, machine, None)
            return log

        return disk, start

    return tell


story("messages-held")(living())
story("old-file-missing")(living(SECOND, index_name(2)))
