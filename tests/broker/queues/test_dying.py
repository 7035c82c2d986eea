"""What gets too old, too much or dies: fronts, middles, dead letters, and the notes that say why."""

from __future__ import annotations

import random
from functools import partial
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sluicemq.broker.queues import audit, dead_letters, notes
from sluicemq.broker.queues import entries as e
from sluicemq.broker.queues import lanes as lanes_module
from sluicemq.broker.queues.image import load
from sluicemq.broker.queues.leases import LeaseTable
from sluicemq.broker.queues.machine import Machine
from sluicemq.broker.queues.notes import NOTES_MAX, Note, NoteTable
from sluicemq.broker.queues.queue import NO_NOTES, NOTHING_DEAD
from sluicemq.broker.queues.runs import Run, bytes_in, messages_in
from tests.broker.paged import WhimsicalPager, make_chunks_small

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sluicemq.broker.queues.chunks import Chunk
    from sluicemq.broker.queues.queue import Queue

NOW = 1_000


@pytest.fixture(autouse=True)
def _small_chunks() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        make_chunks_small(patch, 4)
        yield


class Life:
    """A queue, paged by whim, beside a plain list of what is ready, in order, and one of what is dead."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.pager = WhimsicalPager(rng)
        self.machine = Machine(pool=self.pager.pool)
        self.machine.apply(1, e.Declare(1, "/", "queue", "orders", {}))
        self.machine.apply(2, e.SessionOpen(1, "/", "", "", b""))
        self.zxid = 2
        self.tag = 1
        self.now = NOW
        self.line: list[Run] = []
        self.dead: list[Run] = []
        self.taken: list[tuple[int, Run]] = []  # with the tag of the first message

    @property
    def queue(self) -> Queue:
        return self.machine.existing_queue(1)

    def next_zxid(self) -> int:
        self.zxid += 1
        self.machine.applied_zxid = self.zxid
        return self.zxid

    def filled(self, missing: Callable[[], list[Chunk]]) -> None:
        """Fill what *missing* names until it names nothing, as whoever applies entries does."""
        while chunks := missing():
            self.pager.fill(chunks)

    # --- what happens --------------------------------------------------------------------------------------------

    def publish(self) -> None:
        zxid = self.next_zxid()
        count = self.rng.choice((1, 2, 6))
        expires_ms = self.rng.choice((0, 0, self.now + self.rng.randrange(1, 60)))
        priority = self.rng.choice((0, 0, 0, 4, 9))
        run = Run(zxid, zxid, 0, count, count, 7 * count + 3, self.now, expires_ms=expires_ms, priority=priority)
        self.queue.arrive([run])
        self.queue.make_ready([run], zxid)
        self.line.append(run)
        self.line.sort(key=lambda each: each.place)

    def take(self) -> None:
        """A placed grant takes a part from anywhere."""
        if not self.line:
            return
        index = self.rng.randrange(len(self.line))
        run = self.line[index]
        first = run.first + self.rng.randrange(run.size)
        count = self.rng.randrange(1, run.first + run.size - first + 1)
        if any(run == there for there in self.queue.returned):
            first = run.first  # only the front of these
            count = min(count, run.size)
        flat = [run.ready, run.zxid, first, count]
        self.filled(lambda: self.queue.missing_placed(flat))
        part = run._replace(first=first, size=count)
        assert self.queue.take_placed(flat) == [part]
        parts = [run._replace(size=first - run.first)] if first > run.first else []
        behind = run.first + run.size - first - count
        if behind:
            parts.append(run._replace(first=first + count, size=behind))
        self.line[index : index + 1] = parts
        self.lease(part)

    def lease(self, run: Run) -> None:
        table = self.queue.leases.get((2, 1)) or LeaseTable(2, 1, 1)
        self.queue.leases[2, 1] = self.machine.sessions[2].leases[1] = table
        table.grant(self.tag, [run])
        self.taken.append((self.tag, run))
        self.tag += run.size
        self.queue.leased += run.size

    def let_go(self, tag: int, run: Run) -> None:
        table = self.queue.leases[2, 1]
        assert table.take([tag, tag + run.size - 1]).runs == [run]
        self.queue.leased -= run.size
        if not table.messages:
            del self.queue.leases[2, 1], self.machine.sessions[2].leases[1]

    def settle(self) -> None:
        """What was taken is acknowledged, comes back, or dies."""
        if not self.taken:
            return
        tag, run = self.taken.pop(self.rng.randrange(len(self.taken)))
        self.let_go(tag, run)
        what = self.rng.choice(("acknowledge", "back", "bury"))
        if what == "acknowledge":
            self.queue.acknowledge([run], run.size)
        elif what == "bury":
            self.dead += self.queue.bury([run], self.next_zxid(), notes.REJECTED, "no such order", self.now)
        else:
            text = self.rng.choice(("out of stock", "timeout"))
            back = self.queue.annotated([run.settled_back(run.ready, 1)], notes.NACKED, "", text, self.now)
            assert self.queue.give_back(back) == back
            self.line = sorted([*self.line, *back], key=lambda each: each.place)

    def wait(self) -> None:
        """Time goes on, and what expires goes: all of it, and nothing else."""
        self.now += self.rng.randrange(20)
        expected = [run for run in self.line if 0 < run.expires_ms <= self.now]
        due_ms = self.queue.lanes.next_expiry_ms()
        assert not expected or (due_ms is not None and due_ms <= self.now), "somebody is told that it is time"
        found: list[Run] = []
        while True:
            runs_max = self.rng.choice((1, 3, 100))
            self.filled(partial(self.queue.lanes.missing_expired, self.now, runs_max))
            runs, looked_at = self.queue.expire(self.now, runs_max)
            found += runs
            if looked_at < runs_max:
                break
        assert sorted(found) == sorted(expected)
        self.line = [run for run in self.line if run not in expected]
        if self.rng.random() < 0.5:
            self.queue.gone(found, "expired")
        else:
            self.dead += self.queue.bury(found, self.next_zxid(), notes.TTL, "", self.now)
        due_ms = self.queue.lanes.next_expiry_ms()
        assert due_ms is None or due_ms > self.now

    def drop(self) -> None:
        messages, bytes_ = self.rng.choice(((0, 5), (1, 0), (4, 0), (2, 30)))
        self.filled(lambda: self.queue.missing_head(messages + bytes_))
        in_order = self.pager.peek(self.queue, 0, 10**6)
        dropped = self.queue.drop_head(messages, bytes_, 1_000)
        if self.line:
            lowest = max(run.place[0] for run in self.line)
            assert dropped[0].place == next(run.place for run in in_order if run.place[0] == lowest)
        enough = messages_in(dropped) >= messages and bytes_in(dropped) >= bytes_
        left: list[Run] = []
        for run in self.line:
            parts = [part for part in dropped if (part.zxid, part.ready) == (run.zxid, run.ready)]
            gone = {index for part in parts for index in range(part.first, part.first + part.size)}
            stays = [index for index in range(run.first, run.first + run.size) if index not in gone]
            if stays:
                left.append(run._replace(first=stays[0], size=len(stays)))
        assert enough or not left
        self.line = left
        self.queue.gone(dropped, "dropped")

    def redrive(self) -> None:
        if not self.dead:
            return
        index = self.rng.randrange(len(self.dead))
        run = self.dead[index]
        first = run.first + self.rng.randrange(run.size)
        count = self.rng.randrange(1, run.first + run.size - first + 1)
        flat = [run.ready, run.zxid, first, count, 1, 1, 1, 1]
        self.filled(lambda: dead_letters.missing_dead(self.queue, flat))
        zxid = self.next_zxid()
        taken = dead_letters.take_dead(self.queue, dead_letters.find_dead(self.queue, flat), zxid)
        assert taken == [run._replace(first=first, size=count)]
        what = self.rng.choice(("revive", "purged", "moved"))
        if what == "revive":
            dead_letters.revive(self.queue, taken, zxid)
            fresh = [each._replace(ready=zxid, deliveries=0, attempts=0, note=0) for each in taken]
            self.line = sorted([*self.line, *fresh], key=lambda each: each.place)
        else:
            dead_letters.discard(self.queue, taken, what)
        self.dead = self.queue.dead.runs()

    def purge(self) -> None:
        assert self.queue.purge() == messages_in(self.line)
        self.line = []

    def count(self) -> None:
        if self.queue.bytes is None:
            self.filled(self.queue.missing_bytes)
        self.queue.count_bytes(self.rng.random() < 0.7)

    def reload(self) -> None:
        """Only what an image keeps goes on."""
        before = self.machine.state_hash()
        self.machine = load(self.machine.freeze().pack(lambda: True), self.pager.new_pool())
        assert self.machine.state_hash() == before

    # --- what must be --------------------------------------------------------------------------------------------

    def check(self) -> None:
        queue = self.queue
        ready = self.pager.peek(queue, 0, 10**6)
        assert sorted(ready) == sorted(self.line)
        assert [run.place[0] for run in ready] == sorted(run.place[0] for run in ready), "high priorities first"
        assert sorted(queue.dead.runs()) == sorted(self.dead)
        held = [*self.line, *(run for _, run in self.taken)]
        assert queue.bytes in (None, bytes_in(held))
        gone = queue.settled_total + queue.purged_total + queue.expired_total + queue.dropped_total + queue.moved_total
        assert queue.published_total == queue.messages + queue.dead.messages + gone
        living: dict[int, int] = {}
        for run in held:
            living[run.note] = living.get(run.note, 0) + run.size
        living.pop(0, None)
        assert {number: note.living for number, note in queue.notes.items() if note.living} == living
        audit.check(self.machine)


@given(seed=st.integers(0, 1 << 32), steps=st.integers(5, 60))
@settings(max_examples=100, deadline=None)
def test_whatever_happens_every_message_is_one_thing(seed: int, steps: int) -> None:
    rng = random.Random(seed)
    life = Life(rng)
    happenings = (
        ("publish", 30),
        ("take", 20),
        ("settle", 15),
        ("wait", 10),
        ("drop", 5),
        ("redrive", 8),
        ("purge", 1),
        ("count", 3),
        ("reload", 4),
    )
    for _ in range(steps):
        getattr(life, rng.choices(*zip(*happenings, strict=True))[0])()
        life.machine.due_changed(life.queue)
        life.pager.disturb()
        life.check()


# --- notes ------------------------------------------------------------------------------------------------------------


def test_a_note_is_shared_within_a_second_and_goes_with_its_last_message() -> None:
    table = NoteTable()
    number = table.intern(notes.NACKED, "", "out of stock", 1_500)
    table.hold(number, 2)
    assert table.intern(notes.NACKED, "", "out of stock", 1_999) == number
    later = table.intern(notes.NACKED, "", "out of stock", 2_000)
    assert later != number
    table.hold(later, 1)
    table.release([Run(1, 1, 0, 2, 2, 1, 1, note=number)])
    assert table.get(number) is None
    assert dict(table.items()) == {later: Note(notes.NACKED, "", "out of stock", 2_000, 1)}


def test_a_long_text_is_cut() -> None:
    table = NoteTable()
    note = table.get(table.intern(notes.REJECTED, "", "x" * 500, 1))
    assert note is not None
    assert note.text == "x" * 200


def test_beyond_the_limit_only_what_happened_is_noted() -> None:
    table = NoteTable()
    for each in range(NOTES_MAX):
        table.hold(table.intern(notes.NACKED, "", f"error {each}", 1), 1)
    beyond = [table.intern(notes.NACKED, "", f"another {each}", each * 1_000) for each in range(3)]
    assert len(set(beyond)) == 1
    assert table.get(beyond[0]) == Note(notes.NACKED, "", "", 0)
    assert table.intern(notes.NACKED, "", "error 7", 1) not in beyond, "what is there is still found"
    assert len(table) == NOTES_MAX + 1


def test_numbers_begin_anew_after_four_billion() -> None:
    table = NoteTable()
    table.next_number = (1 << 32) - 1
    numbers = []
    for each in range(3):
        numbers.append(table.intern(notes.NACKED, "", str(each), 1))
        table.hold(numbers[-1], 1)
    assert numbers == [(1 << 32) - 1, 1, 2]


def test_no_more_messages_lose_a_note_than_had_it() -> None:
    table = NoteTable()
    number = table.intern(notes.NACKED, "", "", 1)
    table.hold(number, 1)
    with pytest.raises(AssertionError, match="no more messages lose a note"):
        table.release([Run(1, 1, 0, 2, 2, 1, 1, note=number)])


def test_a_queue_without_dead_letters_and_notes_shares_what_all_have() -> None:
    life = Life(random.Random(1))
    life.publish()
    assert life.queue.dead is NOTHING_DEAD
    assert life.queue.notes is NO_NOTES
    life.take()
    life.queue.bury([run for _, run in life.taken], life.next_zxid(), notes.MAX_DELIVERIES, "", NOW)
    assert not len(NOTHING_DEAD)
    assert not NO_NOTES


def test_beyond_what_is_watched_messages_expire_when_they_are_in_front(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes_module, "EXPIRING_MESSAGES_MAX", 2)
    life = Life(random.Random(1))
    for zxid, expires_ms in ((10, 9_000), (11, 2_000), (12, 2_100), (13, 2_200), (14, 2_300)):
        run = Run(zxid, zxid, 0, 1, 1, 10, NOW, expires_ms=expires_ms)
        life.queue.arrive([run])
        life.queue.make_ready([run], zxid)
    gone, _ = life.queue.expire(5_000, 100)
    assert [run.zxid for run in gone] == [11, 12], "those that were watched"
    assert life.queue.lanes.next_expiry_ms() == 9_000
    assert life.queue.take([10, 0, 1])
    assert life.queue.lanes.next_expiry_ms() == 2_200, "the next one is in front now"
    gone, _ = life.queue.expire(5_000, 100)
    assert [run.zxid for run in gone] == [13, 14]
