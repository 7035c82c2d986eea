"""The log as the core sees it, beside what a broker that starts anew would see on the same disk."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sluicemq.broker.pipeline.ensemble import view as view_module
from sluicemq.broker.pipeline.ensemble.records import Body, record_of
from sluicemq.broker.pipeline.ensemble.view import View
from sluicemq.broker.queues.entries import Clock
from sluicemq.broker.replication.history import EpochRecord, MembershipRecord
from sluicemq.broker.replication.membership import Configuration, Member
from sluicemq.storage.log import SegmentLog
from sluicemq.storage.options import LogOptions
from sluicemq.storage.record import Record
from tests.disk import SimulatedDisk

OPTIONS = LogOptions(segment_bytes=1 << 18, initial_bytes=1 << 14, spares_max=0)
VOTERS = [Configuration(frozenset(Member(node, bytes([node] * 16)) for node in range(1, count))) for count in (2, 3, 4)]


class Log:
    """A log on a disk, and its view; what was given to the view is written when the test says so."""

    def __init__(self) -> None:
        self.disk = SimulatedDisk(1)
        self.log = SegmentLog.open(self.disk, options=OPTIONS)
        self.view = View(self.log, None, 0)
        self.unwritten: list[Record] = []
        self.epoch = 0

    def begin_epoch(self, voters: Configuration) -> None:
        self.epoch += 1
        self._append(self.epoch << 32, EpochRecord(1, voters))

    def append(self, size: int) -> None:
        entry = Clock(size, 1)
        record = Record(0, Clock.KIND, Clock.VERSION, 0, entry.header(), bytes(size))
        self._append(self.view.last.zxid + 1, Body(record, entry))

    def change_voters(self, voters: Configuration) -> None:
        self._append(self.view.last.zxid + 1, MembershipRecord(voters))

    def _append(self, zxid: int, body: object) -> None:
        entry = self.view.seal(zxid, self.view.last, body)
        self.view.append((entry,))
        self.unwritten.append(record_of(zxid, body))

    def write(self) -> None:
        if self.unwritten:
            self.log.append(self.unwritten)
            self.log.sync()
            self.unwritten = []
            self.view.durable(self.log.last_zxid)

    def cut(self, place: int) -> None:
        """Cut behind the entry that stands so far from the end; what is on its way goes first."""
        self.write()
        entries = self.view.read_from_disk(self.view.start.zxid, 1 << 20)
        if entries:
            position = entries[-1 - place % len(entries)].position
            self.view.truncate(position)
            self.log.truncate_after(position.zxid)
            self.epoch = max(self.epoch, position.zxid >> 32)


steps = st.lists(
    st.one_of(
        st.tuples(st.just("epoch"), st.integers(0, 2)),
        st.tuples(st.just("append"), st.integers(0, 3_000)),
        st.tuples(st.just("voters"), st.integers(0, 2)),
        st.tuples(st.just("write"), st.just(0)),
        st.tuples(st.just("cut"), st.integers(0, 30)),
    ),
    max_size=30,
)


@settings(max_examples=60, deadline=None)
@given(steps)
def test_a_view_shows_what_a_start_would_find(steps: list[tuple[str, int]]) -> None:
    log = Log()
    log.begin_epoch(VOTERS[0])
    for what, number in steps:
        if what == "epoch":
            log.begin_epoch(VOTERS[number])
        elif what == "append":
            log.append(number)
        elif what == "voters":
            log.change_voters(VOTERS[number])
        elif what == "write":
            log.write()
        else:
            log.cut(number)
    shown = {zxid: log.view.chain_at(zxid) for zxid in range(log.view.last.zxid, log.view.last.zxid + 2)}
    unwritten_ends, last = log.view.ends(), log.view.last
    log.write()
    again = View(log.log, None, 0)
    assert again.ends() == unwritten_ends
    assert again.last == last
    assert {zxid: again.chain_at(zxid) for zxid in shown} == shown
    assert again.configuration_at(last.zxid) == log.view.configuration_at(last.zxid)
    read = again.read_from_disk(0, 1 << 30)
    recent = log.view.read_recent(0, 1 << 30)
    if recent:
        assert [entry.position for entry in recent] == [entry.position for entry in read]


def test_what_is_not_durable_is_read_from_memory_and_old_entries_from_the_disk() -> None:
    log = Log()
    log.begin_epoch(VOTERS[0])
    for _ in range(20):
        log.append(120_000)
    assert log.view.read_recent(0, 1) == log.view.read_recent(0, 1)
    first = log.view.read_recent(0, 1)
    assert first is not None
    assert len(first) == 1, "at least one entry, however large"
    log.write()
    for _ in range(320):
        log.append(120_000)
    assert log.view.read_recent(0, 1) is None, "so much is not kept"
    assert log.view.read_from_disk(0, 1)[0].position == first[0].position
    middle = log.view.last.zxid - 10
    kept = log.view.read_recent(middle, 1 << 30)
    assert kept is not None
    assert [entry.zxid for entry in kept] == list(range(middle + 1, log.view.last.zxid + 1))


def test_what_is_kept_of_small_entries_takes_no_more_memory_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(view_module, "RECENT_BYTES_MAX", 2 << 20)
    log = Log()
    log.begin_epoch(VOTERS[2])
    tracemalloc.start()
    try:
        for _ in range(10_000):
            entry = Clock(1, 1)
            body = Body(Record(0, Clock.KIND, Clock.VERSION, 0, entry.header(), bytes(50)))
            log.view.append((log.view.seal(log.view.last.zxid + 1, log.view.last, body),))
            log.view.durable(log.view.last.zxid)
        taken_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (1 << 20) < taken_bytes < (2 << 20) * 1.1
