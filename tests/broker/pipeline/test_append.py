"""The log's thread: what it writes together, when it syncs, what it says is durable, and how it ends."""

from __future__ import annotations

import errno
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from sluicemq.broker.pipeline import append as append_module
from sluicemq.broker.pipeline.append import IDLE_MARK_SECONDS, LAZY_SYNC_SECONDS, AppendStage
from sluicemq.broker.pipeline.commit import CommitStage
from sluicemq.storage import LogOptions, LogWriteFailed, Record, SegmentLog
from sluicemq.storage.errors import LogCorrupt
from sluicemq.storage.spares import SparePool
from sluicemq.wire.batch import encode_batch
from tests.broker.pipeline.held import HeldSyncs, ThreadTime
from tests.broker.pipeline.roads import declare, open_producer, open_road, publish
from tests.disk import SimulatedDisk
from tests.patience import WAIT_SECONDS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

NO_SPARES = LogOptions(segment_bytes=256 * 1024, spares_max=0, initial_bytes=128 * 1024)
"""The log's thread is the only one that touches the disk."""
FIRST = 1 << 32
BATCH = memoryview(encode_batch([b"x"]))


class Writer:
    """A stage on a simulated disk, whose thread lives in the test's time.

    Attributes:
        durable: What the stage reported, in order: every zxid up to this one is safe.
        failures: What it reported to be the end.

    """

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, disk: SimulatedDisk, options: LogOptions, *, gathers: bool = False
    ) -> None:
        self.log = SegmentLog.open(disk, options=options)
        self.time = ThreadTime.installed(monkeypatch)
        self.durable: list[int] = []
        self.failures: list[BaseException] = []
        self._changed = trio.Event()
        self.stage = AppendStage(self.log, on_durable=self._on_durable, on_failure=self._on_failure, gathers=gathers)
        self._next = FIRST

    def _on_durable(self, zxid: int) -> None:
        assert zxid == self.log.statistics().synced_zxid, "nothing is reported before its sync"
        self.durable.append(zxid)
        self._notify()

    def _on_failure(self, error: BaseException) -> None:
        self.failures.append(error)
        self._notify()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    def submit(self, count: int = 1, *, lazy: bool = False, payload_bytes: int = 20) -> int:
        """Hand entries to the thread; return the zxid of the last."""
        for _ in range(count):
            payload = b"entry %d " % (self._next - FIRST)
            self.stage.submit(Record(self._next, 7, 1, 0, b"", payload.ljust(payload_bytes, b".")), lazy=lazy)
            self._next += 1
        return self._next - 1

    async def durable_up_to(self, zxid: int) -> None:
        """Wait until the stage said so."""
        with trio.fail_after(WAIT_SECONDS):
            while not self.durable or self.durable[-1] < zxid:
                await self._changed.wait()

    async def failed(self) -> LogWriteFailed:
        """Wait for the end and return its reason."""
        with trio.fail_after(WAIT_SECONDS):
            while not self.failures:
                await self._changed.wait()
        # Whatever else was on its way to the event loop has arrived after this.
        await trio.testing.wait_all_tasks_blocked()
        (error,) = self.failures
        assert isinstance(error, LogWriteFailed)
        return error


@asynccontextmanager
async def writing(
    monkeypatch: pytest.MonkeyPatch, disk: SimulatedDisk, options: LogOptions = NO_SPARES, *, gathers: bool = False
) -> AsyncIterator[Writer]:
    """Run the stage's threads."""
    writer = Writer(monkeypatch, disk, options, gathers=gathers)
    writer.stage.start()
    try:
        yield writer
    finally:
        with trio.CancelScope(shield=True):
            await writer.stage.stop()


# --- groups -------------------------------------------------------------------------------------------------------


@pytest.mark.trio
async def test_what_arrives_during_a_sync_is_written_as_one_group_and_synced_once(monkeypatch):
    disk = SimulatedDisk(1)
    held = HeldSyncs(disk)
    async with writing(monkeypatch, disk) as writer:
        held.hold()
        first = writer.submit()
        await held.begun()
        writes = held.writes
        last = writer.submit(100)
        await trio.testing.wait_all_tasks_blocked()
        assert writer.durable == [], "the first sync is still under way"
        held.let_go()
        await held.begun()
        await writer.durable_up_to(first)
        assert held.writes == writes + 1, "a hundred entries, one write"
        assert writer.durable == [first], "what was written is not what was synced"
        held.let_all_go()
        await writer.durable_up_to(last)

        assert writer.durable == [first, last]
        assert writer.stage.pending_bytes == 0


