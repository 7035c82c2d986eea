"""The superblock: one of two copies always survives, the newest wins, and what it does not know it does not touch."""

from __future__ import annotations

import pytest

from sluicemq.storage import NewerFormat, PromiseRegression, SuperblockDamaged
from sluicemq.storage.pages import PAGE_BYTES, seal, unseal
from sluicemq.storage.superblock import (
    FORMAT_VERSION,
    FORMAT_VERSION_AT_REST,
    Generations,
    InstallationIntent,
    Superblock,
    SuperblockStore,
    Truncation,
)
from tests.disk import PowerCut, SimulatedDisk

FIRST = Superblock(cluster_id=b"c" * 16, incarnation=b"i" * 16, group_id=3, generation_next=9)


def created(seed: int = 0) -> tuple[SimulatedDisk, SuperblockStore]:
    disk = SimulatedDisk(seed)
    return disk, SuperblockStore.create(disk, FIRST)


def test_all_fields_come_back():
    disk, store = created()
    store.save(generation_next=100, promised_epoch=4, first_segment=2, synced_zxid=4)
    store.save_truncation(Truncation(zxid=5, segment=6, offset=7))

    found = SuperblockStore.load(disk.crash()).current

    assert (found.cluster_id, found.incarnation, found.group_id) == (b"c" * 16, b"i" * 16, 3)
    assert (found.generation_next, found.promised_epoch, found.first_segment) == (100, 4, 2)
    assert found.truncation == Truncation(5, 6, 7)
    assert found.synced_zxid == 4
    assert found.sequence == 3


@pytest.mark.parametrize("copy", [0, 1])
def test_a_damaged_copy_is_replaced_by_the_other(copy):
    disk, store = created()
    store.save(promised_epoch=8)
    disk.flip_bit("superblock", copy * PAGE_BYTES + 50)

    repaired = SuperblockStore.load(disk)
    repaired.make_durable()

    assert repaired.repaired
    assert repaired.current.promised_epoch == 8
    again = SuperblockStore.load(disk.crash())
    assert not again.repaired
    assert again.current.promised_epoch == 8


@pytest.mark.parametrize("byte", [0, 9, 13, 40, 100, PAGE_BYTES - 1])
def test_with_both_copies_damaged_the_start_is_refused_and_nothing_changed(byte):
    disk, _store = created()
    for copy in range(2):
        disk.flip_bit("superblock", copy * PAGE_BYTES + byte)
    before = disk.content_of("superblock")

    with pytest.raises(SuperblockDamaged, match=r"copy 1: .*copy 2: ") as refused:
        SuperblockStore.load(disk)

    assert refused.value.file == "superblock"
    assert disk.content_of("superblock") == before


@pytest.mark.parametrize("copies", [[0], [1], [0, 1]])
def test_a_newer_format_is_refused_and_nothing_changed(copies):
    disk, _store = created()
    for copy in copies:
        disk.overwrite("superblock", copy * PAGE_BYTES, seal(b"SluiceSB", FORMAT_VERSION + 1, b"fields of the future"))
    before = disk.content_of("superblock")

    with pytest.raises(NewerFormat) as refused:
        SuperblockStore.load(disk)

    assert (refused.value.found, refused.value.supported) == (FORMAT_VERSION + 1, FORMAT_VERSION)
    assert disk.content_of("superblock") == before


def test_the_first_version_is_read_and_replaced_by_the_next_save():
    """It knew no live store, so its software must not start here again."""
    disk, store = created()
    store.save(promised_epoch=7, first_segment=1, synced_zxid=6)
    _version, body = unseal(disk.content_of("superblock")[:PAGE_BYTES], b"SluiceSB")
    for copy in range(2):
        disk.overwrite("superblock", copy * PAGE_BYTES, seal(b"SluiceSB", 1, body[:104]))

    store = SuperblockStore.load(disk)
    assert (store.current.promised_epoch, store.current.synced_zxid) == (7, 0)
    store.save(promised_epoch=8)

    content = disk.crash().content_of("superblock")
    versions = [unseal(content[at : at + PAGE_BYTES], b"SluiceSB")[0] for at in (0, PAGE_BYTES)]
    assert versions == [FORMAT_VERSION_AT_REST, FORMAT_VERSION_AT_REST]


