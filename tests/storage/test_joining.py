"""An empty directory takes over a cluster's id, whatever power cuts happen; one with entries never does."""

from __future__ import annotations

import contextlib

import pytest

from sluicemq.storage import SegmentLog
from sluicemq.storage.joining import join_cluster
from sluicemq.storage.options import LogOptions
from sluicemq.storage.pagefile import PageFile
from sluicemq.storage.record import Record
from tests.disk import PowerCut, SimulatedDisk

OPTIONS = LogOptions(segment_bytes=1 << 18, initial_bytes=1 << 14, spares_max=1)
CLUSTER = b"the other one   "


def an_empty_directory() -> tuple[SimulatedDisk, bytes, bytes]:
    """Return a disk whose log holds nothing but a promise, with pages beside it; who it is, and of which cluster."""
    disk = SimulatedDisk(3)
    with contextlib.closing(SegmentLog.open(disk, options=OPTIONS)) as log:
        log.save_promised_epoch(7)
        PageFile.open(disk, cluster_id=log.cluster_id).close()
        incarnation, cluster = log.incarnation, log.cluster_id
    disk.flush()
    return disk, incarnation, cluster


def test_the_id_changes_and_who_it_is_and_what_it_promised_stays() -> None:
    disk, incarnation, _ = an_empty_directory()
    join_cluster(disk, CLUSTER)
    with contextlib.closing(SegmentLog.open(disk, options=OPTIONS, cluster_id=CLUSTER)) as log:
        assert (log.incarnation, log.promised_epoch, log.last_zxid) == (incarnation, 7, 0)
        PageFile.open(disk, cluster_id=log.cluster_id).close()
        log.append([Record(8 << 32, 1, 1, 0, b"", b"")])
        log.sync()
    SegmentLog.open(disk, options=OPTIONS, cluster_id=CLUSTER).close()


def test_a_log_with_entries_joins_nobody() -> None:
    disk = SimulatedDisk(3)
    with contextlib.closing(SegmentLog.open(disk, options=OPTIONS)) as log:
        cluster = log.cluster_id
        log.append([Record(1 << 32, 1, 1, 0, b"", b"")])
        log.sync()
    with pytest.raises(ValueError, match="it can join no other"):
        join_cluster(disk, CLUSTER)
    SegmentLog.open(disk, options=OPTIONS, cluster_id=cluster).close()
    with pytest.raises(ValueError, match="16 bytes, not 3"):
        join_cluster(disk, b"abc")


def test_the_power_may_go_off_at_any_moment() -> None:
    seen = set()
    for operations in range(1, 200):
        disk, incarnation, before = an_empty_directory()
        disk.cut_power_after(operations)
        try:
            join_cluster(disk, CLUSTER)
        except PowerCut:
            done = False
        else:
            done = True
        with contextlib.closing(SegmentLog.open(disk.crash(), options=OPTIONS)) as log:
            assert log.cluster_id in (before, CLUSTER)
            assert (log.incarnation, log.promised_epoch, log.last_zxid) == (incarnation, 7, 0)
            assert log.cluster_id == CLUSTER or not done
            seen.add(log.cluster_id == CLUSTER)
        if done:
            break
    assert done
    assert seen == {False, True}
