"""What brokers compare of runs is the same wherever chunks begin and whatever lies on pages; and nothing else is."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from sluicemq.broker.queues import entries as e
from sluicemq.broker.queues.checksums import look_anew, of_fifo
from sluicemq.broker.queues.chunks import CHUNK_RUNS, RUN_BYTES
from sluicemq.broker.queues.fifo import RunFifo
from sluicemq.broker.queues.image import load
from sluicemq.broker.queues.machine import Machine
from sluicemq.broker.queues.runs import Run
from sluicemq.broker.queues.window import ID_BYTES, IdWindow
from tests.broker.paged import WhimsicalPager, make_chunks_small

if TYPE_CHECKING:
    from collections.abc import Callable

LIVES = 60
STEPS = 100
ROWS_MAX = 64
CHUNK_RUNS_OF_TESTS = 8


def batch(zxid: int, size: int = 3) -> Run:
    return Run(zxid, zxid, 0, size, size, 100, 1_000 + zxid, 0, 0, 0, 0, 0, 0)


class Broker:
    """One that has the runs, some of them on pages by chance; all brokers of a test know each other's pages."""

    def __init__(self, pager: WhimsicalPager, fifo: RunFifo | None = None) -> None:
        self.pager = pager
        self.fifo = RunFifo(pager.pool) if fifo is None else fifo

    def do(self, work: Callable[[RunFifo], object]) -> None:
        self.fill()
        work(self.fifo)
        self.pager.disturb()

    def fill(self) -> None:
        self.pager.fill([chunk for chunk in self.fifo._chunks or () if chunk.data is None])

    def reread(self) -> Broker:
        """Return one that starts from an image of this one; what is on pages stays there."""
        pager = WhimsicalPager(self.pager._rng)
        pager.pages = self.pager.pages
        machine = Machine(pool=self.pager.pool)
        machine.apply(1, e.Declare(1, "/", "queue", "orders", {}))
        queue = machine.queue(1)
        assert queue is not None
        queue.lanes.main = self.fifo
        queue.published_total = self.fifo.messages
        again = load(machine.freeze().pack(lambda: True), pager.pool).queue(1)
        assert again is not None
        return Broker(pager, again.main)


class Ensemble:
    """Brokers of which the first lived from the first run on; the others read an image of one of them, some time."""

    def __init__(self, rng: random.Random) -> None:
        self.random = rng
        self.zxid = self.cut = 0
        self.brokers = [Broker(WhimsicalPager(rng))]

    def do(self, work: Callable[[RunFifo], object]) -> None:
        for broker in self.brokers:
            broker.do(work)

    def append(self, count: int) -> None:
        runs = [batch(self.zxid + number) for number in range(1, count + 1)]
        self.zxid += count
        self.do(lambda fifo: fifo.extend(runs))

    def step(self) -> None:
        runs = self.brokers[0].fifo.runs()
        choice = self.random.choice(("append", "append", "consume", "consume", "trim", "remove", "reread", "reread"))
        if choice == "append" or not runs:
            self.append(self.random.randrange(1, 6))
        elif choice == "consume":
            taken = runs[: self.random.randrange(1, 5)]
            self.do(lambda fifo: fifo.consume(len(taken), sum(run.size for run in taken)))
        elif choice == "trim" and runs[0].size > 1:
            self.do(lambda fifo: fifo.trim(1))
        elif choice == "remove":
            self.remove(self.random.choice(runs))
        elif choice == "reread":
            again = self.random.choice(self.brokers).reread()
            self.brokers[1:] = [again, *self.brokers[1:3]]
        if self.random.random() < 0.01:
            self.do(RunFifo.clear)

    def remove(self, run: Run) -> None:
        def work(fifo: RunFifo) -> None:
            ordinal = fifo.find_place((run.ready, run.zxid, run.first))
            assert ordinal is not None
            fifo.remove(ordinal, run.first, run.size)

        self.do(work)

    def compare(self, turn: int) -> None:
        """Look at all of them as their alarms do."""
        for broker in self.brokers:
            look_anew(broker.fifo, turn, 2)
        known = {of_fifo(broker.fifo, turn, ROWS_MAX) for broker in self.brokers}
        assert len(known) == 1, f"brokers that have the same runs differ: {known}"
        bases = [chunk.base - broker.fifo.head for broker in self.brokers for chunk in (broker.fifo._chunks or ())]
        self.cut += len({base % CHUNK_RUNS_OF_TESTS for base in bases}) > 1


