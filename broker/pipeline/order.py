"""Who gives entries their places in the log, and lets it be known what is committed.

`Order` is what a road needs of that. `LoneOrder` is a broker on its own, whose own disk is the quorum: the short way
of what `ensemble` does with several. It costs nothing beside the log, which is why it is kept apart. This module must
not know what entries mean.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from sluicemq.broker.pipeline.commit import CommitStage
from sluicemq.broker.pipeline.ensemble.configurations import pack_configuration, unpack_configuration
from sluicemq.broker.pipeline.epochs import EPOCH_BITS, promise_epoch
from sluicemq.broker.replication.membership import Configuration, Member
from sluicemq.storage.record import Record
from sluicemq.wire.errors import InternalError, SluiceError

if TYPE_CHECKING:
    from collections.abc import Callable

    from sluicemq.broker.pipeline.commit import OnApplied
    from sluicemq.broker.pipeline.ground import Ground
    from sluicemq.broker.queues.entry import Entry

COUNTER_MASK = 0xFFFF_FFFF
COUNTER_MAX = 0xF000_0000
"""Entries of one epoch; what is left of the counter is never used, so that it cannot run into the next epoch."""


class NotAlone(SluiceError):
    """By its log, this broker belongs to a cluster: it must not decide alone what is confirmed."""

    code = "not_alone"


def alone_with(node: int, incarnation: bytes) -> bytes:
    """Return the configuration of a broker on its own, as entries hold it."""
    return pack_configuration(Configuration(frozenset({Member(node, incarnation)})))


def refuse_unless_alone(ground: Ground) -> None:
    """Raise `NotAlone` if others vote by this broker's log, or its log has been damaged and only they know the rest."""
    configuration = ground.machine.cluster.configuration
    others: list[int] = []
    if configuration:
        voters = unpack_configuration(configuration).everybody
        others = sorted(voter.node for voter in voters if voter.incarnation != ground.log.incarnation)
    if others or ground.log.superblock.current.damaged_from:
        raise NotAlone(f"this broker belongs to a cluster with {others}: name its brokers with --peers", nodes=others)


class Order(Protocol):
    """Gives places to entries while this broker leads in one epoch."""

    @property
    def epoch(self) -> int:
        """The epoch of the leadership."""

    @property
    def last_zxid(self) -> int:
        """The last place that was given."""

    @property
    def takes_proposals(self) -> bool:
        """Whether an entry would get its place at once. If not, `Ground.again` is called when it would."""

    def propose(self, entry: Entry, header: bytes, payload: bytes, on_applied: OnApplied | None, lazy: bool) -> int:
        """Put *entry*, whose header is *header*, on its way; return its zxid.

        0 stands for a place that it gets later, or never if the leadership ends before.
        """

    def when_all_have(self, zxid: int, then: Callable[[], None]) -> None:
        """Call *then* once every voter has the entry *zxid* durably; never if the leadership ends before."""


class LoneOrder:
    """The places of a broker on its own, in an epoch that begins with this object.

    Args:
        ground: Its log.

    Raises:
        LogWriteFailed: The epoch cannot be promised.

    """

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self.epoch = promise_epoch(ground.log)
        self.next_zxid = self.epoch << EPOCH_BITS

    @property
    def last_zxid(self) -> int:
        """The last place that was given."""
        return self.next_zxid - 1

    @property
    def takes_proposals(self) -> bool:
        """On its own, a broker asks nobody."""
        return True

    def when_all_have(self, zxid: int, then: Callable[[], None]) -> None:
        """Call *then* once the entry is durable: at once, if it was applied."""
        assert zxid <= self._ground.commit.committed_zxid, "on its own, a broker asks when the entry is applied"
        then()

    def propose(self, entry: Entry, header: bytes, payload: bytes, on_applied: OnApplied | None, lazy: bool) -> int:
        """Put *entry* on its way; return its zxid. It is committed when it is durable here."""
        ground = self._ground
        zxid = self.next_zxid
        if zxid & COUNTER_MASK >= COUNTER_MAX:
            # About five days at 10,000 entries a second. A restart begins a new epoch and takes well under a second.
            ground.fail(
                InternalError(f"epoch {self.epoch} has used up its {COUNTER_MAX} entries; start the broker again")
            )
        self.next_zxid = zxid + 1
        commit = ground.commit
        assert type(commit) is CommitStage, "on its own a broker commits what is durable"
        commit.propose(zxid, entry, on_applied)
        if not ground.failed:
            ground.append.submit(Record(zxid, entry.KIND, entry.VERSION, 0, header, payload), lazy=lazy)
        return zxid
