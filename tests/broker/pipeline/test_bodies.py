"""Where bodies come from: a cache that never grows, and reads that hold up neither the event loop nor each other."""

from __future__ import annotations

import gc
import threading
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from sluicemq.broker.pipeline.bodies import (
    ENTRY_OVERHEAD_BYTES,
    NEAR_ENTRIES,
    OPENED_BYTES_MAX,
    OPENED_MAX,
    PIECE_BYTES_MIN,
    Bodies,
)
from sluicemq.broker.queues.entries import Clock, Publish
from sluicemq.storage import LogOptions, Record, SegmentLog
from sluicemq.storage.errors import LogCorrupt, ZxidNotFound
from sluicemq.wire.batch import encode_batch
from sluicemq.wire.errors import MessageNotFound
from tests.disk import SimulatedDisk
from tests.patience import WAIT_SECONDS

if TYPE_CHECKING:
    from collections.abc import Iterator

OPTIONS = LogOptions(segment_bytes=8 << 20, initial_bytes=4 << 20, spares_max=0)
FIRST = 1 << 32


def batch(number: int, body_bytes: int = 100) -> Publish:
    payload = encode_batch([(b"%d " % number).ljust(body_bytes, b".")])
    return Publish(1000 + number, 1, 7, number, 1, body_bytes, payload=payload)


class Shelf:
    """A log with batches in it, whose reads are counted and can be held.

    Attributes:
        reads: zxids at which a read began, in order.
        readers: Idents of the threads that read.

    """

    def __init__(self) -> None:
        self.disk = SimulatedDisk(1)
        self.log = SegmentLog.open(self.disk, options=OPTIONS)
        self.reads: list[int] = []
        self.bytes_read = 0
        self.readers: set[int] = set()
        self._next = FIRST
        self._let_go = threading.Event()
        self._let_go.set()
        self._read, self._read_along = self.log.read, self.log.read_along
        self.log.read = self._watched_read  # type: ignore[method-assign]
        self.log.read_along = self._watched_read_along  # type: ignore[method-assign, assignment]

    def put(self, count: int, body_bytes: int = 100, *, between: int = 0) -> list[int]:
        """Write batches, each with so many other entries behind it; return their zxids."""
        zxids = []
        for _ in range(count):
            entry = batch(self._next - FIRST, body_bytes)
            zxids.append(self._next)
            records = [Record(self._next, entry.KIND, entry.VERSION, 0, entry.header(), bytes(entry.payload))]
            clock = Clock(1000, 10)
            records += [
                Record(self._next + place, clock.KIND, clock.VERSION, 0, clock.header(), b"")
                for place in range(1, between + 1)
            ]
            self.log.append(records)
            self._next += len(records)
        self.log.sync()
        return zxids

    def hold(self) -> None:
        """Let reads wait."""
        self._let_go.clear()

    def let_go(self) -> None:
        """Let them go on."""
        self._let_go.set()

    async def reading(self, count: int = 1) -> None:
        """Wait until so many reads have begun."""
        with trio.fail_after(WAIT_SECONDS):
            while len(self.reads) < count:
                await trio.lowlevel.checkpoint()

    def _watched_read(self, zxid: int) -> Record:
        self._watch(zxid)
        return self._take([self._read(zxid)])[0]

    def _watched_read_along(self, zxid: int, bytes_max: int = 0) -> list[Record]:
        self._watch(zxid)
        return self._take(self._read_along(zxid, bytes_max))

    def _watch(self, zxid: int) -> None:
        self.reads.append(zxid)
        self.readers.add(threading.get_ident())
        assert self._let_go.wait(WAIT_SECONDS), "a read was held and never let go"

    def _take(self, records: list[Record]) -> list[Record]:
        self.bytes_read += sum(len(record.payload) for record in records)
        return records


@pytest.fixture
def shelf() -> Iterator[Shelf]:
    made = Shelf()
    yield made
    made.let_go()
    made.log.close()


def number_of(stored) -> int:
    """Which batch it is, by its body."""
    return int(bytes(stored.batch.bodies[0]).split()[0])


# --- the cache ----------------------------------------------------------------------------------------------------


def cache(cache_bytes_max: int, shelf: Shelf) -> Bodies:
    return Bodies(shelf.log, cache_bytes_max=cache_bytes_max)


@pytest.mark.trio
async def test_the_cache_keeps_what_came_last_and_never_more_than_its_bound(shelf):
    size = len(batch(1).payload) + ENTRY_OVERHEAD_BYTES
    bodies = cache(3 * size, shelf)
    for zxid in range(1, 101):
        bodies.add(zxid, batch(zxid))
        kept = [zxid for zxid in range(1, 101) if bodies.get(zxid) is not None]
        assert kept == list(range(max(1, zxid - 2), zxid + 1))
        assert bodies._cached_bytes == size * len(kept)


@pytest.mark.trio
async def test_a_batch_larger_than_the_cache_is_kept_alone(shelf):
    bodies = cache(1, shelf)
    bodies.add(1, batch(1))
    bodies.add(2, batch(2, 10_000))

    assert bodies.get(1) is None
    assert number_of(bodies.get(2)) == 2


