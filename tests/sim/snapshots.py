"""Snapshots of a node: taken from the machine, shipped to another node, put in the place of its log.

A snapshot is the machine's image, and one section of our own: which configuration holds there. The storage code puts a
received one in the place of a log (`file_of` is what it is sent); `disk_with` makes what an operator leaves of a disk
that is damaged. This module must not know the network or time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import msgpack

from sluicemq.broker.pipeline.keeping.restart import check_fits
from sluicemq.broker.queues.image import load
from sluicemq.broker.queues.machine import Machine
from sluicemq.broker.replication.history import Position
from sluicemq.storage import LogOptions, SegmentLog, SnapshotMissing, SnapshotStore
from sluicemq.storage.segment import SegmentHeader, install, segment_name
from sluicemq.storage.snapshot_file import snapshot_name
from sluicemq.storage.superblock import Superblock, SuperblockStore
from tests.disk import SimulatedDisk
from tests.sim.entries import MACHINE_LIMITS, pack_configuration, unpack_configuration

if TYPE_CHECKING:
    from sluicemq.broker.replication.membership import Configuration

CONFIGURATION_SECTION = 1_000
KEPT = 2


class Image(NamedTuple):
    """A whole snapshot in memory: as it is read, sent, and written again."""

    position: Position
    configuration_zxid: int
    configuration: Configuration
    sections: tuple[tuple[int, bytes], ...]


def take(machine: Machine, log: SegmentLog, store: SnapshotStore, configuration: tuple[int, Configuration]) -> int:
    """Write a snapshot of the machine; return where the log may begin now, 0 if it must stay as it is. Blocks."""
    freeze = machine.freeze()
    sections = freeze.pack(lambda: True)
    position = Position(freeze.zxid, log.chain_at(freeze.zxid))
    return _write(store, Image(position, *configuration, tuple(sections)))


def _write(store: SnapshotStore, image: Image) -> int:
    writer = store.begin(image.position.zxid, image.position.chain, 1)
    packed = msgpack.packb([image.configuration_zxid, pack_configuration(image.configuration)])
    writer.add(CONFIGURATION_SECTION, packed)
    for kind, data in image.sections:
        writer.add(kind, data)
    writer.finish()
    kept = store.keep(KEPT)
    return kept[-1].zxid if len(kept) == KEPT else 0


def read_newest(store: SnapshotStore) -> Image | None:
    """Return the newest good snapshot, if there is one. Blocks."""
    snapshot = store.newest_good()
    if snapshot is None:
        return None
    with snapshot:
        (_, packed), *sections = snapshot.sections()
        configuration_zxid, configuration = msgpack.unpackb(packed)
        return Image(
            Position(snapshot.zxid, snapshot.chain),
            configuration_zxid,
            unpack_configuration(configuration),
            tuple(sections),
        )


def restart(log: SegmentLog, store: SnapshotStore) -> tuple[Machine, Image | None]:
    """Return the machine that a start begins with, and the snapshot it came from. What follows must be committed first.

    Raises SnapshotMissing, SnapshotContradictsLog, and what reading raises.
    """
    snapshot = store.newest_good()
    if snapshot is None:
        if log.start_zxid:
            raise SnapshotMissing(log.start_zxid, ())
        return Machine(MACHINE_LIMITS), None
    with snapshot:
        check_fits(log, snapshot)
    image = read_newest(store)
    assert image is not None
    store.keep(KEPT)
    machine = load(image.sections)
    assert machine.applied_zxid == image.position.zxid, "a snapshot holds what its name says"
    return machine, image


def file_of(image: Image, cluster_id: bytes) -> bytes:
    """Return the file of a snapshot, as it is sent."""
    disk = SimulatedDisk(0)
    _write(SnapshotStore(disk, cluster_id), image)
    return disk.content_of(snapshot_name(image.position.zxid))


def disk_with(
    old: SimulatedDisk, known: tuple[bytes, bytes, int], image: Image | None, options: LogOptions
) -> SimulatedDisk:
    """Return a disk with cluster, incarnation and promise as *known*, and a log that begins behind *image*. Durable."""
    disk = SimulatedDisk(old.random, capacity_bytes=old.capacity_bytes)
    cluster_id, incarnation, promised_epoch = known
    superblock = Superblock(
        cluster_id=cluster_id,
        incarnation=incarnation,
        generation_next=1 + options.generations_reserved,
        promised_epoch=promised_epoch,
    )
    store = SuperblockStore.create(disk, superblock)
    if image is None:
        store.close()
        return disk
    name = "blank"
    file = disk.open(name, create=True)
    header = SegmentHeader(cluster_id, 0, 1, 1, image.position.zxid, image.position.chain)
    install(disk, name, file, header, options.index_stride_bytes).file.close()
    assert segment_name(1) in disk.names(), "the segment has its name"
    store.save(first_segment=1, last_segment=1)
    store.close()
    _write(SnapshotStore(disk, cluster_id), image)
    disk.flush()
    return disk