@pytest.mark.trio
@pytest.mark.parametrize("limit", ["GROUP_RECORDS_MAX", "GROUP_BYTES_MAX"])
async def test_a_group_is_bounded_so_that_its_first_entry_is_not_kept_waiting(monkeypatch, limit):
    record_bytes = 20 + append_module.RECORD_BYTES
    monkeypatch.setattr(append_module, limit, 10 if limit == "GROUP_RECORDS_MAX" else 10 * record_bytes)
    disk = SimulatedDisk(1)
    held = HeldSyncs(disk)
    async with writing(monkeypatch, disk) as writer:
        held.hold()
        first = writer.submit()
        await held.begun()
        last = writer.submit(25)
        for _group in range(3):
            held.let_go()
            await held.begun()
        held.let_all_go()
        await writer.durable_up_to(last)

        assert writer.durable == [first, first + 10, first + 20, last]


@pytest.mark.trio
async def test_records_of_all_groups_lie_in_the_log_in_the_order_in_which_they_were_submitted(monkeypatch):
    disk = SimulatedDisk(1)
    async with writing(monkeypatch, disk) as writer:
        for count in (1, 30, 2, 500):
            await writer.durable_up_to(writer.submit(count))
    writer.log.close()
    log = SegmentLog.open(disk.restart(), options=NO_SPARES)

    assert [record.payload.rstrip(b".") for record in log.read_after(log.start_zxid)] == [
        b"entry %d " % number for number in range(533)
    ]
    log.close()


# --- what nobody waits for ----------------------------------------------------------------------------------------


@pytest.mark.trio
async def test_an_entry_that_nobody_waits_for_is_synced_within_5_ms(monkeypatch):
    disk = SimulatedDisk(1)
    async with writing(monkeypatch, disk) as writer:
        granted = writer.submit(lazy=True)
        assert await writer.time.settled() == LAZY_SYNC_SECONDS
        await writer.time.passes(0.003)
        assert writer.log.last_zxid == granted, "it is written at once, for others to read"
        another = writer.submit(lazy=True)
        assert await writer.time.settled() == pytest.approx(0.002), "a second one does not put the sync off"
        assert writer.durable == []
        await writer.time.passes(0.0021)
        await writer.durable_up_to(another)

        assert writer.durable == [another]


@pytest.mark.trio
async def test_an_entry_that_nobody_waits_for_rides_with_the_next_that_somebody_does(monkeypatch):
    disk = SimulatedDisk(1)
    async with writing(monkeypatch, disk) as writer:
        writer.submit(lazy=True)
        await writer.time.settled()
        syncs = writer.log.statistics().syncs
        published = writer.submit()
        await writer.durable_up_to(published)
        await writer.time.settled()

        assert writer.durable == [published]
        assert writer.log.statistics().syncs == syncs + 1


@pytest.mark.trio
async def test_a_stream_of_entries_that_nobody_waits_for_cannot_put_the_sync_off(monkeypatch):
    disk = SimulatedDisk(1)
    async with writing(monkeypatch, disk) as writer:
        for _ in range(4):
            writer.submit(lazy=True)
            await writer.time.passes(0.002)

        # The third was written 4 ms after the first, the fourth 6 ms: with it, or on the clock, the sync came.
        assert writer.durable
        assert writer.durable[-1] >= FIRST + 2


# --- idleness -----------------------------------------------------------------------------------------------------


@pytest.mark.trio
async def test_an_idle_log_proves_once_what_was_synced_and_then_sleeps(monkeypatch):
    disk = SimulatedDisk(1)
    async with writing(monkeypatch, disk) as writer:
        await writer.durable_up_to(writer.submit())
        assert await writer.time.settled() == IDLE_MARK_SECONDS
        before = _with_a_damaged_end(disk)
        await writer.time.passes(IDLE_MARK_SECONDS)
        after = _with_a_damaged_end(disk)
        assert await writer.time.settled() is None, "no timer runs in an idle broker"

    # The same damage: to a write that may have been torn, and to one that is known to have been durable.
    cut = SegmentLog.open(before, options=NO_SPARES)
    assert cut.recovery.cut is not None
    cut.close()
    with pytest.raises(LogCorrupt):
        SegmentLog.open(after, options=NO_SPARES)


def _with_a_damaged_end(disk: SimulatedDisk) -> SimulatedDisk:
    """Return a copy of *disk* in which a bit of the first entry has turned."""
    copy = SimulatedDisk(2)
    for name in disk.names():
        copy.open(name, create=True).pwritev([disk.content_of(name)], 0)
        copy.flush()
        place = disk.content_of(name).find(b"entry 0")
        if place >= 0:
            copy.flip_bit(name, place)
    return copy


# --- congestion ---------------------------------------------------------------------------------------------------


