"""Images: chunks that lie on pages, what an image keeps alive, and what is refused, by name."""

from __future__ import annotations

import random
from collections import Counter
from typing import TYPE_CHECKING, Any

import msgpack
import pytest

from sluicemq.broker.queues import entries as e
from sluicemq.broker.queues import sections as s
from sluicemq.broker.queues.chunks import CHUNK_BYTES, CHUNK_RUNS, ROW, Chunk, ChunkPool, FifoImage, Page, Summary
from sluicemq.broker.queues.fifo import RunFifo
from sluicemq.broker.queues.image import live_runs, load, pages_named
from sluicemq.broker.queues.machine import Machine
from sluicemq.broker.queues.runs import Run, flat_runs
from sluicemq.broker.queues.sections import ImageDamaged, ImageUnknown, Section, encode
from sluicemq.wire.messages import VERDICT_ACK, VERDICT_NACK, VERDICT_RELEASE
from tests.broker.queues.effort import effort_of
from tests.broker.queues.test_freeze import Day

if TYPE_CHECKING:
    from collections.abc import Iterable


class Pages:
    """A page file in memory, and the pool that it serves."""

    def __init__(self) -> None:
        self.data: dict[Page, bytes] = {}
        self.pool = ChunkPool(self.read_back)

    def read_back(self, chunk: Chunk) -> bytes:
        assert chunk.page is not None
        return self.data[chunk.page]

    def write(self, chunk: Chunk) -> None:
        """Write a chunk to a page, unless it has one."""
        if chunk.page is None:
            assert chunk.data is not None
            chunk.page = Page(len(self.data), len(self.data) * 7)
            self.data[chunk.page] = chunk.data

    def page_out(self, chunk: Chunk) -> None:
        self.write(chunk)
        self.pool.drop(chunk)

    def fill(self, chunks: Iterable[Chunk]) -> None:
        for chunk in chunks:
            self.pool.fill(chunk, self.read_back(chunk))


