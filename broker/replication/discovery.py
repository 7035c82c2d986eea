"""Phase 1, discovery: a quorum promises a new epoch to one leader.

What holds afterwards: no leader of a lower epoch can reach a quorum any more, no other leader of this epoch can, and no
member of the quorum has a longer durable history than this leader. So everything that was ever committed is in its log.

The paper lets the leader fetch the best history of the quorum; here the election has made the best replica leader, and
one that finds it is not the best gives up.

This module must not know messages, connections or the disk.
"""

from __future__ import annotations

from enum import Enum

from sluicemq.broker.replication.history import EPOCH_MAX
from sluicemq.broker.replication.membership import Configuration, Member


class Promising(Enum):
    """What a learner does with the epoch that a leader names (D3)."""

    SAVE = "save"
    """Promise it, durably, then acknowledge."""
    CONFIRM = "confirm"
    """It is promised to this leader already: acknowledge."""
    JOIN = "join"
    """It is promised, but perhaps to another leader: be taught, and do not be counted."""
    REFUSE = "refuse"
    """A later epoch is promised: this leader's time is over."""


def answer_to_new_epoch(promised_epoch: int, promised_to: int | None, leader: int, epoch: int) -> Promising:
    """Decide on NewEpoch(*epoch*) from *leader*."""
    if epoch > promised_epoch:
        return Promising.SAVE
    if epoch < promised_epoch:
        return Promising.REFUSE
    return Promising.CONFIRM if promised_to == leader else Promising.JOIN


class Discovery:
    """The leader's side, until its epoch is established.

    Args:
        configuration: Whose promises count.
        member: The leader.
        promised_epoch: What the leader itself has promised so far, or knows that others have.
        last_zxid: End of the leader's durable log.

    """

    def __init__(self, configuration: Configuration, member: Member, promised_epoch: int, last_zxid: int) -> None:
        self._configuration = configuration
        self._member = member
        self._last_zxid = last_zxid
        self._asked: dict[Member, int] = {member: promised_epoch}
        self._promised: set[Member] = set()

    def heard(self, member: Member, promised_epoch: int) -> None:
        """Note the FollowerInfo of *member* (D1)."""
        self._asked[member] = promised_epoch

    def new_epoch(self) -> int | None:
        """Return the epoch to begin once a quorum was heard (D2), else None.

        Raises:
            OverflowError: No epoch is left.

        """
        if not self._configuration.is_quorum(self._asked):
            return None
        epoch = max(self._asked.values()) + 1
        if epoch > EPOCH_MAX:
            raise OverflowError("all epochs are used up")
        return epoch

    def promised(self, member: Member, last_zxid: int) -> bool:
        """Note that *member* has promised the epoch and has a durable log up to *last_zxid* (D4).

        Returns False if that log is longer than the leader's: the leader must give up.
        """
        if last_zxid > self._last_zxid:
            return False
        self._promised.add(member)
        return True

    @property
    def complete(self) -> bool:
        """Whether a quorum, the leader among those who promised, has promised."""
        return self._member in self._promised and self._configuration.is_quorum(self._promised)
