"""A snapshot of another broker takes the place of a log: wholly or not at all, whatever the power does."""

from __future__ import annotations

import errno

import pytest

from sluicemq.storage import DiskFull, FileWriteFailed, Record, SegmentLog, SnapshotDamaged, SnapshotStore, installing
from sluicemq.storage.incoming import INCOMING_PREFIX
from sluicemq.storage.installing import Installation, discard_incoming
from sluicemq.storage.page_copies import COPY_NAME, PAGES_NAME
from sluicemq.storage.snapshot_file import snapshot_name
from tests.disk import PowerCut, SimulatedDisk
from tests.storage.stories import SMALL, all_entries, entries, zxid

CLUSTER = b"a cluster of two"
SOURCE = b"leader's, first."
PAGES = b"a page file, as it comes" * 100


class Leader:
    """A broker with a snapshot in the middle of its log; every fifth entry below it is alive."""

    def __init__(self, upto: int = 60) -> None:
        self.disk = SimulatedDisk(1)
        log = SegmentLog.open(self.disk, options=SMALL, cluster_id=CLUSTER)
        for start in range(0, 80, 4):
            log.append(entries(zxid(3, start), 4, 300))
        log.sync()
        self.zxid, self.chain = zxid(3, upto), log.chain_at(zxid(3, upto))
        self.alive = [record for record in all_entries(log)[: upto + 1] if record.zxid % 5 == 0]
        writer = SnapshotStore(self.disk, CLUSTER).begin(self.zxid, self.chain, 1)
        for section in range(6):
            writer.add(7, b"%d the state " % section * 150)
        writer.finish()
        self.snapshot = self.disk.content_of(snapshot_name(self.zxid))
        self.later = log.read_after(self.zxid, 100_000)


LEADER, NEWER = Leader(), Leader(upto=70)


class Follower:
    """A broker whose log is older, and has a tail that nobody else has."""

    def __init__(self, seed: int = 2) -> None:
        self.disk = SimulatedDisk(seed)
        self.old = entries(zxid(1, 0), 40)
        log = SegmentLog.open(self.disk, options=SMALL, cluster_id=CLUSTER)
        for start in range(0, 40, 4):
            log.append(self.old[start : start + 4])
        log.save_promised_epoch(5)
        log.begin_at(zxid(1, 20))
        self.incarnation = log.incarnation
        self.old_chain = log.last_chain
        store = SnapshotStore(self.disk, CLUSTER)
        store.begin(zxid(1, 20), log.chain_at(zxid(1, 20)), 1).finish()
        for name in (PAGES_NAME, COPY_NAME):
            file = self.disk.open(name, create=True)
            file.pwritev([b"old pages"], 0)
            file.sync()
        self.disk.sync()
        log.close()
        self.disk = self.disk.restart()

    def start(self) -> SegmentLog:
        return SegmentLog.open(self.disk, options=SMALL, cluster_id=CLUSTER)

    def is_old(self, log: SegmentLog) -> bool:
        """Whether everything of before is there; anything between is a failure."""
        assert log.promised_epoch == 5
        assert log.incarnation == self.incarnation
        if log.start_zxid == LEADER.zxid:
            self.check_new(log)
            return False
        assert (log.last_zxid, log.last_chain) == (self.old[-1].zxid, self.old_chain)
        assert [*live_entries(log), *all_entries(log)] == self.old
        snapshot = SnapshotStore(self.disk, CLUSTER).newest_good()
        assert snapshot is not None
        assert snapshot.zxid == zxid(1, 20)
        return True

    def check_new(self, log: SegmentLog, leader: Leader = LEADER) -> None:
        assert (log.start_zxid, log.last_zxid, log.synced_zxid) == (leader.zxid,) * 3
        assert log.last_chain == leader.chain
        assert live_entries(log) == leader.alive
        assert [log.read(record.zxid) for record in leader.alive] == leader.alive
        snapshot = SnapshotStore(self.disk, CLUSTER).newest_good()
        assert snapshot is not None
        assert (snapshot.zxid, snapshot.chain) == (leader.zxid, leader.chain)
        assert self.disk.content_of(PAGES_NAME) == PAGES
        assert COPY_NAME not in self.disk.names()
        assert not incoming(self.disk)


def live_entries(log: SegmentLog) -> list[Record]:
    return [record for file in log.live_files() for record in log.walk_live(file)]


def incoming(disk: SimulatedDisk) -> list[str]:
    return [name for name in disk.names() if name.startswith(INCOMING_PREFIX)]