@pytest.mark.trio
async def test_who_submits_too_much_is_held_back_until_the_disk_has_caught_up(monkeypatch):
    monkeypatch.setattr(append_module, "PENDING_BYTES_MAX", 10_000)
    disk = SimulatedDisk(1)
    held = HeldSyncs(disk)
    async with writing(monkeypatch, disk) as writer:
        held.hold()
        waited = []

        async def submit_politely(name: str) -> None:
            for _ in range(20):
                await writer.stage.wait_for_room()
                writer.submit(payload_bytes=1000)
                await trio.lowlevel.checkpoint()
            waited.append(name)

        async with trio.open_nursery() as nursery:
            for name in ("one", "two"):
                nursery.start_soon(submit_politely, name)
            await held.begun()
            await trio.testing.wait_all_tasks_blocked()
            assert writer.stage.congested
            assert writer.stage.pending_bytes <= 10_000 + 2 * (1000 + append_module.RECORD_BYTES)
            assert waited == []
            held.let_all_go()
        await writer.durable_up_to(FIRST + 39)

        assert sorted(waited) == ["one", "two"]
        assert not writer.stage.congested


@pytest.mark.trio
async def test_a_sync_that_brings_too_little_room_wakes_nobody(monkeypatch):
    monkeypatch.setattr(append_module, "PENDING_BYTES_MAX", 2000)
    disk = SimulatedDisk(1)
    held = HeldSyncs(disk)
    async with writing(monkeypatch, disk) as writer:
        held.hold()
        first = writer.submit()
        await held.begun()
        writer.submit(10, payload_bytes=1000)
        with trio.move_on_after(0) as impatient:
            await writer.stage.wait_for_room()
        assert impatient.cancelled_caught
        woken = trio.Event()

        async def wait() -> None:
            await writer.stage.wait_for_room()
            woken.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            held.let_go()
            await held.begun()
            await writer.durable_up_to(first)
            await trio.testing.wait_all_tasks_blocked()
            assert not woken.is_set()
            held.let_all_go()
            with trio.fail_after(WAIT_SECONDS):
                await woken.wait()


# --- a disk that fails --------------------------------------------------------------------------------------------


@pytest.mark.trio
@pytest.mark.parametrize("kind", ["write", "sync"])
async def test_a_failing_disk_ends_the_stage_once_and_confirms_nothing_any_more(monkeypatch, kind):
    disk = SimulatedDisk(1)
    async with writing(monkeypatch, disk) as writer:
        safe = writer.submit(3)
        await writer.durable_up_to(safe)
        await writer.time.settled()
        disk.fail_after(1, errno.EIO, kind)
        writer.submit(3)
        error = await writer.failed()
        assert error.errno == errno.EIO
        assert error.operation == kind
        # The disk works again. That proves nothing: what it lost it has forgotten, so nothing may be tried again.
        writer.submit(3)
        await writer.stage.stop()
        await trio.testing.wait_all_tasks_blocked()

        assert writer.durable == [safe]
        assert len(writer.failures) == 1


@pytest.mark.trio
@pytest.mark.parametrize("moment", ["lazy sync", "mark", "last sync"])
async def test_a_disk_that_fails_while_nobody_waits_ends_the_stage_too(monkeypatch, moment):
    disk = SimulatedDisk(1)
    async with writing(monkeypatch, disk) as writer:
        if moment == "mark":
            await writer.durable_up_to(writer.submit())
            await writer.time.settled()
            disk.fail_after(1, errno.EIO, "write")
            writer.time.move(IDLE_MARK_SECONDS)
        else:
            writer.submit(lazy=True)
            await writer.time.settled()
            disk.fail_after(1, errno.EIO, "sync")
            if moment == "lazy sync":
                writer.time.move(LAZY_SYNC_SECONDS)
            else:
                await writer.stage.stop()

        assert (await writer.failed()).errno == errno.EIO


@pytest.mark.trio
async def test_two_threads_that_fail_are_one_failure(monkeypatch):
    disk = SimulatedDisk(1)
    options = LogOptions(segment_bytes=256 * 1024, spares_max=1, initial_bytes=128 * 1024)
    async with writing(monkeypatch, disk, options) as writer:
        # A bug in the making of spares, and a disk that fails.
        await writer.durable_up_to(writer.submit())
        with trio.fail_after(WAIT_SECONDS):
            while writer.log.spares.needed:
                await trio.lowlevel.checkpoint()
        monkeypatch.setattr(writer.log, "prepare_spare", lambda *_arguments: 1 / 0)
        monkeypatch.setattr(SparePool, "needed", True)
        disk.fail_after(2, errno.EIO, "write")
        await writer.durable_up_to(writer.submit())
        with trio.fail_after(WAIT_SECONDS):
            while not writer.failures:
                await trio.lowlevel.checkpoint()
        writer.submit()
        await writer.stage.stop()
        await trio.testing.wait_all_tasks_blocked()

        assert [type(error) for error in writer.failures] == [ZeroDivisionError]


