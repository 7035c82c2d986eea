"""Thousands of power cuts while snapshots are written, switched and removed, and pages come and go beneath them.

    python -m tests.storage.snapshot_cuts --count 10000 --seed 1
    python -m tests.storage.snapshot_cuts --mutants          # each known mistake must be caught

A life writes and drops pages, packs snapshots in slices while pages go on changing, finishes or abandons them, removes
old ones, frees slots and shrinks the file, restarts, until the power goes off in the middle of some operation. Now and
then the newest snapshot is damaged, for good or until later, or pages rot in one of their two files. Afterwards:

- the newest good snapshot is one whose `finish` had returned, or the one that was being finished: never an older one;
- every snapshot that is there is whole, holds the sections that were added, and every page that it names reads back;
- a damaged newest one falls back to the older, and never returns.

A failure names its seed; the same seed gives the same run.
"""

from __future__ import annotations

import collections
import contextlib
import random
import struct
from array import array
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from unittest import mock

from sluicemq.storage import PageFile, Snapshot, SnapshotStore, SnapshotWriter, pagefile, snapshots
from sluicemq.storage.pagefile import COPY_NAME, PAGES_NAME, StoredPage
from sluicemq.storage.pages import PAGE_BYTES
from sluicemq.storage.snapshot_file import snapshot_name, snapshot_zxid
from tests.disk import PowerCut, SimulatedDisk, SimulatedFile
from tests.seeds import PowerCuts

if TYPE_CHECKING:
    from collections.abc import Callable

LIVES_MAX = 5
STEPS_MAX = 200
CLUSTER = b"a cluster of one"
PLACES_KIND = 7
PLACE = struct.Struct("<QIII")


@dataclass(frozen=True)
class Place:
    """A page as its owner knows it: a number that never comes again, and where it lies."""

    owner: int
    slot: int
    length: int
    checksum: int

    def stored(self) -> StoredPage:
        return StoredPage(self.slot, self.length, self.checksum)


@dataclass
class Packing:
    """A snapshot that is being packed: what was in use at its zxid, as `freeze` saw it."""

    zxid: int
    generation: int
    writer: SnapshotWriter
    places: list[Place]
    sections: list[tuple[int, bytes]] = field(default_factory=list)


