"""`sluicemq cluster force-new`: what it shows, refuses and writes, and that a power cut anywhere leaves a way on."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from sluicemq.broker.commands.forcing import EPOCHS_APART, CannotForceNew, force_new
from sluicemq.broker.commands.manners import failure_of
from sluicemq.broker.commands.program import command
from sluicemq.broker.pipeline.ensemble.configurations import (
    check_own_disk,
    configuration_of,
    pack_configuration,
    unpack_configuration,
)
from sluicemq.broker.pipeline.ensemble.view import View
from sluicemq.broker.pipeline.keeping.restart import Restart, load_newest, replay
from sluicemq.broker.queues import entries as e
from sluicemq.broker.queues.entries_of_cluster import Membership, NodeAddress
from sluicemq.broker.replication.membership import Configuration, Member
from sluicemq.storage import LogOptions, PageFile, RealDirectory, Record, SegmentLog, SnapshotStore
from sluicemq.storage.errors import StorageError
from tests.broker.commands.test_log import Story, filled, flip, publish, sluicemq, story, verify, zxid
from tests.broker.commands.test_log_repair import photograph
from tests.disk import PowerCut, SimulatedDisk

if TYPE_CHECKING:
    from click.testing import Result

    from sluicemq.storage.files import Directory

__all__ = ["story"]
NOW_MS = 1_700_000_000_100
ORDERS = zxid(1, 1)


def three(own: bytes, node: int = 3) -> Configuration:
    """Who votes: nodes 1 to 3, of which this disk is one."""
    others = [Member(each, bytes([each]) * 16) for each in (1, 2, 3) if each != node]
    return Configuration(frozenset({Member(node, own), *others}))


def of_three(story: Story) -> Story:
    """Let the story be that of node 3 of three brokers."""
    voters = pack_configuration(three(story.log.incarnation))
    addresses = (NodeAddress(NOW_MS, node, f"10.0.0.{node}:7650") for node in (1, 2, 3))
    story.write(Membership(NOW_MS, voters), *addresses)
    story.log.save_promised_epoch(4)
    return story


def force(story: Story, *options: str, node: int = 3) -> Result:
    return sluicemq("cluster", "force-new", "--data", story.directory, "--node-id", node, *options)


def forced(story: Story, *options: str) -> dict[str, Any]:
    result = force(story, "--json", *options)
    assert result.exit_code == 0, result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    return found


class Started:
    """What a start finds in a directory.

    Attributes:
        configuration: Who votes, to the machine.
        ensemble: And to a broker of a cluster, which reads the log itself.

    """

    def __init__(self, directory: Directory) -> None:
        log = SegmentLog.open(directory)
        pages = PageFile.open(directory, cluster_id=log.cluster_id)
        self.machine = load_newest(log, SnapshotStore(directory, log.cluster_id), pages, Restart())
        view = View(log, configuration_of(self.machine.cluster), self.machine.applied_zxid)
        replay(log, self.machine, None, Restart())
        self.machine.check()
        latest = view.configuration_at(view.last.zxid)
        self.ensemble = None if latest is None else latest[1]
        packed = self.machine.cluster.configuration
        self.configuration = unpack_configuration(packed) if packed else None
        self.own = Member(3, log.incarnation)
        self.superblock = log.superblock.current
        self.last_zxid = log.last_zxid
        self.bodies = [log.read(each).payload for each in (zxid(1, 4),)]
        pages.close()
        log.close()

    @property
    def is_forced(self) -> bool:
        return self.configuration == Configuration(frozenset({self.own}))


def test_the_directory_of_one_broker_becomes_a_cluster_of_its_own_with_all_that_was_in_it(story: Story) -> None:
    of_three(story).close()
    before = Started(RealDirectory(story.directory))
    old_id = before.superblock.known_as
    assert before.superblock.cluster_id == old_id

    found = forced(story, "--yes")

    after = Started(RealDirectory(story.directory))
    assert after.is_forced
    assert after.ensemble == after.configuration, "a broker that is started with --peers reads the same"
    check_own_disk(after.ensemble, after.own)
    assert after.superblock.known_as.hex() == found["new_cluster_id"] != old_id.hex()
    assert after.superblock.promised_epoch == after.last_zxid >> 32 == found["new_epoch"]
    assert EPOCHS_APART <= found["new_epoch"] - 4 < 2 * EPOCHS_APART
    assert after.machine.cluster.addresses == {3: "10.0.0.3:7650"}
    assert after.machine.cluster.removed == {1, 2}
    assert (after.bodies, after.machine.log_time_ms) == (before.bodies, before.machine.log_time_ms)
    queue, then = after.machine.queue(ORDERS), before.machine.queue(ORDERS)
    assert queue is not None
    assert then is not None
    assert (queue.main.messages, queue.leased) == (then.main.messages, then.leased)
    verdict = verify(story)
    assert (verdict["ok"], verdict["cluster_id"]) == (True, found["new_cluster_id"])
    assert [note for note in verdict["notes"] if found["new_cluster_id"] in note and old_id.hex() in note]


def test_a_repair_that_makes_the_superblock_anew_says_that_it_knows_the_old_id_only(story: Story) -> None:
    of_three(story).close()
    forced(story, "--yes")
    superblock = story.directory / "superblock"
    old_id = Started(RealDirectory(story.directory)).superblock.cluster_id
    superblock.unlink()
    result = sluicemq("log", "repair", "--data", story.directory, "--dry-run")
    assert result.exit_code == 0, result.stderr
    assert f"{old_id.hex()}: if `sluicemq cluster force-new` was used" in result.stderr


def test_it_also_works_where_a_snapshot_says_who_votes_and_the_log_has_forgotten(story: Story) -> None:
    filled(of_three(story), 3)
    photograph(story)
    story.log.begin_at(story.log.last_zxid)
    filled(story, 4).close()

    forced(story, "--yes")

    assert Started(RealDirectory(story.directory)).is_forced
    assert verify(story)["ok"] is True


def test_a_dry_run_says_how_far_a_copy_goes_and_changes_nothing(story: Story) -> None:
    of_three(story).close()
    digest = story.digest()

    found = forced(story, "--dry-run")
    told = force(story, "--dry-run").stdout

    assert story.digest() == digest
    assert found == {
        "node_id": 3,
        "cluster_id": Started(RealDirectory(story.directory)).superblock.cluster_id.hex(),
        "voters": [1, 2, 3],
        "last_zxid": "1.11",
        "epoch": 1,
        "promised_epoch": 4,
        "log_time": "2023-11-14T22:13:20.100000+00:00",
    }
    for line in ("directory of  node 3", "voters        1, 2, 3", "last entry    1.11 ", "2023-11-14 22:13:20 UTC"):
        assert line in told


def test_it_asks_first_and_takes_nothing_but_its_own_word(story: Story) -> None:
    of_three(story).close()
    digest = story.digest()
    arguments = ["cluster", "force-new", "--data", str(story.directory), "--node-id", "3"]

    no = CliRunner().invoke(command, arguments, input="yes\n")
    assert (no.exit_code, story.digest()) == (1, digest)
    assert "Type 'force-new' to do it" in no.stderr
    assert "brokers 1, 2 have beyond that is lost" in no.stderr
    assert "nothing was changed" in no.stderr

    yes = CliRunner().invoke(command, arguments, input="force-new\n")
    assert yes.exit_code == 0
    assert "Node 3 is the only voter of the new cluster" in yes.stdout
    assert "All entries up to 1.11 are kept" in yes.stdout


def test_a_second_time_it_is_refused_because_it_is_done(story: Story) -> None:
    of_three(story).close()
    forced(story, "--yes")
    digest = story.digest()

    again = force(story, "--yes")

    assert (again.exit_code, story.digest()) == (1, digest)
    assert "node 3 is the only voter already: `sluicemq serve` serves it as it is. Nothing was changed" in again.stderr


@pytest.mark.parametrize("option", ["--yes", "--dry-run"])
def test_the_number_of_another_broker_is_refused(option: str, story: Story) -> None:
    of_three(story).close()
    digest = story.digest()

    wrong = force(story, option, node=2)

    assert (wrong.exit_code, story.digest()) == (1, digest)
    assert "it is that of node 3, not of node 2: give --node-id 3, or the directory of node 2" in wrong.stderr


def test_a_broker_on_its_own_is_told_that_it_is(story: Story) -> None:
    story.close()
    assert "is the only voter already" in force(story, "--yes").stderr


def test_a_directory_that_is_in_use_is_refused_and_may_be_looked_at(story: Story) -> None:
    of_three(story)

    busy = force(story, "--yes")

    assert busy.exit_code == 1
    assert f"is in use by process {os.getpid()}; stop it first" in busy.stderr
    assert forced(story, "--dry-run")["voters"] == [1, 2, 3]
    story.close()


def test_where_there_is_no_directory_none_is_made(tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere"

    missing = sluicemq("cluster", "force-new", "--data", nowhere, "--node-id", 3, "--yes")

    assert missing.exit_code == 1
    assert "there is no such data directory" in missing.stderr
    assert not nowhere.exists()


def test_a_log_without_an_entry_has_nothing_to_go_on_with(tmp_path: Path) -> None:
    SegmentLog.open(RealDirectory(tmp_path / "data")).close()

    empty = sluicemq("cluster", "force-new", "--data", tmp_path / "data", "--node-id", 3, "--yes")

    assert empty.exit_code == 1
    assert "its log holds no entry" in empty.stderr


@pytest.mark.parametrize("option", ["--yes", "--dry-run"])
def test_a_damaged_log_is_repaired_first(option: str, story: Story) -> None:
    path = filled(of_three(story), 3).close().segments()[0]
    flip(path, path.read_bytes().index(b"x" * 9000) + 50)
    digest = story.digest()

    damaged = force(story, option)

    assert (damaged.exit_code, story.digest()) == (1, digest)
    assert f"its log is damaged, in {path}" in damaged.stderr
    assert "else run `sluicemq log repair`, then this again" in damaged.stderr


def test_what_was_learned_in_the_place_of_a_damaged_log_is_refused(story: Story) -> None:
    of_three(story)
    story.log.superblock.save(damaged_from=zxid(1, 2))
    story.close()

    refused = force(story, "--yes")

    assert refused.exit_code == 1
    assert "its log was damaged and set aside" in refused.stderr


def test_a_disk_that_never_voted_becomes_whatever_number_it_is_given(story: Story) -> None:
    strangers = Configuration(frozenset(Member(each, bytes([each]) * 16) for each in (1, 2)))
    story.write(Membership(NOW_MS, pack_configuration(strangers))).close()
    assert forced(story, "--dry-run")["node_id"] is None
    assert "a broker that does not vote" in force(story, "--dry-run").stdout

    forced(story, "--yes")

    assert Started(RealDirectory(story.directory)).is_forced


def test_a_change_of_voters_that_was_under_way_is_over(story: Story) -> None:
    now = three(story.log.incarnation)
    story.write(Membership(NOW_MS, pack_configuration(Configuration(now.voters, now.voters | {Member(4, b"4" * 16)}))))
    story.close()
    assert forced(story, "--dry-run")["voters"] == [1, 2, 3, 4]

    forced(story, "--yes")

    after = Started(RealDirectory(story.directory))
    assert after.is_forced
    assert after.ensemble == after.configuration


def test_its_error_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(CannotForceNew("data", "it is empty")))
    assert str(error) == "data is not made a new cluster: it is empty. Nothing was changed"


# --- a power cut anywhere ------------------------------------------------------------------------------------------


def disk_of_three(seed: int) -> SimulatedDisk:
    """The directory of node 3 of three brokers, on a disk of which the power can be cut."""
    disk = SimulatedDisk(seed)
    options = LogOptions(segment_bytes=1 << 16, initial_bytes=1 << 13, zero_piece_bytes=1 << 13)
    log = SegmentLog.open(disk, options=options)
    entries: list[e.Entry] = [
        e.Epoch(NOW_MS, 1, pack_configuration(three(log.incarnation))),
        e.Declare(NOW_MS, "/", "queue", "orders", {}),
        e.ProducerOpen(NOW_MS, "/", "", ""),
        publish(ORDERS, 1, b"first"),
        publish(ORDERS, 2, b"second"),
        *(NodeAddress(NOW_MS, node, f"10.0.0.{node}:7650") for node in (1, 2, 3)),
    ]
    for counter, each in enumerate(entries):
        log.append([Record(zxid(1, counter), each.KIND, each.VERSION, 0, each.header(), bytes(each.payload))])
    log.sync()
    log.close()
    return disk.restart()


@pytest.mark.parametrize("seed", range(3))
def test_the_power_may_go_at_every_step_and_the_command_goes_on(seed: int) -> None:
    operations = 0
    found: set[tuple[bool, bool]] = set()
    whole = disk_of_three(seed)
    old_id = Started(whole).superblock.cluster_id
    while True:
        operations += 1
        disk = disk_of_three(seed)
        disk.cut_power_after(operations)
        try:
            force_new(disk, 3)
        except PowerCut:
            pass
        else:
            break
        disk = disk.crash()
        after = Started(disk)
        renamed, alone = after.superblock.known_as != old_id, after.is_forced
        assert renamed or not alone, "alone in the old cluster: two of them could decide"
        assert alone or after.configuration == three(after.own.incarnation), "who votes is known at all times"
        assert after.superblock.cluster_id == old_id
        found.add((renamed, alone))
        disk = disk.restart()
        if not alone:
            force_new(disk, 3)
            after = Started(disk.crash())
            assert after.is_forced
            assert after.superblock.known_as != old_id
        queue = after.machine.queue(ORDERS)
        assert queue is not None
        assert queue.main.messages == 2
        assert after.machine.cluster.addresses == {3: "10.0.0.3:7650"}
    assert found == {(False, False), (True, False), (True, True)}
    assert operations > 10


@pytest.mark.parametrize("kind", ["write", "sync"])
def test_a_disk_that_fails_leaves_the_same_choice(kind: str) -> None:
    old_id = Started(disk_of_three(1)).superblock.cluster_id
    failed = 0
    while True:
        failed += 1
        disk = disk_of_three(1)
        disk.fail_after(failed, kind=kind)
        try:
            force_new(disk, 3)
        except (StorageError, OSError) as error:
            told = failure_of(error)
        else:
            break
        assert told is not None, "the user is told, in one line"
        after = Started(disk.crash())
        assert after.superblock.known_as != old_id or not after.is_forced
    assert failed > 3
