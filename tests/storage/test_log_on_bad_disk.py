"""The log on a disk that fails, fills up, loses and misplaces writes, and flips bits: it stops, or it serves the truth.

A plain list is the model. `test_log.py` has the same for a disk whose only vice is a power cut between two calls.
"""

from __future__ import annotations

import contextlib
import errno
from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from sluicemq.storage import LogClosed, LogWriteFailed, Record, StorageError
from tests.disk import PowerCut, SimulatedDisk
from tests.storage.stories import SMALL, all_entries, entries, entry, open_log, zxid

OPTIONS = replace(SMALL, spares_max=1)


class LogOnBadDisk(RuleBasedStateMachine):
    """Whatever the disk does, no entry that was confirmed is lost in silence, and none is served that was not written.

    Damage (a flipped bit, a lost or misdirected write) ends a directory: what is found in it may be less, never wrong.
    """

    @initialize(seed=st.integers(0, 1 << 16))
    def start(self, seed):
        self.disk = SimulatedDisk(seed)
        self.log = open_log(self.disk, OPTIONS)
        self.model: list[Record] = []
        self.confirmed = 0

    # --- What the broker does ---------------------------------------------------------------------------------

    def group(self, sizes, new_epoch: bool) -> list[Record]:
        made, last = [], self.log.last_zxid
        for position, size in enumerate(sizes):
            first = not last or (new_epoch and not position)
            last = ((last >> 32) + 1) << 32 if first else last + 1
            made.append(entry(last, self.disk.random.randbytes(size)))
        return made

    sizes = st.lists(st.integers(0, 3000), min_size=1, max_size=5)

    @rule(sizes=sizes, new_epoch=st.booleans())
    def append(self, sizes, new_epoch):
        group = self.group(sizes, new_epoch)
        self.model += group
        self.log.append(group)

    @rule(mark=st.booleans())
    def sync(self, mark):
        if mark:
            self.log.mark_idle()
        else:
            self.log.sync()
        self.confirmed = len(self.model)

    @rule()
    def roll(self):
        """Two entries of the largest size never fit one segment."""
        rolls = self.log.statistics().rolls
        largest = OPTIONS.entry_bytes_max - 100
        self.append([largest, largest], new_epoch=False)
        assert self.log.statistics().rolls > rolls
        self.confirmed = max(self.confirmed, len(self.model) - 2)

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def truncate(self, data):
        kept = data.draw(st.integers(0, len(self.model)))
        self.log.truncate_after(self.model[kept - 1].zxid if kept else 0)
        del self.model[kept:]
        self.confirmed = kept

    @rule()
    def prepare_spare(self):
        self.log.prepare_spare()

    # --- How a life ends ------------------------------------------------------------------------------------------

    @rule()
    def close_and_open(self):
        self.log.close()
        with pytest.raises(LogClosed):
            self.log.sync()
        self.confirmed = len(self.model)
        self.come_back(power=True)

    @rule(power=st.booleans())
    def kill(self, power):
        self.come_back(power)

    @rule(sizes=sizes, operations=st.integers(1, 12))
    def cut_the_power_in_the_middle(self, sizes, operations):
        group = self.group(sizes, new_epoch=False)
        self.model += group
        self.disk.cut_power_after(operations)
        try:
            self.log.append(group)
            self.log.sync()
            self.confirmed = len(self.model)
            self.log.mark_idle()
            self.log.prepare_spare()
            self.disk.cut_power()
        except PowerCut:
            pass
        self.come_back(power=False)

    @rule(sizes=sizes, kind=st.sampled_from(["write", "sync"]), nth=st.integers(1, 2), power=st.booleans())
    def the_disk_fails(self, sizes, kind, nth, power):
        """The log is dead from then on; the process ends, and the next one finds at least what was confirmed."""
        group = self.group(sizes, new_epoch=False)
        self.disk.fail_after(nth, errno.EIO, kind, "segment-")
        self.model += group
        with pytest.raises(LogWriteFailed):
            self.append_and_sync_until_it_fails(group)
        for call in (self.log.sync, self.log.mark_idle, lambda: self.log.append([])):
            with pytest.raises(LogWriteFailed):
                call()
        self.come_back(power)

    def append_and_sync_until_it_fails(self, group: list[Record]) -> None:
        """A second group, for a fault that strikes the second operation of its kind."""
        self.log.append(group)
        self.log.sync()
        self.confirmed = len(self.model)
        more = self.group([10], new_epoch=False)
        self.model += more
        self.log.append(more)
        self.log.sync()

    @rule(room_bytes=st.integers(0, 6000), power=st.booleans())
    def the_disk_is_full(self, room_bytes, power):
        """Appending to a growing segment until it cannot grow: fatal, and nothing that was confirmed is gone."""
        self.disk.capacity_bytes = self.disk.used_bytes() + room_bytes
        with pytest.raises(LogWriteFailed, match="No space"):
            self.append_until_it_fails()
        self.disk.capacity_bytes = None
        self.come_back(power)

    def append_until_it_fails(self) -> None:
        for _ in range(100):
            self.append([1000], new_epoch=False)
            self.log.sync()
            self.confirmed = len(self.model)

    def come_back(self, power: bool) -> None:
        """The next start: after kill -9 (`power` stays on) or after a power cut."""
        self.disk = self.disk.restart() if power else self.disk.crash()
        self.log = open_log(self.disk, OPTIONS)
        survived = sum(record.zxid <= self.log.last_zxid for record in self.model)
        assert survived >= self.confirmed, f"{self.confirmed} were confirmed, {survived} are left"
        del self.model[survived:]
        self.confirmed = survived  # recovery made all of it durable, and says so
        assert self.log.synced_zxid == self.log.last_zxid

    @invariant()
    def holds_what_the_list_holds(self):
        if hasattr(self, "log"):
            assert all_entries(self.log) == self.model

    # --- Damage ---------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.model)
    @rule(count=st.integers(1, 3))
    def bits_flip(self, count):
        """What the log itself proves to have been durable is there, or the damage is named."""
        self.log.mark_idle()
        for _ in range(count):
            self.disk.flip_random_bit("segment-")
        self.serves_only_the_truth(at_least=len(self.model) if count == 1 else 0)

    @rule(sizes=sizes, lost=st.booleans(), followed=st.booleans())
    def a_write_goes_wrong(self, sizes, lost, followed):
        """Lost or misplaced while everybody believes that it was done."""
        if lost:
            self.disk.lose_write_after(1, "segment-")
        else:
            self.disk.misdirect_write_after(1, "segment-")
        self.append(sizes, new_epoch=False)
        self.log.sync()
        self.disk.faults.clear()
        if followed:
            self.append([10], new_epoch=False)
            self.log.mark_idle()
        self.serves_only_the_truth(at_least=len(self.model) if followed else 0)

    def serves_only_the_truth(self, at_least: int) -> None:
        self.disk.drop_caches()
        for wanted in self.model:
            with contextlib.suppress(StorageError):
                assert self.log.read(wanted.zxid) == wanted
        self.disk = self.disk.crash()
        with contextlib.suppress(StorageError):
            found = all_entries(open_log(self.disk, OPTIONS))
            assert found == self.model[: len(found)]
            assert len(found) >= at_least, f"of {at_least} entries {len(found)} are left, and nobody says so"
        self.start(self.disk.random.getrandbits(16))


LogOnBadDisk.TestCase.settings = settings(max_examples=150, stateful_step_count=25, deadline=None)
TestLogOnBadDisk = LogOnBadDisk.TestCase


def test_what_a_failed_sync_left_in_the_page_cache_is_not_taken_for_durable():
    """The kernel calls the pages clean: to the next process they look written, and its sync succeeds without a deed."""
    for seed in range(50):
        disk = SimulatedDisk(seed)
        log = open_log(disk)
        log.append(entries(zxid(1, 0), 3))
        log.sync()
        log.append(entries(zxid(1, 3), 3))
        disk.fail_after(1, errno.EIO, "sync")
        with pytest.raises(LogWriteFailed):
            log.sync()

        disk = disk.restart()
        claimed = open_log(disk).synced_zxid
        assert open_log(disk.crash()).last_zxid >= claimed