class Story:
    """One seed: some lives of one directory, with a power cut at the end of each."""

    def __init__(self, seed: int) -> None:
        self.rng = rng = random.Random(seed)
        self.disk = SimulatedDisk(rng)
        self.contents: dict[int, bytes] = {}
        self.written: dict[int, list[tuple[int, bytes]]] = {}
        self.finished: set[int] = set()
        self.finishing: int | None = None
        self.damaged_name: str | None = None
        self.zxid = 1
        self.owners = 0
        self.store: SnapshotStore
        self.pages: PageFile
        self.packing: Packing | None = None
        self.live_pages: list[Place] = []
        self.cuts = self.operations = 0
        self.seen: collections.Counter[str] = collections.Counter()
        self.limits = {
            (snapshots, "WRITE_BYTES"): rng.choice((1, 2000, 1 << 20)),
            (snapshots, "SYNC_BYTES"): rng.choice((1, 5000, 1 << 23)),
            (pagefile, "UNSYNCED_BYTES_MAX"): rng.choice((1, 3000, 1 << 23)),
            (pagefile, "SHRINK_SLOTS_MIN"): rng.choice((1, 2, 8)),
        }
        self.weights = [rng.choice((0, 1, 1, 4)) for _ in self.DEEDS]
        self.weights[0] = 4
        self.weights[1] = self.weights[2] = 2

    def run(self) -> None:
        with contextlib.ExitStack() as stack:
            for (module, name), value in self.limits.items():
                stack.enter_context(mock.patch.object(module, name, value))
            for _ in range(self.rng.randint(1, LIVES_MAX)):
                self.live()
                self.crash_and_check()

    def live(self) -> None:
        self.disk.cut_power_after(int(self.rng.choice((20, 100, 300)) * self.rng.random()) + 1)
        try:
            self.open()
            for _ in range(STEPS_MAX):
                self.rng.choices(self.DEEDS, self.weights)[0](self)
            self.disk.cut_power()
        except PowerCut:
            pass

    # --- Deeds
    # -------------------------------------------------------------------------------------------------------------

    def write_page(self) -> None:
        data = self.rng.randbytes(self.rng.randint(1, self.rng.choice((20, PAGE_BYTES))))
        slot = self.pages.allocate()
        self.owners += 1
        checksum = self.pages.write(slot, data)
        self.contents[self.owners] = data
        place = Place(self.owners, slot, len(data), checksum)
        self.live_pages.append(place)
        if self.packing is not None and self.rng.random() < 0.5:
            # Packing takes its time, and may come past what got its page only after the freeze.
            self.packing.places.append(place)

    def drop_page(self) -> None:
        if self.live_pages:
            self.pages.release(self.live_pages.pop(self.rng.randrange(len(self.live_pages))).slot)

    def go_on_packing(self) -> None:
        """Begin a snapshot, or pack another slice of it, or complete it."""
        if self.packing is None:
            self.zxid += self.rng.randint(1, 3)
            generation = self.pages.freeze()
            writer = self.store.begin(self.zxid, self.zxid.to_bytes(8, "big"), generation)
            self.packing = Packing(self.zxid, generation, writer, list(self.live_pages))
        elif self.rng.random() < 0.6:
            data = self.rng.randbytes(self.rng.randint(0, 3000))
            self.packing.writer.add(1, data)
            self.packing.sections.append((1, data))
        else:
            self.complete(self.packing)

    def complete(self, packing: Packing) -> None:
        packed = b"".join(PLACE.pack(each.owner, each.slot, each.length, each.checksum) for each in packing.places)
        packing.writer.add(PLACES_KIND, packed)
        self.pages.sync()
        self.written[packing.zxid] = [*packing.sections, (PLACES_KIND, packed)]
        self.finishing = packing.zxid
        info = packing.writer.finish()
        assert (info.zxid, info.generation) == (packing.zxid, packing.generation)
        self.finishing, self.packing = None, None
        self.finished.add(packing.zxid)
        self.seen["snapshots finished"] += 1
        kept = self.store.keep(2)
        assert not self.store.rejected
        assert [each.zxid for each in kept] == sorted(self.finished, reverse=True)[:2]
        self.seen["snapshots removed"] += max(0, len(self.finished) - 2)
        self.finished = {each.zxid for each in kept}
        self.seen["slots freed"] += self.pages.retain(kept[-1].generation)

    def abandon(self) -> None:
        if self.packing is not None:
            self.packing.writer.abandon()
            self.packing = None

    def shrink(self) -> None:
        self.seen["times the file shrank"] += self.pages.shrink() > 0

    def read(self) -> None:
        for place in self.live_pages:
            assert self.read_page(place) == self.contents[place.owner]

    def rot(self) -> None:
        """One of the two files loses some pages, after what an earlier rot left in the other was mended."""
        for slot in range(self.pages.slots):
            self.pages.check(slot)
        self.pages.sync()
        name = self.rng.choice((PAGES_NAME, COPY_NAME))
        for place in self.live_pages:
            if self.rng.random() < 0.3:
                offset = PAGE_BYTES + place.slot * PAGE_BYTES + self.rng.randrange(place.length)
                self.disk.flip_bit(name, offset, self.rng.randrange(8))
                self.seen["pages rotten in one file"] += 1

    def kill_and_open(self) -> None:
        """kill -9: what was written stays, but the next start must not take it for durable."""
        remaining = self.disk
        self.disk = remaining.restart()
        if remaining.cut_at is not None:
            self.disk.cut_power_after(max(1, remaining.cut_at - remaining.operations))
        self.open()

    DEEDS = (write_page, drop_page, go_on_packing, abandon, shrink, read, rot, kill_and_open)

    # --- Starts and checks
    # ------------------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Start as a broker does: the newest good snapshot, and the slots of all that are kept."""
        self.packing = None
        self.store = store = SnapshotStore(self.disk, CLUSTER)
        self.pages = PageFile.open(self.disk, cluster_id=CLUSTER, slot_bytes=PAGE_BYTES)
        newest = store.newest_good()
        assert len(store.rejected) <= (self.damaged_name is not None)
        self.seen["fallbacks"] += bool(store.rejected)
        store.set_aside_rejected()
        self.check_newest(newest)
        kept = self.check_all()
        self.pages.adopt({generation: list(map(Place.stored, places)) for generation, places in kept.items()})
        self.live_pages = list(kept[max(kept)]) if kept else []
        self.zxid = max(self.zxid, newest.zxid if newest else 0)

    def check_newest(self, newest: Snapshot | None) -> None:
        found = 0 if newest is None else newest.zxid
        if self.finishing is not None and found == self.finishing:
            self.finished.add(found)
        self.finishing = None
        assert found == max(self.finished, default=0), f"the newest is {found}, finished were {self.finished}"

    def check_all(self) -> dict[int, list[Place]]:
        """Every snapshot that is there, with the pages that it names, by generation."""
        kept = {}
        for name in self.disk.names():
            zxid = snapshot_zxid(name)
            if zxid is None or name == self.damaged_name:
                continue
            assert zxid in self.written, f"{name} was never finished"
            with self.store._open_verified(name) as snapshot:
                sections = list(snapshot.sections())
                assert snapshot.chain == zxid.to_bytes(8, "big")
            assert sections == self.written[zxid]
            places = [Place(*fields) for fields in PLACE.iter_unpack(sections[-1][1])]
            for place in places:
                assert self.read_page(place) == self.contents[place.owner]
            kept[snapshot.generation] = places
        self.seen["snapshots checked"] += len(kept)
        return kept

    def read_page(self, place: Place) -> bytes:
        return self.pages.read(place.slot, place.length, place.checksum)

    def crash_and_check(self) -> None:
        self.cuts += self.disk.operations > 0
        self.operations += self.disk.operations
        self.disk = self.disk.crash()
        self.damage_or_heal()
        while self.rng.random() < 0.3:
            self.disk.cut_power_after(self.rng.randint(1, 10))
            try:
                self.open()
                break
            except PowerCut:
                self.cuts += 1
                self.disk = self.disk.crash()
        self.disk = self.disk.restart() if self.disk.powered else self.disk.crash()
        self.open()
        self.disk = self.disk.restart()

    def damage_or_heal(self) -> None:
        """A disk that reads wrongly at one start may read rightly at a later one."""
        names = [name for name in self.disk.names() if snapshot_zxid(name) is not None]
        if self.damaged_name is not None:
            for name in self.disk.names():
                if name.removeprefix("rejected-") == self.damaged_name:
                    self.disk.flip_bit(name, PAGE_BYTES + 1)
                    self.seen["damage that healed"] += 1
            self.damaged_name = None
        elif len(names) > 1 and self.rng.random() < 0.5:
            self.damaged_name = max(names)
            self.disk.flip_bit(self.damaged_name, PAGE_BYTES + 1)
            # It may have been the one that was being finished; then the one before it was the newest all the same.
            self.finishing = None
            self.finished = {zxid for name in names if name != max(names) and (zxid := snapshot_zxid(name))}