class LongDay:
    """A queue with thousands of runs, part of them on pages, some leased, given back and delayed."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.pages = Pages()
        self.machine = Machine(pool=self.pages.pool)
        self.zxid = 0
        self.queue = self.apply(e.Declare(1, "/", "queue", "orders", {}))
        self.session = self.apply(e.SessionOpen(1, "/", "", "", b""))
        self.producer = self.apply(e.ProducerOpen(1, "/", "", ""))
        self.sequence = 0
        self.tag = 1

    def apply(self, entry: e.Entry) -> int:
        self.zxid += 1
        self.pages.fill(self.machine.prefetch(entry))
        self.machine.apply(self.zxid, entry)
        return self.zxid

    def publish(self, batches: int) -> None:
        for _ in range(batches):
            self.sequence += 1
            count = self.rng.choice((1, 1, 1, 5))
            self.apply(e.Publish(1, self.queue, self.producer, self.sequence, count, 1, None, b"x" * 10 * count))

    def consume(self, runs: int, verdict: int, due_ms: int = 0) -> None:
        """Lease runs from the front of the queue, half of the last one only, and settle two thirds of them."""
        queue = self.machine.queue(self.queue)
        assert queue is not None
        main = queue.main
        self.pages.fill(main.missing(main.head, runs))
        taken = main.read(main.head, runs)
        if taken[-1].size > 1:
            taken[-1] = taken[-1].split(taken[-1].size // 2)[0]
        messages = sum(run.size for run in taken)
        self.apply(e.Grant(1, self.queue, self.session, 1, self.tag, flat_runs(taken)))
        last = self.tag + max(messages * 2 // 3, 1) - 1
        self.apply(e.Settle(1, self.session, 1, verdict, [self.tag, last], due_ms))
        self.tag += messages

    def page_some_out(self) -> None:
        for chunk in list(self.pages.pool.resident):
            if self.rng.random() < 0.3:
                self.pages.page_out(chunk)
            elif self.rng.random() < 0.3:
                self.pages.write(chunk)

    def retain(self, retention: dict[str, int] | None) -> None:
        self.apply(e.Declare(1, "/", "queue", "orders", {"retention": retention}))

    def live(self) -> dict[str, Counter[tuple[int, int]]]:
        """Every message of the machine by where it is: (zxid, index). What is retained is there and nowhere else."""
        queue = self.machine.queue(self.queue)
        assert queue is not None
        runs = {
            "ready": queue.main.runs(),
            "returned": list(queue.returned),
            "delayed": queue.delayed.runs(),
            "leased": [run for table in queue.leases.values() for _, run, _ in table.pieces()],
        }
        if queue.history is not None:
            lost = queue.history.lost.zxid
            runs = {place: [run for run in found if run.zxid <= lost] for place, found in runs.items()}
            runs["retained"] = queue.history.runs.runs()
        return {place: addresses(found) for place, found in runs.items()}


def addresses(runs: Iterable[tuple[int, ...]]) -> Counter[tuple[int, int]]:
    return Counter((run[0], run[2] + offset) for run in runs for offset in range(run[3]))


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("retention", [None, {"bytes": 30_000}, {"seconds": 60}], ids=str)
def test_a_long_queue_is_loaded_from_chunks_here_and_on_pages(seed: int, retention: dict[str, int] | None) -> None:
    rng = random.Random(seed)
    day = LongDay(rng)
    day.publish(rng.randint(1, 4 * CHUNK_RUNS))
    day.retain(retention)
    day.publish(rng.randint(1, 2 * CHUNK_RUNS))
    day.page_some_out()
    day.consume(rng.randint(1, 1_500) if day.sequence > 1_500 else 1, VERDICT_NACK, 1_000)
    day.publish(200)
    day.consume(150, VERDICT_RELEASE)
    day.consume(100, VERDICT_NACK)
    day.consume(30, VERDICT_NACK, 2_000)
    before, live = day.machine.state_hash(), day.live()
    freeze = day.machine.freeze()
    sections: list[Section] = []
    while not freeze.done:
        sections += freeze.pack(lambda: rng.random() < 0.6)
        rng.choice(
            (
                lambda: day.publish(rng.randint(1, 600)),
                lambda: day.consume(rng.randint(1, 100), rng.choice((VERDICT_ACK, VERDICT_RELEASE, VERDICT_NACK))),
                lambda: day.apply(e.Clock(1_500, 50)),
                day.page_some_out,
                lambda: day.apply(e.Purge(1, day.queue)) if rng.random() < 0.1 else day.publish(10),
            )
        )()
        if not day.machine.queue(day.queue).main:
            day.publish(200)
    pages = Pages()
    pages.data = day.pages.data
    machine = load(sections, pages.pool)
    assert machine.state_hash() == before
    machine.check()

    def read_page(page: Page) -> bytes:
        return pages.data[page]

    found: dict[str, Counter[tuple[int, int]]] = {place: Counter() for place in live}
    for runs in live_runs(sections):
        rows = runs.runs(read_page)
        found[runs.place] += addresses(rows)
        messages = sum(run.size for run in rows)
        assert messages == runs.summary.messages or runs.partial or runs.front
        assert all(runs.summary.lowest_zxid <= run.zxid <= runs.summary.highest_zxid for run in rows)
        assert runs.queue == day.queue
    assert found == live, "exactly what is in the machine is alive"
    named = list(pages_named(sections))
    read = [runs.page for runs in live_runs(sections) if runs.page is not None]
    assert named == read or (retention and set(read) < set(named)), "what is retained is not read elsewhere"
    assert len(set(named)) == len(named)


def test_ten_thousand_chunks_on_pages_are_loaded_by_reference() -> None:
    fifo = FifoImage(
        5,
        10_000 * CHUNK_RUNS - 5,
        None,
        7,
        [
            Chunk.on_page(Page(slot, slot), Summary(CHUNK_RUNS, 100_000, slot, slot + 1, 7, slot, 0))
            for slot in range(10_000)
        ],
        bytearray(),
        0,
    )
    machine = Machine(pool=ChunkPool())
    machine.apply(1, e.Declare(1, "/", "queue", "orders", {}))
    queue = machine.queue(1)
    assert queue is not None
    queue.lanes.main = RunFifo.restored(fifo, machine.pool)
    queue.published_total = fifo.messages
    sections = machine.freeze().pack(lambda: True)
    assert sum(len(section.data) for section in sections) < 500_000, "references, not rows"
    loaded, seconds = effort_of(lambda: load(sections, ChunkPool()))
    assert seconds < 0.5, "tens of milliseconds, where ten million runs would take seconds"
    again = loaded.queue(1)
    assert again is not None
    assert again.main.messages == fifo.messages
    assert again.main.missing(again.main.head, 1)[0].page == Page(0, 0)
    assert loaded.pool is not None
    assert loaded.pool.absent == 10_000


# --- what is refused --------------------------------------------------------------------------------------------------


def packed() -> list[Section]:
    return Day().machine.freeze().pack(lambda: True)


def changed(section: Section, **columns: Any) -> Section:
    """The section with some of its columns replaced."""
    name, version, found = msgpack.unpackb(section.data)
    return Section(section.kind, msgpack.packb((name, version, {**found, **columns})))


def test_a_section_of_a_newer_version_is_refused_by_its_name() -> None:
    sections = packed()
    sections.insert(-1, Section(77, msgpack.packb(("transactions", 3, {"id": [1]}))))
    for read in (load, lambda them: list(live_runs(them)), lambda them: list(pages_named(them))):
        with pytest.raises(ImageUnknown, match=r"section 'transactions' \(kind 77, version 3\) is unknown"):
            read(sections)


def test_a_newer_version_of_a_section_is_refused_by_its_name() -> None:
    sections = packed()
    number = next(number for number, section in enumerate(sections) if section.kind == s.QUEUES)
    name, _, columns = msgpack.unpackb(sections[number].data)
    sections[number] = Section(s.QUEUES, msgpack.packb((name, 6, columns)))
    for read in (load, lambda them: list(live_runs(them))):
        with pytest.raises(ImageUnknown, match="version 6 of section 'queues' is unknown; this version reads 5"):
            read(sections)


def test_a_newer_format_and_unknown_limits_are_refused() -> None:
    first, *others = packed()
    for read in (load, lambda them: list(live_runs(them))):
        with pytest.raises(
            ImageUnknown, match=f"format {s.FORMAT + 1} of a snapshot is unknown; this version reads {s.FORMAT}"
        ):
            read([changed(first, format=[s.FORMAT + 1]), *others])
    with pytest.raises(ImageUnknown, match="limits words_max are unknown"):
        load([changed(first, limits=[{"words_max": 3}]), *others])


@pytest.mark.parametrize("lost", range(len(packed())))
def test_an_image_that_lacks_a_section_is_refused(lost: int) -> None:
    sections = packed()
    del sections[lost]
    with pytest.raises(ImageDamaged):
        load(sections)


def test_what_an_image_without_its_end_keeps_alive_is_not_known() -> None:
    with pytest.raises(ImageDamaged, match="no section `end`"):
        list(live_runs(packed()[:-1]))


def test_nothing_may_follow_the_end_nor_precede_the_beginning() -> None:
    sections = packed()
    for wrong in ([*sections, sections[1]], [sections[1], *sections], [sections[0], *sections], []):
        with pytest.raises(ImageDamaged):
            load(wrong)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"\xc1", "no array of name, version and columns"),
        (msgpack.packb(("queues", 1)), "no array of name, version and columns"),
        (msgpack.packb(("chunks", 1, {})), "kind 2 is named 'chunks' instead of 'queues'"),
        (msgpack.packb(("queues", 5, {"id": [1]})), "has not the columns id, vhost"),
        (msgpack.packb(("queues", 5, dict.fromkeys(s.LAYOUTS[s.QUEUES].columns, 5))), "are not lists of one length"),
        (
            msgpack.packb(("queues", 5, {**{column: [1] for column in s.LAYOUTS[s.QUEUES].columns}, "id": [1, 2]})),
            "are not lists of one length",
        ),
    ],
)
def test_bytes_that_are_no_section_are_refused(data: bytes, problem: str) -> None:
    with pytest.raises(ImageDamaged, match=problem):
        s.decode(s.QUEUES, data)


def test_byte_strings_that_are_none_are_refused() -> None:
    section = encode(s.RETURNED, [(1,)], ROW.pack(*Run(1, 1, 0, 1, 1, 1, 1)))
    with pytest.raises(ImageDamaged, match="lacks its bytes: runs"):
        s.decode(s.RETURNED, changed(section, runs=[1]).data)


def test_rows_that_do_not_add_up_are_refused() -> None:
    sections = packed()
    for kind, columns in (
        (s.INDEXES, {"rows": [1] * 20}),
        (s.RETURNED, {"runs": b""}),
        (s.LEASES, {"handed": b""}),
        (s.MACHINE, {"queues": [17]}),
        (s.END, {"messages": [17]}),
        (s.CHUNKS, {"queue": [12_345]}),
    ):
        wrong = [changed(section, **columns) if section.kind == kind else section for section in sections]
        if kind == s.CHUNKS:
            row = (12_345, s.READY, CHUNK_RUNS, 0, None, 0, s.NO_PAGE, *[0] * 8)
            wrong.insert(-1, encode(s.CHUNKS, [row], bytes(CHUNK_BYTES)))
        with pytest.raises(ImageDamaged):
            load(wrong)


def test_an_empty_machine_has_an_image_too() -> None:
    machine = Machine()
    freeze = machine.freeze()
    sections = freeze.pack(lambda: True)
    assert freeze.done
    assert [section.kind for section in sections] == [s.MACHINE, s.END]
    assert load(sections).state_hash() == machine.state_hash()
    assert not list(live_runs(sections))


def test_an_image_keeps_the_layout_that_is_documented() -> None:
    """A change of these names needs a new version of the section: old snapshots have the old ones."""
    assert {layout.name: layout.version for layout in s.LAYOUTS.values()} == {
        "machine": 3,
        "queues": 5,
        "indexes": 3,
        "chunks": 3,
        "marks": 1,
        "cluster": 1,
        "policies": 1,
        "following": 1,
        "schedules": 2,
        "halves": 2,
        "decisions": 2,
        "returned": 2,
        "sessions": 2,
        "settled": 1,
        "leases": 2,
        "producers": 2,
        "notes": 1,
        "topics": 4,
        "bindings": 1,
        "routes": 1,
        "windows": 1,
        "leased ids": 1,
        "window chunks": 1,
        "window indexes": 1,
        "end": 1,
    }
    for section in packed():
        name, version, columns = msgpack.unpackb(section.data, strict_map_key=False)
        layout = s.LAYOUTS[section.kind]
        assert (name, version, tuple(columns)) == (layout.name, layout.version, layout.columns + layout.blobs)
