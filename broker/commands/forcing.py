"""Making one broker of a lost cluster the first of a new one: what `sluicemq cluster force-new` looks at and does.

The order, and why an interruption anywhere leaves either the old state or one from which the same command goes on:

1. The directory is opened as a start opens it, so only a whole log is gone on with, and all of it is applied.
2. One save of the superblock (`storage.founding`): the new cluster's id, and an epoch beyond all that were promised.
   Before it, nothing is changed but what any start changes. After it no broker of the old cluster talks to this one;
   its log still says that they vote, so until step 3 it leads nobody either, and a second run begins again with 2.
3. One write and one sync of entries: the new epoch, that the others are reached nowhere, and last that this broker
   votes alone. A torn write keeps some of the first and not the last, so that a second run finds who votes as it was.

Everything in the log counts as committed from then on: whether the old cluster had committed the last of it nobody can
say any more. What it had confirmed was on the disks of a majority; where this one was not among them, it is lost.

This module must not know the command line.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sluicemq.broker.commands.log_files import LogFiles
from sluicemq.broker.commands.log_others import OtherFiles
from sluicemq.broker.commands.replayed import replayed
from sluicemq.broker.pipeline.ensemble.configurations import unpack_configuration
from sluicemq.broker.pipeline.epochs import EPOCH_BITS
from sluicemq.broker.pipeline.keeping.old_files import check_old_files
from sluicemq.broker.pipeline.order import alone_with
from sluicemq.broker.queues.entries import Epoch
from sluicemq.broker.queues.entries_of_cluster import Membership, NodeAddress
from sluicemq.broker.replication.membership import Configuration, Member
from sluicemq.storage.errors import StorageError
from sluicemq.storage.founding import found_new_cluster
from sluicemq.storage.record import Record

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sluicemq.broker.commands.log_files import ReadOnlyDirectory
    from sluicemq.broker.queues.entry import Entry
    from sluicemq.broker.queues.machine import Machine
    from sluicemq.storage.files import Directory
    from sluicemq.storage.log import SegmentLog
    from sluicemq.storage.superblock import Superblock

EPOCHS_APART = 1 << 16
"""So many epochs, and fewer than so many more by chance, lie between the last that is known here and the first new one.

The old cluster may have gone on beyond what this disk knows, and its clients remember what it numbered: producers,
sessions, messages. A number that meant something there must mean nothing here. By chance, because several copies of
one cluster may be tried one after the other."""


class CannotForceNew(StorageError):
    """This directory cannot be made the first of a new cluster. Nothing was changed."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def _explain(self) -> str:
        return f"{self.path} is not made a new cluster: {self.reason}. Nothing was changed"


@dataclass(frozen=True, slots=True)
class Standing:
    """What a directory knows of its cluster, and how far its log goes.

    Attributes:
        cluster_id: The cluster, 16 bytes.
        incarnation: Of the disk, 16 bytes.
        configuration: Who votes by its log; None: it does not say.
        addresses: Where other brokers are reached, by number.
        last_zxid: The last entry of the log, 0 without any.
        promised_epoch: The highest epoch that was promised.
        log_time_ms: Log time at the last entry, in milliseconds since 1970.
        damaged: A damaged log was set aside, and what is here is what was learned anew since.

    """

    cluster_id: bytes
    incarnation: bytes
    configuration: Configuration | None
    addresses: dict[int, str]
    last_zxid: int
    promised_epoch: int
    log_time_ms: int
    damaged: bool

    @property
    def node_id(self) -> int | None:
        """The number under which this disk votes; None: it does not."""
        own = (voter.node for voter in self._voters if voter.incarnation == self.incarnation)
        return min(own, default=None)

    @property
    def voters(self) -> list[int]:
        """The numbers of all who vote."""
        return sorted({voter.node for voter in self._voters})

    @property
    def _voters(self) -> Iterable[Member]:
        return () if self.configuration is None else self.configuration.everybody

    @property
    def epoch(self) -> int:
        """The epoch of the last entry."""
        return self.last_zxid >> EPOCH_BITS