def begin(log: SegmentLog, leader: Leader = LEADER, source: bytes = SOURCE) -> Installation:
    return log.begin_installation(leader.zxid, leader.chain, source)


def send(installation: Installation, leader: Leader = LEADER, piece_bytes: int = 700) -> None:
    """Send what is wanted, in small pieces."""
    wanted = [record for record in leader.alive if record.zxid > installation.entries_after]
    for start in range(0, len(wanted), 2):
        installation.add_entries(wanted[start : start + 2])
    for place in range(installation.snapshot_bytes, len(leader.snapshot), piece_bytes):
        installation.add_snapshot(place, leader.snapshot[place : place + piece_bytes])
    for place in range(installation.pages_bytes, len(PAGES), piece_bytes):
        installation.add_pages(place, PAGES[place : place + piece_bytes])


def install(follower: Follower, leader: Leader = LEADER) -> None:
    log = follower.start()
    installation = begin(log, leader)
    send(installation, leader)
    installation.finish()
    log.close()
    installation.switch()


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installing, "LIVE_FILE_BYTES", 1500)
    monkeypatch.setattr(installing, "PROGRESS_BYTES", 2000)


def test_the_log_begins_behind_the_snapshot_and_goes_on_as_the_leaders_does() -> None:
    follower = Follower()
    install(follower)
    log = follower.start()
    follower.check_new(log)
    log.append(LEADER.later)
    log.sync()
    log.close()
    follower.disk = follower.disk.crash()
    log = follower.start()
    assert all_entries(log) == LEADER.later
    assert live_entries(log) == LEADER.alive
    assert log.promised_epoch == 5
    assert not any(name.startswith("segment-") and int(name[8:]) < 1000 for name in follower.disk.names())


def test_a_second_installation_replaces_the_first() -> None:
    follower = Follower()
    install(follower)
    install(follower, NEWER)
    log = follower.start()
    follower.check_new(log, NEWER)


def test_a_snapshot_beneath_which_nothing_is_alive_has_no_files_of_entries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LEADER, "alive", [])
    follower = Follower()
    install(follower)
    follower.check_new(follower.start())


@pytest.mark.parametrize("seed", range(3))
def test_the_power_may_go_at_every_step_and_the_log_is_the_old_or_the_new_one(seed: int) -> None:
    operations, ended, resumed = 0, False, 0
    while not ended:
        operations += 1
        follower = Follower(seed)
        follower.disk.cut_power_after(operations)
        switched = False
        try:
            install(follower)
            switched = ended = True
            follower.disk.cut_power()
        except PowerCut:
            pass
        follower.disk = follower.disk.crash()
        log = follower.start()
        old = follower.is_old(log)
        assert not (switched and old), "what was switched stays"
        if old:
            resumed += 1
            log.close()
            install(follower)
            follower.check_new(follower.start())
    assert operations > 150, "it was cut in many places"
    assert resumed > 100


@pytest.mark.parametrize("seed", range(2))
def test_the_power_may_go_again_while_a_start_carries_out_the_switch(seed: int) -> None:
    """Crashes during recovery: each leaves what the next can finish."""
    first = 0
    while True:
        first += 1
        follower = Follower(seed)
        log = follower.start()
        installation = begin(log)
        send(installation)
        installation.finish()
        log.close()
        follower.disk.cut_power_after(first)
        try:
            installation.switch()
        except PowerCut:
            pass
        else:
            return
        follower.disk = follower.disk.crash()
        for second in range(1, 60, 7):
            follower.disk.cut_power_after(second)
            try:
                follower.start()
            except PowerCut:
                pass
            follower.disk = follower.disk.crash()
        log = follower.start()
        follower.is_old(log)


def test_a_break_loses_only_what_was_not_noted_yet() -> None:
    follower = Follower()
    log = follower.start()
    installation = begin(log)
    installation.add_entries(LEADER.alive[:7])
    installation.add_snapshot(0, LEADER.snapshot[:3000])
    installation.add_snapshot(3000, LEADER.snapshot[3000:3500])
    installation.add_pages(0, PAGES[:1000])
    installation.close()
    again = begin(log)
    assert again.entries_after in {record.zxid for record in LEADER.alive[:7]}
    assert (again.snapshot_bytes, again.pages_bytes) == (3000, 0)
    again.close()
    log.close()
    follower.disk = follower.disk.crash()
    install(follower)
    follower.check_new(follower.start())