@pytest.mark.parametrize("share", range(4))
def test_brokers_with_the_same_runs_agree_wherever_their_chunks_begin(
    share: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_chunks_small(monkeypatch, CHUNK_RUNS_OF_TESTS)
    cut = dropped = 0
    for seed in range(share, LIVES, 4):
        ensemble = Ensemble(random.Random(seed))
        for turn in range(STEPS):
            ensemble.step()
            ensemble.compare(turn)
        cut += ensemble.cut
        dropped += sum(broker.pager.drops for broker in ensemble.brokers)
    assert cut > LIVES // 3, "chunks began elsewhere"
    assert dropped > LIVES, "and some were on pages only"


def day() -> tuple[Broker, Broker]:
    """Return two brokers that have the same three chunks, some open rows, and a hole; one of them read an image."""
    lived = Broker(WhimsicalPager(random.Random(1)))
    lived.fifo.extend(map(batch, range(1, 3 * CHUNK_RUNS + 100)))
    lived.fifo.consume(10, 30)
    lived.fifo.remove(CHUNK_RUNS + 5, 0, 3)
    return lived, lived.reread()


def differ(one: Broker, other: Broker, turns: int = 8) -> bool:
    """Whether their alarms see it after some turns, and ever after."""
    for turn in range(turns):
        look_anew(one.fifo, turn, 2)
        look_anew(other.fifo, turn, 2)
    return of_fifo(one.fifo, 0, 1 << 20) != of_fifo(other.fifo, 0, 1 << 20)


def flipped_in_memory(broker: Broker) -> None:
    chunk = broker.fifo._chunks[1]  # type: ignore[index]
    assert chunk.data is not None
    chunk.data = flipped(chunk.data)


def flipped_before_it_was_written(broker: Broker) -> None:
    flipped_in_memory(broker)
    chunk = broker.fifo._chunks[1]  # type: ignore[index]
    chunk.page = broker.pager.write(chunk.page_data)
    broker.pager.pool.drop(chunk)


def another_hole(broker: Broker) -> None:
    holes = broker.fifo._holes
    (base,) = holes
    holes[base] = holes[base]._replace(bits=holes[base].bits << 1)


def another_row(broker: Broker) -> None:
    broker.fifo._open[5 * RUN_BYTES] ^= 1


@pytest.mark.parametrize("change", [flipped_in_memory, flipped_before_it_was_written, another_hole, another_row])
def test_what_is_not_the_same_shows_though_all_counts_are(change: Callable[[Broker], None]) -> None:
    lived, reread = day()
    assert not differ(lived, reread)
    change(lived)
    assert differ(lived, reread)


@pytest.mark.parametrize("swap", [True, False])
def test_an_image_that_holds_other_chunks_shows_once_it_was_read(swap: bool) -> None:
    lived, _ = day()
    chunks = lived.fifo._chunks
    assert chunks is not None
    if swap:
        chunks[1], chunks[2] = chunks[2], chunks[1]
    else:
        flipped_in_memory(lived)
    reread = lived.reread()
    assert differ(day()[0], reread, turns=0), "nothing needs to be looked at anew"


def flipped(data: bytes) -> bytes:
    """Return *data* with one bit that is not what it was: the note of some row."""
    place = 17 * RUN_BYTES + 56
    return data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :]


def test_a_chunk_of_ids_that_is_not_the_same_shows() -> None:
    windows = [IdWindow(0, 1_000_000, 1_000_000) for _ in range(3)]
    rng = random.Random(1)
    for zxid in range(1, 6):
        ids = rng.randbytes(ID_BYTES * 1_000)
        for window in windows:
            window.judge(ids, zxid, zxid)
    lived, reread, other = windows
    assert lived.checksums() == reread.checksums() == other.checksums()
    chunk = other._chunks[1]
    assert chunk.data is not None
    chunk.data = flipped(chunk.data)
    for turn in range(8):
        for window in windows:
            window.look_anew(turn, 1)
    assert lived.checksums() == reread.checksums() != other.checksums()
    for window in (lived, other):
        window.limit(1, 1, 2_000_000)
        window.expire(2_000_000)
    assert lived.checksums() == other.checksums(), "what left counts no more"


def test_a_window_that_was_read_from_an_image_comes_to_the_same() -> None:
    machine = Machine()
    machine.apply(1, e.Declare(1, "/", "queue", "orders", {"dedup_window": 60.0}))
    queue = machine.queue(1)
    assert queue is not None
    assert queue.window is not None
    queue.window.judge(random.Random(2).randbytes(ID_BYTES * 5_000), 2, 2)
    again = load(machine.freeze().pack(lambda: True)).queue(1)
    assert again is not None
    assert again.window is not None
    assert again.window.checksums() == queue.window.checksums() != IdWindow(0, 1, 1).checksums()