@pytest.mark.trio
async def test_on_the_road_a_failing_sync_confirms_nothing_though_the_machine_could_judge():
    disk = SimulatedDisk(1)
    async with open_road(disk, options=NO_SPARES, expect_failure=True) as road:
        failures: list[BaseException] = []
        failed = trio.Event()
        tell = road.ground.on_failure

        def hear(error: BaseException) -> None:
            tell(error)
            failures.append(error)
            failed.set()

        road.ground.on_failure = hear
        await declare(road)
        producer = await open_producer(road)
        assert (await publish(road, producer, 1, [b"safe"])).error is None
        disk.fail_after(1, errno.EIO, "sync")
        outcomes: list[object] = []
        for sequence in (2, 3):
            road.produce.publish("/", "anonymous", "orders", producer, sequence, BATCH, outcomes.append)
        with trio.fail_after(WAIT_SECONDS):
            await failed.wait()
        road.produce.publish("/", "anonymous", "orders", producer, 4, BATCH, outcomes.append)
        road.advance()
        await trio.testing.wait_all_tasks_blocked()

        assert outcomes == []
        assert len(failures) == 1
        road.ground.commit = CommitStage()  # nothing of it is waited for


# --- the end ------------------------------------------------------------------------------------------------------


@pytest.mark.trio
async def test_stopping_writes_and_syncs_whatever_was_submitted(monkeypatch):
    disk = SimulatedDisk(1)
    held = HeldSyncs(disk)
    async with writing(monkeypatch, disk) as writer:
        held.hold()
        writer.submit()
        await held.begun()
        writer.submit(5)
        last = writer.submit(lazy=True)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(writer.stage.stop)
            await trio.testing.wait_all_tasks_blocked()
            held.let_all_go()
        await writer.durable_up_to(last)
        assert writer.stage.pending_bytes == 0

        # What was confirmed is proven by what stands behind it: the last write of all is the MARK.
        writes = held.writes
        writer.log.mark_idle()
        assert held.writes == writes


@pytest.mark.trio
async def test_who_gathers_writes_what_one_turn_brought_in_one_group_though_nobody_flushes(monkeypatch):
    async with writing(monkeypatch, SimulatedDisk(1), gathers=True) as writer:
        before = writer.log.statistics().writes
        for _ in range(20):
            last = writer.submit()
        await writer.durable_up_to(last)

        assert writer.durable == [last]
        assert writer.log.statistics().writes == before + 1


@pytest.mark.trio
async def test_who_gathers_hands_over_when_it_is_told_to(monkeypatch):
    async with writing(monkeypatch, SimulatedDisk(1), gathers=True) as writer:
        trio.lowlevel.remove_instrument(writer.stage)  # so the event loop tells nobody that it sleeps
        last = writer.submit()
        writer.stage.flush()
        await writer.durable_up_to(last)
        trio.lowlevel.add_instrument(writer.stage)

        assert writer.durable == [last]


@pytest.mark.trio
async def test_an_errand_comes_behind_what_was_gathered(monkeypatch):
    async with writing(monkeypatch, SimulatedDisk(1), gathers=True) as writer:
        last = writer.submit()
        found: list[int] = []
        await writer.stage.run_on_log_thread(lambda: found.append(writer.log.last_zxid))

        assert found == [last]


@pytest.mark.trio
async def test_stopping_syncs_also_what_nobody_waits_for_and_says_so(monkeypatch):
    async with writing(monkeypatch, SimulatedDisk(1)) as writer:
        granted = writer.submit(lazy=True)
        await writer.stage.stop()
        await writer.durable_up_to(granted)

        assert writer.durable == [granted]


@pytest.mark.trio
async def test_a_stage_that_was_never_started_stops_at_once():
    log = SegmentLog.open(SimulatedDisk(1), options=NO_SPARES)
    stage = AppendStage(log, on_durable=lambda _zxid: None, on_failure=lambda _error: None)
    await stage.stop()
    log.close()


@pytest.mark.trio
async def test_a_log_that_fails_after_the_event_loop_has_ended_bothers_nobody(monkeypatch):
    disk = SimulatedDisk(1)
    time = ThreadTime.installed(monkeypatch)
    log = SegmentLog.open(disk, options=NO_SPARES)
    stage = AppendStage(log, on_durable=lambda _zxid: None, on_failure=lambda _error: None)

    async def short_life() -> None:
        stage.start()

    await trio.to_thread.run_sync(lambda: trio.run(short_life))
    stage.submit(Record(FIRST, 7, 1, 0, b"", b"late"))
    time.put(None)
    await trio.to_thread.run_sync(stage._thread.join)
    await stage.stop()
    log.close()

    assert SegmentLog.open(disk.restart(), options=NO_SPARES).last_zxid == FIRST