def test_the_power_may_go_while_another_snapshot_begins_and_the_first_comes_back_after_all() -> None:
    operations = 0
    while True:
        operations += 1
        follower = Follower(operations)
        log = follower.start()
        send(begin(log))
        follower.disk.cut_power_after(operations)
        try:
            begin(log, source=b"another leader's")
        except PowerCut:
            pass
        else:
            break
        follower.disk = follower.disk.crash()
        install(follower)
        follower.check_new(follower.start())
    assert operations > 5


def test_a_newer_snapshot_keeps_the_entries_and_takes_no_byte_of_the_older_one() -> None:
    follower = Follower()
    log = follower.start()
    installation = begin(log)
    send(installation)
    reached = installation.entries_after
    installation.close()
    again = begin(log, NEWER)
    assert 0 < again.entries_after <= reached
    assert (again.snapshot_bytes, again.pages_bytes) == (0, 0)
    send(again, NEWER)
    again.finish()
    log.close()
    again.switch()
    follower.check_new(follower.start(), NEWER)


def test_an_older_snapshot_and_another_history_begin_anew() -> None:
    follower = Follower()
    log = follower.start()
    send(begin(log, NEWER), NEWER)
    older = begin(log)
    assert (older.entries_after, older.snapshot_bytes) == (0, 0)
    send(older)
    other = log.begin_installation(LEADER.zxid, b"another.", SOURCE)
    assert (other.entries_after, other.snapshot_bytes) == (0, 0)


def test_the_same_snapshot_of_another_source_keeps_only_the_entries() -> None:
    follower = Follower()
    log = follower.start()
    send(begin(log))
    again = begin(log, source=b"another leader's")
    assert again.entries_after > 0
    assert (again.snapshot_bytes, again.pages_bytes) == (0, 0)
    assert f"{INCOMING_PREFIX}{PAGES_NAME}" not in follower.disk.names()


def test_a_snapshot_that_arrived_damaged_is_thrown_away_and_the_log_stays() -> None:
    follower = Follower()
    log = follower.start()
    installation = begin(log)
    send(installation)
    follower.disk.flip_bit(INCOMING_PREFIX + snapshot_name(LEADER.zxid), 5000)
    with pytest.raises(SnapshotDamaged):
        installation.finish()
    assert installation.snapshot_bytes == 0
    with pytest.raises(ValueError, match="finished before the switch"):
        installation.switch()
    send(installation)
    installation.finish()
    log.close()
    installation.switch()
    follower.check_new(follower.start())


def test_nothing_but_a_whole_snapshot_is_installed() -> None:
    log = Follower().start()
    with pytest.raises(SnapshotDamaged, match="nothing of it was sent"):
        begin(log).finish()


def test_mistakes_of_the_caller_are_named() -> None:
    log = Follower().start()
    installation = begin(log)
    with pytest.raises(ValueError, match="wanted from 0 on"):
        installation.add_snapshot(5, b"x")
    installation.add_pages(100, b"x")
    with pytest.raises(ValueError, match="wanted from 101 on"):
        installation.add_pages(100, b"x")
    installation.add_entries(LEADER.alive[:2])
    with pytest.raises(ValueError, match="cannot follow"):
        installation.add_entries(LEADER.alive[:1])
    with pytest.raises(ValueError, match="under a snapshot at"):
        installation.add_entries([replace_zxid(LEADER.alive[0], LEADER.zxid + 1)])
    for zxid_, chain, source in ((0, bytes(8), SOURCE), (1, b"", SOURCE), (1, bytes(8), b"short")):
        with pytest.raises(ValueError, match="a snapshot at"):
            log.begin_installation(zxid_, chain, source)


def replace_zxid(record: Record, zxid_: int) -> Record:
    return record._replace(zxid=zxid_)


@pytest.mark.parametrize(("number", "error"), [(errno.ENOSPC, DiskFull), (errno.EIO, FileWriteFailed)])
def test_a_disk_that_is_full_or_broken_leaves_the_log_as_it_is(number: int, error: type[Exception]) -> None:
    follower = Follower()
    log = follower.start()
    installation = begin(log)
    follower.disk.fail_after(3, number, "write", INCOMING_PREFIX)
    with pytest.raises(error, match="installing a snapshot"):
        send(installation)
    log.close()
    follower.disk = follower.disk.restart()
    assert follower.is_old(follower.start())


def test_what_was_received_can_be_given_up() -> None:
    follower = Follower()
    log = follower.start()
    send(begin(log))
    assert incoming(follower.disk)
    discard_incoming(follower.disk)
    assert not incoming(follower.disk)
    assert follower.is_old(log)