def test_an_installation_is_of_a_version_of_its_own_and_leaves_the_log_where_it_says():
    disk, store = created()
    store.save(promised_epoch=7, first_segment=1, last_segment=3, synced_zxid=900)
    intent = InstallationIntent(zxid=500, segment=80, base=70)
    store.save_installation(intent)

    disk = disk.crash()
    content = disk.content_of("superblock")
    assert [unseal(content[at : at + PAGE_BYTES], b"SluiceSB")[0] for at in (0, PAGE_BYTES)] == [3, 3]
    found = SuperblockStore.load(disk)
    assert (found.current.installation, found.current.truncation) == (intent, None)
    assert found.current.first_segment == 1
    found.save_installation(None)
    now = SuperblockStore.load(disk.crash()).current
    assert (now.first_segment, now.last_segment, now.synced_zxid, now.promised_epoch) == (80, 80, 500, 7)
    assert now.installation is None


def test_a_truncation_takes_the_witness_back():
    _disk, store = created()
    store.save(synced_zxid=9)

    store.save_truncation(Truncation(zxid=5, segment=6, offset=7))
    store.save_truncation(None)

    assert store.current.synced_zxid == 5


def test_a_generation_is_handed_out_once_whatever_power_cuts_happen():
    """The superblock reserves them before the first of them is used."""
    disk, store = created()
    taken = []
    for _ in range(5):
        generations = Generations(store, store.current.generation_next, reserved_at_once=3)
        taken += [generations.take() for _ in range(4)]
        disk = disk.crash()
        store = SuperblockStore.load(disk)

    assert len(set(taken)) == 20
    assert store.current.generation_next > max(taken)


def test_a_promise_never_decreases():
    _disk, store = created()
    store.save(promised_epoch=5)

    with pytest.raises(PromiseRegression):
        store.save(promised_epoch=4)

    assert store.current.promised_epoch == 5


@pytest.mark.parametrize("operation", range(1, 5))
@pytest.mark.parametrize("seed", range(20))
def test_a_power_cut_during_a_save_leaves_the_old_state_or_the_new(seed, operation):
    disk, store = created(seed)
    disk.cut_power_after(operation)
    with pytest.raises(PowerCut):
        store.save(promised_epoch=1)

    disk = disk.crash()
    found = SuperblockStore.load(disk)
    found.make_durable()

    assert found.current.promised_epoch in (0, 1)
    if operation > 2:  # the first copy was synced
        assert found.current.promised_epoch == 1
    assert SuperblockStore.load(disk.crash()).current == found.current


@pytest.mark.parametrize("operation", range(1, 7))
@pytest.mark.parametrize("seed", range(10))
def test_a_superblock_appears_whole_or_not_at_all(seed, operation):
    disk = SimulatedDisk(seed)
    disk.cut_power_after(operation)
    try:
        SuperblockStore.create(disk, FIRST)
    except PowerCut:
        pass
    disk = disk.crash()

    if "superblock" in disk.names():
        assert SuperblockStore.load(disk).current == FIRST
    else:
        assert operation < 6
        SuperblockStore.create(disk, FIRST)


def test_a_new_cluster_is_a_name_beside_the_one_in_the_files_and_of_a_version_of_its_own():
    disk, store = created()
    assert store.current.known_as == b"c" * 16
    store.save_new_cluster(b"n" * 16, promised_epoch=70_000)
    store.save(first_segment=1, damaged_from=5)

    disk = disk.crash()
    content = disk.content_of("superblock")
    assert [unseal(content[at : at + PAGE_BYTES], b"SluiceSB")[0] for at in (0, PAGE_BYTES)] == [FORMAT_VERSION] * 2
    found = SuperblockStore.load(disk)
    assert (found.current.cluster_id, found.current.known_as) == (b"c" * 16, b"n" * 16)
    assert (found.current.promised_epoch, found.current.incarnation) == (70_000, b"i" * 16)
    with pytest.raises(PromiseRegression):
        found.save_new_cluster(b"m" * 16, promised_epoch=69_999)

    found.forget_log()
    assert found.current.known_as == b"n" * 16, "a damaged log that is learned anew is of the same cluster"
    found.forget_log(b"o" * 16)
    assert (found.current.cluster_id, found.current.known_as) == (b"o" * 16, b"o" * 16)


@pytest.mark.parametrize("operation", range(1, 5))
@pytest.mark.parametrize("seed", range(10))
def test_a_power_cut_leaves_the_old_cluster_or_the_new_one_with_its_promise(seed, operation):
    disk, store = created(seed)
    disk.cut_power_after(operation)
    with pytest.raises(PowerCut):
        store.save_new_cluster(b"n" * 16, promised_epoch=7)

    found = SuperblockStore.load(disk.crash()).current

    assert (found.known_as, found.promised_epoch) in ((b"c" * 16, 0), (b"n" * 16, 7))
    if operation > 2:  # the first copy was synced
        assert found.known_as == b"n" * 16