@dataclass(frozen=True, slots=True)
class NewCluster:
    """What was made.

    Attributes:
        cluster_id: The new cluster, 16 bytes.
        epoch: Its first epoch.
        before: What the directory knew until then.

    """

    cluster_id: bytes
    epoch: int
    before: Standing


def examine(directory: ReadOnlyDirectory) -> Standing:
    """Return what a directory knows, without changing it; also while a broker serves it.

    Raises:
        CannotForceNew: Its log is damaged.
        StorageError: It cannot be read.

    """
    log = LogFiles(directory)
    for _each in log.entries():
        pass
    if log.problems:
        first = log.problems[0]
        raise CannotForceNew(
            str(directory.path),
            f"its log is damaged, in {first.file} at offset {first.offset}: {first.reason}. Take the directory of "
            "another broker if one is whole; else run `sluicemq log repair`, then this again",
        )
    superblock = log.read_superblock()
    return _standing(superblock, OtherFiles(log, superblock).newest(), log.last_zxid)


def force_new(directory: Directory, node: int) -> NewCluster:
    """Make the broker *node*, whose directory this is, the only voter of a new cluster. Durable when this returns.

    Raises:
        DirectoryLocked: A broker serves it. Nothing was changed.
        CannotForceNew: There is nothing to go on with, it is alone already, or it is another node's. Nothing was
            changed.
        StorageError: It cannot be opened as a broker would open it; before the new cluster is begun, nothing was
            changed. After an error of the disk the command is to be run again.

    """
    with replayed(directory) as (log, machine, reader):
        check_old_files(log, machine, reader.pages)
        before = _standing(log.superblock.current, machine, log.last_zxid)
        refuse_unless_forcible(directory.path_of(""), before, node)
        return _force(log, directory.unique_id(), before, node)


def refuse_unless_forcible(path: str, standing: Standing, node: int) -> None:
    """Return if the broker *node* may be made a new cluster of what stands in *path*; raises CannotForceNew."""
    if standing.damaged:
        raise CannotForceNew(
            path,
            "its log was damaged and set aside, and what it holds now it was still learning from the others. Take "
            "another broker's directory; without one, rename every `set-aside-NAME` to NAME in a copy of this one, "
            "run `sluicemq log repair` on it, then this again",
        )
    if not standing.last_zxid:
        raise CannotForceNew(path, "its log holds no entry, so there is nothing to go on with; take another broker's")
    own = standing.node_id
    if own is not None and own != node:
        raise CannotForceNew(
            path,
            f"it is that of node {own}, not of node {node}: give --node-id {own}, or the directory of node {node}",
        )
    if standing.configuration is None or standing.configuration.everybody == {Member(node, standing.incarnation)}:
        raise CannotForceNew(path, f"node {node} is the only voter already: `sluicemq serve` serves it as it is")


def _standing(superblock: Superblock, machine: Machine, last_zxid: int) -> Standing:
    cluster = machine.cluster
    return Standing(
        cluster_id=superblock.known_as,
        incarnation=superblock.incarnation,
        configuration=unpack_configuration(cluster.configuration) if cluster.configuration else None,
        addresses=dict(cluster.addresses),
        last_zxid=max(last_zxid, machine.applied_zxid),
        promised_epoch=superblock.promised_epoch,
        log_time_ms=machine.log_time_ms,
        damaged=bool(superblock.damaged_from),
    )


def _force(log: SegmentLog, cluster_id: bytes, before: Standing, node: int) -> NewCluster:
    epoch = max(before.promised_epoch, before.epoch) + EPOCHS_APART + int.from_bytes(cluster_id[:2], "big")
    found_new_cluster(log, cluster_id, epoch)
    now_ms = before.log_time_ms
    others = sorted((set(before.addresses) | set(before.voters)) - {node})
    entries: list[Entry] = [
        Epoch(now_ms, node),
        *(NodeAddress(now_ms, each, "") for each in others),
        Membership(now_ms, alone_with(node, before.incarnation)),
    ]
    first_zxid = epoch << EPOCH_BITS
    log.append(
        [
            Record(zxid, each.KIND, each.VERSION, 0, each.header(), bytes(each.payload))
            for zxid, each in enumerate(entries, first_zxid)
        ]
    )
    log.sync()
    return NewCluster(cluster_id, epoch, before)
