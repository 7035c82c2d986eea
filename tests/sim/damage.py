"""Disks that do not keep what they were given: rot, files that are cut off or gone, writes that never happened.

What must hold then: a node either finds all that it had, or refuses to start, and votes for nothing until an operator
has given it an empty disk and the others have taught it again. One copy that says nothing of what it lost is beyond any
protocol: damage that only strikes what no later record and no superblock proves to have been durable looks like a torn
write. The simulator takes such damage back and counts it (`Truth.unseen_damages`).

This module must not know when damage strikes.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING
from unittest import mock

from sluicemq.storage import SegmentLog, SnapshotStore, StorageError, recovery
from tests.disk import SimulatedDisk, _Content, _Inode
from tests.sim import snapshots

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.sim.node import Node

SPARED = ("lock",)
_judge_end = recovery.judge_end


def copy_of(disk: SimulatedDisk) -> SimulatedDisk:
    """Return a disk of its own with the same bytes, all of them durable."""
    copy = SimulatedDisk(random.Random(0))
    for name, inode in disk._names.items():
        copy._names[name] = _Inode(name, inode.current.copy(), list(inode.unreadable))
    copy._durable_names = dict(copy._names)
    return copy


def contents(disk: SimulatedDisk) -> dict[str, _Content]:
    """Return what readers see of each file: the truth, while only the kernel knows it."""
    return {name: inode.current.copy() for name, inode in disk._names.items()}


def put_back(disk: SimulatedDisk, whole: dict[str, _Content]) -> None:
    """Let files be as readers saw them."""
    for name, inode in disk._names.items():
        if name in whole:
            inode.durable = whole[name].copy()
            inode.current = whole[name].copy()
            inode.unsynced.clear()


def is_seen(node: Node) -> bool:
    """Whether a start from the present disk of *node* refuses, or finds everything that was durable."""
    trial, ledger, settings = copy_of(node.disk), node.ledger, node.settings
    try:
        with mock.patch.object(recovery, "judge_end", _judge_end):  # also when a mutant judges otherwise
            log = SegmentLog.open(trial, options=settings.log, cluster_id=settings.cluster_id)
            snapshots.restart(log, SnapshotStore(trial, log.cluster_id))
    except (StorageError, OSError):
        return True
    return log.last_zxid >= ledger.last_zxid and log.promised_epoch >= ledger.promised_epoch


# --- what happens to bytes at rest ------------------------------------------------------------------------------------


def rot(disk: SimulatedDisk, choice: random.Random) -> None:
    """Some bits of any files flip."""
    for _ in range(choice.choice((1, 1, 3, 10))):
        _flip(disk, choice, choice.choice(("segment-", "segment-", "snapshot-", "")))


def _flip(disk: SimulatedDisk, choice: random.Random, prefix: str) -> None:
    names = [name for name in _names(disk, prefix) if disk.content_of(name)]
    if not names:
        return
    name = choice.choice(names)
    written = disk.content_of(name).rstrip(b"\0")
    disk.flip_bit(name, choice.randrange(max(1, len(written))), choice.randrange(8))


def cut_file(disk: SimulatedDisk, choice: random.Random) -> None:
    """The end of a file is gone."""
    names = _names(disk, choice.choice(("segment-", "segment-", "")))
    if names:
        name = choice.choice(names)
        inode = disk._names[name]
        inode.settle()
        inode.durable.truncate(choice.randrange(inode.durable.size + 1))
        inode.forget()


def lose_file(disk: SimulatedDisk, choice: random.Random) -> None:
    """A file is gone."""
    names = _names(disk, choice.choice(("segment-", "snapshot-", "")))
    if names:
        name = choice.choice(names)
        del disk._names[name]
        disk._durable_names.pop(name, None)


def lose_snapshots(disk: SimulatedDisk, choice: random.Random) -> None:
    """All snapshots are gone."""
    del choice
    for name in _names(disk, "snapshot-"):
        del disk._names[name]
        disk._durable_names.pop(name, None)


def unreadable(disk: SimulatedDisk, choice: random.Random) -> None:
    """A sector cannot be read."""
    names = [name for name in _names(disk, "") if disk.content_of(name)]
    if names:
        name = choice.choice(names)
        disk.make_unreadable(name, choice.randrange(len(disk.content_of(name))) // 512 * 512, 512)


def old_bytes(disk: SimulatedDisk, choice: random.Random) -> None:
    """A range of a segment holds zeros, as if it had never been written."""
    names = _names(disk, "segment-")
    if names:
        name = choice.choice(names)
        written = disk.content_of(name).rstrip(b"\0")
        length = choice.choice((8, 512, 4096))
        disk.overwrite(name, choice.randrange(max(1, len(written))) // length * length, bytes(length))


def _names(disk: SimulatedDisk, prefix: str) -> list[str]:
    return [name for name in disk.names() if name.startswith(prefix) and name not in SPARED]


SPOILERS: dict[str, Callable[[SimulatedDisk, random.Random], None]] = {
    "rot": rot,
    "cut_file": cut_file,
    "lose_file": lose_file,
    "lose_snapshots": lose_snapshots,
    "unreadable": unreadable,
    "old_bytes": old_bytes,
}