@pytest.mark.trio
async def test_an_entry_counts_once_however_often_it_is_added(shelf):
    size = len(batch(1).payload) + ENTRY_OVERHEAD_BYTES
    bodies = cache(2 * size, shelf)
    bodies.add(1, batch(1))
    for _ in range(10):
        bodies.add(2, batch(2))

    assert number_of(bodies.get(1)) == 1


def several(number: int, count: int = 3) -> Publish:
    payload = encode_batch([b"%d" % number] * count)
    return Publish(1000 + number, 1, 7, number, count, count, id_base=number << 22, payload=payload)


@pytest.mark.trio
async def test_a_batch_that_is_sent_in_parts_is_decoded_once_and_keeps_only_its_bytes_afterwards(shelf):
    bodies = cache(1 << 20, shelf)
    bodies.add(1, several(1))
    before = bodies.get(1)
    assert before is not None
    assert bodies.get(1) is before
    bodies.forget_decoded(1)
    bodies.forget_decoded(2)  # evicted meanwhile
    after = bodies.get(1)
    assert after is not None

    assert after.batch is not before.batch
    assert after.batch.data is before.batch.data
    assert after[1:] == before[1:] == (1001, 7, 1 << 22, 3, None, "")


@pytest.mark.trio
async def test_few_batches_are_kept_decoded_and_none_that_left_the_cache(shelf):
    size = len(several(1).payload) + ENTRY_OVERHEAD_BYTES
    bodies = cache(2 * OPENED_MAX * size, shelf)
    for zxid in range(1, 5 * OPENED_MAX):
        bodies.add(zxid, several(zxid))
        bodies.get(zxid)

    assert len(bodies._opened) == OPENED_MAX
    assert bodies._opened_bytes == OPENED_MAX * len(several(1000).payload)
    assert set(bodies._opened) <= set(bodies._cache)


@pytest.mark.trio
async def test_decoded_batches_are_bounded_in_bytes(shelf):
    bodies = cache(64 << 20, shelf)
    for zxid in range(1, 12):
        payload = encode_batch([bytes(2_000_000)] * 2)
        bodies.add(zxid, Publish(1000, 1, 7, zxid, 2, 4_000_000, payload=payload))
        bodies.get(zxid)

        assert bodies._opened_bytes <= OPENED_BYTES_MAX


@pytest.mark.trio
async def test_a_full_cache_costs_the_garbage_collector_next_to_nothing(shelf):
    bodies = cache(1 << 30, shelf)
    gc.collect()
    before = len(gc.get_objects())
    for zxid in range(1, 5_001):
        bodies.add(zxid, batch(zxid))
        assert bodies.get(zxid) is not None
    gc.collect()

    assert len(gc.get_objects()) - before < 500, "entries in the cache are nothing that it looks at"


# --- cold reads ---------------------------------------------------------------------------------------------------


@pytest.mark.trio
async def test_what_is_not_in_memory_is_read_by_another_thread_while_the_loop_goes_on(shelf):
    zxids = shelf.put(3)
    bodies = cache(1 << 20, shelf)
    shelf.hold()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bodies.load, zxids)
        await shelf.reading()
        for _ in range(100):
            await trio.lowlevel.checkpoint()
        shelf.let_go()

    assert threading.get_ident() not in shelf.readers
    assert [number_of(bodies.get(zxid)) for zxid in zxids] == [0, 1, 2]


@pytest.mark.trio
async def test_what_is_in_memory_is_not_read(shelf):
    zxids = shelf.put(4)
    bodies = cache(1 << 20, shelf)
    bodies.add(zxids[0], batch(0))
    await bodies.load([zxids[0]])
    assert shelf.reads == []
    found = await bodies.load(zxids)

    assert {zxid: number_of(stored) for zxid, stored in found.items()} == dict(zip(zxids, range(4), strict=True))
    assert shelf.reads == [zxids[1]], "its neighbours come with the same read"


@pytest.mark.trio
async def test_a_load_returns_everything_also_where_the_cache_takes_none_of_it(shelf):
    zxids = shelf.put(50, 20_000)
    bodies = cache(1, shelf)
    found = await bodies.load(zxids)

    assert [number_of(found[zxid]) for zxid in zxids] == list(range(50))
    assert sum(bodies.get(zxid) is not None for zxid in zxids) == 1


@pytest.mark.trio
async def test_a_backlog_is_read_in_pieces_that_grow_and_what_is_read_along_is_kept(shelf):
    zxids = shelf.put(200, 20_000)
    bodies = cache(64 << 20, shelf)
    assert len(await bodies.load(zxids[:100])) == 100
    assert len(shelf.reads) <= 5
    reads = len(shelf.reads)
    along = [zxid for zxid in zxids[100:] if bodies.get(zxid) is not None]
    assert along, "the last piece reached beyond what was wanted"
    await bodies.load(along)

    assert len(shelf.reads) == reads