# --- Mutants: mistakes that the cuts must catch
# -------------------------------------------------------------------------------


def _without(name: str, original):
    """The method, while syncs of this kind do nothing."""

    def call(self, *arguments):
        owner = SimulatedDisk if name == "directory" else SimulatedFile
        with mock.patch.object(owner, "sync"):
            return original(self, *arguments)

    return call


def _frees_at_once(pages: PageFile, slot: int) -> None:
    pages._states[slot] = 0
    pages._lowest_free = min(pages._lowest_free, slot)


def _retains_one_too_few(original):
    return lambda pages, oldest_kept: original(pages, oldest_kept + 1)


def _adopts_the_newest_only(original):
    return lambda pages, kept: original(pages, {max(kept): kept[max(kept)]} if kept else {})


def _forgets_what_waits(original):
    def adopt(pages, kept):
        original(pages, kept)
        for slots in pages._released.values():
            for slot in slots:
                pages._states[slot] = 0
        pages._released = {0: array("Q")}

    return adopt


def _writes_under_its_name(original):
    def begin(store, zxid, *arguments):
        writer = original(store, zxid, *arguments)
        store.directory.rename("snapshot.new", snapshot_name(zxid))
        return writer

    return begin


def _finishes_under_its_name(writer):
    with mock.patch.object(SimulatedDisk, "rename"):
        return _FINISH(writer)


_FINISH = SnapshotWriter.finish


@contextlib.contextmanager
def _both(first, second):
    with first, second:
        yield


MUTANTS: dict[str, Callable[[], contextlib.AbstractContextManager[object]]] = {
    "a snapshot's data not synced": lambda: mock.patch.object(SnapshotWriter, "finish", _without("file", _FINISH)),
    "a snapshot's name not synced": lambda: mock.patch.object(SnapshotWriter, "finish", _without("directory", _FINISH)),
    "a snapshot written under its name": lambda: _both(
        mock.patch.object(SnapshotStore, "begin", _writes_under_its_name(SnapshotStore.begin)),
        mock.patch.object(SnapshotWriter, "finish", _finishes_under_its_name),
    ),
    "a removal not synced": lambda: mock.patch.object(SnapshotStore, "keep", _without("directory", SnapshotStore.keep)),
    "a rejected snapshot not set aside": lambda: mock.patch.object(SnapshotStore, "set_aside_rejected"),
    "pages not mended": lambda: mock.patch.object(PageFile, "_mend"),
    "pages not synced": lambda: mock.patch.object(PageFile, "sync"),
    "slots free when they are released": lambda: mock.patch.object(PageFile, "release", _frees_at_once),
    "slots free one snapshot too early": lambda: mock.patch.object(
        PageFile, "retain", _retains_one_too_few(PageFile.retain)
    ),
    "slots of older snapshots not adopted": lambda: mock.patch.object(
        PageFile, "adopt", _adopts_the_newest_only(PageFile.adopt)
    ),
    "adopted slots that wait taken for free": lambda: mock.patch.object(
        PageFile, "adopt", _forgets_what_waits(PageFile.adopt)
    ),
}


def tell(seed: int) -> Story:
    story = Story(seed)
    story.run()
    return story


CUTS = PowerCuts("tests.storage.snapshot_cuts", tell, MUTANTS, "no snapshot and no page lost")

if __name__ == "__main__":
    CUTS.main(__doc__)