@pytest.mark.trio
async def test_scattered_messages_do_not_drag_the_log_between_them_along(shelf):
    zxids = shelf.put(20, 50_000, between=2 * NEAR_ENTRIES)
    bodies = cache(64 << 20, shelf)
    wanted = zxids[::6]
    found = await bodies.load(reversed(wanted))

    assert sorted(found) == wanted
    assert shelf.bytes_read < len(wanted) * 51_000 + 2 * PIECE_BYTES_MIN


@pytest.mark.trio
async def test_entries_of_other_kinds_are_passed_over(shelf):
    zxids = shelf.put(5, between=3)
    bodies = cache(1 << 20, shelf)
    found = await bodies.load(zxids)

    assert sorted(found) == zxids
    assert bodies.get(zxids[0] + 1) is None


# --- reads that somebody else wants too ---------------------------------------------------------------------------


@pytest.mark.trio
@pytest.mark.parametrize("cache_bytes_max", [1, 1 << 20])
async def test_who_wants_what_is_being_read_waits_for_that_read(shelf, cache_bytes_max):
    zxids = shelf.put(10)
    bodies = cache(cache_bytes_max, shelf)
    shelf.hold()
    found: list[dict] = []

    async def load(wanted: list[int]) -> None:
        found.append(await bodies.load(wanted))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(load, zxids)
        await shelf.reading()
        for _ in range(20):
            nursery.start_soon(load, zxids[3:5])
        await trio.testing.wait_all_tasks_blocked()
        shelf.let_go()

    assert shelf.reads == [zxids[0]]
    assert sorted(len(each) for each in found) == [2] * 20 + [10]
    assert bodies._reads == {}


@pytest.mark.trio
async def test_two_that_want_some_of_what_the_other_reads_do_not_wait_for_ever(shelf):
    zxids = shelf.put(4)
    bodies = cache(1, shelf)
    shelf.hold()
    found: list[dict] = []

    async def load(wanted: list[int]) -> None:
        found.append(await bodies.load(wanted))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(load, zxids[0:3])
        nursery.start_soon(load, zxids[1:4])
        await shelf.reading(2)
        shelf.let_go()

    assert sorted(sorted(each) for each in found) == [zxids[0:3], zxids[1:4]]


@pytest.mark.trio
async def test_who_is_cancelled_while_waiting_takes_nothing_from_the_others(shelf):
    zxids = shelf.put(2)
    bodies = cache(1, shelf)
    shelf.hold()
    found: list[dict] = []

    async def load() -> None:
        found.append(await bodies.load(zxids))

    async with trio.open_nursery() as others:
        others.start_soon(load)
        await shelf.reading()
        async with trio.open_nursery() as leavers:
            leavers.start_soon(load)
            others.start_soon(load)
            await trio.testing.wait_all_tasks_blocked()
            leavers.cancel_scope.cancel()
        shelf.let_go()

    assert [sorted(each) for each in found] == [zxids, zxids]
    assert len(shelf.reads) == 1


@pytest.mark.trio
async def test_when_the_reader_is_cancelled_before_its_turn_another_reads(shelf):
    zxids = shelf.put(6, between=2 * NEAR_ENTRIES)
    bodies = cache(1, shelf)
    shelf.hold()
    found: list[dict] = []

    async def load(zxid: int) -> None:
        found.append(await bodies.load([zxid]))

    async with trio.open_nursery() as nursery:
        # Two reads at a time: the third waits for its turn.
        nursery.start_soon(load, zxids[0])
        nursery.start_soon(load, zxids[2])
        await shelf.reading(2)
        async with trio.open_nursery() as leavers:
            leavers.start_soon(load, zxids[4])
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(load, zxids[4])
            await trio.testing.wait_all_tasks_blocked()
            leavers.cancel_scope.cancel()
        shelf.let_go()

    assert sorted(zxid for each in found for zxid in each) == [zxids[0], zxids[2], zxids[4]]
    assert bodies._reads == {}


# --- what cannot be read ------------------------------------------------------------------------------------------


@pytest.mark.trio
async def test_a_damaged_record_is_told_to_everyone_who_wants_it_and_to_nobody_else(shelf):
    zxids = shelf.put(3, 50_000, between=2 * NEAR_ENTRIES)
    name = next(name for name in shelf.disk.names() if b"%d ." % (zxids[1] - FIRST) in shelf.disk.content_of(name))
    shelf.disk.flip_bit(name, shelf.disk.content_of(name).index(b"%d ." % (zxids[1] - FIRST)))
    bodies = cache(1, shelf)
    errors: list[LogCorrupt] = []

    async def load() -> None:
        with pytest.raises(LogCorrupt) as caught:
            await bodies.load([zxids[1]])
        errors.append(caught.value)

    shelf.hold()
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(load)
        await shelf.reading()
        await trio.testing.wait_all_tasks_blocked()
        shelf.let_go()

    assert len(errors) == 3
    assert number_of((await bodies.load([zxids[2]]))[zxids[2]]) == zxids[2] - FIRST
    with pytest.raises(MessageNotFound) as gone:
        await bodies.load([zxids[2] + 10_000])
    assert isinstance(gone.value.__cause__, ZxidNotFound)
